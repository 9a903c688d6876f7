//! The engine in a simulated world: every connection is an [`fltport_engine::sim::Pair`], time is a number.
//!
//! What a driver would do with threads is done here at once: callbacks run when they are due, and what is held is
//! remembered until it is released.

mod offer;

use std::collections::BTreeMap;
use std::time::Duration;

use fltport::NtStatus;
use fltport_engine::output::{Outcome, SendKey};
use fltport_engine::server::{Credentials, Filter, FilterState, Port};
use fltport_engine::sim::{Ended, Pair};
use zerocopy::IntoBytes;

use super::recorder::Scripts;
use crate::backend::{
    Backend, CallId, Callback, ClientId, ConnId, Done, Event, Got, Inside, Op, PortId, PortSpec,
    Script, Sent, Who,
};

/// The finest step of time.
const TICK: Duration = Duration::from_millis(1);

/// Ports of the engine in a simulated world.
#[derive(Debug, Default)]
pub(super) struct Simulator {
    now: Duration,
    next: u64,
    filters: BTreeMap<u32, Filter>,
    ports: BTreeMap<PortId, SimPort>,
    conns: BTreeMap<ConnId, SimConn>,
    clients: BTreeMap<ClientId, ConnId>,
    /// Those whose last handle was closed: what a call then says is the engine's word.
    closed: BTreeMap<ClientId, ConnId>,
    events: Vec<Event>,
    held: BTreeMap<CallId, Held>,
    pending: BTreeMap<Op, Pending>,
    done: BTreeMap<Op, Done>,
}

#[derive(Debug)]
struct SimPort {
    spec: PortSpec,
    port: Port,
    scripts: Scripts,
    open: bool,
}

#[derive(Debug)]
struct SimConn {
    pair: Pair,
    port: PortId,
    filter: u32,
    cookie: Option<u64>,
    who: Who,
    disconnects: u32,
    releases: u32,
    handles: u32,
    ended: bool,
}

/// A callback that waits to be released.
#[derive(Debug)]
struct Held {
    conn: ConnId,
    callback: Callback,
    script: Script,
    input: Vec<u8>,
    capacity: usize,
    /// How many message callbacks of its connection were begun before it and still run.
    op: Option<Op>,
}

/// What an operation waits for.
#[derive(Debug)]
enum Pending {
    Send(ConnId, u64, SendKey),
    Call(ConnId, u64, Ask, Option<u64>),
    Close(ConnId),
    Unregister(u32),
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Get,
    Reply,
    Request,
}

impl Simulator {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn op(&mut self) -> Op {
        Op(self.number())
    }

    fn finish(&mut self, op: Op, done: Done) {
        assert!(self.done.insert(op, done).is_none(), "ended twice");
    }

    fn conn(&mut self, conn: ConnId) -> &mut SimConn {
        self.conns.get_mut(&conn).expect("a connection")
    }

    fn client(&mut self, client: ClientId) -> Option<ConnId> {
        self.clients.get(&client).copied()
    }

    /// Carries on until nothing is due.
    fn settle(&mut self) {
        while self.callbacks() | self.harvest() {}
    }

    /// Runs the callbacks that are due.
    fn callbacks(&mut self) -> bool {
        let mut busy = false;
        let due = |conn: &SimConn| {
            !conn.pair.callbacks.is_empty()
                || conn.disconnects < conn.pair.disconnects
                || conn.releases < conn.pair.releases
        };
        let all = self.conns.iter().filter(|(_, conn)| due(conn));
        let all: Vec<_> = all.map(|(id, _)| *id).collect();
        for id in all {
            let held = self
                .held
                .values()
                .filter(|held| held.conn == id && held.callback == Callback::Message)
                .count();
            let conn = self.conn(id);
            let due = conn.pair.callbacks.get(held).cloned();
            if let Some((_, input, capacity)) = due {
                self.run_message(id, input.0, capacity);
                busy = true;
            }
            let conn = self.conn(id);
            if conn.disconnects < conn.pair.disconnects {
                conn.disconnects += 1;
                self.run_disconnect(id);
                busy = true;
            }
            let conn = self.conn(id);
            if conn.releases < conn.pair.releases {
                conn.releases += 1;
                let port = conn.port;
                if let Some(port) = self.ports.get_mut(&port) {
                    port.port.handle_release();
                }
                busy = true;
            }
        }
        busy
    }

    fn script_of(&self, conn: ConnId, callback: Callback) -> Script {
        let port = &self.ports[&self.conns[&conn].port];
        if callback == Callback::Message && !port.spec.message_callback {
            return crate::world::returns(NtStatus::NOT_SUPPORTED);
        }
        port.scripts.get(callback)
    }

    fn run_message(&mut self, id: ConnId, input: Vec<u8>, capacity: u32) {
        let (call, script) = (CallId(self.number()), self.script_of(id, Callback::Message));
        let conn = &self.conns[&id];
        let capacity = usize::try_from(capacity).expect("a size");
        if self.ports[&conn.port].spec.message_callback {
            self.events.push(Event::Message {
                call,
                conn: id,
                cookie: conn.cookie,
                input: input.clone(),
                capacity,
                pid: conn.who.process,
            });
        }
        let held = Held {
            conn: id,
            callback: Callback::Message,
            script,
            input,
            capacity,
            op: None,
        };
        self.play(call, held);
    }

    fn run_disconnect(&mut self, id: ConnId) {
        let (call, script) = (
            CallId(self.number()),
            self.script_of(id, Callback::Disconnect),
        );
        let cookie = self.conns[&id].cookie;
        self.events.push(Event::Disconnect {
            call,
            conn: id,
            cookie,
        });
        let held = Held {
            conn: id,
            callback: Callback::Disconnect,
            script,
            input: Vec::new(),
            capacity: 0,
            op: None,
        };
        self.play(call, held);
    }

    /// What a callback does inside, and its answer unless it is held.
    fn play(&mut self, call: CallId, held: Held) {
        let conn = held.conn;
        let inside = held.script.inside.clone();
        let waits = held.script.hold;
        self.held.insert(call, held);
        match inside {
            None => {}
            Some(Inside::Close) => {
                self.close_client_port(conn);
                let status = NtStatus::SUCCESS;
                self.events.push(Event::Inside { call, status });
            }
            Some(Inside::Send(payload, timeout)) => {
                // The callback is in its call until that ends: time passes for all others.
                let op = self.send(conn, &payload, None, timeout);
                let Some(Done::Sent(sent)) = self.take(op, crate::world::LIMIT) else {
                    panic!("a send inside a callback never ended");
                };
                let status = NtStatus(sent.status);
                self.events.push(Event::Inside { call, status });
            }
        }
        if !waits {
            self.release(call);
        }
    }

    /// Collects what has ended.
    fn harvest(&mut self) -> bool {
        let mut ended = Vec::new();
        for (op, pending) in &self.pending {
            let done = match pending {
                Pending::Send(conn, name, _) => self.conns[conn]
                    .pair
                    .outcome(*name)
                    .map(sent)
                    .map(Done::Sent),
                Pending::Call(conn, name, ask, get) => {
                    let pair = &self.conns[conn].pair;
                    let mut done = pair.ended(*name).map(|ended| call_done(*ask, ended));
                    if let (Some(Done::Got(got)), Some(get)) = (&mut done, get) {
                        got.remaining = pair.remaining.get(get).copied();
                    }
                    done
                }
                Pending::Close(conn) => self.conns[conn].ended.then_some(Done::Closed),
                Pending::Unregister(filter) => (self.filters[filter].state()
                    == FilterState::Unregistered)
                    .then_some(Done::Unregistered),
            };
            ended.extend(done.map(|done| (*op, done)));
        }
        let any = !ended.is_empty();
        for (op, done) in ended {
            self.pending.remove(&op);
            self.finish(op, done);
        }
        any
    }

    fn call(
        &mut self,
        client: ClientId,
        ask: Ask,
        start: impl FnOnce(&mut Pair) -> (u64, u64),
    ) -> Op {
        let op = self.op();
        let conn = self
            .client(client)
            .or_else(|| self.closed.get(&client).copied());
        let Some(conn) = conn else {
            let ended = Ended::Done(NtStatus::PORT_DISCONNECTED, 0, None);
            self.finish(op, call_done(ask, &ended));
            return op;
        };
        let (name, get) = start(&mut self.conn(conn).pair);
        self.pending
            .insert(op, Pending::Call(conn, name, ask, Some(get)));
        self.settle();
        op
    }

    /// Whether a connect passes access, limits and state; its slot is counted then.
    fn admit(&mut self, who: Who, port: PortId) -> Result<(), NtStatus> {
        let port = self
            .ports
            .get_mut(&port)
            .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
        let credentials = Credentials {
            uid: who.user.unwrap_or(0),
            gid: who.user.unwrap_or(0),
            groups: Vec::new(),
        };
        port.port.handle_arrival(&credentials)?;
        port.port.handle_greeting_over(credentials.uid);
        port.port.handle_connect()?;
        let filter = self.filters.entry(port.spec.filter).or_default();
        filter
            .handle_connect()
            .inspect_err(|_| port.port.handle_release())
    }

    /// The connection is over: its filter counts it no more.
    fn connection_over(&mut self, conn: ConnId) {
        let conn = self.conn(conn);
        conn.ended = true;
        let filter = conn.filter;
        self.filters
            .entry(filter)
            .or_default()
            .handle_connection_ended();
    }
}

fn sent(outcome: &Outcome<fltport_engine::sim::Bytes>) -> Sent {
    let (status, reply, delivered) = match outcome {
        Outcome::Delivered => (NtStatus::SUCCESS, None, Some(true)),
        Outcome::Replied {
            status,
            reply,
            copied,
        } => {
            let copied = usize::try_from(*copied).expect("a size");
            (*status, Some(reply.0[..copied].to_vec()), Some(true))
        }
        Outcome::TimedOut { delivered } => (NtStatus::TIMEOUT, None, Some(*delivered)),
        Outcome::Disconnected { delivered } => {
            (NtStatus::PORT_DISCONNECTED, None, Some(*delivered))
        }
        Outcome::Cancelled { delivered } => {
            (NtStatus::THREAD_IS_TERMINATING, None, Some(*delivered))
        }
        Outcome::Refused(status) => (*status, None, None),
    };
    Sent {
        status: status.0,
        reply,
        delivered,
    }
}

fn call_done(ask: Ask, ended: &Ended) -> Done {
    match (ask, ended) {
        (_, Ended::Message(header, body)) => Done::Got(Got {
            reply_length: header.reply_length,
            message_id: header.message_id,
            header: header.as_bytes().to_vec(),
            payload: body.0.clone(),
            remaining: None,
            attachment: None,
        }),
        (Ask::Get, Ended::Done(status, needed, _)) => {
            Done::GetFailed(status.to_hresult().0, *needed)
        }
        (Ask::Reply, Ended::Done(status, ..)) => Done::Replied(status.to_hresult().0),
        (Ask::Request, Ended::Done(status, _, body)) => {
            let output = body.clone().unwrap_or_default().0;
            Done::Response(status.to_hresult().0, output)
        }
    }
}

//! What the simulated world offers to stories.

use std::time::Duration;

use fltport::{NtStatus, PortName, Timeout, WallTime};
use fltport_engine::server::{Access, Port};
use fltport_engine::sim::Pair;
use fltport_engine::wire::ToHost;
use zerocopy::IntoBytes;

use super::{Ask, Held, Pending, SimConn, SimPort, Simulator, TICK};
use crate::backend::{
    Allow, Backend, CallId, Callback, ClientId, ConnId, Counts, Done, Event, Need, Op, PortId,
    PortSpec, Script, Who,
};
use crate::backends::Kind;
use crate::backends::recorder::{Scripts, answer, cookie};

/// A connection context, as it comes out of the greeting that it goes into.
fn greeted(context: &[u8]) -> Vec<u8> {
    let hello = ToHost::Hello {
        bits: usize::BITS,
        length: u32::try_from(context.len()).expect("a short context"),
    };
    let frame = [hello.header().as_bytes(), context].concat();
    match ToHost::parse(&frame).expect("the greeting is a frame") {
        (greeting, context) if greeting == hello => context.to_vec(),
        other => panic!("a greeting came out as {other:?}"),
    }
}

impl Backend for Simulator {
    fn lacks(&self, need: Need) -> Option<&'static str> {
        Kind::Simulator.lacks(need)
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn tolerance(&self) -> Duration {
        TICK
    }

    fn take(&mut self, op: Op, within: Duration) -> Option<Done> {
        let end = self.now + within;
        loop {
            self.settle();
            if let Some(done) = self.done.remove(&op) {
                return Some(done);
            }
            if self.now >= end {
                return None;
            }
            self.step();
        }
    }

    fn events(&mut self) -> Vec<Event> {
        self.events.clone()
    }

    fn step(&mut self) {
        self.now += TICK;
        for conn in self.conns.values_mut() {
            conn.pair.advance(TICK);
        }
        self.settle();
    }

    fn wall(&mut self, conn: ConnId) -> WallTime {
        self.conn(conn).pair.now().wall
    }

    fn set_wall(&mut self, forward: Duration) {
        for conn in self.conns.values_mut() {
            conn.pair.set_wall(forward);
        }
        self.settle();
    }

    fn forget(&mut self) {
        self.events.clear();
        let (clients, closed) = (&self.clients, &mut self.closed);
        self.conns
            .retain(|id, conn| !conn.ended || clients.values().any(|of| of == id));
        closed.retain(|_, conn| self.conns.contains_key(conn));
    }

    fn handles(&mut self) -> Option<usize> {
        let ports = self.ports.values().filter(|port| port.open).count();
        let conns = self.conns.values().filter(|conn| !conn.ended).count();
        Some(ports + conns)
    }

    fn create(&mut self, spec: &PortSpec) -> Result<PortId, NtStatus> {
        PortName::parse(&spec.name).map_err(|error| error.status())?;
        let access = match &spec.access {
            Allow::Everyone => Access::everyone(),
            Allow::Unsaid | Allow::Default => Access::host_only(0),
            Allow::Nobody => Access::nobody(),
            Allow::Users(users) => users.iter().fold(Access::host_only(0), |access, user| {
                access.allow_user(*user)
            }),
        };
        let port = Port::new(access, spec.max_connections)?;
        self.filters
            .entry(spec.filter)
            .or_default()
            .handle_create()?;
        let id = PortId(self.number());
        let port = SimPort {
            spec: spec.clone(),
            port,
            scripts: Scripts::default(),
            open: true,
        };
        self.ports.insert(id, port);
        Ok(id)
    }

    fn script(&mut self, port: PortId, callback: Callback, script: Script) {
        let port = self.ports.get_mut(&port).expect("a port");
        port.scripts.set(callback, script);
    }

    fn release(&mut self, call: CallId) {
        let Some(held) = self.held.remove(&call) else {
            return;
        };
        let conn = held.conn;
        let (status, output, claimed) = answer(&held.script, &held.input, held.capacity);
        match held.callback {
            Callback::Message => {
                // A driver holds a callback that claims too much to what there is room for.
                let length = claimed.min(held.capacity);
                let mut output = output;
                output.resize(length, 0);
                // The oldest that runs is the one that returns: stories with several do not look at which.
                self.conn(conn).pair.callback_returns(status, &output);
            }
            Callback::Disconnect => {
                self.conn(conn).pair.disconnect_returns();
                self.connection_over(conn);
            }
            Callback::Connect => {
                let accepted = status.is_nt_success();
                let cookie = cookie(&held.script);
                let entry = self.conn(conn);
                entry.cookie = cookie;
                entry.pair.host.handle_connect_returned(if accepted {
                    NtStatus::SUCCESS
                } else {
                    status
                });
                entry.pair.drive();
                let told = entry.pair.connected.unwrap_or(NtStatus::PORT_DISCONNECTED);
                let op = held.op.expect("a connect is an operation");
                let result = if told == NtStatus::SUCCESS {
                    let client = ClientId(op.0);
                    self.clients.insert(client, conn);
                    Ok(client)
                } else {
                    Err(told.to_hresult().0)
                };
                if !accepted {
                    self.connection_over(conn);
                }
                self.finish(op, Done::Connected(result));
            }
        }
        self.events.push(Event::Returned { call });
        self.settle();
    }

    fn send(
        &mut self,
        conn: ConnId,
        payload: &[u8],
        capacity: Option<u32>,
        timeout: Timeout,
    ) -> Op {
        let op = self.op();
        let (name, key) = self.conn(conn).pair.send_keyed(payload, capacity, timeout);
        self.pending.insert(op, Pending::Send(conn, name, key));
        self.settle();
        op
    }

    fn send_file(&mut self, _: ConnId, _: &str, _: u32, _: Timeout) -> Op {
        unreachable!("Need::Attachments is lacking")
    }

    fn send_for_cancel(
        &mut self,
        conn: ConnId,
        payload: &[u8],
        capacity: u32,
        timeout: Timeout,
    ) -> Op {
        self.send(conn, payload, Some(capacity), timeout)
    }

    fn cancel_send(&mut self, op: Op) {
        if let Some(Pending::Send(conn, _, key)) = self.pending.get(&op) {
            let (conn, key) = (*conn, *key);
            let pair = &mut self.conn(conn).pair;
            pair.host.handle_send_cancelled(key);
            pair.drive();
        }
        self.settle();
    }

    fn close_client_port(&mut self, conn: ConnId) {
        let pair = &mut self.conn(conn).pair;
        pair.host.handle_filter_closed();
        pair.drive();
        self.settle();
    }

    fn close_port(&mut self, port: PortId) -> bool {
        let port = self.ports.get_mut(&port).expect("a port");
        let closed = port.port.handle_close();
        if closed {
            port.open = false;
            let filter = port.spec.filter;
            self.filters.entry(filter).or_default().handle_port_closed();
        }
        closed
    }

    fn unregister(&mut self, filter: u32) -> Op {
        let op = self.op();
        self.filters.entry(filter).or_default().handle_unregister();
        self.pending.insert(op, Pending::Unregister(filter));
        let conns = self.conns.values_mut();
        for conn in conns.filter(|conn| conn.filter == filter) {
            conn.pair.host.handle_unregister();
            conn.pair.drive();
        }
        self.settle();
        op
    }

    fn counts(&mut self, conn: ConnId) -> Counts {
        let host = &self.conns[&conn].pair.host;
        let ((waiting, outstanding), counters) = (host.pending(), host.counters());
        Counts {
            gets: host.posted(),
            waiting,
            outstanding,
            delivered: counters.delivered,
            replied: counters.replied,
            timed_out: counters.timed_out,
            late_replies: counters.late_replies,
        }
    }

    fn connect(&mut self, who: Who, name: &str, context: &[u8]) -> Op {
        let op = self.op();
        if let Err(error) = PortName::parse(name) {
            let result = error.status().to_hresult().0;
            self.finish(op, Done::Connected(Err(result)));
            return op;
        }
        let port = self
            .ports
            .iter()
            .find(|(_, port)| port.open && port.spec.name == name)
            .map_or(PortId(0), |(id, _)| *id);
        if let Err(status) = self.admit(who, port) {
            self.finish(op, Done::Connected(Err(status.to_hresult().0)));
            return op;
        }
        let (call, id) = (CallId(self.number()), ConnId(self.number()));
        let spec = &self.ports[&port].spec;
        let (filter, port_cookie) = (spec.filter, spec.cookie);
        self.events.push(Event::Connect {
            call,
            conn: id,
            port_cookie,
            context: greeted(context),
            pid: who.process,
            uid: who.user.unwrap_or(0),
            bits: usize::BITS,
        });
        let conn = SimConn {
            pair: Pair::connecting(),
            port,
            filter,
            cookie: None,
            who,
            disconnects: 0,
            releases: 0,
            handles: 1,
            ended: false,
        };
        self.conns.insert(id, conn);
        let held = Held {
            conn: id,
            callback: Callback::Connect,
            script: self.script_of(id, Callback::Connect),
            input: Vec::new(),
            capacity: 0,
            op: Some(op),
        };
        self.play(call, held);
        op
    }

    fn get(&mut self, client: ClientId, size: u32) -> Op {
        self.call(client, Ask::Get, |pair| pair.get(size))
    }

    fn post(&mut self, client: ClientId, size: u32) -> Op {
        self.get(client, size)
    }

    fn cancel(&mut self, op: Op) {
        if let Some(Pending::Call(conn, _, _, Some(get))) = self.pending.get(&op) {
            let (conn, get) = (*conn, *get);
            self.conn(conn).pair.cancel(get);
        }
        self.settle();
    }

    fn abandon_get(&mut self, op: Op) {
        self.cancel(op);
    }

    fn reply(&mut self, client: ClientId, message: u64, status: NtStatus, payload: &[u8]) -> Op {
        self.call(client, Ask::Reply, |pair| {
            (pair.start_reply(message, status, payload), 0)
        })
    }

    fn serve(&mut self, _: ClientId) -> Op {
        unreachable!("Need::Parallel is lacking")
    }

    fn drop_message(&mut self, _: ClientId, _: u64) -> Op {
        unreachable!("Need::MessageState is lacking")
    }

    fn is_abandoned(&mut self, client: ClientId, message: u64) -> Op {
        let op = self.op();
        let conn = self.client(client).expect("a client");
        let known = self.conn(conn).pair.abandoned.contains(&message);
        self.finish(op, Done::Is(known));
        op
    }

    fn request(&mut self, client: ClientId, input: &[u8], capacity: u32) -> Op {
        self.call(client, Ask::Request, |pair| {
            (pair.request(input, capacity), 0)
        })
    }

    fn close(&mut self, client: ClientId) -> Op {
        let op = self.op();
        let Some(id) = self.clients.remove(&client) else {
            self.finish(op, Done::Closed);
            return op;
        };
        let conn = self.conn(id);
        conn.handles -= 1;
        if conn.handles > 0 {
            self.finish(op, Done::Closed);
            return op;
        }
        self.closed.insert(client, id);
        self.pending.insert(op, Pending::Close(id));
        self.conn(id).pair.close_client();
        self.settle();
        op
    }

    fn hang_up(&mut self, client: ClientId) -> Op {
        let op = self.op();
        if let Some(id) = self.client(client) {
            self.conn(id).pair.close_client();
        }
        self.finish(op, Done::Closed);
        self.settle();
        op
    }

    fn duplicate(&mut self, client: ClientId) -> ClientId {
        let id = self.client(client).expect("a client");
        let name = ClientId(self.number());
        self.conn(id).handles += 1;
        self.clients.insert(name, id);
        name
    }

    fn stop_reading(&mut self, client: ClientId) {
        let id = self.client(client).expect("a client");
        self.conn(id).pair.stop_reading();
    }

    fn kill(&mut self, who: Who) {
        let mine = self.conns.iter().filter(|(_, conn)| conn.who == who);
        let mine: Vec<_> = mine.map(|(id, _)| *id).collect();
        for id in mine {
            self.clients.retain(|_, conn| *conn != id);
            self.conn(id).pair.close_client();
        }
        self.settle();
    }

    fn exit(&mut self, _: Who) {
        unreachable!("Need::Processes is lacking")
    }

    fn exec(&mut self, _: Who) {
        unreachable!("Need::Processes is lacking")
    }

    fn pid(&mut self, who: Who) -> u32 {
        who.process
    }

    fn garbage(&mut self, _: Who, _: &str) -> Op {
        unreachable!("Need::Bytes is lacking")
    }

    fn narrow_client(&mut self, _: Who, _: &str, _: u32, _: u32) -> Op {
        unreachable!("Need::Bytes is lacking")
    }

    fn connect_file(&mut self) -> Op {
        unreachable!("Need::OtherHandles is lacking")
    }

    fn become_user(&mut self, _: Who, _: u32) -> Op {
        unreachable!("Need::Processes is lacking")
    }

    fn bequeath(&mut self, _: Who, _: &str, _: Option<u32>) -> Op {
        unreachable!("Need::PassedHandles is lacking")
    }

    fn leave_nothing(&mut self, _: ClientId) -> Op {
        unreachable!("Need::PassedHandles is lacking")
    }

    fn occupy(&mut self, _: &str) {
        unreachable!("Need::Names is lacking")
    }

    fn foreign_host(&mut self, _: Who, _: &str) -> Op {
        unreachable!("Need::Processes is lacking")
    }
}

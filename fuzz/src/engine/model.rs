//! The rules of one connection, written as simply as they can be: lists that are searched from the front.
//!
//! It says what must be seen, not how to be quick, and it shares nothing with the engine but the types of results. Where
//! Windows promises nothing, it holds what `docs/design.md` has decided: senders are served in the order of their
//! calls, a sender that has told a get that it is too small does not tell another, and a client that does not read is
//! sent one more message and then none.

use fltport_engine::sim::Bytes;
use fltport_engine::time::{Deadline, Instant};
use fltport_engine::{NtStatus, Timeout, limits};

use super::CallEnd;

mod consequences;

/// How a send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendEnd {
    /// What it returned.
    pub status: NtStatus,
    /// Whether a get had taken the message.
    pub delivered: bool,
    /// The reply's bytes, no more than were asked for.
    pub reply: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The connect callback runs.
    Connecting(Meanwhile),
    Connected,
    /// Closed by the filter, not yet by the client.
    Severed,
    /// Closed by the client; message callbacks run.
    Draining,
    /// The disconnect callback runs.
    Notifying,
    Ended,
}

/// What happened while the connect callback ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// An end was closed.
    Closed,
    /// The filter is being unregistered: connecting came first, so it succeeds, and then it is over.
    Unregistered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientPhase {
    Nobody,
    Open,
    /// The host has said that it is over.
    Told,
    Closed,
}

#[derive(Debug)]
struct Sender {
    name: u64,
    bytes: Vec<u8>,
    reply: Option<u32>,
    deadline: Deadline,
    /// Has told a get that it is too small.
    told: bool,
    /// The message's number, once a get has taken it.
    id: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    Get,
    Reply,
    Request,
}

#[derive(Debug)]
struct Request {
    name: u64,
    bytes: Vec<u8>,
    capacity: u32,
}

/// What is on its way to the client.
#[derive(Debug)]
enum Frame {
    Connected(NtStatus),
    Ends(u64, CallEnd),
    Abandoned(u64),
    Disconnected,
}

/// Both ends of one connection.
#[derive(Debug)]
pub struct Model {
    nanos: u64,
    ticks: u64,
    phase: Phase,
    accepted: bool,
    holds_slot: bool,
    /// In the order of their calls; gone when they have ended.
    senders: Vec<Sender>,
    /// Posted gets, oldest first.
    gets: Vec<(u64, u32)>,
    ids: u64,
    running: Vec<Request>,
    queued: Vec<Request>,
    /// The host has noticed that the client does not read.
    blocked: bool,
    pipe: Vec<Frame>,
    reads: bool,
    client: ClientPhase,
    /// The client's calls that have not ended.
    calls: Vec<(u64, CallKind)>,
    sends_ended: Vec<(u64, SendEnd)>,
    calls_ended: Vec<(u64, CallEnd)>,
    abandoned: Vec<u64>,
    /// Replies that the host has accepted: the call, and the sender who has it.
    taken: Vec<(u64, u64)>,
    /// What the client's connect returned.
    pub connected: Option<NtStatus>,
    /// Disconnect callbacks so far.
    pub disconnects: u32,
    /// Slots released so far.
    pub releases: u32,
}

impl Model {
    /// A connection whose connect callback runs.
    #[must_use]
    pub const fn new(nanos: u64, ticks: u64) -> Self {
        Self {
            nanos,
            ticks,
            phase: Phase::Connecting(Meanwhile::Nothing),
            accepted: false,
            holds_slot: true,
            senders: Vec::new(),
            gets: Vec::new(),
            ids: 0,
            running: Vec::new(),
            queued: Vec::new(),
            blocked: false,
            pipe: Vec::new(),
            reads: true,
            client: ClientPhase::Nobody,
            calls: Vec::new(),
            sends_ended: Vec::new(),
            calls_ended: Vec::new(),
            abandoned: Vec::new(),
            taken: Vec::new(),
            connected: None,
            disconnects: 0,
            releases: 0,
        }
    }

    /// The connect callback returns.
    pub fn connect_returns(&mut self, status: NtStatus) {
        let Phase::Connecting(meanwhile) = self.phase else {
            return;
        };
        // Any success accepts, informational statuses too.
        self.accepted = status.0 < 0x8000_0000;
        if !self.accepted {
            self.end_all();
            self.phase = Phase::Ended;
            self.release();
            self.pipe.push(Frame::Connected(status));
        } else if meanwhile == Meanwhile::Closed {
            self.pipe
                .push(Frame::Connected(NtStatus::PORT_DISCONNECTED));
            self.client_gone();
        } else {
            self.phase = Phase::Connected;
            self.pipe.push(Frame::Connected(NtStatus::SUCCESS));
            if meanwhile == Meanwhile::Unregistered {
                self.unregister();
            }
        }
        self.settle();
    }

    /// The filter sends.
    pub fn send(&mut self, name: u64, bytes: &[u8], reply: Option<u32>, timeout: Timeout) {
        let deadline = match timeout {
            Timeout::Never => Deadline::Never,
            Timeout::At(wall) => Deadline::AtWall(wall),
            Timeout::After(wait) => match u64::try_from(u128::from(self.nanos) + wait.as_nanos()) {
                Ok(nanos) => Deadline::At(Instant::from_nanos(nanos)),
                Err(_) => Deadline::Never,
            },
        };
        let open = Phase::Connecting(Meanwhile::Nothing);
        let refused = if self.phase != Phase::Connected && self.phase != open {
            Some(NtStatus::PORT_DISCONNECTED)
        } else if reply.is_some_and(|capacity| capacity > limits::MESSAGE_DEFAULT) {
            Some(NtStatus::INVALID_PARAMETER)
        } else {
            None
        };
        if let Some(status) = refused {
            let end = SendEnd {
                status,
                delivered: false,
                reply: None,
            };
            return self.sends_ended.push((name, end));
        }
        let bytes = bytes.to_vec();
        self.senders.push(Sender {
            name,
            bytes,
            reply,
            deadline,
            told: false,
            id: None,
        });
        self.settle();
        self.expire();
        self.settle();
    }

    /// The sender gives up.
    pub fn cancel_send(&mut self, name: u64) {
        if let Some(at) = self.senders.iter().position(|sender| sender.name == name) {
            self.give_up(at, NtStatus::THREAD_IS_TERMINATING);
        }
        self.settle();
    }

    /// The client posts a get.
    pub fn get(&mut self, name: u64, size: u32) {
        let refused = match size {
            _ if self.client != ClientPhase::Open => Some((NtStatus::PORT_DISCONNECTED, 0)),
            0 => Some((NtStatus::INVALID_PARAMETER, 0)),
            1..16 => Some((NtStatus::BUFFER_TOO_SMALL, 16)),
            _ => None,
        };
        if let Some((status, needed)) = refused {
            return self
                .calls_ended
                .push((name, CallEnd::Done(status, needed, None)));
        }
        self.calls.push((name, CallKind::Get));
        if self.phase == Phase::Connected {
            self.gets.push((name, size));
        } else {
            self.tell(name, NtStatus::PORT_DISCONNECTED);
        }
        self.settle();
    }

    /// The client withdraws a get; says whether it was pending as far as the client knows.
    pub fn cancel_get(&mut self, name: u64) -> bool {
        let pending = self.calls.contains(&(name, CallKind::Get));
        if let Some(at) = self
            .gets
            .iter()
            .position(|(get, _)| *get == name && pending)
        {
            self.gets.remove(at);
            self.tell(name, NtStatus::CANCELLED);
        }
        self.settle();
        pending
    }

    /// The client replies.
    pub fn reply(&mut self, name: u64, id: u64, status: NtStatus, bytes: &[u8]) {
        if self.client != ClientPhase::Open {
            let end = CallEnd::Done(NtStatus::PORT_DISCONNECTED, 0, None);
            return self.calls_ended.push((name, end));
        }
        self.calls.push((name, CallKind::Reply));
        let asker = self
            .senders
            .iter()
            .position(|sender| sender.reply.is_some() && sender.id == Some(id));
        let told = match asker {
            _ if self.phase != Phase::Connected => NtStatus::PORT_DISCONNECTED,
            None => NtStatus::FLT_NO_WAITER_FOR_REPLY,
            Some(at) => {
                let asker = self.senders.remove(at);
                let capacity = asker.reply.unwrap_or(0) as usize;
                let too_long = bytes.len() > capacity;
                let end = SendEnd {
                    status: if too_long {
                        NtStatus::BUFFER_OVERFLOW
                    } else {
                        status
                    },
                    delivered: true,
                    reply: Some(bytes[..bytes.len().min(capacity)].to_vec()),
                };
                self.sends_ended.push((asker.name, end));
                self.taken.push((name, asker.name));
                if too_long {
                    NtStatus::BUFFER_OVERFLOW
                } else {
                    NtStatus::SUCCESS
                }
            }
        };
        self.tell(name, told);
        self.settle();
    }

    /// The client asks the message callback.
    pub fn request(&mut self, name: u64, bytes: &[u8], capacity: u32) {
        if self.client != ClientPhase::Open {
            let end = CallEnd::Done(NtStatus::PORT_DISCONNECTED, 0, None);
            return self.calls_ended.push((name, end));
        }
        self.calls.push((name, CallKind::Request));
        if self.phase != Phase::Connected {
            self.tell(name, NtStatus::PORT_DISCONNECTED);
        } else if bytes.is_empty() {
            self.tell(name, NtStatus::INVALID_PARAMETER);
        } else {
            self.queued.push(Request {
                name,
                bytes: bytes.to_vec(),
                capacity,
            });
        }
        self.settle();
    }

    /// The oldest message callback returns.
    pub fn callback_returns(&mut self, status: NtStatus, output: &[u8]) {
        if self.running.is_empty() {
            return;
        }
        let request = self.running.remove(0);
        let body = (!output.is_empty()).then(|| Bytes(output.to_vec()));
        self.pipe
            .push(Frame::Ends(request.name, CallEnd::Done(status, 0, body)));
        self.notify_when_drained();
        self.settle();
    }

    /// The filter closes its end.
    pub fn close_by_filter(&mut self) {
        match self.phase {
            Phase::Connecting(Meanwhile::Nothing) => {
                self.phase = Phase::Connecting(Meanwhile::Closed);
                self.end_all();
            }
            Phase::Connected => {
                self.end_all();
                self.phase = Phase::Severed;
                self.release();
                self.pipe.push(Frame::Disconnected);
            }
            _ => {}
        }
        self.settle();
    }

    /// The client closes its end.
    pub fn close_by_client(&mut self) {
        if self.client != ClientPhase::Nobody {
            self.client = ClientPhase::Closed;
            for (name, _) in std::mem::take(&mut self.calls) {
                let end = CallEnd::Done(NtStatus::PORT_DISCONNECTED, 0, None);
                self.calls_ended.push((name, end));
            }
        }
        self.client_gone();
        self.settle();
    }

    /// The filter is unregistered.
    pub fn unregister(&mut self) {
        match self.phase {
            Phase::Connecting(Meanwhile::Nothing) => {
                self.phase = Phase::Connecting(Meanwhile::Unregistered);
                self.end_all();
            }
            Phase::Connecting(_) => {}
            Phase::Connected => {
                self.end_all();
                self.pipe.push(Frame::Disconnected);
                self.client_gone();
            }
            _ => self.client_gone(),
        }
        self.settle();
    }

    /// The disconnect callback returns.
    pub fn disconnect_returns(&mut self) {
        if self.phase == Phase::Notifying {
            self.phase = Phase::Ended;
            self.release();
        }
        self.settle();
    }

    /// Time passes on both clocks.
    pub fn advance(&mut self, millis: u64) {
        self.nanos += millis * 1_000_000;
        self.set_wall(millis);
    }

    /// The wall clock is set forward.
    pub fn set_wall(&mut self, millis: u64) {
        self.ticks += millis * 10_000;
        self.expire();
        self.settle();
    }

    /// The client takes nothing off its transport.
    pub const fn stop_reading(&mut self) {
        self.reads = false;
    }

    /// The client takes everything again.
    pub fn resume_reading(&mut self) {
        self.reads = true;
        self.blocked = false;
        self.settle();
    }

    /// How a send ended.
    #[must_use]
    pub fn sent(&self, name: u64) -> Option<&SendEnd> {
        let mut found = self.sends_ended.iter().filter(|(of, _)| *of == name);
        let end = found.next().map(|(_, end)| end);
        assert!(found.next().is_none(), "the model ends send {name} twice");
        end
    }

    /// How a call of the client ended.
    #[must_use]
    pub fn called(&self, name: u64) -> Option<&CallEnd> {
        let mut found = self.calls_ended.iter().filter(|(of, _)| *of == name);
        let end = found.next().map(|(_, end)| end);
        assert!(found.next().is_none(), "the model ends call {name} twice");
        end
    }

    /// Message callbacks that run, oldest first: what they were given.
    pub fn running(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.running
            .iter()
            .map(|request| (&request.bytes[..], request.capacity))
    }

    /// Sends that wait for a get, and for a reply.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        let waiting = self
            .senders
            .iter()
            .filter(|sender| sender.id.is_none())
            .count();
        (waiting, self.senders.len() - waiting)
    }

    /// Gets that wait.
    #[must_use]
    pub const fn posted(&self) -> usize {
        self.gets.len()
    }

    /// The next deadline of each clock.
    #[must_use]
    pub fn next_deadlines(&self) -> (Deadline, Deadline) {
        let first = |which: fn(&Deadline) -> bool| {
            let deadlines = self.senders.iter().map(|sender| sender.deadline);
            deadlines.filter(which).min().unwrap_or(Deadline::Never)
        };
        (
            first(|deadline| matches!(deadline, Deadline::At(_))),
            first(|deadline| matches!(deadline, Deadline::AtWall(_))),
        )
    }

    /// Messages that the client was told to forget, by number.
    #[must_use]
    pub fn abandoned(&self) -> Vec<u64> {
        let mut ids = self.abandoned.clone();
        ids.sort_unstable();
        ids
    }

    /// The number of the last message that wanted a reply.
    #[must_use]
    pub const fn last_id(&self) -> u64 {
        self.ids
    }

    /// Whether the connect callback runs.
    #[must_use]
    pub const fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting(_))
    }

    /// Whether the connect callback has accepted.
    #[must_use]
    pub const fn was_accepted(&self) -> bool {
        self.accepted
    }

    /// A reply that returned success is what its sender has returned.
    ///
    /// # Panics
    /// When it is not.
    pub fn check_replies(&self) {
        for (call, send) in &self.taken {
            let reply = self.sent(*send).and_then(|end| end.reply.as_ref());
            assert!(
                reply.is_some(),
                "reply {call} was taken and never reached send {send}"
            );
        }
        for (call, end) in &self.calls_ended {
            let reply = self.taken.iter().any(|(of, _)| of == call);
            let overflow = end.status() == Some(NtStatus::BUFFER_OVERFLOW);
            assert!(!reply || overflow || end.status() != Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
        }
    }
}

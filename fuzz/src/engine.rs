//! Lists of operations into the engine and into a simple model of its rules, side by side.
//!
//! Both ends are played in simulated time ([`Pair`]). After each operation both worlds must agree on everything that can
//! be seen: which calls have ended and how, which callbacks run and in which order, what the client was told. Within one
//! operation the order in which sends of different threads end is nobody's business and not compared. [`model`] is the
//! oracle; it does not know how the engine works.

pub mod model;
pub mod ops;

use std::time::Duration;

use arbitrary::Unstructured;
use fltport_engine::output::{Outcome, SendKey};
use fltport_engine::sim::{Bytes, Ended, Pair};
use fltport_engine::time::Deadline;
use fltport_engine::{NtStatus, Timeout, WallTime, limits};

use model::{Model, SendEnd};
use ops::{Op, When};

/// Operations of one input; what comes beyond is not played.
const MOST_OPS: usize = 400;

/// Runs one input.
///
/// # Panics
/// When the engine and the model disagree.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let accepted = input.arbitrary::<bool>().unwrap_or(true);
    let mut game = Game::new(accepted);
    for _ in 0..MOST_OPS {
        if input.is_empty() {
            break;
        }
        let Ok(op) = input.arbitrary::<Op>() else {
            break;
        };
        if crate::tells() {
            eprintln!("{op:?}");
        }
        game.play(op);
        game.compare(&op);
    }
    game.finish();
}

struct Game {
    pair: Pair,
    model: Model,
    /// Sends that have not ended, and the engine's keys of all.
    open_sends: Vec<u64>,
    keys: Vec<(u64, SendKey)>,
    open_calls: Vec<u64>,
    /// Gets by name and by the client's number.
    gets: Vec<(u64, u64)>,
    /// Says something else in each message.
    serial: u8,
}

impl Game {
    fn new(accepted: bool) -> Self {
        let pair = if accepted {
            Pair::connected()
        } else {
            Pair::connecting()
        };
        let mut model = Model::new(pair.now().monotonic.as_nanos(), pair.now().wall.as_ticks());
        if accepted {
            model.connect_returns(NtStatus::SUCCESS);
        }
        Self {
            pair,
            model,
            open_sends: Vec::new(),
            keys: Vec::new(),
            open_calls: Vec::new(),
            gets: Vec::new(),
            serial: 0,
        }
    }

    fn bytes(&mut self, size: u8) -> Vec<u8> {
        self.serial = self.serial.wrapping_add(1);
        vec![self.serial; usize::from(size)]
    }

    fn play(&mut self, op: Op) {
        // Without the client's end there is nobody to call.
        let there = self.pair.client.is_some();
        match op {
            Op::Send { size, reply, when } => self.send(size % 48, reply, when),
            Op::Get { size } if there => {
                let (name, number) = self.pair.get(u32::from(size % 80));
                self.model.get(name, u32::from(size % 80));
                self.gets.push((name, number));
                self.open_calls.push(name);
            }
            Op::CancelGet { back } if there => {
                if let Some((name, number)) = nth_back(&self.gets, back) {
                    assert_eq!(self.pair.cancel(number), self.model.cancel_get(name));
                }
            }
            Op::Reply {
                which,
                size,
                status,
            } if there => {
                let id = self.message_id(which);
                let status = pick(status);
                let bytes = self.bytes(size % 48);
                let name = self.pair.start_reply(id, status, &bytes);
                self.model.reply(name, id, status, &bytes);
                self.open_calls.push(name);
            }
            Op::Request { size, capacity } if there => {
                let bytes = self.bytes(size % 8);
                let name = self.pair.request(&bytes, u32::from(capacity));
                self.model.request(name, &bytes, u32::from(capacity));
                self.open_calls.push(name);
            }
            Op::CallbackReturns { status, size } => self.callback_returns(pick(status), size),
            Op::ConnectReturns { status } => {
                self.pair.host.handle_connect_returned(pick(status));
                self.pair.drive();
                self.model.connect_returns(pick(status));
            }
            Op::CloseByFilter => {
                self.pair.host.handle_filter_closed();
                self.pair.drive();
                self.model.close_by_filter();
            }
            // A client that was never told that it is connected has nothing to close but its socket.
            Op::CloseByClient if there || self.model.is_connecting() => {
                self.pair.close_client();
                self.model.close_by_client();
            }
            Op::Unregister => {
                self.pair.host.handle_unregister();
                self.pair.drive();
                self.model.unregister();
            }
            Op::DisconnectReturns => {
                self.pair.disconnect_returns();
                self.model.disconnect_returns();
            }
            Op::Advance { millis } => {
                self.pair
                    .advance(Duration::from_millis(u64::from(millis % 8)));
                self.model.advance(u64::from(millis % 8));
            }
            Op::SetWall { millis } => {
                self.pair
                    .set_wall(Duration::from_millis(u64::from(millis % 8)));
                self.model.set_wall(u64::from(millis % 8));
            }
            Op::StopReading => {
                self.pair.stop_reading();
                self.model.stop_reading();
            }
            Op::ResumeReading => {
                self.pair.resume_reading();
                self.model.resume_reading();
            }
            Op::CancelSend { back } => {
                if let Some((name, key)) = nth_back(&self.keys, back) {
                    self.pair.host.handle_send_cancelled(key);
                    self.pair.drive();
                    self.model.cancel_send(name);
                }
            }
            Op::Get { .. }
            | Op::CancelGet { .. }
            | Op::Reply { .. }
            | Op::Request { .. }
            | Op::CloseByClient => {}
        }
    }

    fn send(&mut self, size: u8, reply: u8, when: When) {
        let bytes = self.bytes(size);
        let reply = match reply {
            0..=79 => None,
            255 => Some(limits::MESSAGE_DEFAULT + 1),
            _ => Some(u32::from(reply % 32)),
        };
        let millis = |count: u8| u64::from(count % 8);
        let wall = self.pair.now().wall.as_ticks();
        let timeout = match when {
            When::Never => Timeout::Never,
            When::Poll => Timeout::poll(),
            When::After { millis: count } => Timeout::After(Duration::from_millis(millis(count))),
            When::AtWall { millis: count } => {
                Timeout::At(WallTime::from_ticks(wall + millis(count) * 10_000))
            }
            When::Past => Timeout::At(WallTime::from_ticks(wall - 1)),
            When::Forever => Timeout::After(Duration::MAX),
        };
        let (name, key) = self.pair.send_keyed(&bytes, reply, timeout);
        self.model.send(name, &bytes, reply, timeout);
        self.open_sends.push(name);
        self.keys.push((name, key));
    }

    /// Mostly one of the last messages, sometimes an old one, one that is to come, or none at all.
    fn message_id(&self, which: u8) -> u64 {
        let last = self.model.last_id();
        match which {
            0..=159 => last.saturating_sub(u64::from(which % 4)),
            160..=249 => u64::from(which) % (last + 2),
            250..=252 => u64::MAX,
            _ => last + 1,
        }
    }

    fn callback_returns(&mut self, status: NtStatus, size: u8) {
        let Some((_, _, capacity)) = self.pair.callbacks.front() else {
            return;
        };
        // What a callback writes beyond its buffer is cut by the driver.
        let length = u32::from(size).min(*capacity);
        let output = vec![9; length as usize];
        self.pair.callback_returns(status, &output);
        self.model.callback_returns(status, &output);
    }

    /// Both worlds look the same.
    fn compare(&mut self, op: &Op) {
        let Self {
            pair,
            model,
            open_sends,
            open_calls,
            ..
        } = self;
        assert_eq!(pair.lies, [], "after {op:?}");
        open_sends.retain(|name| {
            let engine = pair.outcome(*name).map(seen);
            assert_eq!(
                engine.as_ref(),
                model.sent(*name),
                "send {name} after {op:?}"
            );
            engine.is_none()
        });
        open_calls.retain(|name| {
            let engine = pair.ended(*name);
            assert_eq!(engine, model.called(*name), "call {name} after {op:?}");
            engine.is_none()
        });
        let running = pair
            .callbacks
            .iter()
            .map(|(_, input, capacity)| (&input.0[..], *capacity));
        assert!(running.eq(model.running()), "callbacks after {op:?}");
        assert_eq!(pair.connected, model.connected, "after {op:?}");
        assert_eq!(
            (pair.disconnects, pair.releases),
            (model.disconnects, model.releases),
            "after {op:?}"
        );
        assert_eq!(pair.host.pending(), model.pending(), "after {op:?}");
        assert_eq!(pair.host.posted(), model.posted(), "after {op:?}");
        assert_eq!(
            pair.host.next_deadlines(),
            model.next_deadlines(),
            "after {op:?}"
        );
        // Hints, in no promised order.
        let mut hints = pair.abandoned.clone();
        hints.sort_unstable();
        assert_eq!(hints, model.abandoned(), "after {op:?}");
    }

    /// Ends the connection in the ordinary way; nothing may be left.
    fn finish(mut self) {
        self.end_with(Op::ResumeReading);
        self.end_with(Op::ConnectReturns { status: 0 });
        self.end_with(Op::CloseByClient);
        while !self.pair.callbacks.is_empty() {
            assert_eq!(
                self.pair.disconnects, 0,
                "disconnected before a callback was over"
            );
            self.end_with(Op::CallbackReturns { status: 0, size: 3 });
        }
        self.end_with(Op::DisconnectReturns);
        assert!(self.open_sends.is_empty(), "sends that never end");
        assert!(self.open_calls.is_empty(), "calls that never end");
        assert_eq!(self.pair.releases, 1);
        assert_eq!(self.pair.disconnects, u32::from(self.model.was_accepted()));
        assert_eq!(
            self.pair.host.next_deadlines(),
            (Deadline::Never, Deadline::Never)
        );
        assert_eq!(
            self.pair
                .client
                .as_ref()
                .map_or(0, |client| client.pending()),
            0
        );
        self.model.check_replies();
    }

    fn end_with(&mut self, op: Op) {
        self.play(op);
        self.compare(&op);
    }
}

/// What the sender sees of an outcome.
fn seen(outcome: &Outcome<Bytes>) -> SendEnd {
    let delivered = match outcome {
        Outcome::Delivered | Outcome::Replied { .. } => true,
        Outcome::TimedOut { delivered }
        | Outcome::Disconnected { delivered }
        | Outcome::Cancelled { delivered } => *delivered,
        Outcome::Refused(_) => false,
    };
    let reply = match outcome {
        Outcome::Replied { reply, copied, .. } => Some(reply.0[..*copied as usize].to_vec()),
        _ => None,
    };
    SendEnd {
        status: outcome.status(),
        delivered,
        reply,
    }
}

/// Whether a call has ended, as the model keeps it.
pub(crate) type CallEnd = Ended;

fn nth_back<T: Copy>(list: &[T], back: u8) -> Option<T> {
    list.iter().nth_back(usize::from(back % 16)).copied()
}

/// A few statuses of each severity.
const fn pick(status: u8) -> NtStatus {
    match status % 8 {
        0..=3 => NtStatus::SUCCESS,
        4 => NtStatus::ACCESS_DENIED,
        5 => NtStatus::TIMEOUT,
        6 => NtStatus::BUFFER_OVERFLOW,
        _ => NtStatus::PORT_DISCONNECTED,
    }
}

//! Lists of operations in no sensible order, and what must hold whatever they are.

use super::*;
use crate::output::SendKey;
use crate::questions::Counters;
use crate::time::{Deadline, WallTime};
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 8;
const STEPS: u32 = 20_000;

#[test]
fn n2_whatever_both_ends_do_every_call_ends_once_and_replies_are_exact() {
    for seed in 1..=SEEDS {
        // Shown by the test runner only if something below fails.
        std::println!("seed {seed}");
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut left = STEPS;
        let mut seen = Counters::default();
        while left > 0 {
            let steps = left.min(1 + dice.below(400));
            let counters = Life::new(&mut dice).live(steps);
            seen.delivered += counters.delivered;
            seen.replied += counters.replied;
            seen.timed_out += counters.timed_out;
            seen.late_replies += counters.late_replies;
            seen.too_small += counters.too_small;
            left -= steps;
        }
        let Counters {
            delivered, replied, ..
        } = seen;
        let rare = [seen.timed_out, seen.late_replies, seen.too_small];
        assert!(delivered > 1_000 && replied > 300, "{seen:?}");
        assert!(rare.iter().all(|count| *count > 300), "{seen:?}");
    }
}

/// One connection from its accepting to its end.
struct Life<'a> {
    dice: &'a mut Dice,
    pair: Pair,
    sends: BTreeMap<u64, Send>,
    open: BTreeSet<u64>,
    /// Sends by what their messages say.
    told: Vec<u64>,
    gets: Vec<(u64, u64)>,
    replies: Vec<Reply>,
    requests: Vec<u64>,
    filter_closed: bool,
}

struct Send {
    key: SendKey,
    wants_reply: bool,
    deadline: Deadline,
}

struct Reply {
    call: u64,
    message: u64,
    status: NtStatus,
    bytes: Vec<u8>,
}

impl<'a> Life<'a> {
    fn new(dice: &'a mut Dice) -> Self {
        Self {
            dice,
            pair: Pair::connected(),
            sends: BTreeMap::new(),
            open: BTreeSet::new(),
            told: Vec::new(),
            gets: Vec::new(),
            replies: Vec::new(),
            requests: Vec::new(),
            filter_closed: false,
        }
    }

    fn live(mut self, steps: u32) -> Counters {
        for _ in 0..steps {
            self.step();
            self.check_deadlines();
        }
        if self.dice.half() == 0 {
            self.pair.resume_reading();
        }
        self.end();
        self.check_ends();
        self.check_messages();
        self.check_replies();
        self.pair.host.counters()
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..22 => self.send(),
            22..44 => self.get(),
            44..64 => self.reply(),
            64..72 => self.cancel(),
            72..80 => self.request(),
            80..86 => self.callback(),
            86..94 => advance(&mut self.pair, self.dice.below(4).into()),
            94 => {
                let forward = Duration::from_millis(self.dice.below(5).into());
                self.pair.set_wall(forward);
            }
            95..97 => self.pair.stop_reading(),
            97..99 => self.pair.resume_reading(),
            _ if self.dice.below(10) == 0 => {
                self.filter_closed = true;
                self.pair.host.handle_filter_closed();
                self.pair.drive();
            }
            _ => {}
        }
    }

    fn send(&mut self) {
        let bytes = unique(self.told.len(), self.dice.size());
        let reply = (self.dice.below(3) > 0).then(|| self.dice.below(24));
        let now = self.pair.now();
        let wait = Duration::from_millis(self.dice.below(6).into());
        let timeout = match self.dice.below(4) {
            0 => Timeout::Never,
            1 => Timeout::At(WallTime::from_ticks(
                now.wall.as_ticks() + u64::from(self.dice.below(50_000)),
            )),
            _ => Timeout::after(wait),
        };
        let (name, key) = self.pair.send_keyed(&bytes, reply, timeout);
        let send = Send {
            key,
            wants_reply: reply.is_some(),
            deadline: timeout.deadline(now),
        };
        self.sends.insert(name, send);
        self.told.push(name);
        self.open.insert(name);
    }

    fn get(&mut self) {
        let size = u32::try_from(self.dice.size()).unwrap() + 20;
        let get = self.pair.get(size);
        self.gets.push(get);
    }

    /// Mostly to a message that was taken and is perhaps answered already, sometimes to none.
    fn reply(&mut self) {
        let delivered = self.pair.host.counters().delivered;
        let around = u32::try_from(delivered).unwrap() + 3;
        let last = self.gets.iter().rev().take(8);
        let known: Vec<_> = last.filter_map(|get| self.pair.message(get.0)).collect();
        let message = match self.dice.below(4) {
            0 => self.dice.below(around).into(),
            _ => known.first().map_or(1, |(header, _)| header.message_id),
        };
        let bytes = unique(self.replies.len(), self.dice.size());
        let status = [NtStatus::SUCCESS, NtStatus::ACCESS_DENIED][self.dice.half()];
        let call = self.pair.start_reply(message, status, &bytes);
        self.replies.push(Reply {
            call,
            message,
            status,
            bytes,
        });
    }

    fn cancel(&mut self) {
        let back = self.dice.below(12) + 1;
        let back = usize::try_from(back).unwrap();
        if self.dice.half() == 0 {
            if let Some((_, number)) = self.gets.iter().nth_back(back - 1) {
                self.pair.cancel(*number);
            }
        } else if let Some(name) = self.sends.keys().nth_back(back - 1) {
            self.pair.host.handle_send_cancelled(self.sends[name].key);
            self.pair.drive();
        }
    }

    fn request(&mut self) {
        let bytes = std::vec![7; self.dice.size()];
        let request = self.pair.request(&bytes, 8);
        self.requests.push(request);
    }

    fn callback(&mut self) {
        let length = usize::try_from(self.dice.below(9)).unwrap();
        let bytes = std::vec![7; length];
        self.pair.callback_returns(NtStatus::SUCCESS, &bytes);
    }

    /// The client closes, the filter closes first, or the filter is unregistered.
    fn end(&mut self) {
        match self.dice.below(3) {
            0 => self.pair.host.handle_filter_closed(),
            1 => self.pair.host.handle_unregister(),
            _ => {}
        }
        self.pair.close_client();
        while !self.pair.callbacks.is_empty() {
            assert_eq!(self.pair.disconnects, 0);
            self.callback();
        }
        assert_eq!(self.pair.disconnects, 1);
        self.pair.disconnect_returns();
    }

    /// No send outlasts its deadline, none times out before it.
    fn check_deadlines(&mut self) {
        let now = self.pair.now();
        let Self {
            open, sends, pair, ..
        } = self;
        open.retain(|name| {
            let passed = sends[name].deadline.passed(now);
            match pair.outcome(*name) {
                None => assert!(!passed, "send {name} outlasted its deadline"),
                Some(Outcome::TimedOut { .. }) => assert!(passed, "send {name} ended early"),
                Some(_) => {}
            }
            pair.outcome(*name).is_none()
        });
        let (waiting, outstanding) = pair.host.pending();
        assert_eq!(waiting + outstanding, open.len());
    }

    fn check_ends(&self) {
        let pair = &self.pair;
        assert_eq!(pair.lies, []);
        assert_eq!((pair.disconnects, pair.releases), (1, 1));
        assert_eq!(pair.host.state(), State::Ended);
        assert_eq!(pair.host.pending(), (0, 0));
        assert_eq!(pair.host.posted(), 0);
        assert_eq!(pair.client.as_ref().unwrap().pending(), 0);
        let never = (Deadline::Never, Deadline::Never);
        assert_eq!(pair.host.next_deadlines(), never);
        // That none ended twice is what the simulator itself insists on.
        assert!(self.sends.keys().all(|send| pair.outcome(*send).is_some()));
        let gets = self.gets.iter().map(|(get, _)| get);
        let replies = self.replies.iter().map(|reply| &reply.call);
        let mut calls = gets.chain(replies).chain(&self.requests);
        assert!(calls.all(|call| pair.ended(*call).is_some()));
    }

    /// As many messages were taken as senders were told of; what is on its way at the end may be lost with its client.
    fn check_messages(&self) {
        let messages = self.gets.iter().filter_map(|get| self.pair.message(get.0));
        let headers: Vec<_> = messages.map(|(header, _)| header).collect();
        let mut told = 0;
        for (name, send) in &self.sends {
            let delivered = match self.pair.outcome(*name).unwrap() {
                Outcome::Delivered => !send.wants_reply,
                Outcome::Replied { .. } => send.wants_reply,
                Outcome::TimedOut { delivered }
                | Outcome::Disconnected { delivered }
                | Outcome::Cancelled { delivered } => *delivered,
                Outcome::Refused(_) => false,
            };
            told += u64::from(delivered);
        }
        let seen = u64::try_from(headers.len()).unwrap();
        let delivered = self.pair.host.counters().delivered;
        assert!(seen <= told && told <= delivered);
        assert!(delivered == seen || !self.pair.client_reads);
        let asking = headers.iter().filter(|header| header.reply_length > 0);
        let ids: Vec<_> = asking.map(|header| header.message_id).collect();
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    /// A reply that was told to have succeeded is what the sender of its message has returned, and no other reply is.
    fn check_replies(&self) {
        let mut confirmed = 0;
        for reply in &self.replies {
            let told = ended(&self.pair, reply.call).unwrap();
            let overflow = NtStatus::BUFFER_OVERFLOW;
            let expected = match told {
                NtStatus::SUCCESS => reply.status,
                NtStatus::BUFFER_OVERFLOW => overflow,
                _ => continue,
            };
            confirmed += 1;
            let (sender, status, copied) = self.receiver(&reply.bytes).unwrap();
            assert_eq!(status, expected);
            assert_eq!(copied < reply.bytes.len(), told == overflow);
            let asker = self.asker(reply.message);
            assert!(asker == Some(sender) || asker.is_none() && !self.pair.client_reads);
        }
        let received = self.pair.host.counters().replied;
        assert!(confirmed <= received);
        assert!(confirmed == received || !self.pair.client_reads);
    }

    /// The send that returned this reply, with its status and length.
    fn receiver(&self, bytes: &[u8]) -> Option<(u64, NtStatus, usize)> {
        let mut found = self.sends.keys().filter_map(|send| {
            let outcome = self.pair.outcome(*send)?;
            let Outcome::Replied { reply, copied, .. } = outcome else {
                return None;
            };
            let copied = usize::try_from(*copied).ok()?;
            (reply.0 == bytes).then_some((*send, outcome.status(), copied))
        });
        let first = found.next();
        assert_eq!(found.next(), None);
        first
    }

    /// The send whose message had this number, as far as the client has read it.
    fn asker(&self, message: u64) -> Option<u64> {
        let mut messages = self.gets.iter().filter_map(|get| self.pair.message(get.0));
        let (_, bytes) = messages.find(|(header, _)| header.message_id == message)?;
        let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        self.told.get(usize::try_from(number).ok()?).copied()
    }
}

/// Bytes that say a number, and some more.
fn unique(number: usize, more: usize) -> Vec<u8> {
    let number = u64::try_from(number).unwrap();
    let mut bytes = Vec::from(number.to_le_bytes());
    bytes.resize(8 + more, 7);
    bytes
}

//! The exchange performed in memory: the senders of one connection, the gets its client has posted, and the messages
//! that wait for a reply.
//!
//! All rules are in [`crate::exchange`]; this file keeps the records those rules speak of, under the driver's lock. It
//! knows nothing of connecting, callbacks or sockets: [`crate::connection`] is the room around it.
//!
//! Which get takes which message is decided here on every link. Whether that get is still posted is known where its word
//! is: [`Gets`] is asked before anything is final. A link that keeps the words of gets and waiters in memory that both
//! sides see carries deliveries out itself; [`crate::gets::Frames`] is the link that has them carried out by outputs.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::exchange::{self, Choice, Get, GetStep, Waiter, WaiterStep};
use crate::gets::{Delivery, Gets, Offer, Refusal};
use crate::limits;
use crate::output::{Body, Outcome, Output, SendKey};
use crate::status::NtStatus;
use crate::time::{Deadline, Now};
use crate::told::Told;

/// Gets, senders and waiters of one connection.
#[derive(Debug)]
pub struct Questions<B, S> {
    /// In the order of posting.
    gets: VecDeque<PostedGet>,
    last_get: u64,
    waiting: BTreeMap<SendKey, Waiting<B, S>>,
    /// Senders that take the oldest get, whatever its size.
    untold: BTreeSet<SendKey>,
    /// Senders that a get was too small for: only a get that fits is theirs.
    told: Told,
    outstanding: BTreeMap<u64, Outstanding<S>>,
    delivered: BTreeMap<SendKey, u64>,
    deadlines: BTreeSet<(Deadline, SendKey)>,
    next_send: u64,
    last_message: u64,
    counters: Counters,
}

/// What has happened on a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that a get has taken.
    pub delivered: u64,
    /// Replies that reached their sender.
    pub replied: u64,
    /// Sends that ended at their deadline.
    pub timed_out: u64,
    /// Replies that found nobody waiting.
    pub late_replies: u64,
    /// Gets that were too small.
    pub too_small: u64,
}

#[derive(Debug)]
struct PostedGet {
    token: u64,
    size: u32,
    state: Get,
}

/// A send that no get has taken yet. The message is here and nowhere else.
#[derive(Debug)]
struct Waiting<B, S> {
    body: B,
    reply: Option<u32>,
    deadline: Deadline,
    sender: S,
}

/// A send whose message was taken and whose reply is awaited.
#[derive(Debug)]
struct Outstanding<S> {
    key: SendKey,
    capacity: u32,
    deadline: Deadline,
    sender: S,
    state: Waiter,
}

/// Why the client's frame was a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie;

type Queue<B, S> = VecDeque<Output<B, S>>;

impl<B: Body, S> Questions<B, S> {
    /// No gets, no senders.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            gets: VecDeque::new(),
            last_get: 0,
            waiting: BTreeMap::new(),
            untold: BTreeSet::new(),
            told: Told::new(),
            outstanding: BTreeMap::new(),
            delivered: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_send: 1,
            last_message: 0,
            counters: Counters {
                delivered: 0,
                replied: 0,
                timed_out: 0,
                late_replies: 0,
                too_small: 0,
            },
        }
    }

    /// Takes a send on; [`Self::match_one`] delivers it.
    pub fn add(&mut self, body: B, reply: Option<u32>, deadline: Deadline, sender: S) -> SendKey {
        let key = SendKey(self.next_send);
        self.next_send = self.next_send.wrapping_add(1);
        if deadline != Deadline::Never {
            self.deadlines.insert((deadline, key));
        }
        self.untold.insert(key);
        self.waiting.insert(
            key,
            Waiting {
                body,
                reply,
                deadline,
                sender,
            },
        );
        key
    }

    /// Posts a get. The client numbers its gets upwards; a number used twice is a lie.
    pub fn post(&mut self, token: u64, size: u32, out: &mut Queue<B, S>) -> Result<(), Lie> {
        if token <= self.last_get {
            return Err(Lie);
        }
        self.last_get = token;
        if size < limits::HEADER {
            out.push_back(Output::GetFailed {
                get: token,
                status: NtStatus::BUFFER_TOO_SMALL,
                needed: limits::HEADER,
            });
        } else if self.gets.len() >= limits::GETS_PER_CONNECTION {
            out.push_back(Output::GetFailed {
                get: token,
                status: NtStatus::INSUFFICIENT_RESOURCES,
                needed: 0,
            });
        } else {
            self.push_get(token, size);
        }
        Ok(())
    }

    /// Posts a get whose word the link keeps, which has checked its number and size.
    pub fn post_word(&mut self, token: u64, size: u32) {
        self.push_get(token, size);
    }

    /// Forgets a get whose word the link keeps, and says so to nobody.
    pub fn forget_word(&mut self, token: u64) {
        // From the end: whoever posts one get over and over has posted few others since.
        let index = self.gets.iter().rposition(|get| get.token == token);
        if let Some(index) = index {
            self.gets.remove(index);
        }
    }

    /// Takes the get out that a message of `length` bytes would have, unless another sender comes first or a get has to
    /// be told that it is too small. Whoever takes it delivers into it, or asks again if it was withdrawn.
    pub fn take_get(&mut self, length: u32) -> Option<(u64, u32)> {
        if !self.waiting.is_empty() {
            return None;
        }
        let index = self
            .gets
            .iter()
            .position(|get| exchange::fits(get.size, length))?;
        self.gets.remove(index).map(|get| (get.token, get.size))
    }

    /// Puts back what [`Self::take_get`] gave, as the oldest.
    pub fn return_get(&mut self, token: u64, size: u32) {
        let state = Get::Posted;
        self.gets.push_front(PostedGet { token, size, state });
    }

    /// From here on replies are matched by the link, and the numbers of those that are not begin with this one.
    pub fn number_from(&mut self, id: u64) {
        self.last_message = self.last_message.max(id);
    }

    /// Whether a sender waits for a get.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn push_get(&mut self, token: u64, size: u32) {
        let state = Get::Free.after(GetStep::Post).unwrap_or(Get::Posted);
        self.gets.push_back(PostedGet { token, size, state });
    }

    /// Withdraws a get. One that a message has taken already stays taken; the client learns which from the frame that
    /// ends the get.
    pub fn cancel(&mut self, token: u64, out: &mut Queue<B, S>) {
        let Some(index) = self.gets.iter().position(|get| get.token == token) else {
            return;
        };
        self.end_get(index, GetStep::Cancel, NtStatus::CANCELLED, 0, out);
    }

    /// Brings one sender and one get together, the oldest sender that a posted get concerns. Says whether there was one;
    /// each turn uses up a get.
    pub fn match_one(&mut self, words: &mut impl Gets<B, S>, out: &mut Queue<B, S>) -> bool {
        let Some(key) = self.next_sender() else {
            return false;
        };
        let Some(waiting) = self.waiting.get(&key) else {
            return false;
        };
        let sizes = self
            .gets
            .iter()
            .enumerate()
            .map(|(index, get)| (index, get.size));
        match exchange::choose(sizes, waiting.body.length()) {
            Choice::Fits(index) => self.deliver(key, index, words, out),
            Choice::TooSmall(index) => self.refuse(key, index, words, out),
            Choice::None => return false,
        }
        true
    }

    /// Matches a reply with its sender. Says what the replier is told.
    pub fn reply(&mut self, id: u64, status: NtStatus, body: B, out: &mut Queue<B, S>) -> NtStatus {
        let claimed = self.outstanding.get_mut(&id).and_then(|waiter| {
            waiter.state = waiter.state.after(WaiterStep::Claim)?;
            waiter.state = waiter.state.after(WaiterStep::Finish)?;
            Some(())
        });
        let found = claimed.and_then(|()| self.outstanding.remove(&id));
        let Some(waiter) = found else {
            self.counters.late_replies = self.counters.late_replies.wrapping_add(1);
            return NtStatus::FLT_NO_WAITER_FOR_REPLY;
        };
        self.delivered.remove(&waiter.key);
        self.deadlines.remove(&(waiter.deadline, waiter.key));
        self.counters.replied = self.counters.replied.wrapping_add(1);
        let settled = exchange::settle(waiter.capacity, body.length(), status);
        let outcome = Outcome::Replied {
            status: settled.sender,
            reply: body,
            copied: settled.copied,
        };
        out.push_back(Output::Finished {
            sender: waiter.sender,
            outcome,
        });
        settled.replier
    }

    /// The number of the message that was delivered last, of those that want a reply and wait for it here.
    #[must_use]
    pub const fn last_message(&self) -> u64 {
        self.last_message
    }

    /// Ends one send on its sender's own wish. Nothing happens if it has ended already.
    pub fn give_up(&mut self, key: SendKey, out: &mut Queue<B, S>) {
        self.end(key, |delivered| Outcome::Cancelled { delivered }, out);
    }

    /// Ends all sends whose deadline has passed.
    pub fn expire(&mut self, now: Now, out: &mut Queue<B, S>) {
        while let Some(key) = self.due(now) {
            self.counters.timed_out = self.counters.timed_out.wrapping_add(1);
            self.end(key, |delivered| Outcome::TimedOut { delivered }, out);
        }
    }

    /// Ends everything: senders first, then gets. Those whose messages were delivered come before the others, who may want
    /// to know what the client died of.
    pub fn disconnect(&mut self, out: &mut Queue<B, S>) {
        for (_, waiter) in core::mem::take(&mut self.outstanding) {
            let outcome = Outcome::Disconnected { delivered: true };
            out.push_back(Output::Finished {
                sender: waiter.sender,
                outcome,
            });
        }
        for (_, waiting) in core::mem::take(&mut self.waiting) {
            let outcome = Outcome::Disconnected { delivered: false };
            out.push_back(Output::Finished {
                sender: waiting.sender,
                outcome,
            });
        }
        while !self.gets.is_empty() {
            self.end_get(0, GetStep::Disconnect, NtStatus::PORT_DISCONNECTED, 0, out);
        }
        self.deadlines.clear();
        self.delivered.clear();
        self.untold.clear();
        self.told = Told::new();
    }

    /// The earliest deadline of each clock: monotonic first, wall second.
    #[must_use]
    pub fn next_deadlines(&self) -> (Deadline, Deadline) {
        let monotonic = self
            .deadlines
            .first()
            .map_or(Deadline::Never, |(deadline, _)| *deadline);
        let monotonic = if matches!(monotonic, Deadline::At(_)) {
            monotonic
        } else {
            Deadline::Never
        };
        (
            monotonic,
            self.first_wall()
                .map_or(Deadline::Never, |(deadline, _)| deadline),
        )
    }

    /// Sends that are not over: waiting for a get, waiting for a reply.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        (self.waiting.len(), self.outstanding.len())
    }

    /// Gets posted and not taken.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.gets.len()
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The oldest sender that a posted get concerns.
    fn next_sender(&self) -> Option<SendKey> {
        if self.gets.is_empty() {
            return None;
        }
        let untold = self.untold.first().copied();
        // Looked for only where it matters: hardly ever is a sender told.
        let largest = (!self.told.is_empty())
            .then(|| self.gets.iter().map(|get| get.size).max())
            .flatten();
        let told = largest
            .and_then(|largest| largest.checked_sub(limits::HEADER))
            .and_then(|room| self.told.oldest(room));
        match (untold, told) {
            (Some(untold), Some(told)) => Some(untold.min(told)),
            (one, other) => one.or(other),
        }
    }

    fn take_waiting(&mut self, key: SendKey) -> Option<Waiting<B, S>> {
        let waiting = self.waiting.remove(&key)?;
        if !self.untold.remove(&key) {
            self.told.remove(waiting.body.length(), key);
        }
        Some(waiting)
    }

    fn deliver(
        &mut self,
        key: SendKey,
        index: usize,
        words: &mut impl Gets<B, S>,
        out: &mut Queue<B, S>,
    ) {
        let Some(get) = self.gets.remove(index) else {
            return;
        };
        if get.state.after(GetStep::Assign).is_none() {
            return;
        }
        let told = !self.untold.contains(&key);
        let Some(waiting) = self.take_waiting(key) else {
            return;
        };
        let offer = Offer {
            key,
            body: waiting.body,
            reply: waiting.reply,
            deadline: waiting.deadline,
            sender: waiting.sender,
        };
        match words.deliver(get.token, offer) {
            Delivery::Withdrawn(offer) => return self.take_back(offer, told),
            Delivery::Framed(offer) => self.deliver_by_frame(get.token, offer, out),
            Delivery::Done(sender) => {
                self.deadlines.remove(&(waiting.deadline, key));
                self.finish_delivered(sender, out);
            }
            Delivery::Announced {
                header,
                deadline,
                body,
                delivered,
            } => {
                self.deadlines.remove(&(waiting.deadline, key));
                let get = get.token;
                out.push_back(Output::Deliver {
                    get,
                    header,
                    deadline,
                    body,
                });
                self.finish_delivered(delivered, out);
            }
        }
        self.counters.delivered = self.counters.delivered.wrapping_add(1);
    }

    /// A message whose get was withdrawn waits on as before.
    fn take_back(&mut self, offer: Offer<B, S>, told: bool) {
        let Offer {
            key,
            body,
            reply,
            deadline,
            sender,
        } = offer;
        if told {
            self.told.insert(body.length(), key);
        } else {
            self.untold.insert(key);
        }
        let waiting = Waiting {
            body,
            reply,
            deadline,
            sender,
        };
        self.waiting.insert(key, waiting);
    }

    fn finish_delivered(&mut self, sender: Option<S>, out: &mut Queue<B, S>) {
        if let Some(sender) = sender {
            let outcome = Outcome::Delivered;
            out.push_back(Output::Finished { sender, outcome });
        }
    }

    fn deliver_by_frame(&mut self, get: u64, offer: Offer<B, S>, out: &mut Queue<B, S>) {
        let Offer {
            key,
            body,
            reply,
            deadline,
            sender,
        } = offer;
        let Some(capacity) = reply else {
            self.deadlines.remove(&(deadline, key));
            out.push_back(Output::Deliver {
                get,
                header: exchange::header(None),
                deadline,
                body,
            });
            self.finish_delivered(Some(sender), out);
            return;
        };
        // The waiter is recorded before the message leaves, so that an instant reply finds it.
        self.last_message = self.last_message.wrapping_add(1).max(1);
        let id = self.last_message;
        self.outstanding.insert(
            id,
            Outstanding {
                key,
                capacity,
                deadline,
                sender,
                state: Waiter::Waiting,
            },
        );
        self.delivered.insert(key, id);
        let header = exchange::header(Some((capacity, id)));
        out.push_back(Output::Deliver {
            get,
            header,
            deadline,
            body,
        });
    }

    fn refuse(
        &mut self,
        key: SendKey,
        index: usize,
        words: &mut impl Gets<B, S>,
        out: &mut Queue<B, S>,
    ) {
        let Some(length) = self.waiting.get(&key).map(|waiting| waiting.body.length()) else {
            return;
        };
        let needed = exchange::needed(length).unwrap_or(u32::MAX);
        let token = self.gets.get(index).map_or(0, |get| get.token);
        let refusal = words.refuse(token, needed);
        if refusal != Refusal::Framed {
            self.gets.remove(index);
        }
        if refusal == Refusal::Withdrawn {
            return;
        }
        self.untold.remove(&key);
        self.told.insert(length, key);
        self.counters.too_small = self.counters.too_small.wrapping_add(1);
        if refusal == Refusal::Framed {
            let status = NtStatus::BUFFER_TOO_SMALL;
            self.end_get(index, GetStep::Refuse, status, needed, out);
        }
    }

    fn end_get(
        &mut self,
        index: usize,
        step: GetStep,
        status: NtStatus,
        needed: u32,
        out: &mut Queue<B, S>,
    ) {
        let Some(get) = self.gets.remove(index) else {
            return;
        };
        if get.state.after(step).is_some() {
            out.push_back(Output::GetFailed {
                get: get.token,
                status,
                needed,
            });
        }
    }

    fn end(
        &mut self,
        key: SendKey,
        outcome: impl FnOnce(bool) -> Outcome<B>,
        out: &mut Queue<B, S>,
    ) {
        if let Some(waiting) = self.take_waiting(key) {
            self.deadlines.remove(&(waiting.deadline, key));
            out.push_back(Output::Finished {
                sender: waiting.sender,
                outcome: outcome(false),
            });
            return;
        }
        let Some(id) = self.delivered.remove(&key) else {
            return;
        };
        let Some(waiter) = self.outstanding.remove(&id) else {
            return;
        };
        self.deadlines.remove(&(waiter.deadline, key));
        out.push_back(Output::Abandoned { message_id: id });
        out.push_back(Output::Finished {
            sender: waiter.sender,
            outcome: outcome(true),
        });
    }

    fn due(&self, now: Now) -> Option<SendKey> {
        let first = self
            .deadlines
            .first()
            .copied()
            .filter(|(deadline, _)| deadline.passed(now));
        first
            .or_else(|| {
                self.first_wall()
                    .filter(|(deadline, _)| deadline.passed(now))
            })
            .map(|(_, key)| key)
    }

    /// Monotonic deadlines sort before wall deadlines; the first of the latter is found by range.
    fn first_wall(&self) -> Option<(Deadline, SendKey)> {
        let from = (
            Deadline::AtWall(crate::time::WallTime::default()),
            SendKey(0),
        );
        self.deadlines.range(from..).next().copied()
    }
}

impl<B: Body, S> Default for Questions<B, S> {
    fn default() -> Self {
        Self::new()
    }
}

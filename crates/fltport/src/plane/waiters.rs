//! The host's records of those who wait for a reply: what each word in the client's memory is allowed to say.

use std::collections::{BTreeMap, BTreeSet};

use fltport_engine::output::{Outcome, SendKey};
use fltport_engine::{Deadline, Instant, WallTime};

use super::blocks::Block;
use super::layout;
use super::waiting::Ticket;
use crate::body::Body;

/// Told of the end of a send that no thread waits for.
pub(crate) type Call = Box<dyn FnOnce(Outcome<Body>) + Send>;

/// Who waits for replies, and where.
#[derive(Debug)]
pub(crate) struct Waiters {
    records: Vec<Record>,
    free: Vec<usize>,
    first_generation: u64,
    deadlines: BTreeSet<(Deadline, usize)>,
    /// Those whose senders no thread waits for.
    elsewhere: BTreeSet<usize>,
    /// Those of them that can be cancelled.
    keys: BTreeMap<SendKey, usize>,
}

#[derive(Debug, Default)]
struct Record {
    generation: u64,
    live: bool,
    call: Option<Async>,
    capacity: u32,
    block: Option<Block>,
}

/// A send that no thread waits for.
pub(crate) struct Async {
    call: Call,
    key: Option<SendKey>,
    deadline: Deadline,
    /// A moment more was granted, because its reply was being written.
    granted: bool,
}

impl Async {
    pub(crate) const fn new(call: Call, key: SendKey, deadline: Deadline) -> Self {
        Self {
            call,
            key: Some(key),
            deadline,
            granted: false,
        }
    }

    /// Nobody: what is being written for a sender that has gone ends by `until`.
    pub(crate) fn nobody(until: Instant) -> Self {
        Self {
            call: Box::new(|_| {}),
            key: None,
            deadline: Deadline::At(until),
            granted: true,
        }
    }
}

impl std::fmt::Debug for Async {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Async").field(&self.key).finish()
    }
}

/// Records that are made room for at a time: more than most connections ever need.
const STEP: usize = 64;

impl Waiters {
    /// Nobody; generations begin with this one.
    pub(crate) fn new(first_generation: u64) -> Self {
        // The first waiter is never used: numbers of messages begin at 1.
        Self {
            records: vec![Record::default()],
            free: Vec::new(),
            first_generation,
            deadlines: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            keys: BTreeMap::new(),
        }
    }

    /// A waiter and its generation, and whether it is used for the first time.
    pub(crate) fn take(&mut self) -> Option<(usize, u64, bool)> {
        if let Some(waiter) = self.free.pop() {
            let record = self.records.get_mut(waiter)?;
            record.live = true;
            return Some((waiter, record.generation, false));
        }
        let waiter = self.records.len();
        if waiter >= layout::WAITERS {
            return None;
        }
        if waiter == self.records.capacity() || waiter == 1 {
            self.records.reserve(STEP);
            // So that giving back needs nothing.
            self.free.reserve(self.records.capacity());
        }
        self.records.push(Record {
            generation: self.first_generation,
            live: true,
            ..Record::default()
        });
        Some((waiter, self.first_generation, true))
    }

    /// Takes back a waiter that was never used.
    pub(crate) fn give_back(&mut self, waiter: usize) {
        self.records.truncate(waiter);
    }

    /// Notes what was given out with a waiter.
    pub(crate) fn note(&mut self, ticket: &Ticket) {
        if let Some(record) = self.records.get_mut(ticket.waiter) {
            record.capacity = ticket.capacity;
            record.block = ticket.block;
        }
    }

    /// Nobody waits at the word of this waiter: what is to be told instead.
    pub(crate) fn set_call(&mut self, ticket: &Ticket, call: Async) {
        if call.deadline != Deadline::Never {
            self.deadlines.insert((call.deadline, ticket.waiter));
        }
        if let Some(key) = call.key {
            self.keys.insert(key, ticket.waiter);
        }
        self.elsewhere.insert(ticket.waiter);
        if let Some(record) = self.records.get_mut(ticket.waiter) {
            record.call = Some(call);
        }
    }

    /// The waiter is over. Gives whoever is to be told, if no thread waits for it.
    pub(crate) fn release(&mut self, ticket: &Ticket) -> Option<Call> {
        let record = self.live(ticket.waiter, ticket.generation)?;
        record.live = false;
        record.generation = record.generation.wrapping_add(1) & layout::GENERATIONS_OF_ID;
        record.block = None;
        let call = record.call.take();
        self.free.push(ticket.waiter);
        let call = call?;
        self.elsewhere.remove(&ticket.waiter);
        self.deadlines.remove(&(call.deadline, ticket.waiter));
        if let Some(key) = call.key {
            self.keys.remove(&key);
        }
        Some(call.call)
    }

    /// The ticket of a waiter that is in use.
    pub(crate) fn in_use(&self, waiter: usize) -> Option<Ticket> {
        let record = self.records.get(waiter)?;
        record.live.then(|| record.ticket(waiter))
    }

    /// Whether a waiter is free that has been used.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Waiters that have been used.
    pub(crate) fn used(&self) -> usize {
        self.records.len()
    }

    /// The ticket of a waiter whose sender no thread waits for.
    pub(crate) fn elsewhere(&self, waiter: usize) -> Option<Ticket> {
        let record = self.records.get(waiter)?;
        record.call.as_ref()?;
        Some(record.ticket(waiter))
    }

    /// The ticket of a send that no thread waits for, by its name.
    pub(crate) fn of_key(&self, key: SendKey) -> Option<Ticket> {
        self.elsewhere(*self.keys.get(&key)?)
    }

    /// All waiters whose senders no thread waits for.
    pub(crate) fn all_elsewhere(&self) -> Vec<usize> {
        self.elsewhere.iter().copied().collect()
    }

    /// The ticket of the message with this number, if its reply is awaited.
    pub(crate) fn of_id(&self, id: u64) -> Option<Ticket> {
        let (waiter, generation) = layout::waiter_of(id)?;
        let record = self.records.get(waiter)?;
        (record.live && record.generation == generation).then(|| record.ticket(waiter))
    }

    /// Waiters that no thread waits for and whose deadline has passed.
    pub(crate) fn due(&self, now: fltport_engine::Now) -> Vec<usize> {
        let monotonic = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| deadline.passed(now));
        let wall = self
            .deadlines
            .range((Deadline::AtWall(WallTime::default()), 0)..)
            .take_while(|(deadline, _)| deadline.passed(now));
        monotonic.chain(wall).map(|(_, waiter)| *waiter).collect()
    }

    /// Gives a reply that was claimed in time a moment more, until `until`; `false` if that was granted before.
    pub(crate) fn grant(&mut self, waiter: usize, until: Instant) -> bool {
        let record = self.records.get_mut(waiter);
        let Some(call) = record.and_then(|record| record.call.as_mut()) else {
            return true;
        };
        if std::mem::replace(&mut call.granted, true) {
            return false;
        }
        self.deadlines.remove(&(call.deadline, waiter));
        call.deadline = Deadline::At(until);
        self.deadlines.insert((call.deadline, waiter));
        true
    }

    /// The earliest deadline of each clock.
    pub(crate) fn next_deadlines(&self) -> (Deadline, Deadline) {
        let first = self.deadlines.first().map(|(deadline, _)| *deadline);
        let monotonic = first.filter(|deadline| matches!(deadline, Deadline::At(_)));
        let from = (Deadline::AtWall(WallTime::default()), 0);
        let wall = self.deadlines.range(from..).next().map(|(d, _)| *d);
        (
            monotonic.unwrap_or(Deadline::Never),
            wall.unwrap_or(Deadline::Never),
        )
    }

    /// Who waits for a reply.
    pub(crate) fn live_count(&self) -> usize {
        self.records.len() - 1 - self.free.len()
    }

    /// Whether there are senders that no thread waits for.
    pub(crate) fn has_elsewhere(&self) -> bool {
        !self.elsewhere.is_empty()
    }

    fn live(&mut self, waiter: usize, generation: u64) -> Option<&mut Record> {
        self.records
            .get_mut(waiter)
            .filter(|record| record.live && record.generation == generation)
    }
}

impl Record {
    const fn ticket(&self, waiter: usize) -> Ticket {
        Ticket {
            waiter,
            generation: self.generation,
            capacity: self.capacity,
            block: self.block,
        }
    }
}

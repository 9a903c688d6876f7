//! The host's end where a sender waits for its reply, without the connection's lock.
//!
//! The waiter's word decides. The client claims it before it writes, and says when it is done; the sender gives it up at
//! its deadline or when the connection ends, unless it was claimed. Anything else in the word is a lie.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use fltport_engine::exchange::{self, Waiter, WaiterStep};
use fltport_engine::output::Outcome;
use fltport_engine::questions::Counters;
use fltport_engine::{Deadline, NtStatus, limits};

use super::blocks::Block;
use super::layout::{self, Entry, Word, client_word, host_word};
use super::memory_region::Region;
use super::spin::{self, Patience, Spin};
use crate::body::Body;
use crate::clock::{self, Limit};
use crate::sync::{AtomicU64, Instant, Mutex, MutexGuard, Ordering, futex};

/// Both pieces of memory at the host, and what ends every wait on them.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) host: Region,
    pub(crate) client: Region,
    spins: bool,
    /// Odd once the connection has ended. No peer sees it, so none can keep a sender from waking.
    life: AtomicU64,
    /// How long the filter takes from a reply to its next message.
    pub(crate) pace: spin::Pace,
    pub(crate) quits: Quits,
    pub(crate) framed: Framed,
    /// Not 0: somebody who does not have the lock writes into the record of this get. It may be withdrawn and posted again
    /// meanwhile, but nobody else writes there.
    writing: [AtomicU64; layout::GETS],
}

/// Waiters that are over, as their senders leave them without the lock; whoever has that next takes them back. For the first
/// few waiters, which are all that a few threads ever use.
#[derive(Debug)]
pub(crate) struct Quits {
    /// Written by the sender, then by whoever has the lock.
    left: [AtomicU64; Self::COUNT],
}

/// Replies that came by frames, until their senders take them. Here, and not with the connection's records: those go with the
/// connection, and a reply that its replier was told of must reach its sender all the same.
#[derive(Debug)]
pub(crate) struct Framed {
    /// How many there are, to be looked at without the lock: mostly none.
    count: AtomicU64,
    replies: Mutex<BTreeMap<u64, FramedReply>>,
}

/// Its status, how long it was, and as many of its bytes as its sender takes.
pub(crate) type FramedReply = (NtStatus, u32, Vec<u8>);

/// How a waiter was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quit {
    /// It is in use, or was left under the lock.
    No,
    Replied,
    TimedOut,
}

impl Quit {
    pub(crate) const fn count(self, counters: &mut Counters) {
        match self {
            Self::No => {}
            Self::Replied => counters.replied += 1,
            Self::TimedOut => counters.timed_out += 1,
        }
    }
}

impl Quits {
    pub(crate) const COUNT: usize = 64;

    fn new() -> Self {
        Self {
            left: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// How this waiter was left, which is then forgotten. Under the lock.
    pub(crate) fn take(&self, waiter: usize) -> Quit {
        let Some(left) = self.left.get(waiter) else {
            return Quit::No;
        };
        let quit = match left.load(Ordering::Acquire) {
            1 => Quit::Replied,
            2 => Quit::TimedOut,
            _ => return Quit::No,
        };
        left.store(0, Ordering::Relaxed);
        quit
    }

    /// Forgets and counts how all waiters were left.
    pub(crate) fn take_all(&self, counters: &mut Counters) {
        (0..Self::COUNT).for_each(|waiter| self.take(waiter).count(counters));
    }

    /// Leaves a waiter; `false`: that needs the lock.
    pub(crate) fn leave(&self, waiter: usize, quit: Quit) -> bool {
        let Some(left) = self.left.get(waiter) else {
            return false;
        };
        let value = match quit {
            Quit::No => return false,
            Quit::Replied => 1,
            Quit::TimedOut => 2,
        };
        left.store(value, Ordering::Release);
        true
    }
}

impl Framed {
    fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            replies: Mutex::new(BTreeMap::new()),
        }
    }

    /// Keeps the reply to the message of this number, before its waiter's word says that there is one.
    pub(crate) fn put(&self, id: u64, reply: FramedReply) {
        let mut replies = self.lock();
        replies.insert(id, reply);
        self.note(&replies);
    }

    /// Whether a reply to the message of this number came by a frame and was not taken.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.lock().contains_key(&id)
    }

    /// The reply to the message of this number, if it came by a frame.
    pub(crate) fn take(&self, id: u64) -> Option<FramedReply> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut replies = self.lock();
        let reply = replies.remove(&id)?;
        self.note(&replies);
        Some(reply)
    }

    fn note(&self, replies: &BTreeMap<u64, FramedReply>) {
        let count = u64::try_from(replies.len()).unwrap_or(u64::MAX);
        self.count.store(count, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, FramedReply>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that a get has taken and whose reply is awaited.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) waiter: usize,
    pub(crate) generation: u64,
    pub(crate) capacity: u32,
    pub(crate) block: Option<Block>,
}

/// How a wait for a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The reply is there.
    Replied,
    /// The deadline came, and no reply is accepted any more.
    TimedOut,
    /// The connection ended, and no reply is accepted any more.
    Disconnected,
    /// The client has broken the rules: it is to be disconnected.
    Lie,
}

/// A reply that was copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// What the send returns.
    pub(crate) status: NtStatus,
    /// Bytes that were copied.
    pub(crate) copied: u32,
    /// It was longer than its sender could take.
    pub(crate) cut: bool,
}

impl Read {
    /// Of a reply that came by a frame.
    fn framed(capacity: u32, length: u32, status: NtStatus) -> Self {
        let settled = exchange::settle(capacity, length, status);
        Self {
            status: settled.sender,
            copied: settled.copied,
            cut: length > capacity,
        }
    }

    /// The end of the send, whose reply has these bytes, or has put them where the sender wants them.
    pub(crate) fn outcome(self, bytes: Vec<u8>) -> Outcome<Body> {
        let reply = Body {
            bytes,
            cut: self.cut,
            ..Body::default()
        };
        Outcome::Replied {
            status: self.status,
            reply,
            copied: self.copied,
        }
    }
}

/// What became of an attempt to give a waiter up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// No reply is accepted any more.
    Yes,
    /// The reply is there.
    Replied,
    /// One is being written.
    Replying,
    /// The word says what it must not.
    Lie,
}

impl Ticket {
    /// The number of the message.
    pub(crate) const fn id(&self) -> u64 {
        layout::message_id(self.waiter, self.generation)
    }
}

impl Memory {
    /// `spins`: senders may wait awake.
    pub(crate) fn new(host: Region, client: Region, spins: bool) -> Self {
        host.store(host_word::HOME, spin::home(), Ordering::Relaxed);
        Self {
            host,
            client,
            spins,
            life: AtomicU64::new(0),
            pace: spin::Pace::new(),
            quits: Quits::new(),
            framed: Framed::new(),
            writing: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Somebody writes into the record of this get, or has done so.
    pub(crate) fn set_writing(&self, get: usize, writing: bool) {
        if let Some(word) = self.writing.get(get) {
            word.store(writing.into(), Ordering::Release);
        }
    }

    /// Waits until nobody writes into the record of this get. Whoever does waits for nothing.
    pub(crate) fn wait_for_writer(&self, get: usize) {
        let writing = || {
            self.writing
                .get(get)
                .map_or(0, |w| w.load(Ordering::Acquire))
        };
        while writing() != 0 {
            crate::sync::thread::yield_now();
        }
    }

    /// Ends every wait.
    pub(crate) fn end(&self) {
        let ended = &host_word::ENDED;
        self.host.store(*ended, 1, Ordering::SeqCst);
        self.life.fetch_or(1, Ordering::SeqCst);
        futex::wake_own(&self.life);
    }

    /// Makes everybody who waits look again.
    pub(crate) fn stir(&self) {
        self.life.fetch_add(2, Ordering::SeqCst);
        futex::wake_own(&self.life);
    }

    /// Waits until the reply is there, `limit`, or the end of the connection. `awake`: the receiver was, when it got
    /// the message, so that the reply may be near.
    pub(crate) fn wait(&self, ticket: &Ticket, limit: &mut Limit, awake: bool) -> End {
        let word = self.client.word(layout::waiter_word(ticket.waiter));
        let there = self.client.load(client_word::HOME, Ordering::Relaxed);
        let worth = self.spins && awake && !limit.is_poll() && self.is_service_quick();
        let mut spin = Spin::new(
            worth && !spin::is_here(there),
            self.host.word(host_word::CORE),
            self.client.word(client_word::CORE),
        );
        let mut grace = None;
        loop {
            let life = self.life.load(Ordering::SeqCst);
            let bits = word.load(Ordering::Acquire);
            let Some(now) = Word::<Waiter>::from_bits(bits) else {
                return End::Lie;
            };
            if now.generation != ticket.generation {
                return End::Lie;
            }
            match now.state {
                Waiter::Replied => return End::Replied,
                Waiter::Abandoned => return End::Lie,
                Waiter::Waiting | Waiter::Replying => {}
            }
            if life & 1 == 1 {
                return match self.give_up(ticket, WaiterStep::End) {
                    Abandoned::Replied => End::Replied,
                    Abandoned::Lie => End::Lie,
                    Abandoned::Yes | Abandoned::Replying => End::Disconnected,
                };
            }
            if spin.again() {
                continue;
            }
            let left = match left(limit.deadline()) {
                Left::None => match self.give_up(ticket, WaiterStep::Abandon) {
                    Abandoned::Yes => return End::TimedOut,
                    Abandoned::Replied => return End::Replied,
                    Abandoned::Lie => return End::Lie,
                    // It came in time, and is not all there: a moment, and no more.
                    Abandoned::Replying => {
                        let end = *grace.get_or_insert_with(|| Instant::now() + GRACE);
                        let left = end.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return End::Lie;
                        }
                        Some(left)
                    }
                },
                Left::Some(left) => left,
            };
            let asleep = Word {
                asleep: true,
                ..now
            };
            let marked = now.asleep
                || word
                    .compare_exchange(bits, asleep.bits(), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok();
            if marked {
                let shared = (word, layout::low(asleep.bits()));
                futex::sleep_either(shared, (&self.life, layout::low(life)), left);
            }
        }
    }

    /// Whether the client has put the entry of this number in the ring.
    #[inline]
    pub(crate) fn has_entry(&self, number: u64) -> bool {
        // Sequentially consistent, for whoever has just said that he wants to be told.
        let bits = self
            .client
            .load(layout::ring_entry(number), Ordering::SeqCst);
        Entry::is_there(bits, number)
    }

    /// Waits a moment for the client to put something in the ring: a service that is quick comes back for the next message
    /// when it has answered the last. `false`: it has not.
    pub(crate) fn wait_for_entry(&self, head: u64, patience: &mut Patience) -> bool {
        let there = self.client.load(client_word::HOME, Ordering::Relaxed);
        // To let it have a core that both share is no spinning.
        if !self.is_service_quick() || !(self.spins || spin::is_here(there)) {
            return false;
        }
        while patience.again(there) {
            if self.has_entry(head) {
                return true;
            }
        }
        false
    }

    /// Gives a waiter up by this step, if its reply is not there or claimed.
    pub(crate) fn give_up(&self, ticket: &Ticket, step: WaiterStep) -> Abandoned {
        let word = self.client.word(layout::waiter_word(ticket.waiter));
        let mut bits = word.load(Ordering::Acquire);
        loop {
            let now = Word::<Waiter>::from_bits(bits).filter(|w| w.generation == ticket.generation);
            let Some(now) = now else {
                return Abandoned::Lie;
            };
            let Some(next) = now.after(step) else {
                return match now.state {
                    Waiter::Replied => Abandoned::Replied,
                    Waiter::Replying => Abandoned::Replying,
                    Waiter::Abandoned | Waiter::Waiting => Abandoned::Lie,
                };
            };
            match word.compare_exchange(bits, next.bits(), Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return Abandoned::Yes,
                Err(other) => bits = other,
            }
        }
    }

    /// Whether the reply of a waiter is there.
    pub(crate) fn has_reply(&self, ticket: &Ticket) -> bool {
        let word = self.client.word(layout::waiter_word(ticket.waiter));
        Word::<Waiter>::from_bits(word.load(Ordering::Acquire))
            .is_some_and(|w| w.generation == ticket.generation && w.state == Waiter::Replied)
    }

    /// Takes a step of a replier with a waiter, for a reply that came by a frame. `false`: another has taken it, or it was given
    /// up.
    pub(crate) fn step_reply(&self, ticket: &Ticket, step: WaiterStep) -> bool {
        let word = self.client.word(layout::waiter_word(ticket.waiter));
        let mut bits = word.load(Ordering::Acquire);
        loop {
            let now = Word::<Waiter>::from_bits(bits).filter(|w| w.generation == ticket.generation);
            let Some(next) = now.and_then(|now| now.after(step)) else {
                return false;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => bits = other,
            }
        }
    }

    /// Takes the reply of a waiter that is `Replied`: as much as its sender takes, into `into` if it is in memory and that is
    /// there, or else into `bytes`. What the client says of it is read once and held to what the host has given out. `None`:
    /// it is more than there is room for.
    pub(crate) fn take_reply(
        &self,
        ticket: &Ticket,
        bytes: &mut Vec<u8>,
        into: Option<&mut [u8]>,
    ) -> Option<Read> {
        if let Some((status, length, came)) = self.framed.take(ticket.id()) {
            let read = Read::framed(ticket.capacity, length, status);
            *bytes = came;
            return Some(read);
        }
        let head = self
            .client
            .load(layout::reply_head(ticket.waiter), Ordering::Relaxed);
        let (status, length) = (NtStatus(layout::low(head)), layout::high(head));
        let settled = exchange::settle(ticket.capacity, length, status);
        let copied = usize::try_from(settled.copied).unwrap_or(usize::MAX);
        let (offset, room) = match ticket.block {
            Some(block) if copied > layout::INLINE_REPLY => (block.offset, block.size),
            _ => (layout::reply_payload(ticket.waiter), layout::INLINE_REPLY),
        };
        if copied > room {
            return None;
        }
        let into = into.unwrap_or_else(|| {
            bytes.resize(copied, 0);
            bytes
        });
        let copied = copied.min(into.len());
        if let Some(into) = into.get_mut(..copied) {
            self.client.copy_out(offset, into);
        }
        Some(Read {
            status: settled.sender,
            copied: u32::try_from(copied).unwrap_or(u32::MAX),
            cut: length > ticket.capacity,
        })
    }

    fn is_service_quick(&self) -> bool {
        let pace = client_word::PACE;
        spin::is_quick(self.client.load(pace, Ordering::Relaxed))
    }
}

/// How long a reply that was claimed in time may take to be complete after the deadline.
const GRACE: Duration = Duration::from_millis(limits::REPLY_GRACE_MILLIS);

enum Left {
    None,
    Some(Option<Duration>),
}

/// How long to sleep. The wall clock can be set, so it is looked at now and then.
fn left(deadline: Deadline) -> Left {
    const WALL_SLICE: Duration = Duration::from_millis(200);
    if deadline == Deadline::Never {
        return Left::Some(None);
    }
    let now = clock::now();
    if deadline.passed(now) {
        return Left::None;
    }
    let left = deadline.remaining(now);
    if matches!(deadline, Deadline::AtWall(_)) {
        return Left::Some(left.map(|left| left.min(WALL_SLICE)));
    }
    Left::Some(left)
}

//! The client's end of the memory: posting gets, taking messages, replying.
//!
//! It believes what the host writes no more than it has to: what it reads is read once, and lengths are held to what was
//! mapped.

use std::sync::{Arc, PoisonError};

use fltport_engine::NtStatus;
use fltport_engine::exchange::{self, Get, GetStep, Waiter, WaiterStep};
use fltport_engine::wire::MessageHeader;

use super::layout::{self, At, Entry, Place, Record, Word, client_word, host_word};
use super::memory_region::Region;
use super::spin::{self, Spin};
use crate::message::Message;
use crate::payload::{Payload, Spare};
use crate::sync::{AtomicU64, Instant, Mutex, MutexGuard, Ordering, futex};

/// The client's end.
#[derive(Debug)]
pub(crate) struct ClientPlane {
    host: Region,
    client: Region,
    state: Mutex<State>,
    /// Numbers of messages whose replies belong here begin here.
    first_id: u64,
    /// Not 0: this side has ended the connection.
    closed: AtomicU64,
    /// The wish for a kick that was fulfilled last.
    kicked: AtomicU64,
    max_message: usize,
    /// How long the service takes from a message to its reply.
    pace: spin::Pace,
    /// Buffers of long messages that are over.
    spare: Arc<Spare>,
    spins: bool,
}

#[derive(Debug)]
struct State {
    /// Gets that have never been posted.
    free: Vec<usize>,
    /// The others, in the order of their last posting.
    used: Vec<usize>,
    generations: [u64; layout::GETS],
    tail: u64,
}

/// A get that is posted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    get: usize,
    generation: u64,
}

/// What the host is to be told by a frame, because it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Tell {
    Nothing,
    Kick,
    /// A kick, and then, once the host has looked, that this waiter has its reply.
    Full(usize),
}

/// How a wait for a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The get is over: [`ClientPlane::take`] says how.
    Over,
    /// The deadline came.
    Late,
    /// Somebody on this side wants the waiting thread to look around.
    Nudged,
    /// The host has ended the connection.
    Ended,
}

/// What a get that is over has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A message.
    Message {
        header: MessageHeader,
        payload: Payload,
        /// On the system's monotonic clock, 0 without one.
        deadline: u64,
        /// Whether an open file comes on the socket.
        file: bool,
    },
    /// A message that comes on the socket.
    ByFrame,
    /// Nothing: it was too small for a message of so many bytes, header included.
    TooSmall(u32),
    /// Nothing: it was withdrawn.
    Withdrawn,
    /// Nothing, ever.
    Disconnected,
    /// It is not over.
    NotYet,
    /// More than it has room for.
    Lie,
}

/// What became of an attempt to reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replied {
    /// It is done, with this status for the replier.
    Done(NtStatus, Tell),
    /// It has no room here, and goes by a frame.
    ByFrame,
}

impl ClientPlane {
    /// The client's end of this memory, on a port with this message limit. `spins`: threads may wait awake.
    pub(crate) fn new(
        host: Region,
        client: Region,
        first_id: u64,
        max_message: u32,
        spins: bool,
    ) -> Self {
        client.store(client_word::HOME, spin::home(), Ordering::Relaxed);
        let state = State {
            free: (0..layout::GETS).rev().collect(),
            used: Vec::with_capacity(layout::GETS),
            generations: [0; layout::GETS],
            tail: 0,
        };
        Self {
            host,
            client,
            state: Mutex::new(state),
            first_id,
            closed: AtomicU64::new(0),
            kicked: AtomicU64::new(0),
            max_message: usize::try_from(max_message).unwrap_or(0),
            pace: spin::Pace::new(),
            spare: Arc::default(),
            spins,
        }
    }

    /// Posts a get of `size` bytes, header included; `None` where there is no room for another. `polled`: nobody will sleep
    /// at its word, a frame is to tell of its end.
    pub(crate) fn post(&self, size: u32, polled: bool) -> Option<(Slot, Tell)> {
        let mut state = self.state();
        let head = self.host.load(host_word::HEAD, Ordering::Acquire);
        if state.tail.wrapping_sub(head) >= layout::RING {
            return None;
        }
        let get = self.free_get(&mut state)?;
        let last = state.generations.get_mut(get)?;
        *last = last.wrapping_add(1) & layout::GENERATIONS;
        let generation = *last;
        let word = Word {
            bell: polled,
            ..Word::new(Get::Posted, generation)
        };
        self.get_word(get).store(word.bits(), Ordering::Release);
        let tell = self.push(&mut state, Entry::Posted { get, size });
        drop(state);
        Some((Slot { get, generation }, tell))
    }

    /// The number of a get, as frames name it.
    pub(crate) const fn token(slot: Slot) -> u64 {
        layout::get_token(slot.get, slot.generation)
    }

    /// Whether this is the number of a get that may be over and not taken, or taken last at its place.
    pub(crate) fn knows(&self, token: u64) -> bool {
        let Some(get) = layout::get_of(token) else {
            return false;
        };
        let state = self.state();
        let generation = state.generations.get(get).copied().unwrap_or(0);
        generation != 0 && layout::get_token(get, generation) == token
    }

    /// Waits until the get is over, or `deadline`.
    pub(crate) fn wait(&self, slot: Slot, deadline: Option<Instant>) -> Woken {
        let word = self.get_word(slot.get);
        let there = self.host.load(host_word::HOME, Ordering::Relaxed);
        let mut spin = Spin::new(
            self.is_worth_spinning() && !spin::is_here(there),
            self.client.word(client_word::CORE),
            self.host.word(host_word::CORE),
        );
        loop {
            let bits = word.load(Ordering::Acquire);
            let Some(now) =
                Word::<Get>::from_bits(bits).filter(|w| w.generation == slot.generation)
            else {
                return Woken::Ended;
            };
            if now.state != Get::Posted {
                return Woken::Over;
            }
            if self.has_ended() {
                return Woken::Ended;
            }
            if now.nudged {
                let clear = Word {
                    nudged: false,
                    ..now
                };
                word.compare_exchange(bits, clear.bits(), Ordering::AcqRel, Ordering::Relaxed)
                    .ok();
                return Woken::Nudged;
            }
            if spin.again() {
                continue;
            }
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Woken::Late;
            }
            let asleep = Word {
                asleep: true,
                ..now
            };
            let marked = now.asleep
                || word
                    .compare_exchange(bits, asleep.bits(), Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok();
            // The end is looked for once more after the mark, as the host looks for marks after the end.
            if marked && !self.has_ended() {
                futex::sleep(word, layout::low(asleep.bits()), left);
            }
        }
    }

    /// What has become of a get, which is free again unless it is not over, or something still comes on the socket for it: then
    /// [`Self::free`] has to follow.
    pub(crate) fn take(&self, slot: Slot, size: u32) -> Taken {
        let word = self.get_word(slot.get);
        let now = Word::<Get>::from_bits(word.load(Ordering::Acquire))
            .filter(|word| word.generation == slot.generation);
        let Some(now) = now else {
            return Taken::Disconnected;
        };
        let taken = match now.state {
            Get::Posted => return Taken::NotYet,
            Get::Assigned => self.read_message(slot, size),
            Get::TooSmall => {
                let lengths = Record::of(slot.get).lengths();
                Taken::TooSmall(layout::low(self.host.load(lengths, Ordering::Relaxed)))
            }
            Get::Cancelled | Get::Free => Taken::Withdrawn,
            Get::Disconnected => Taken::Disconnected,
        };
        // One that the socket still owes something keeps its number until that has come.
        if !matches!(taken, Taken::ByFrame | Taken::Message { file: true, .. }) {
            self.free(slot);
        }
        taken
    }

    /// A get is over, and nothing more comes for it.
    pub(crate) fn free(&self, slot: Slot) {
        // Who posts next finds it, so that no lock is needed.
        let free = Word::new(Get::Free, slot.generation);
        self.get_word(slot.get)
            .store(free.bits(), Ordering::Release);
    }

    /// Takes the message of a get that is over, if it has one and that is all in memory; otherwise nothing has happened.
    #[inline]
    pub(crate) fn take_message(&self, slot: Slot, size: u32, message: &mut Message) -> bool {
        let bits = self.get_word(slot.get).load(Ordering::Acquire);
        if bits != Word::new(Get::Assigned, slot.generation).bits() {
            return false;
        }
        let record = Record::of(slot.get);
        let load = |offset| self.host.load(offset, Ordering::Relaxed);
        let place = Place::from_bits(load(record.place()));
        let (At::Offset(offset), false) = (place.at, place.file) else {
            return false;
        };
        let lengths = load(record.lengths());
        if !exchange::fits(size, layout::low(lengths)) {
            return false;
        }
        let header = MessageHeader::new(layout::high(lengths), load(record.id()));
        message.fill(header, load(record.deadline()), |payload| {
            self.copy_payload(offset, layout::low(lengths), payload);
        });
        self.free(slot);
        self.pace.begin();
        true
    }

    fn read_message(&self, slot: Slot, size: u32) -> Taken {
        let record = Record::of(slot.get);
        let load = |offset| self.host.load(offset, Ordering::Relaxed);
        let place = Place::from_bits(load(record.place()));
        let At::Offset(offset) = place.at else {
            return Taken::ByFrame;
        };
        let lengths = load(record.lengths());
        if !exchange::fits(size, layout::low(lengths)) {
            return Taken::Lie;
        }
        let mut payload = Payload::empty();
        self.copy_payload(offset, layout::low(lengths), &mut payload);
        self.pace.begin();
        Taken::Message {
            header: MessageHeader::new(layout::high(lengths), load(record.id())),
            payload,
            deadline: load(record.deadline()),
            file: place.file,
        }
    }

    #[inline]
    fn copy_payload(&self, offset: u32, length: u32, payload: &mut Payload) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.spare.give(length.min(self.max_message), payload);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.host.copy_out(offset, payload.as_mut_slice());
    }

    /// Withdraws a get. `false`: it is over already.
    pub(crate) fn withdraw(&self, slot: Slot) -> bool {
        let word = self.get_word(slot.get);
        let mut bits = word.load(Ordering::Acquire);
        loop {
            let now = Word::<Get>::from_bits(bits).filter(|w| w.generation == slot.generation);
            let Some(next) = now.and_then(|now| now.after(GetStep::Cancel)) else {
                return false;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(other) => bits = other,
            }
        }
    }

    /// Makes every thread that waits for a message here look around.
    pub(crate) fn nudge_all(&self) {
        let state = self.state();
        for get in state.used.iter().copied() {
            let word = self.get_word(get);
            let mut bits = word.load(Ordering::Acquire);
            while let Some(now) = Word::<Get>::from_bits(bits).filter(|w| w.state == Get::Posted) {
                let nudged = Word {
                    nudged: true,
                    ..now
                };
                match word.compare_exchange(
                    bits,
                    nudged.bits(),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => break,
                    Err(other) => bits = other,
                }
            }
            // Also one that is over: its host may have died before it woke anybody.
            futex::wake(word, 1);
        }
        drop(state);
    }

    /// Whether the reply to a message of this number belongs here.
    pub(crate) fn has(&self, id: u64) -> bool {
        (self.first_id..layout::FRAMED_IDS).contains(&id)
    }

    /// Whether the sender of a message has given up.
    pub(crate) fn is_abandoned(&self, id: u64) -> bool {
        self.has_ended() || self.waiting(id).is_none()
    }

    /// Replies to a message.
    pub(crate) fn reply(&self, id: u64, status: NtStatus, payload: &[u8]) -> Replied {
        let Some((waiter, word, bits, now)) = self.waiting(id) else {
            return Replied::Done(self.too_late(), Tell::Nothing);
        };
        // Written before the word: as long as that has this number, they are this message's.
        let head = self
            .client
            .load(layout::reply_head(waiter), Ordering::Relaxed);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let settled = exchange::settle(layout::low(head), length, status);
        let copied = usize::try_from(settled.copied).unwrap_or(usize::MAX);
        let payload = payload.get(..copied).unwrap_or(payload);
        let (offset, size) = if copied <= layout::INLINE_REPLY {
            (layout::reply_payload(waiter), layout::INLINE_REPLY)
        } else {
            let room = self
                .client
                .load(layout::reply_room(waiter), Ordering::Relaxed);
            let bytes = |half| usize::try_from(half).unwrap_or(0);
            (bytes(layout::low(room)), bytes(layout::high(room)))
        };
        if copied > size {
            // The host claims it: who claims a reply and does not finish it soon is disconnected.
            return Replied::ByFrame;
        }
        let Some(claimed) = self.claim(word, bits, now) else {
            return Replied::Done(self.too_late(), Tell::Nothing);
        };
        self.client.copy_in(offset, payload);
        let head = layout::halves(status.0, length);
        self.client
            .store(layout::reply_head(waiter), head, Ordering::Relaxed);
        let Some(tell) = self.finish(waiter, word, claimed) else {
            return Replied::Done(NtStatus::PORT_DISCONNECTED, Tell::Nothing);
        };
        if let Some(pace) = self.pace.end() {
            self.client
                .store(client_word::PACE, pace, Ordering::Relaxed);
        }
        Replied::Done(settled.replier, tell)
    }

    /// Whether either side has ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        // After what this side has put in memory, so that the host sees that or this side sees the end.
        self.host.load(host_word::ENDED, Ordering::SeqCst) != 0
            || self.closed.load(Ordering::Acquire) != 0
    }

    /// This side has ended the connection.
    pub(crate) fn close(&self) {
        self.closed.store(1, Ordering::SeqCst);
        self.nudge_all();
    }

    fn claim(
        &self,
        word: &AtomicU64,
        mut bits: u64,
        mut now: Word<Waiter>,
    ) -> Option<Word<Waiter>> {
        let generation = now.generation;
        loop {
            let claimed = now.after(WaiterStep::Claim)?;
            match word.compare_exchange(bits, claimed.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(claimed),
                Err(other) => {
                    bits = other;
                    now = Word::from_bits(other).filter(|w| w.generation == generation)?;
                }
            }
        }
    }

    /// Says that the reply is there, to whoever waits for it. `None`: the connection has ended first.
    fn finish(&self, waiter: usize, word: &AtomicU64, claimed: Word<Waiter>) -> Option<Tell> {
        let mut now = claimed;
        loop {
            let done = now.after(WaiterStep::Finish)?;
            match word.compare_exchange(
                now.bits(),
                done.bits(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(other) => {
                    now = Word::from_bits(other).filter(|w| w.generation == claimed.generation)?;
                }
            }
        }
        if now.asleep {
            futex::wake(word, 1);
        }
        Some(if now.bell {
            self.tell_replied(waiter)
        } else {
            Tell::Nothing
        })
    }

    /// Tries again what the ring was too full for.
    pub(crate) fn tell_replied(&self, waiter: usize) -> Tell {
        let mut state = self.state();
        let head = self.host.load(host_word::HEAD, Ordering::Acquire);
        if self.has_ended() {
            return Tell::Nothing;
        }
        if state.tail.wrapping_sub(head) >= layout::RING {
            return Tell::Full(waiter);
        }
        self.push(&mut state, Entry::Replied { waiter })
    }

    fn waiting(&self, id: u64) -> Option<(usize, &AtomicU64, u64, Word<Waiter>)> {
        let (waiter, generation) = layout::waiter_of(id).filter(|_| self.has(id))?;
        let word = self.client.word(layout::waiter_word(waiter));
        let bits = word.load(Ordering::Acquire);
        let now = Word::<Waiter>::from_bits(bits)?;
        (now.generation == generation && now.state == Waiter::Waiting)
            .then_some((waiter, word, bits, now))
    }

    fn too_late(&self) -> NtStatus {
        if self.has_ended() {
            return NtStatus::PORT_DISCONNECTED;
        }
        self.client
            .word(client_word::LATE)
            .fetch_add(1, Ordering::Relaxed);
        NtStatus::FLT_NO_WAITER_FOR_REPLY
    }

    /// Puts an entry in the ring. There is room.
    fn push(&self, state: &mut State, entry: Entry) -> Tell {
        let word = self.client.word(layout::ring_entry(state.tail));
        // Sequentially consistent on both sides: either the host sees the entry, or this side sees its wish.
        word.swap(entry.bits(state.tail), Ordering::SeqCst);
        state.tail = state.tail.wrapping_add(1);
        let kick = self.host.load(host_word::KICK, Ordering::SeqCst);
        if kick != 0 && self.kicked.swap(kick, Ordering::AcqRel) != kick {
            return Tell::Kick;
        }
        Tell::Nothing
    }

    /// A get that is not in use: the one that was posted last, which is warm, if it is over; or another.
    fn free_get(&self, state: &mut State) -> Option<usize> {
        let is_free = |state: &State, get: usize| {
            let generation = state.generations.get(get).copied().unwrap_or(0);
            let free = Word::new(Get::Free, generation).bits();
            self.get_word(get).load(Ordering::Acquire) == free
        };
        if let Some(last) = state
            .used
            .last()
            .copied()
            .filter(|get| is_free(state, *get))
        {
            return Some(last);
        }
        if let Some(get) = state.free.pop() {
            state.used.push(get);
            return Some(get);
        }
        let over = state.used.iter().position(|get| is_free(state, *get))?;
        let get = state.used.remove(over);
        state.used.push(get);
        Some(get)
    }

    fn get_word(&self, get: usize) -> &AtomicU64 {
        self.client.word(layout::get_word(get))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_worth_spinning(&self) -> bool {
        self.spins && spin::is_quick(self.host.load(host_word::PACE, Ordering::Relaxed))
    }
}

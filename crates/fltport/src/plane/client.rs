//! The client's end of the memory: posting gets and taking messages; [`super::replying`] has the replies.
//!
//! It believes what the host writes no more than it has to: what it reads is read once, and lengths are held to what was
//! mapped.

use std::sync::{Arc, PoisonError};

use fltport_engine::exchange::{self, Get, GetStep};
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
    pub(super) host: Region,
    pub(super) client: Region,
    state: Mutex<State>,
    /// Numbers of messages whose replies belong here begin here.
    pub(super) first_id: u64,
    /// Not 0: this side has ended the connection.
    closed: AtomicU64,
    /// The wish for a kick that was fulfilled last.
    kicked: AtomicU64,
    /// The wish for somebody who reads the socket that was seen last.
    read: AtomicU64,
    /// The posting of each get that is over, with nothing more to come: that one is free. Nobody's but this side's, so that
    /// nobody waits for it.
    free: [AtomicU64; layout::GETS],
    /// The entry of the ring that comes next, as far as is known without the lock.
    next_entry: AtomicU64,
    max_message: usize,
    /// How long the service takes from a message to its reply.
    pub(super) pace: spin::Pace,
    /// Buffers of long messages that are over.
    spare: Arc<Spare>,
    spins: bool,
}

#[derive(Debug)]
pub(super) struct State {
    /// Gets that have never been posted.
    free: Vec<usize>,
    /// The others, in the order of their last posting.
    used: Vec<usize>,
    generations: [u64; layout::GETS],
    tail: u64,
    /// Entries that the host has taken, when that was looked at last.
    head: u64,
}

impl State {
    /// Whether the ring has room for another entry.
    pub(super) fn has_room(&mut self, host: &Region) -> bool {
        let is_full = |head| self.tail.wrapping_sub(head) >= layout::RING;
        if is_full(self.head) {
            self.head = host.load(host_word::HEAD, Ordering::Acquire);
        }
        !is_full(self.head)
    }
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
            head: 0,
        };
        Self {
            host,
            client,
            state: Mutex::new(state),
            first_id,
            closed: AtomicU64::new(0),
            kicked: AtomicU64::new(0),
            read: AtomicU64::new(0),
            free: std::array::from_fn(|_| AtomicU64::new(0)),
            next_entry: AtomicU64::new(0),
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
        if !state.has_room(&self.host) {
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

    /// Whether there is room for so many gets more, or for all that there may be.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        let state = self.state();
        let over = state.used.iter().filter(|get| self.is_free(&state, **get));
        state.free.len() + over.count() >= count.min(layout::GETS)
    }

    /// The number of a get, as frames name it.
    pub(crate) const fn token(slot: Slot) -> u64 {
        layout::get_token(slot.get, slot.generation)
    }

    /// Whether the get of this number is over, was not taken, and its message comes by a frame, or with an open file.
    pub(crate) fn awaits(&self, token: u64, file: bool) -> bool {
        let Some(get) = layout::get_of(token) else {
            return false;
        };
        let state = self.state();
        let generation = state.generations.get(get).copied().unwrap_or(0);
        let slot = Slot { get, generation };
        if layout::get_token(get, generation) != token || self.is_free(&state, get) {
            return false;
        }
        let place = self.host.load(Record::of(get).place(), Ordering::Relaxed);
        let place = Place::from_bits(place);
        self.is_assigned(slot)
            && if file {
                place.file
            } else {
                place.at == At::Frame
            }
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
            if self.is_to_read() {
                return Woken::Nudged;
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
            match spin.look_for(|| self.is_assigned(slot)) {
                Some(true) => return Woken::Over,
                Some(false) => continue,
                None => {}
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
            if marked && !self.has_ended() && !self.is_to_read() {
                futex::sleep(word, layout::low(asleep.bits()), left);
            }
        }
    }

    /// What has become of a get, which is free again unless it is not over, or something still comes on the socket for it: then
    /// [`Self::free`] has to follow.
    pub(crate) fn take(&self, slot: Slot, size: u32) -> Taken {
        let word = || {
            let bits = self.get_word(slot.get).load(Ordering::Acquire);
            Word::<Get>::from_bits(bits).filter(|word| word.generation == slot.generation)
        };
        let state = if self.is_assigned(slot) {
            Get::Assigned
        } else if let Some(word) = word() {
            word.state
        } else {
            return Taken::Disconnected;
        };
        let taken = match state {
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
        if let Some(free) = self.free.get(slot.get) {
            free.store(slot.generation, Ordering::Release);
        }
    }

    /// Whether a message is in this get, as the host says where the message is.
    #[inline]
    fn is_assigned(&self, slot: Slot) -> bool {
        let ready = self
            .host
            .load(Record::of(slot.get).ready(), Ordering::Acquire);
        ready == Word::new(Get::Assigned, slot.generation).bits()
    }

    /// Takes the message of a get that is over, if it has one and that is all in memory; otherwise nothing has happened.
    #[inline]
    pub(crate) fn take_message(&self, slot: Slot, size: u32, message: &mut Message) -> bool {
        if !self.is_assigned(slot) {
            return false;
        }
        let record = Record::of(slot.get);
        let load = |offset| self.host.load(offset, Ordering::Relaxed);
        let id = load(record.id());
        self.expect_writes(slot, id);
        let place = Place::from_bits(load(record.place()));
        let (At::Offset(offset), false) = (place.at, place.file) else {
            return false;
        };
        let lengths = load(record.lengths());
        if !exchange::fits(size, layout::low(lengths)) {
            return false;
        }
        let header = MessageHeader::new(layout::high(lengths), id);
        message.fill(header, load(record.deadline()), |payload| {
            self.copy_payload(offset, layout::low(lengths), payload);
        });
        self.free(slot);
        self.pace.begin();
        true
    }

    /// What is written next, if the message is answered in memory and its get is posted again: the waiter, the get's word, and
    /// an entry of the ring.
    #[inline]
    fn expect_writes(&self, slot: Slot, id: u64) {
        if let Some((waiter, _)) = layout::waiter_of(id) {
            self.client.expect_write(layout::waiter_word(waiter));
            self.client.expect_write(layout::waiter_word(waiter) + 64);
        }
        self.client.expect_write(layout::get_word(slot.get));
        let next = self.next_entry.load(Ordering::Relaxed);
        self.client.expect_write(layout::ring_entry(next));
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

    /// Whether the host waits for somebody to read the socket.
    fn is_to_read(&self) -> bool {
        self.host.load(host_word::READ, Ordering::SeqCst) != self.read.load(Ordering::Relaxed)
    }

    /// Whether this thread is to read the socket: one does for all.
    pub(crate) fn take_read(&self) -> bool {
        let wish = self.host.load(host_word::READ, Ordering::SeqCst);
        self.read.swap(wish, Ordering::AcqRel) != wish
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

    /// Puts an entry in the ring. There is room.
    pub(super) fn push(&self, state: &mut State, entry: Entry) -> Tell {
        let word = self.client.word(layout::ring_entry(state.tail));
        // Sequentially consistent on both sides: either the host sees the entry, or this side sees its wish.
        word.swap(entry.bits(state.tail), Ordering::SeqCst);
        state.tail = state.tail.wrapping_add(1);
        self.next_entry.store(state.tail, Ordering::Relaxed);
        let kick = self.host.load(host_word::KICK, Ordering::SeqCst);
        if kick != 0 && self.kicked.swap(kick, Ordering::AcqRel) != kick {
            return Tell::Kick;
        }
        Tell::Nothing
    }

    /// A get that is not in use: the one that was posted last, which is warm, if it is over; or another.
    fn free_get(&self, state: &mut State) -> Option<usize> {
        if let Some(last) = state
            .used
            .last()
            .copied()
            .filter(|get| self.is_free(state, *get))
        {
            return Some(last);
        }
        if let Some(get) = state.free.pop() {
            state.used.push(get);
            return Some(get);
        }
        let over = state
            .used
            .iter()
            .position(|get| self.is_free(state, *get))?;
        let get = state.used.remove(over);
        state.used.push(get);
        Some(get)
    }

    fn is_free(&self, state: &State, get: usize) -> bool {
        let free = self.free.get(get).map(|free| free.load(Ordering::Acquire));
        free == state.generations.get(get).copied()
    }

    fn get_word(&self, get: usize) -> &AtomicU64 {
        self.client.word(layout::get_word(get))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_worth_spinning(&self) -> bool {
        self.spins && spin::is_quick(self.host.load(host_word::PACE, Ordering::Relaxed))
    }
}

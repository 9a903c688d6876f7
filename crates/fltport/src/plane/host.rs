//! The host's end of the memory, under its connection's lock: which gets are posted, who waits, what is free.
//!
//! What the client may write says only *that* something happened; which, where and how long is in records that it does not
//! see. A get is taken under the lock, filled without it, and published by its word; see `HostPlane::reserve`.

use std::sync::Arc;

use fltport_engine::connection::{Connection, Violation};
use fltport_engine::exchange::GetStep;
use fltport_engine::gets::Refusal;
use fltport_engine::questions::Counters;
use fltport_engine::{NtStatus, limits};

use super::blocks::{Block, Blocks, client_part, host_part};
use super::layout::{self, Entry, Record, client_word, host_word};
use super::waiters::{Call, Waiters};
use super::waiting::{Memory, Quit, Quits, Ticket};
use crate::body::Body;
use crate::driver::Sender;
use crate::sync::Ordering;
use crate::sys::{self, Attachment};

/// The host's end.
#[derive(Debug)]
pub(crate) struct HostPlane {
    pub(crate) memory: Arc<Memory>,
    /// Entries of the ring that were taken.
    head: u64,
    pub(super) gets: [Known; layout::GETS],
    pub(crate) waiters: Waiters,
    /// The waiter that was given out last.
    last_waiter: usize,
    messages: Blocks,
    replies: Blocks,
    kick: u64,
    armed: bool,
    /// What the client has done wrong.
    lie: Option<Violation>,
    /// Numbers of messages begin here; those before it were the engine's.
    pub(crate) first_id: u64,
    pub(crate) counters: Counters,
    /// What is to be done when the lock is released, and before.
    pub(crate) after: After,
}

/// What the host knows of a get.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) generation: u64,
    /// The engine has it.
    pub(super) queued: bool,
    block: Option<Block>,
}

/// What is still to be said, when all has been decided.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// Gets whose threads sleep, a bit for each.
    pub(crate) wakes: u64,
    /// Gets whose owners poll.
    pub(crate) rings: Vec<u64>,
    /// Open files, and the gets that they are for.
    pub(crate) files: Vec<(u64, Arc<Attachment>)>,
    /// Waiters, with nobody at their word, that have a reply.
    pub(crate) replied: Vec<usize>,
}

/// A get that was taken for a message, and what that needs.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(super) get: usize,
    pub(super) generation: u64,
    pub(super) block: Option<Block>,
    pub(crate) ticket: Option<Ticket>,
}

impl Reserved {
    pub(crate) const fn get(&self) -> usize {
        self.get
    }
}

/// What became of a reserved get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The message is in it.
    Delivered {
        /// Its thread was awake.
        awake: bool,
        /// Its owner polls.
        bell: bool,
    },
    /// It was withdrawn.
    Withdrawn,
}

/// A connection in the middle of something that the memory could not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

type Engine = Connection<Body, Sender>;

impl HostPlane {
    /// Makes the memory of a connection, and the descriptors for its client. `last_id` is the number of the last message
    /// before; `spins`: senders may wait awake.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make(
        max_message: u32,
        last_id: u64,
        spins: bool,
    ) -> std::io::Result<(Self, [Attachment; 2])> {
        let parts = sys::make_memory(host_part(max_message), client_part(max_message))?;
        // Before anything is offered: a system that cannot do this, or is short of memory, goes on with packets.
        sys::fill_memory(parts.host.part(0, layout::MESSAGE_BLOCKS))?;
        sys::fill_memory(parts.client.part(0, layout::waiter_word(1)))?;
        let plane = Self::over(
            Memory::new(parts.host, parts.client, spins),
            max_message,
            last_id,
        );
        Ok((plane, parts.files))
    }

    /// The client has mapped its piece: from here on nobody makes holes there, and what is read first is there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn begin(&self, client: &Attachment) -> std::io::Result<()> {
        sys::seal_client(client)?;
        sys::fill_memory(self.memory.client.part(0, layout::waiter_word(1)))
    }

    /// The host's end of this memory.
    pub(crate) fn over(memory: Memory, max_message: u32, last_id: u64) -> Self {
        let longest = usize::try_from(max_message).unwrap_or(0);
        let first = layout::generation_after(last_id);
        Self {
            memory: Arc::new(memory),
            head: 0,
            gets: [Known::default(); layout::GETS],
            waiters: Waiters::new(first),
            last_waiter: 0,
            messages: Blocks::new(layout::MESSAGE_BLOCKS, longest),
            replies: Blocks::new(layout::REPLY_BLOCKS, longest),
            kick: 0,
            armed: false,
            lie: None,
            first_id: layout::message_id(0, first),
            counters: Counters::default(),
            after: After::default(),
        }
    }

    /// Takes what the client has put in the ring: gets for the engine, replies for whoever is not at their word.
    pub(crate) fn drain(&mut self, engine: &mut Engine) -> Result<(), Violation> {
        if let Some(lie) = self.lie {
            return Err(lie);
        }
        if !self.memory.has_entry(self.head) {
            return Ok(());
        }
        // No more than a ring at a time: who fills it faster than it is emptied gets no further by that.
        for _ in 0..layout::RING {
            let offset = layout::ring_entry(self.head);
            let bits = self.memory.client.load(offset, Ordering::Acquire);
            if !Entry::is_there(bits, self.head) {
                break;
            }
            self.head = self.head.wrapping_add(1);
            match Entry::from_bits(bits) {
                Some(Entry::Posted { get, size }) => self.take_posted(get, size, engine),
                Some(Entry::Replied { waiter }) => self.after.replied.push(waiter),
                None => {
                    // Whoever finds it first may not be the one who acts on it.
                    self.lie = Some(Violation("nonsense in the ring"));
                    return Err(Violation("nonsense in the ring"));
                }
            }
        }
        let head = self.memory.host.word(host_word::HEAD);
        head.store(self.head, Ordering::Release);
        Ok(())
    }

    /// A message is about to be sent: the waiter that was used last is used again.
    pub(crate) fn expect_ask(&self) {
        let waiter = layout::waiter_word(self.last_waiter);
        self.memory.client.expect_write(waiter);
    }

    /// Entries of the ring that were taken.
    pub(crate) const fn head(&self) -> u64 {
        self.head
    }

    /// Has the client say when it puts something in the ring, or not. `true`: it has put something there meanwhile.
    pub(crate) fn arm(&mut self, wanted: bool) -> bool {
        if wanted == self.armed {
            return false;
        }
        self.armed = wanted;
        if !wanted {
            self.memory
                .host
                .store(host_word::KICK, 0, Ordering::Relaxed);
            return false;
        }
        self.kick = self.kick.wrapping_add(1).max(1);
        let kick = self.memory.host.word(host_word::KICK);
        // Sequentially consistent on both sides: either this side sees the entry, or that side sees the wish.
        kick.store(self.kick, Ordering::SeqCst);
        self.memory.has_entry(self.head)
    }

    /// The client has said that there is something: it will not say so again for the same wish.
    pub(crate) fn handle_kick(&mut self) {
        self.armed = false;
    }

    /// Prepares a get that the engine has given out for a message of `length` bytes. It is this caller's alone until
    /// `Memory::publish` or [`Self::undo`]. `elsewhere`: no thread will be at the waiter's word.
    pub(crate) fn reserve(
        &mut self,
        token: u64,
        length: usize,
        reply: Option<u32>,
        elsewhere: bool,
    ) -> Result<Reserved, NoRoom> {
        let get = layout::get_of(token).ok_or(NoRoom)?;
        let block = if length > layout::INLINE_MESSAGE {
            Some(self.message_block(length)?)
        } else {
            None
        };
        let ticket = match reply.map(|capacity| self.ticket(capacity)) {
            Some(Err(NoRoom)) => {
                block.into_iter().for_each(|b| self.messages.give_back(b));
                return Err(NoRoom);
            }
            ticket => ticket.and_then(Result::ok),
        };
        let known = &mut self.gets[get % layout::GETS];
        known.queued = false;
        known.block = block;
        let generation = known.generation;
        self.memory.set_writing(get, true);
        if let Some(ticket) = &ticket {
            self.memory.announce(ticket, elsewhere);
        }
        Ok(Reserved {
            get,
            generation,
            block,
            ticket,
        })
    }

    /// A reserved get was withdrawn, or is not needed: what it had taken is free again.
    pub(crate) fn undo(&mut self, reserved: Reserved) {
        let Reserved {
            get,
            generation,
            ticket,
            ..
        } = reserved;
        let known = &mut self.gets[get % layout::GETS];
        // Whoever has seen it posted anew has given the block back.
        if known.generation == generation {
            let block = known.block.take();
            block.into_iter().for_each(|b| self.messages.give_back(b));
        }
        if let Some(ticket) = ticket {
            self.release(ticket);
        }
    }

    /// A waiter is over: its reply was copied out, or it was given up.
    pub(crate) fn release(&mut self, ticket: Ticket) -> Option<Call> {
        if let Some(block) = ticket.block {
            self.replies.give_back(block);
        }
        // A client that has changed its word back may have sent another.
        self.memory.framed.take(ticket.id());
        self.waiters.release(&ticket)
    }

    /// A get of the engine's ends without a message.
    pub(crate) fn fail_get(&mut self, token: u64, status: NtStatus, needed: u32) -> Refusal {
        let Some(get) = layout::get_of(token) else {
            return Refusal::Framed;
        };
        let step = match status {
            NtStatus::BUFFER_TOO_SMALL => GetStep::Refuse,
            _ => GetStep::Disconnect,
        };
        let known = &mut self.gets[get % layout::GETS];
        known.queued = false;
        let record = Record::of(get);
        self.memory
            .host
            .store(record.lengths(), needed.into(), Ordering::Relaxed);
        match self.memory.perform(get, known.generation, step) {
            Published::Withdrawn => Refusal::Withdrawn,
            published => {
                self.say(get, token, published);
                Refusal::Done
            }
        }
    }

    /// What is to be said of a get that has ended, once the lock is released.
    pub(crate) fn say(&mut self, get: usize, token: u64, published: Published) {
        let Published::Delivered { awake, bell } = published else {
            return;
        };
        if bell {
            self.after.rings.push(token);
        }
        if !awake {
            self.after.wakes |= 1 << (get % layout::GETS);
        }
    }

    /// Whether a get is posted, as far as its word says.
    pub(crate) fn is_posted(&self, token: u64) -> bool {
        layout::get_of(token).is_none_or(|get| {
            let generation = self.gets[get % layout::GETS].generation;
            self.memory.is_posted(get, generation)
        })
    }

    /// Tells the engine of gets that were withdrawn and that nothing has noticed.
    pub(crate) fn prune(&mut self, engine: &mut Engine) {
        for (get, known) in self.gets.iter_mut().enumerate() {
            if known.queued && !self.memory.is_posted(get, known.generation) {
                known.queued = false;
                engine.handle_word_withdrawn(layout::get_token(get, known.generation));
            }
        }
    }

    /// Replies that came too late, by what the client says: it is nobody else's figure.
    pub(crate) fn late_replies(&self) -> u64 {
        self.memory
            .client
            .load(client_word::LATE, Ordering::Relaxed)
    }

    fn take_posted(&mut self, get: usize, size: u32, engine: &mut Engine) {
        self.memory.wait_for_writer(get);
        let known = &mut self.gets[get % layout::GETS];
        if std::mem::take(&mut known.queued) {
            // It was withdrawn before, or else it is the client's own confusion.
            engine.handle_word_withdrawn(layout::get_token(get, known.generation));
        }
        known.generation = known.generation.wrapping_add(1) & layout::GENERATIONS;
        if let Some(block) = known.block.take() {
            self.messages.give_back(block);
        }
        known.queued = true;
        // Mostly a message comes at once.
        self.memory.client.expect_write(layout::get_word(get));
        let record = Record::of(get);
        self.memory.host.expect_write(record.ready());
        self.memory.host.expect_write(record.ready() + 64);
        engine.handle_word_posted(layout::get_token(get, known.generation), size);
    }

    fn message_block(&mut self, length: usize) -> Result<Block, NoRoom> {
        let (block, new) = self.messages.take(length).ok_or(NoRoom)?;
        let part = self.memory.host.part(block.offset, block.size);
        if new && sys::fill_memory(part).is_err() {
            self.messages.give_back(block);
            return Err(NoRoom);
        }
        Ok(block)
    }

    /// Takes a waiter back that its sender has left without the lock. `false`: it has not.
    fn take_back(&mut self, waiter: usize) -> bool {
        let quit = self.memory.quits.take(waiter);
        if quit == Quit::No {
            return false;
        }
        quit.count(&mut self.counters);
        if let Some(ticket) = self.waiters.in_use(waiter) {
            self.release(ticket);
        }
        true
    }

    /// Takes back all waiters that their senders have left without the lock.
    pub(crate) fn take_all_back(&mut self) {
        for waiter in 1..self.waiters.used().min(Quits::COUNT) {
            self.take_back(waiter);
        }
    }

    /// A waiter, and room for its reply as far as there is: what does not fit comes by a frame.
    pub(super) fn ticket(&mut self, capacity: u32) -> Result<Ticket, NoRoom> {
        // The one that was used last is warm, and mostly over.
        if !self.take_back(self.last_waiter) && !self.waiters.has_free() {
            self.take_all_back();
        }
        let (waiter, generation, new) = self.waiters.take().ok_or(NoRoom)?;
        self.last_waiter = waiter;
        let word = layout::waiter_word(waiter);
        if new && sys::fill_memory(self.memory.client.part(word, layout::WAITER)).is_err() {
            self.waiters.give_back(waiter);
            return Err(NoRoom);
        }
        let wanted = usize::try_from(capacity).unwrap_or(usize::MAX);
        let block = (wanted > layout::INLINE_REPLY)
            .then(|| self.replies.take(wanted))
            .flatten();
        let block = block.and_then(|(block, new)| {
            let part = self.memory.client.part(block.offset, block.size);
            if new && sys::fill_memory(part).is_err() {
                self.replies.give_back(block);
                return None;
            }
            Some(block)
        });
        let ticket = Ticket {
            waiter,
            generation,
            capacity,
            block,
        };
        self.waiters.note(&ticket);
        Ok(ticket)
    }
}
const _: () = assert!(limits::GETS_PER_CONNECTION >= layout::GETS);

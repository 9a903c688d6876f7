//! The host's end of the memory, under its connection's lock: which gets are posted, who waits, what is free.
//!
//! What the client may write says only *that* something happened; which, where and how long is in records that it does not
//! see. A get is taken under the lock, filled without it, and published by its word; see [`HostPlane::reserve`].

use std::sync::Arc;

use fltport_engine::connection::{Connection, Violation};
use fltport_engine::exchange::{self, Get, GetStep, Waiter, WaiterStep};
use fltport_engine::gets::{Delivery, Gets, Offer, Refusal};
use fltport_engine::output::Outcome;
use fltport_engine::wire::MessageHeader;
use fltport_engine::{NtStatus, limits};

use super::blocks::{Block, Blocks, client_part, host_part};
use super::layout::{self, At, Entry, Place, Record, Word, client_word, host_word};
use super::waiters::{Async, Call, Released, Waiters};
use super::waiting::{Abandoned, Memory, Read, Ticket};
use crate::body::Body;
use crate::clock;
use crate::driver::Sender;
use crate::driver_plane::Asked;
use crate::sync::{AtomicU64, Ordering, futex};
use crate::sys::{self, Attachment};

/// The host's end.
#[derive(Debug)]
pub(crate) struct HostPlane {
    pub(crate) memory: Arc<Memory>,
    /// Entries of the ring that were taken.
    head: u64,
    gets: [Known; layout::GETS],
    pub(crate) waiters: Waiters,
    messages: Blocks,
    replies: Blocks,
    kick: u64,
    armed: bool,
    /// Numbers of messages begin here; those before it were the engine's.
    pub(crate) first_id: u64,
    pub(crate) delivered: u64,
    /// What is to be done when the lock is released, and before.
    pub(crate) after: After,
}

/// What the host knows of a get.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    generation: u64,
    /// The engine has it.
    queued: bool,
    /// Its page of the host's part is there.
    filled: bool,
    block: Option<Block>,
}

/// What is still to be said, when all has been decided.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// Gets whose threads sleep.
    pub(crate) wakes: Vec<usize>,
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
    get: usize,
    generation: u64,
    block: Option<Block>,
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
        sys::fill_memory(parts.host.part(0, 4096))?;
        sys::fill_memory(parts.client.part(0, layout::waiter_word(1)))?;
        let plane = Self::over(
            Memory::new(parts.host, parts.client, spins),
            max_message,
            last_id,
        );
        Ok((plane, parts.files))
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
            messages: Blocks::new(layout::MESSAGE_BLOCKS, longest),
            replies: Blocks::new(layout::REPLY_BLOCKS, longest),
            kick: 0,
            armed: false,
            first_id: layout::message_id(0, first),
            delivered: 0,
            after: After::default(),
        }
    }

    /// Takes what the client has put in the ring: gets for the engine, replies for whoever is not at their word.
    pub(crate) fn drain(&mut self, engine: &mut Engine) -> Result<(), Violation> {
        let memory = Arc::clone(&self.memory);
        let tail = memory.client.load(client_word::TAIL, Ordering::Acquire);
        if tail == self.head {
            return Ok(());
        }
        if tail.wrapping_sub(self.head) > layout::RING {
            return Err(Violation("more in the ring than it holds"));
        }
        while self.head != tail {
            let offset = layout::ring_entry(self.head);
            self.head = self.head.wrapping_add(1);
            match Entry::from_bits(memory.client.load(offset, Ordering::Relaxed)) {
                Some(Entry::Posted { get, size }) => self.take_posted(get, size, engine),
                Some(Entry::Replied { waiter }) => self.after.replied.push(waiter),
                None => return Err(Violation("nonsense in the ring")),
            }
        }
        memory
            .host
            .store(host_word::HEAD, self.head, Ordering::Release);
        Ok(())
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
        self.memory.client.load(client_word::TAIL, Ordering::SeqCst) != self.head
    }

    /// The client has said that there is something: it will not say so again for the same wish.
    pub(crate) fn handle_kick(&mut self) {
        self.armed = false;
    }

    /// Prepares a get that the engine has given out for a message of `length` bytes. It is this caller's alone until
    /// [`Memory::publish`] or [`Self::undo`]. `elsewhere`: no thread will be at the waiter's word.
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
        if !known.filled {
            let page = self.memory.host.part(Record::of(get).id(), 8);
            if sys::fill_memory(page).is_err() {
                block.into_iter().for_each(|b| self.messages.give_back(b));
                ticket
                    .into_iter()
                    .for_each(|ticket| drop(self.release(ticket)));
                return Err(NoRoom);
            }
            known.filled = true;
        }
        known.queued = false;
        known.block = block;
        let generation = known.generation;
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
            get, block, ticket, ..
        } = reserved;
        if let Some(block) = block {
            self.messages.give_back(block);
            self.gets[get % layout::GETS].block = None;
        }
        if let Some(ticket) = ticket {
            self.release(ticket);
        }
    }

    /// A waiter is over: its reply was copied out, or it was given up.
    pub(crate) fn release(&mut self, ticket: Ticket) -> Released {
        if let Some(block) = ticket.block {
            self.replies.give_back(block);
        }
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
        if !known.filled && sys::fill_memory(self.memory.host.part(record.id(), 8)).is_err() {
            return Refusal::Withdrawn;
        }
        known.filled = true;
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
            self.after.wakes.push(get);
        }
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

    /// A waiter, and room for its reply as far as there is: what does not fit comes by a frame.
    fn ticket(&mut self, capacity: u32) -> Result<Ticket, NoRoom> {
        let (waiter, generation, new) = self.waiters.take().ok_or(NoRoom)?;
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

impl Memory {
    /// Writes what the client has to know of a waiter, before it can know of the message.
    fn announce(&self, ticket: &Ticket, elsewhere: bool) {
        let waiter = ticket.waiter;
        let (offset, size) = ticket.block.map_or((0, 0), |block| {
            let size = u32::try_from(block.size).unwrap_or(0);
            (u32::try_from(block.offset).unwrap_or(0), size)
        });
        let room = layout::halves(offset, size);
        self.client
            .store(layout::reply_room(waiter), room, Ordering::Relaxed);
        self.client.store(
            layout::reply_head(waiter),
            ticket.capacity.into(),
            Ordering::Relaxed,
        );
        let word = Word {
            bell: elsewhere,
            ..Word::new(Waiter::Waiting, ticket.generation)
        };
        self.client
            .store(layout::waiter_word(waiter), word.bits(), Ordering::Release);
    }

    /// Writes a message and publishes it in the get that was reserved for it.
    pub(crate) fn publish(
        &self,
        reserved: &Reserved,
        bytes: &[u8],
        deadline: u64,
        file: bool,
    ) -> Published {
        let record = Record::of(reserved.get);
        let offset = reserved
            .block
            .map_or(record.payload(), |block| block.offset);
        self.host.copy_in(offset, bytes);
        let at = At::Offset(u32::try_from(offset).unwrap_or(0));
        self.publish_at(reserved, bytes.len(), Place { at, file }, deadline)
    }

    /// Publishes a message whose payload is elsewhere.
    pub(crate) fn publish_at(
        &self,
        reserved: &Reserved,
        length: usize,
        place: Place,
        deadline: u64,
    ) -> Published {
        let record = Record::of(reserved.get);
        let reply = reserved
            .ticket
            .as_ref()
            .map(|ticket| (ticket.capacity, ticket.id()));
        let header = exchange::header(reply);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let lengths = layout::halves(length, header.reply_length);
        let host = &self.host;
        host.store(record.id(), header.message_id, Ordering::Relaxed);
        host.store(record.lengths(), lengths, Ordering::Relaxed);
        host.store(record.place(), place.bits(), Ordering::Relaxed);
        host.store(record.deadline(), deadline, Ordering::Relaxed);
        self.perform(reserved.get, reserved.generation, GetStep::Assign)
    }

    /// Makes the threads of these gets look at them.
    pub(crate) fn wake_get(&self, get: usize) {
        futex::wake(self.get_word(get), 1);
    }

    fn get_word(&self, get: usize) -> &AtomicU64 {
        self.client.word(layout::get_word(get))
    }

    fn is_posted(&self, get: usize, generation: u64) -> bool {
        let bits = self.get_word(get).load(Ordering::Acquire);
        Word::<Get>::from_bits(bits)
            .is_some_and(|word| word.state == Get::Posted && word.generation == generation)
    }

    /// Ends a get, whoever has posted it, and wakes its thread.
    fn end_get(&self, get: usize) {
        let word = self.get_word(get);
        let mut bits = word.load(Ordering::SeqCst);
        while let Some(now) = Word::<Get>::from_bits(bits).filter(|w| w.state == Get::Posted) {
            let Some(next) = now.after(GetStep::Disconnect) else {
                return;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return futex::wake(word, 1),
                Err(other) => bits = other,
            }
        }
    }

    /// Takes a step of the host's with a get, if that is still posted.
    fn perform(&self, get: usize, generation: u64, step: GetStep) -> Published {
        let word = self.get_word(get);
        // The likely value first, so that the line is fetched once, and for writing.
        let mut bits = Word::new(Get::Posted, generation).bits();
        loop {
            let now = Word::<Get>::from_bits(bits).filter(|word| word.generation == generation);
            let Some((now, next)) = now.and_then(|now| Some((now, now.after(step)?))) else {
                return Published::Withdrawn;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    return Published::Delivered {
                        awake: !now.asleep,
                        bell: now.bell,
                    };
                }
                Err(other) => bits = other,
            }
        }
    }
}

/// A send that no thread waits for has ended.
pub(crate) type Finished = (Call, Outcome<Body>);

impl HostPlane {
    /// Whether anybody needs to be told what the client puts in the ring.
    pub(crate) fn has_elsewhere(&self) -> bool {
        self.waiters.has_elsewhere()
    }

    /// Whether the ring has told of replies that nobody has taken.
    pub(crate) fn has_replied(&self) -> bool {
        !self.after.replied.is_empty()
    }

    /// The replies that the ring has told of.
    pub(crate) fn complete(&mut self, finished: &mut Vec<Finished>) {
        let mut replied = std::mem::take(&mut self.after.replied);
        for waiter in replied.drain(..) {
            // One that is over already was completed at its deadline, and the waiter may be another's by now.
            let ticket = self.waiters.elsewhere(waiter);
            if let Some(ticket) = ticket.filter(|ticket| self.memory.has_reply(ticket)) {
                finished.extend(self.finish_replied(ticket));
            }
        }
        self.after.replied = replied;
    }

    /// Ends a send that no thread waits for, unless its reply is being written. `false`: it is.
    pub(crate) fn end_one(
        &mut self,
        waiter: usize,
        step: WaiterStep,
        outcome: Outcome<Body>,
        finished: &mut Vec<Finished>,
    ) -> Result<bool, Violation> {
        let Some(ticket) = self.waiters.elsewhere(waiter) else {
            return Ok(true);
        };
        match self.memory.give_up(&ticket, step) {
            Abandoned::Yes => {
                finished.extend(self.release(ticket).call.map(|call| (call, outcome)))
            }
            Abandoned::Replied => finished.extend(self.finish_replied(ticket)),
            Abandoned::Replying => return Ok(false),
            Abandoned::Lie => return Err(Violation("a waiter's word is nonsense")),
        }
        Ok(true)
    }

    /// Ends all sends that no thread waits for, as the connection has.
    pub(crate) fn end_all(&mut self, finished: &mut Vec<Finished>) {
        self.memory.end();
        // Also those that the ring has told of, and nobody has taken out of it. One that is posted from here on finds that
        // the connection has ended before its thread sleeps.
        for get in 0..layout::GETS {
            self.memory.end_get(get);
        }
        for waiter in self.waiters.all_elsewhere() {
            let over = || Outcome::Disconnected { delivered: true };
            if self.end_one(waiter, WaiterStep::End, over(), finished) != Ok(true) {
                if let Some(ticket) = self.waiters.elsewhere(waiter) {
                    finished.extend(self.release(ticket).call.map(|call| (call, over())));
                }
            }
        }
    }

    /// Ends all sends that no thread waits for and whose deadline has passed.
    pub(crate) fn expire(
        &mut self,
        now: fltport_engine::Now,
        finished: &mut Vec<Finished>,
    ) -> Result<(), Violation> {
        for waiter in self.waiters.due(now) {
            let outcome = Outcome::TimedOut { delivered: true };
            let before = finished.len();
            if self.end_one(waiter, WaiterStep::Abandon, outcome, finished)? {
                let ended = finished.get(before);
                if matches!(ended, Some((_, Outcome::TimedOut { .. }))) {
                    self.waiters.timed_out += 1;
                }
                continue;
            }
            let grace = std::time::Duration::from_millis(limits::REPLY_GRACE_MILLIS);
            let until = now.monotonic.checked_add(grace).unwrap_or(now.monotonic);
            if !self.waiters.grant(waiter, until) {
                return Err(Violation("a reply was begun and not finished"));
            }
        }
        Ok(())
    }

    /// A reply came by a frame. Says what the replier is told, and who was waiting, if no thread is.
    pub(crate) fn handle_reply(
        &mut self,
        id: u64,
        status: NtStatus,
        body: Body,
        finished: &mut Vec<Finished>,
    ) -> NtStatus {
        let length = fltport_engine::output::Body::length(&body);
        let found = self.waiters.of_id(id);
        let Some(ticket) = found.filter(|ticket| self.memory.finish_reply(ticket)) else {
            return NtStatus::FLT_NO_WAITER_FOR_REPLY;
        };
        let settled = exchange::settle(ticket.capacity, length, status);
        self.waiters.keep_reply(&ticket, status, body.bytes);
        if self.waiters.elsewhere(ticket.waiter).is_some() {
            finished.extend(self.finish_replied(ticket));
        } else {
            self.memory.stir();
        }
        settled.replier
    }

    /// The reply of a waiter that has one, and the end of that waiter.
    pub(crate) fn take_reply(&mut self, ticket: Ticket) -> (Outcome<Body>, Option<Call>) {
        let capacity = ticket.capacity;
        let mut bytes = vec![0; self.memory.reply_length(&ticket)];
        let read = self.memory.read_reply(&ticket, &mut bytes);
        self.waiters.replied += 1;
        let released = self.release(ticket);
        let outcome = match released.by_frame {
            Some((status, bytes)) => Read::framed(capacity, bytes.len(), status).outcome(bytes),
            None => read.outcome(bytes),
        };
        (outcome, released.call)
    }

    fn finish_replied(&mut self, ticket: Ticket) -> Option<Finished> {
        let (outcome, call) = self.take_reply(ticket);
        call.map(|call| (call, outcome))
    }
}

/// The words of gets, for the engine: none, where there is no memory.
pub(crate) struct Words<'a>(pub(crate) Option<&'a mut HostPlane>);

impl Gets<Body, Sender> for Words<'_> {
    fn deliver(&mut self, get: u64, offer: Offer<Body, Sender>) -> Delivery<Body, Sender> {
        match &mut self.0 {
            Some(plane) => plane.deliver(get, offer),
            None => Delivery::Framed(offer),
        }
    }

    fn refuse(&mut self, get: u64, needed: u32) -> Refusal {
        match &mut self.0 {
            Some(plane) => plane.fail_get(get, NtStatus::BUFFER_TOO_SMALL, needed),
            None => Refusal::Framed,
        }
    }
}

impl HostPlane {
    /// Delivers a message that has waited for a get.
    fn deliver(&mut self, token: u64, offer: Offer<Body, Sender>) -> Delivery<Body, Sender> {
        let elsewhere = matches!(offer.sender, Sender::Calls(_));
        let Ok(reserved) = self.reserve(token, offer.body.bytes.len(), offer.reply, elsewhere)
        else {
            return self.deliver_by_frame(token, offer);
        };
        let deadline = clock::absolute(offer.deadline);
        let file = offer.body.attachment.clone();
        let published = self
            .memory
            .publish(&reserved, &offer.body.bytes, deadline, file.is_some());
        if published == Published::Withdrawn {
            self.undo(reserved);
            return Delivery::Withdrawn(offer);
        }
        self.say(reserved.get, token, published);
        if let Some(file) = file {
            self.after.files.push((token, file));
        }
        Delivery::Done(self.hand_over(reserved.ticket, offer))
    }

    /// The get is in memory but the message is not, or the other way round.
    fn deliver_by_frame(
        &mut self,
        token: u64,
        offer: Offer<Body, Sender>,
    ) -> Delivery<Body, Sender> {
        let ticket = offer.reply.map(|capacity| self.ticket(capacity));
        let short = matches!(ticket, Some(Err(NoRoom)));
        let ticket = ticket.and_then(Result::ok);
        let header = exchange::header(offer.reply.zip(ticket.as_ref().map(Ticket::id)));
        if let Some(ticket) = &ticket {
            let elsewhere = matches!(offer.sender, Sender::Calls(_));
            self.memory.announce(ticket, elsewhere);
        }
        let Some(get) = layout::get_of(token) else {
            return self.announced(ticket, short, header, offer);
        };
        let known = &mut self.gets[get % layout::GETS];
        known.queued = false;
        let reserved = Reserved {
            get,
            generation: known.generation,
            block: None,
            ticket,
        };
        let at = At::Frame;
        let place = Place { at, file: false };
        let published = self.memory.publish_at(&reserved, 0, place, 0);
        if published == Published::Withdrawn {
            self.undo(reserved);
            return Delivery::Withdrawn(offer);
        }
        self.say(get, token, published);
        self.announced(reserved.ticket, short, header, offer)
    }

    fn announced(
        &mut self,
        ticket: Option<Ticket>,
        short: bool,
        header: MessageHeader,
        mut offer: Offer<Body, Sender>,
    ) -> Delivery<Body, Sender> {
        if short {
            // No waiter is left here: the engine has its own, and the reply comes by a frame.
            return Delivery::Framed(offer);
        }
        let deadline = offer.deadline;
        let body = std::mem::take(&mut offer.body);
        Delivery::Announced {
            header,
            deadline,
            body,
            delivered: self.hand_over(ticket, offer),
        }
    }

    /// From here on the sender waits for its reply. One that wants none comes back.
    fn hand_over(&mut self, ticket: Option<Ticket>, offer: Offer<Body, Sender>) -> Option<Sender> {
        let Some(ticket) = ticket else {
            return Some(offer.sender);
        };
        match offer.sender {
            Sender::Waits(slot) => slot.deliver(Asked {
                memory: Arc::clone(&self.memory),
                ticket,
                awake: false,
            }),
            Sender::Calls(call) => {
                let call = Async::new(call, offer.key, offer.deadline);
                self.waiters.set_call(&ticket, call);
            }
        }
        None
    }
}

const _: () = assert!(limits::GETS_PER_CONNECTION >= layout::GETS);

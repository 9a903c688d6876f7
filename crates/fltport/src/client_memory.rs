//! The client's part in questions through memory: gets that are posted there, and replies. [`crate::client_attach`] gets the
//! memory.
//!
//! [`crate::client_driver`] moves frames; a get here needs none of them, except for an open file, a message that had no room
//! in memory, and the host's death, which [`crate::sys`] watches for.

use std::sync::Arc;
use std::time::Duration;

use fltport_engine::NtStatus;
use fltport_engine::client::State;
use fltport_engine::connection::Violation;
use fltport_engine::limits;

use crate::client_books::{Books, Mail};
use crate::client_call::{Call, Delivered, Ended, Until};
use crate::client_driver::Connection;
use crate::message::Message;
use crate::plane::client::{ClientPlane, Slot, Taken, Tell, Woken};
use crate::plane::replying::Replied;
use crate::posted::At;
use crate::sync::{Instant, MutexGuard, Ordering, thread};
use crate::sys::Attachment;

impl Connection {
    /// A message came by a frame for a get in memory.
    pub(crate) fn mail_message(&self, get: u64, message: Delivered) -> Result<(), Violation> {
        self.mail(get, false, |mail| {
            mail.messages.insert(get, message).is_none()
        })
    }

    /// Open files came for gets in memory, whose numbers these bytes are.
    pub(crate) fn mail_files(&self, gets: &[u8], files: Vec<Attachment>) -> Result<(), Violation> {
        let gets = gets.chunks(8);
        if gets.len() != files.len() {
            return Err(Violation("other files than gets"));
        }
        for (get, file) in gets.zip(files) {
            let get = get
                .try_into()
                .map_err(|_| Violation("half the number of a get"))?;
            let get = u64::from_ne_bytes(get);
            self.mail(get, true, |mail| mail.files.insert(get, file).is_none())?;
        }
        Ok(())
    }

    /// A get in memory is over.
    pub(crate) fn rang(&self, get: u64) -> Result<(), Violation> {
        if self.memory.plane.get().is_none() {
            return Err(Violation("no get is in memory"));
        }
        self.books().rang(get);
        Ok(())
    }

    fn mail(
        &self,
        get: u64,
        file: bool,
        put: impl FnOnce(&mut Mail) -> bool,
    ) -> Result<(), Violation> {
        let plane = self.memory.plane.get();
        let mut books = self.books();
        if !plane.is_some_and(|plane| plane.awaits(get, file)) || !put(&mut books.mail) {
            return Err(Violation("something for a get that does not wait for it"));
        }
        books.arrived(get);
        Ok(())
    }

    /// Posts a get, in memory if there is room for it there.
    pub(crate) fn post(&self, size: u32, polled: bool) -> At {
        // One that was kept is older than whatever the host has.
        if !self.memory.has_kept() {
            if let Some(slot) = self.post_slot(size, polled) {
                return At::Memory(slot);
            }
        }
        self.post_frame(size)
    }

    /// Posts a get that is over after `last`, of the same size and receiver, or the first of several such gets: the host
    /// takes gets in the order in which it learns of them, and it learns of memory and of frames in no common order. `None`:
    /// there is no room where `last` is, or room in memory for all of `ahead` once those at the host are over.
    pub(crate) fn post_behind(&self, size: u32, last: Option<&At>, ahead: usize) -> Option<At> {
        // Whoever waits in a get in memory first looks for what is kept on this side, so nothing else does here.
        let slot = || self.post_slot(size, false).map(At::Memory);
        match last {
            Some(At::Memory(_)) => slot(),
            Some(At::Host(..)) if self.memory.get().is_some_and(|plane| plane.has_room(ahead)) => {
                None
            }
            Some(At::Host(..)) => Some(self.post_frame(size)),
            None => Some(slot().unwrap_or_else(|| self.post_frame(size))),
        }
    }

    fn post_frame(&self, size: u32) -> At {
        let (call, get) = self.start_get(size);
        At::Host(call, get)
    }

    /// Withdraws a get in memory; how it has ended is still to be taken.
    pub(crate) fn withdraw_and_stay(&self, slot: Slot) {
        self.memory.plane.get().map(|plane| plane.withdraw(slot));
    }

    fn post_slot(&self, size: u32, polled: bool) -> Option<Slot> {
        if size < limits::HEADER {
            return None;
        }
        let plane = self.memory.get()?;
        let (slot, tell) = plane.post(size, polled)?;
        self.tell(plane, tell);
        Some(slot)
    }

    /// Posts a get in memory and waits for its message, with nothing between. `None`: that is not how it ended, or not where
    /// it is posted, and the long way tells.
    pub(crate) fn next_in_memory(self: &Arc<Self>, size: u32) -> Result<Message, Option<Slot>> {
        if self.memory.has_kept() {
            return Err(None);
        }
        let slot = self.post_slot(size, false).ok_or(None)?;
        let plane = self.memory.plane.get().ok_or(None)?;
        // Once more: whoever keeps a message makes those look that are posted by then.
        let look = self.memory.has_kept() || self.memory.is_owed();
        if look || plane.wait(slot, None) != Woken::Over {
            return Err(Some(slot));
        }
        let mut message = Message::empty(self);
        if plane.take_message(slot, size, &mut message) {
            return Ok(message);
        }
        Err(Some(slot))
    }

    /// Waits until a get in memory has ended; `None` when `deadline` came first.
    pub(crate) fn wait_slot(
        &self,
        slot: Slot,
        size: u32,
        deadline: Option<Instant>,
    ) -> Option<Ended> {
        let plane = self.memory.plane.get()?;
        // What has happened since the get was posted, or was found by somebody who waited in it before.
        let mut ended = self.look_around(slot, size, deadline);
        loop {
            if ended.is_some() {
                return ended;
            }
            // Nothing in memory tells of what comes by the socket. It is there within a round trip, and hardly ever owed.
            let mut slice = None;
            if self.memory.is_owed() {
                self.pump();
                ended = self.look_around(slot, size, deadline);
                if ended.is_some() {
                    return ended;
                }
                slice = Some(Instant::now() + READ_AGAIN);
            }
            let until = slice.into_iter().chain(deadline).min();
            ended = match plane.wait(slot, until) {
                Woken::Over => self.take_slot(slot, size, deadline),
                Woken::Late if until != deadline => None,
                Woken::Nudged | Woken::Ended => {
                    if plane.take_read() {
                        self.pump();
                    }
                    self.look_around(slot, size, deadline)
                }
                Woken::Late => return self.look_around(slot, size, deadline),
            };
        }
    }

    /// Begins to withdraw gets at the host that nobody waits for any more, and has those read who wait in memory.
    pub(crate) fn start_withdrawing(&self, begin: impl FnOnce(&mut Books)) {
        let ((), _) = self.begin(|books| {
            begin(books);
            self.set_owed(books);
        });
        if self.memory.is_owed() {
            self.memory.nudge();
        }
    }

    /// Has everybody look who waits for a message in memory, once the lock is released and those who sleep are nudged.
    pub(crate) fn say_kept(&self, books: &mut Books) {
        self.set_owed(books);
        // Before anybody is woken who looks at it.
        self.memory.set_kept(books.ready_count());
        books.stir(false);
    }

    /// Tells calls of what a frame has brought.
    pub(crate) fn settle_and_say(&self, mut books: MutexGuard<'_, Books>) {
        let kept = books.ready_count();
        books.settle();
        if books.ready_count() == kept {
            self.set_owed(&books);
            return;
        }
        self.say_kept(&mut books);
        drop(books);
        self.memory.nudge();
    }

    fn set_owed(&self, books: &Books) {
        let owed = u64::try_from(books.owed.len()).unwrap_or(u64::MAX);
        self.memory.owed.store(owed, Ordering::Release);
    }

    /// What a get in memory has, if it is over.
    fn take_slot(&self, slot: Slot, size: u32, deadline: Option<Instant>) -> Option<Ended> {
        let plane = self.memory.plane.get()?;
        let get = ClientPlane::token(slot);
        Some(match plane.take(slot, size) {
            Taken::NotYet => return None,
            Taken::Message {
                header,
                payload,
                deadline: until,
                file,
            } => {
                let attachment = file.then(|| self.await_file(get, deadline)).flatten();
                if file {
                    self.free(plane, slot);
                }
                if file && attachment.is_none() {
                    // The host has died in between: it is as if it had done so before.
                    Ended::done(NtStatus::PORT_DISCONNECTED)
                } else {
                    Ended::Message(Delivered {
                        header,
                        payload,
                        attachment,
                        deadline: (until != 0).then_some(Until::Nanos(until)),
                    })
                }
            }
            Taken::ByFrame => {
                let ended = self.await_message(get, deadline);
                self.free(plane, slot);
                ended
            }
            Taken::TooSmall(needed) => Ended::Done {
                status: NtStatus::BUFFER_TOO_SMALL,
                needed,
                bytes: Vec::new(),
            },
            Taken::Withdrawn => Ended::done(NtStatus::CANCELLED),
            Taken::Lie => {
                self.close();
                Ended::done(NtStatus::PORT_DISCONNECTED)
            }
            Taken::Disconnected => Ended::done(NtStatus::PORT_DISCONNECTED),
        })
    }

    /// Withdraws a get in memory. Gives its end, if that was faster.
    pub(crate) fn withdraw_slot(
        &self,
        slot: Slot,
        size: u32,
        deadline: Option<Instant>,
    ) -> Option<Ended> {
        let plane = self.memory.plane.get()?;
        if plane.withdraw(slot) {
            plane.take(slot, size);
            return None;
        }
        self.take_slot(slot, size, deadline)
    }

    /// Something has happened on this side that may end a get.
    pub(crate) fn look_around(
        &self,
        slot: Slot,
        size: u32,
        deadline: Option<Instant>,
    ) -> Option<Ended> {
        if !self.memory.has_kept() && !self.memory.has_ended() {
            return self.take_slot(slot, size, deadline);
        }
        let call = Call::default();
        let mut books = self.books();
        let closed_here = books.closed_here;
        let over =
            closed_here || books.engine.state() != State::Connected || self.memory.has_ended();
        let served = !closed_here && books.serve_from_ready(size, &call);
        self.memory.set_kept(books.ready_count());
        drop(books);
        if !over && !served {
            return self.take_slot(slot, size, deadline);
        }
        match (served, self.withdraw_slot(slot, size, deadline)) {
            // A message that came all the same is for another get.
            (true, Some(Ended::Message(message))) => self.keep(message),
            // It was delivered, whatever has happened since.
            (false, Some(ended @ Ended::Message(_))) if !closed_here => return Some(ended),
            _ => {}
        }
        Some(
            call.take()
                .unwrap_or_else(|| Ended::done(NtStatus::PORT_DISCONNECTED)),
        )
    }

    /// Has a task woken when a frame tells of the end of its get. Looks once more afterwards: the frame may have been
    /// faster.
    #[cfg(feature = "tokio")]
    pub(crate) fn wake_on_ring(
        &self,
        slot: Slot,
        size: u32,
        waker: &std::task::Waker,
    ) -> std::task::Poll<Ended> {
        let (get, waker) = (ClientPlane::token(slot), waker.clone());
        let before = self.books().mail.wakers.insert(get, waker);
        drop(before);
        self.look_around(slot, size, None)
            .map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    }

    /// No task waits any more for the end of this get.
    #[cfg(feature = "tokio")]
    pub(crate) fn forget_waker(&self, slot: Slot) {
        let waker = self.books().mail.wakers.remove(&ClientPlane::token(slot));
        drop(waker);
    }

    /// Replies in memory, if the message belongs there and its reply has room. Otherwise it goes by a frame.
    pub(crate) fn reply_status(
        &self,
        message_id: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> Option<Ended> {
        let plane = self.memory.of(message_id)?;
        match plane.reply(message_id, status, payload) {
            Replied::Done(status, tell) => {
                self.tell(plane, tell);
                Some(Ended::done(status))
            }
            Replied::ByFrame => None,
        }
    }

    /// The host has hung up, or died.
    pub(crate) fn handle_hang_up(&self) {
        // What it has said before is read first; the end itself is found by that.
        self.pump();
        self.memory.nudge();
    }

    fn tell(&self, plane: &ClientPlane, mut tell: Tell) {
        loop {
            let full = match tell {
                Tell::Nothing => return,
                Tell::Kick => None,
                Tell::Full(waiter) => Some(waiter),
            };
            self.kick();
            let Some(waiter) = full else { return };
            thread::sleep(AGAIN);
            tell = plane.tell_replied(waiter);
        }
    }

    /// Has the host look at the ring. It must hear of it however full its socket is: this thread may be about to sleep where
    /// no packet wakes it.
    fn kick(&self) {
        self.unsent().push_kick();
        if self.flush() {
            self.flush_later();
        }
    }

    /// Nothing more comes for this get, and what a host has sent all the same is dropped.
    fn free(&self, plane: &ClientPlane, slot: Slot) {
        plane.free(slot);
        let get = ClientPlane::token(slot);
        let mut books = self.books();
        let more = (
            books.mail.files.remove(&get),
            books.mail.messages.remove(&get),
        );
        drop(books);
        drop(more);
    }

    fn await_file(&self, get: u64, deadline: Option<Instant>) -> Option<Attachment> {
        self.await_mail(get, deadline, |mail| mail.files.contains_key(&get));
        self.books().mail.files.remove(&get)
    }

    fn await_message(&self, get: u64, deadline: Option<Instant>) -> Ended {
        self.await_mail(get, deadline, |mail| mail.messages.contains_key(&get));
        let message = self.books().mail.messages.remove(&get);
        message.map_or_else(|| Ended::done(NtStatus::PORT_DISCONNECTED), Ended::Message)
    }

    /// Waits until the socket has brought what is on its way: the host has sent it, or is about to.
    fn await_mail(&self, get: u64, deadline: Option<Instant>, is_here: impl Fn(&Mail) -> bool) {
        let mut books = self.books();
        if is_here(&books.mail) || books.engine.state() == State::Disconnected {
            return;
        }
        let call = Arc::new(Call::default());
        books.mail.awaited.insert(get, Arc::clone(&call));
        drop(books);
        // It is in the socket, or the host is about to put it there. One that does not is not waited for longer than asked.
        let deadline = deadline.map(|end| end + MAIL);
        if self.wait(&call, deadline).is_none() {
            self.close();
        }
    }
}

/// How long beyond its deadline a get waits for what the host has said is on its way.
const MAIL: Duration = Duration::from_secs(1);

/// How long one who waits in memory does not look whether the socket has brought what is owed.
const READ_AGAIN: Duration = Duration::from_millis(10);

/// How long a host whose ring is full has to look at it.
const AGAIN: Duration = Duration::from_micros(50);

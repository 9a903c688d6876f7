//! The client's end of a connection: the engine's books, the way to the host, and threads that wait.
//!
//! There is no thread of its own. Among the threads that wait for something, one reads the link for all; when it has what
//! it waits for, it hands the reading to another. A single-threaded client thus reads its own answers, without a hop.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fltport_engine::client::State;
use fltport_engine::connection::Violation;
use fltport_engine::wire::{FRAME_MAX, ToClient, ToHost};
use fltport_engine::{NtStatus, limits};

use crate::client_attach::Attached;
use crate::client_books::{Books, PostedGet};
use crate::client_call::{Call, Delivered, Ended, Incoming};
use crate::client_unsent::Unsent;
use crate::error::{CallError, ConnectError};
use crate::frames::{self, Assembler};
use crate::link::{ClientLink, Packet, Received, Sent};
use crate::plane::layout;
use crate::sync::thread;
use crate::sync::{Instant, Mutex, MutexGuard};
use crate::sys::Attachment;

/// The client's end of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Box<dyn ClientLink>,
    /// Taken before `books` by whoever sends: frames leave in the order of the books. Nobody waits while holding it.
    unsent: Mutex<Unsent>,
    books: Mutex<Books>,
    reader: Mutex<Reader>,
    max_message: u32,
    /// The memory for questions, once the host has made it.
    pub(crate) memory: Attached,
}

#[derive(Debug)]
struct Reader {
    buffer: Vec<u8>,
    assembler: Assembler<ToClient>,
    files: Vec<Attachment>,
}

impl Connection {
    /// Greets the host over a fresh link, and waits until the connect callback has decided. `spins`: threads may wait awake.
    pub(crate) fn greet(
        link: Box<dyn ClientLink>,
        context: &[u8],
        spins: bool,
    ) -> Result<Arc<Self>, ConnectError> {
        let length = u32::try_from(context.len()).unwrap_or(u32::MAX);
        if length > limits::CONTEXT_MAX {
            return Err(ConnectError::ContextTooLong(context.len()));
        }
        let hello = ToHost::Hello {
            bits: usize::BITS,
            length,
        };
        for packet in frames::packets(&hello, context.len()) {
            let payload = context.get(packet.payload.clone()).unwrap_or_default();
            while link.send(packet.head(), payload) == Sent::Full {
                link.wait(true, None);
            }
            // A host that refuses at once has closed its end, but what it said can be read.
        }
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let packet = match link.receive(&mut buffer) {
                Received::Packet(packet) => packet,
                Received::Empty => {
                    link.wait(false, None);
                    continue;
                }
                Received::Down => return Err(ConnectError::Disconnected),
            };
            let bytes = buffer.get(..packet.length).unwrap_or_default();
            let (
                ToClient::Connected {
                    status,
                    max_message,
                },
                _,
            ) = ToClient::parse(bytes).map_err(|_| ConnectError::Disconnected)?
            else {
                return Err(ConnectError::Disconnected);
            };
            if status != NtStatus::SUCCESS {
                return Err(ConnectError::Refused(status));
            }
            // No port has more: what is read of messages is held to this.
            if max_message > limits::MESSAGE_MAX {
                return Err(ConnectError::Disconnected);
            }
            let books = Books::new(max_message);
            let reader = Reader {
                buffer,
                assembler: Assembler::new(),
                files: Vec::new(),
            };
            let (books, reader) = (Mutex::new(books), Mutex::new(reader));
            return Ok(Arc::new(Self {
                link,
                unsent: Mutex::default(),
                books,
                reader,
                max_message,
                memory: Attached::new(spins),
            }));
        }
    }

    /// Posts a get of `size` bytes, header included; [`Self::end_get`] or [`Self::give_up_get`] has to follow.
    pub(crate) fn start_get(&self, size: u32) -> (Arc<Call>, u64) {
        let call = Arc::new(Call::default());
        let (get, _) = self.begin(|books| {
            let served = !books.closed_here && books.serve_from_ready(size, &call);
            self.memory.set_kept(books.ready_count());
            if served {
                return 0;
            }
            let get = books.engine.start_get(size, Arc::clone(&call));
            if get != 0 {
                let call = Arc::clone(&call);
                books.gets.insert(get, PostedGet { call, size });
            }
            get
        });
        (call, get)
    }

    /// Replies, and waits for the host's word.
    pub(crate) fn reply(
        &self,
        message_id: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> Result<(), CallError> {
        // Nothing is made for a reply that goes through memory, as most do.
        if let Some(ended) = self.reply_status(message_id, status, payload) {
            return ended.into_reply();
        }
        let call = self.start_reply_by_frame(message_id, status, payload);
        self.wait(&call, None)
            .map_or(Err(CallError::Disconnected), |ended| {
                self.replied(ended, payload)
            })
    }

    /// What the end of a reply with this payload says.
    pub(crate) fn replied(&self, ended: Ended, payload: &[u8]) -> Result<(), CallError> {
        match ended.into_reply() {
            Ok(()) if self.is_too_long(payload) => Err(CallError::ReplyTooLong),
            result => result,
        }
    }

    /// Starts a reply. One that no sender can take whole is cut here, and says so: the sender must hear of it.
    pub(crate) fn start_reply(
        &self,
        message_id: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> Arc<Call> {
        if let Some(ended) = self.reply_status(message_id, status, payload) {
            let call = Arc::new(Call::default());
            call.finish(ended);
            return call;
        }
        self.start_reply_by_frame(message_id, status, payload)
    }

    fn start_reply_by_frame(&self, message_id: u64, status: NtStatus, payload: &[u8]) -> Arc<Call> {
        let call = Arc::new(Call::default());
        let room = usize::try_from(self.max_message).unwrap_or(usize::MAX);
        let (status, payload) = if self.is_too_long(payload) {
            (
                NtStatus::BUFFER_OVERFLOW,
                payload.get(..room).unwrap_or_default(),
            )
        } else {
            (status, payload)
        };
        let body = Incoming {
            bytes: payload.to_vec(),
            ..Incoming::default()
        };
        self.start(|books| {
            books.open.remove(&message_id);
            books
                .engine
                .start_reply(message_id, status, body, Arc::clone(&call));
        });
        call
    }

    pub(crate) fn start_request(&self, input: &[u8], capacity: u32) -> Arc<Call> {
        let call = Arc::new(Call::default());
        let body = Incoming {
            bytes: input.to_vec(),
            ..Incoming::default()
        };
        self.start(|books| {
            books
                .engine
                .start_request(body, capacity, Arc::clone(&call))
        });
        call
    }

    /// Whoever waited for a get has taken its end.
    pub(crate) fn end_get(&self, get: u64) {
        let mut books = self.books();
        books.gets.remove(&get);
        let lent = books.lent.remove(&get);
        drop(books);
        if lent {
            self.start_withdrawing(|books| books.withdraw(get));
        }
    }

    /// Asks the host to withdraw a get. Its end comes either way.
    pub(crate) fn withdraw_get(&self, get: u64) {
        self.begin(|books| books.engine.cancel_get(get));
    }

    /// Withdraws a get that nobody waits for any more. Gives its end, if that was faster.
    pub(crate) fn give_up_get(&self, call: &Call, get: u64) -> Option<Ended> {
        let ended = call.give_up();
        // One that the host has not heard of needs no word of the host.
        let unknown = self.unsent().take_back(get);
        self.start_withdrawing(|books| {
            books.gets.remove(&get);
            if unknown {
                books.lent.remove(&get);
                let cancelled = NtStatus::CANCELLED;
                books.engine.handle_get_failed(get, cancelled, 0).ok();
            } else {
                books.withdraw(get);
            }
        });
        ended
    }

    /// Keeps a message whose receiver went away for another one. That one may be reading, where only something from the
    /// host reaches it: its own get, which it needs no more, is withdrawn at once, and the host's word on it comes.
    pub(crate) fn keep(&self, message: Delivered) {
        self.begin(|books| {
            if let Some(get) = books.place(message) {
                books.withdraw(get);
            }
            self.say_kept(books);
        });
        self.memory.nudge();
    }

    /// Waits until `call` has ended; `None` when `deadline` came first.
    pub(crate) fn wait(&self, call: &Call, deadline: Option<Instant>) -> Option<Ended> {
        loop {
            let mut books = self.books();
            let ended = call.take();
            if ended.is_some() || deadline.is_some_and(|end| end <= Instant::now()) {
                // This thread may have been woken to read: then another has to.
                books.hand_over();
                return ended;
            }
            if books.reading {
                call.wake_this_thread();
                books.waiters.push_back(thread::current());
                drop(books);
                // The one that reads does not know of frames that came after it began to wait.
                let flush = self.flush().then(|| Instant::now() + READ_AGAIN);
                match deadline.into_iter().chain(flush).min() {
                    None => thread::park(),
                    Some(end) => {
                        thread::park_timeout(end.saturating_duration_since(Instant::now()))
                    }
                }
                let me = thread::current().id();
                self.books().waiters.retain(|waiter| waiter.id() != me);
                continue;
            }
            books.reading = true;
            drop(books);
            while !call.has_ended() && deadline.is_none_or(|end| end > Instant::now()) {
                let full = self.flush();
                if !self.read_one() {
                    self.link.wait(full, deadline);
                }
            }
            let ended = call.take();
            self.stop_reading();
            if ended.is_some() {
                return ended;
            }
        }
    }

    /// Reads what is there, without waiting. Somebody else may be reading: then that one looks once more.
    pub(crate) fn pump(&self) {
        let mut books = self.books();
        if books.reading {
            books.look_again = true;
            return;
        }
        books.reading = true;
        drop(books);
        while self.read_one() {}
        self.stop_reading();
    }

    /// Nobody will ask whether this message is abandoned.
    pub(crate) fn forget(&self, message_id: u64) {
        self.books().open.remove(&message_id);
    }

    /// Whether the sender of a message has given up, as far as is known.
    pub(crate) fn is_abandoned(&self, message_id: u64) -> bool {
        if let Some(memory) = self.memory.of(message_id) {
            return memory.is_abandoned(message_id);
        }
        self.pump();
        let books = self.books();
        books.engine.state() != State::Connected || books.open.get(&message_id) == Some(&true)
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.memory.has_ended() && self.books().engine.state() == State::Connected
    }

    /// Ends the connection on its owner's wish: what waits here for another get is given to nobody any more.
    pub(crate) fn hang_up(&self) {
        self.books().close_here();
        self.close();
    }

    /// Ends the connection: every call ends now.
    pub(crate) fn close(&self) {
        self.link.close();
        self.memory.close();
        let mut books = self.books();
        books.engine.handle_closed();
        books.stir(true);
        books.settle();
        for call in books.closers.drain(..) {
            call.finish(Ended::done(NtStatus::PORT_DISCONNECTED));
        }
        drop(books);
        self.wake();
    }

    /// Wakes tasks whose calls have ended. The caller holds no lock: a waker may call this very connection.
    fn wake(&self) {
        let wakes = std::mem::take(&mut self.books().wakes);
        wakes.wake();
    }

    /// Ends the connection and waits until the host has closed its end, which follows the disconnect callback.
    pub(crate) fn close_and_wait(&self) {
        let call = Arc::new(Call::default());
        let mut unsent = self.unsent();
        let mut books = self.books();
        books.close_here();
        if books.engine.state() == State::Disconnected {
            return;
        }
        books.closers.push(Arc::clone(&call));
        drop(books);
        self.memory.close();
        unsent.push(&ToHost::Close, Vec::new());
        drop(unsent);
        self.wait(&call, None);
    }

    pub(crate) const fn max_message(&self) -> u32 {
        self.max_message
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.descriptor()
    }

    fn is_too_long(&self, payload: &[u8]) -> bool {
        u32::try_from(payload.len()).map_or(true, |length| length > self.max_message)
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: the books first, then the frames that they ask for. Returns when those have left.
    fn start<R>(&self, begin: impl FnOnce(&mut Books) -> R) -> R {
        let (result, frame) = self.begin(begin);
        self.leave(frame);
        result
    }

    /// As [`Self::start`], for whoever must not wait for the host: what it does not take now leaves with what comes next.
    pub(crate) fn begin<R>(&self, begin: impl FnOnce(&mut Books) -> R) -> (R, u64) {
        let mut unsent = self.unsent();
        let mut books = self.books();
        let result = begin(&mut books);
        let frames = books.settle();
        let wakes = std::mem::take(&mut books.wakes);
        drop(books);
        for (frame, payload) in frames {
            unsent.push(&frame, payload);
        }
        let last = unsent.last();
        drop(unsent);
        wakes.wake();
        self.flush();
        (result, last)
    }

    /// Returns when this frame and those before it have left. While the host does not read, this side reads: otherwise
    /// both would wait for each other.
    fn leave(&self, frame: u64) {
        while self.unsent().waits(frame) {
            self.pump();
            self.link.wait(true, Some(Instant::now() + READ_AGAIN));
            self.flush();
        }
    }

    /// Returns when all that was begun so far has left.
    pub(crate) fn leave_all(&self) {
        let last = self.unsent().last();
        self.leave(last);
    }

    /// Sends what the host takes; whether something is left.
    pub(crate) fn flush(&self) -> bool {
        let sent = self.unsent().flush(&*self.link);
        if sent == Sent::Down {
            // What is there is read first: it may hold the end of other calls.
            while self.read_one() {}
            self.fail();
        }
        sent == Sent::Full
    }

    pub(crate) fn unsent(&self) -> MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one packet. `false`: there was none.
    fn read_one(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader {
            buffer,
            assembler,
            files,
        } = &mut *reader;
        let result = match self.link.receive(buffer) {
            Received::Empty => return false,
            Received::Down => Err(Violation("the link is down")),
            Received::Packet(packet) => {
                let bytes = buffer.get(..packet.length).unwrap_or_default();
                let Packet { files: came, .. } = packet;
                if !came.is_empty() {
                    *files = came;
                }
                assembler.take(bytes, self.max_message)
            }
        };
        let result = match result {
            Ok(None) => return true,
            Ok(Some((frame, payload))) => {
                let files = std::mem::take(files);
                self.handle(frame, payload, files)
            }
            Err(lie) => Err(lie),
        };
        drop(reader);
        self.wake();
        if result.is_err() {
            self.fail();
            return false;
        }
        true
    }

    fn handle(
        &self,
        frame: ToClient,
        bytes: Vec<u8>,
        files: Vec<Attachment>,
    ) -> Result<(), Violation> {
        let mut books = self.books();
        match frame {
            ToClient::Message {
                get,
                header,
                remaining,
                attachment,
                ..
            } => {
                if attachment && files.is_empty() {
                    return Err(Violation("a message without its open file"));
                }
                let body = Incoming {
                    bytes,
                    attachment: files.into_iter().next_back(),
                    remaining,
                };
                if layout::get_of(get).is_some() {
                    drop(books);
                    return self.mail_message(get, body.into_delivered(header));
                }
                books.owed.remove(&get);
                books.engine.handle_message(get, header, body)?;
                if header.reply_length != 0 {
                    books.open.insert(header.message_id, false);
                }
            }
            ToClient::GetFailed {
                get,
                status,
                needed,
            } => {
                books.owed.remove(&get);
                books.engine.handle_get_failed(get, status, needed)?;
            }
            ToClient::ReplyDone { reply, status } => {
                books.engine.handle_reply_done(reply, status)?
            }
            ToClient::RequestDone {
                request, status, ..
            } => {
                let body = (!bytes.is_empty()).then(|| Incoming {
                    bytes,
                    ..Incoming::default()
                });
                books.engine.handle_request_done(request, status, body)?;
            }
            ToClient::Abandoned { message_id } => {
                if let Some(abandoned) = books.open.get_mut(&message_id) {
                    *abandoned = true;
                }
            }
            ToClient::Disconnected => books.engine.handle_disconnected(),
            ToClient::Attached {
                status,
                layout,
                first_id,
            } => {
                drop(books);
                return self.attached(status, layout, first_id, files);
            }
            ToClient::Ring { get } => {
                drop(books);
                return self.rang(get);
            }
            ToClient::Files { .. } => {
                drop(books);
                return self.mail_files(&bytes, files);
            }
            ToClient::Connected { .. } | ToClient::Chunk { .. } => {
                return Err(Violation("out of place"));
            }
        }
        self.settle_and_say(books);
        Ok(())
    }

    fn fail(&self) {
        self.close();
    }

    /// Lets another waiting thread read, once everything that others have asked to see is seen.
    fn stop_reading(&self) {
        loop {
            let mut books = self.books();
            if !std::mem::take(&mut books.look_again) {
                books.reading = false;
                books.hand_over();
                return;
            }
            drop(books);
            while self.read_one() {}
        }
    }
}

/// While the host's buffer is full, how long until this side looks for something to read again.
const READ_AGAIN: Duration = Duration::from_millis(10);

//! The client's end of a connection: the engine's books, the way to the host, and threads that wait.
//!
//! There is no thread of its own. Among the threads that wait for something, one reads the link for all; when it has what
//! it waits for, it hands the reading to another. A single-threaded client thus reads its own answers, without a hop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use fltport_engine::client::{Client as Engine, Output, State};
use fltport_engine::connection::Violation;
use fltport_engine::wire::{FRAME_MAX, ToClient, ToHost};
use fltport_engine::{NtStatus, exchange, limits};

use crate::client_call::{Call, Delivered, Ended, Incoming};
use crate::error::ConnectError;
use crate::frames::{self, Assembler};
use crate::link::{ClientLink, Packet, Received, Sent};
use crate::sys::Attachment;

/// The client's end of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Box<dyn ClientLink>,
    /// Taken before `books` by whoever sends: frames leave in the order of the books.
    sending: Mutex<()>,
    books: Mutex<Books>,
    reader: Mutex<Reader>,
    max_message: u32,
}

#[derive(Debug)]
struct Books {
    engine: Engine<Incoming, Arc<Call>>,
    /// Some thread reads for all.
    reading: bool,
    /// Somebody found that it does, and wants what has come meanwhile to be seen too.
    look_again: bool,
    /// Threads that wait and could read.
    waiters: VecDeque<Thread>,
    /// Messages that want a reply and have none: whether their sender has given up.
    open: BTreeMap<u64, bool>,
    /// Gets that somebody waits for, oldest first.
    gets: BTreeMap<u64, PostedGet>,
    /// Those of them that ended with the message of another get, so that their own is still to be withdrawn.
    lent: BTreeSet<u64>,
    /// Messages whose get was given up before they came, and that no other get waited for; the next get takes them.
    ready: VecDeque<Delivered>,
    /// Who waits for the host to close its end.
    closers: Vec<Arc<Call>>,
}

#[derive(Debug)]
struct PostedGet {
    call: Arc<Call>,
    size: u32,
}

#[derive(Debug)]
struct Reader {
    buffer: Vec<u8>,
    assembler: Assembler<ToClient>,
    attachment: Option<Attachment>,
}

impl Connection {
    /// Greets the host over a fresh link, and waits until the connect callback has decided.
    pub(crate) fn greet(
        link: Box<dyn ClientLink>,
        context: &[u8],
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
            let books = Books {
                engine: Engine::new(max_message),
                reading: false,
                look_again: false,
                waiters: VecDeque::new(),
                open: BTreeMap::new(),
                gets: BTreeMap::new(),
                lent: BTreeSet::new(),
                ready: VecDeque::new(),
                closers: Vec::new(),
            };
            let reader = Reader {
                buffer,
                assembler: Assembler::new(),
                attachment: None,
            };
            let (sending, books, reader) = (Mutex::new(()), Mutex::new(books), Mutex::new(reader));
            return Ok(Arc::new(Self {
                link,
                sending,
                books,
                reader,
                max_message,
            }));
        }
    }

    /// Posts a get of `size` bytes, header included. The number is for [`Self::end_get`] or [`Self::give_up_get`], one
    /// of which has to follow.
    pub(crate) fn start_get(&self, size: u32) -> (Arc<Call>, u64) {
        let call = Arc::new(Call::default());
        let get = self.start(|books| {
            if books.serve_from_ready(size, &call) {
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

    pub(crate) fn start_reply(
        &self,
        message_id: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> Arc<Call> {
        let call = Arc::new(Call::default());
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
            self.start(|books| books.engine.cancel_get(get));
        }
    }

    /// Withdraws a get that nobody waits for any more. Gives its end, if that was faster.
    pub(crate) fn give_up_get(&self, call: &Call, get: u64) -> Option<Ended> {
        let ended = call.give_up();
        self.start(|books| {
            books.gets.remove(&get);
            books.lent.remove(&get);
            books.engine.cancel_get(get)
        });
        ended
    }

    /// Keeps a message whose receiver went away for another one.
    pub(crate) fn keep(&self, message: Delivered) {
        self.books().place(message);
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
                match deadline {
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
                if !self.read_one() {
                    self.link.wait(false, deadline);
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
        self.pump();
        let books = self.books();
        books.engine.state() == State::Disconnected || books.open.get(&message_id) == Some(&true)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.books().engine.state() == State::Connected
    }

    /// Ends the connection: every call ends now.
    pub(crate) fn close(&self) {
        self.link.close();
        let mut books = self.books();
        books.engine.handle_closed();
        books.settle();
        for call in books.closers.drain(..) {
            call.finish(Ended::Done {
                status: NtStatus::PORT_DISCONNECTED,
                needed: 0,
                bytes: Vec::new(),
            });
        }
    }

    /// Ends the connection and waits until the host has closed its end, which follows the disconnect callback.
    pub(crate) fn close_and_wait(&self) {
        let call = Arc::new(Call::default());
        let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut books = self.books();
        if books.engine.state() == State::Disconnected {
            return;
        }
        books.closers.push(Arc::clone(&call));
        drop(books);
        self.transmit(&ToHost::Close, &[]);
        drop(sending);
        self.wait(&call, None);
    }

    pub(crate) const fn max_message(&self) -> u32 {
        self.max_message
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.descriptor()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: the books first, then the frames that they ask for.
    fn start<R>(&self, begin: impl FnOnce(&mut Books) -> R) -> R {
        let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut books = self.books();
        let result = begin(&mut books);
        let frames = books.settle();
        drop(books);
        for (frame, payload) in frames {
            self.transmit(&frame, &payload);
        }
        drop(sending);
        result
    }

    /// Sends one frame. While the host does not read, this side reads: otherwise both would wait for each other.
    fn transmit(&self, frame: &ToHost, payload: &[u8]) {
        for packet in frames::packets(frame, payload.len()) {
            let part = payload.get(packet.payload.clone()).unwrap_or_default();
            loop {
                match self.link.send(packet.head(), part) {
                    Sent::Done => break,
                    Sent::Full => {
                        self.pump();
                        self.link.wait(true, Some(Instant::now() + READ_AGAIN));
                    }
                    // What is there is read first: it may hold the end of other calls.
                    Sent::Down => {
                        self.pump();
                        self.fail();
                        return;
                    }
                }
            }
        }
    }

    /// Takes one packet. `false`: there was none.
    fn read_one(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader {
            buffer,
            assembler,
            attachment,
        } = &mut *reader;
        let result = match self.link.receive(buffer) {
            Received::Empty => return false,
            Received::Down => Err(Violation("the link is down")),
            Received::Packet(packet) => {
                let bytes = buffer.get(..packet.length).unwrap_or_default();
                let Packet {
                    attachment: came, ..
                } = packet;
                *attachment = came.or_else(|| attachment.take());
                assembler.take(bytes, self.max_message)
            }
        };
        let result = match result {
            Ok(None) => return true,
            Ok(Some((frame, payload))) => {
                let attachment = attachment.take();
                self.handle(frame, payload, attachment)
            }
            Err(lie) => Err(lie),
        };
        if result.is_err() {
            drop(reader);
            self.fail();
            return false;
        }
        true
    }

    fn handle(
        &self,
        frame: ToClient,
        bytes: Vec<u8>,
        attachment: Option<Attachment>,
    ) -> Result<(), Violation> {
        let mut books = self.books();
        match frame {
            ToClient::Message {
                get,
                header,
                remaining,
                ..
            } => {
                let body = Incoming {
                    bytes,
                    attachment,
                    remaining,
                };
                books.engine.handle_message(get, header, body)?;
                if header.reply_length != 0 {
                    books.open.insert(header.message_id, false);
                }
            }
            ToClient::GetFailed {
                get,
                status,
                needed,
            } => books.engine.handle_get_failed(get, status, needed)?,
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
            ToClient::Connected { .. } | ToClient::Chunk { .. } => {
                return Err(Violation("out of place"));
            }
        }
        books.settle();
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

impl Books {
    /// Wakes a thread that can read, if nobody does.
    fn hand_over(&mut self) {
        if self.reading {
            return;
        }
        if let Some(next) = self.waiters.pop_front() {
            next.unpark();
        }
    }

    /// Ends a new get with a message that waits here. A get that is too small for it is told so.
    fn serve_from_ready(&mut self, size: u32, call: &Call) -> bool {
        let Some(message) = self.ready.pop_front() else {
            return false;
        };
        if fits(size, &message) {
            call.finish(Ended::Message(message));
            return true;
        }
        let length = u32::try_from(message.bytes.len()).unwrap_or(u32::MAX);
        call.finish(Ended::Done {
            status: NtStatus::BUFFER_TOO_SMALL,
            needed: exchange::needed(length).unwrap_or(u32::MAX),
            bytes: Vec::new(),
        });
        self.ready.push_front(message);
        true
    }

    /// Gives a message that its own get has no use for to the oldest get that fits, or else keeps it for the next.
    fn place(&mut self, mut message: Delivered) {
        for (get, posted) in &self.gets {
            if !fits(posted.size, &message) {
                continue;
            }
            match posted.call.finish(Ended::Message(message)) {
                Some(Ended::Message(refused)) => message = refused,
                _ => {
                    self.lent.insert(*get);
                    return;
                }
            }
        }
        self.ready.push_back(message);
    }

    /// Tells calls of their end; gives back the frames that are to be sent.
    fn settle(&mut self) -> Vec<(ToHost, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Get { get, size } => frames.push((ToHost::Get { get, size }, Vec::new())),
                Output::CancelGet { get } => frames.push((ToHost::CancelGet { get }, Vec::new())),
                Output::Reply {
                    reply,
                    message_id,
                    status,
                    body,
                } => {
                    let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
                    frames.push((
                        ToHost::Reply {
                            reply,
                            message_id,
                            status,
                            length,
                        },
                        body.bytes,
                    ));
                }
                Output::Request {
                    request,
                    capacity,
                    body,
                } => {
                    let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
                    frames.push((
                        ToHost::Request {
                            request,
                            capacity,
                            length,
                        },
                        body.bytes,
                    ));
                }
                Output::Message { mark, header, body } => {
                    let message = Ended::Message(body.into_delivered(header));
                    if let Some(Ended::Message(orphan)) = mark.finish(message) {
                        self.place(orphan);
                    }
                }
                Output::Done {
                    mark,
                    status,
                    needed,
                    body,
                } => {
                    let bytes = body.map(|body| body.bytes).unwrap_or_default();
                    mark.finish(Ended::Done {
                        status,
                        needed,
                        bytes,
                    });
                }
            }
        }
        frames
    }
}

fn fits(size: u32, message: &Delivered) -> bool {
    u32::try_from(message.bytes.len()).is_ok_and(|length| exchange::fits(size, length))
}

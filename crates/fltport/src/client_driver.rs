//! The client's end of a connection: the engine's books, the way to the host, and threads that wait.
//!
//! There is no thread of its own. Among the threads that wait for something, one reads the link for all; when it has what
//! it waits for, it hands the reading to another. A single-threaded client thus reads its own answers, without a hop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use fltport_engine::client::{Client as Engine, Output, State};
use fltport_engine::connection::Violation;
use fltport_engine::wire::{FRAME_MAX, MessageHeader, ToClient, ToHost};
use fltport_engine::{NtStatus, limits};

use crate::error::{CallError, ConnectError};
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
    /// Threads that wait and could read.
    waiters: VecDeque<Thread>,
    /// Messages that want a reply and have none: whether their sender has given up.
    open: BTreeMap<u64, bool>,
    /// Messages whose get was given up before they came; the next get takes them.
    ready: VecDeque<Delivered>,
}

#[derive(Debug)]
struct Reader {
    buffer: Vec<u8>,
    assembler: Assembler<ToClient>,
    attachment: Option<Attachment>,
}

/// What travels in the client's books.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) bytes: Vec<u8>,
    attachment: Option<Attachment>,
    remaining: Option<Duration>,
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) header: MessageHeader,
    pub(crate) bytes: Vec<u8>,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) deadline: Option<Instant>,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Message(Delivered),
    Done {
        status: NtStatus,
        needed: u32,
        bytes: Vec<u8>,
    },
}

/// A call that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Call {
    state: Mutex<CallState>,
}

#[derive(Debug, Default)]
struct CallState {
    ended: Option<Ended>,
    thread: Option<Thread>,
    waker: Option<Waker>,
    /// Nobody waits any more: a message that comes all the same is for the next get.
    orphan: bool,
}

impl fltport_engine::output::Body for Incoming {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
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
                waiters: VecDeque::new(),
                open: BTreeMap::new(),
                ready: VecDeque::new(),
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

    /// Posts a get of `size` bytes, header included. The number is for [`Self::give_up_get`].
    pub(crate) fn start_get(&self, size: u32) -> (Arc<Call>, u64) {
        let call = Arc::new(Call::default());
        let get = self.start(|books| {
            if let Some(ready) = books.ready.pop_front() {
                call.finish(Ended::Message(ready));
                return 0;
            }
            books.engine.start_get(size, Arc::clone(&call))
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

    /// Withdraws a get. Says whether it was still pending.
    pub(crate) fn cancel_get(&self, get: u64) -> bool {
        self.start(|books| books.engine.cancel_get(get))
    }

    /// Withdraws a get that nobody waits for any more. A message that was faster is kept for the next get.
    pub(crate) fn give_up_get(&self, call: &Call, get: u64) {
        let mut state = call.state();
        state.orphan = true;
        let ended = state.ended.take();
        drop(state);
        match ended {
            Some(Ended::Message(message)) => self.books().ready.push_back(message),
            Some(Ended::Done { .. }) => {}
            None => {
                self.cancel_get(get);
            }
        }
    }

    /// Waits until `call` has ended; `None` when `deadline` came first.
    pub(crate) fn wait(&self, call: &Call, deadline: Option<Instant>) -> Option<Ended> {
        loop {
            let mut books = self.books();
            if let Some(ended) = call.state().ended.take() {
                return Some(ended);
            }
            if deadline.is_some_and(|end| end <= Instant::now()) {
                return None;
            }
            if books.reading {
                call.state().thread = Some(thread::current());
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
            self.stop_reading();
        }
    }

    /// Reads what is there, without waiting. Somebody else may be reading: then nothing needs to be done here.
    pub(crate) fn pump(&self) {
        let mut books = self.books();
        if books.reading {
            return;
        }
        books.reading = true;
        drop(books);
        while self.read_one() {}
        self.stop_reading();
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

    /// Lets another waiting thread read.
    fn stop_reading(&self) {
        let mut books = self.books();
        books.reading = false;
        if let Some(next) = books.waiters.pop_front() {
            next.unpark();
        }
    }
}

/// While the host's buffer is full, how long until this side looks for something to read again.
const READ_AGAIN: Duration = Duration::from_millis(10);

impl Books {
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
                    let deadline = body
                        .remaining
                        .and_then(|left| Instant::now().checked_add(left));
                    let Incoming {
                        bytes, attachment, ..
                    } = body;
                    let message = Delivered {
                        header,
                        bytes,
                        attachment,
                        deadline,
                    };
                    if let Some(Ended::Message(orphan)) = mark.finish(Ended::Message(message)) {
                        self.ready.push_back(orphan);
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

impl Call {
    /// Whether the call has ended, for a task: registers its waker if not.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Ended> {
        let mut state = self.state();
        if let Some(ended) = state.ended.take() {
            return Poll::Ready(ended);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The end of the call, if it has come.
    pub(crate) fn take(&self) -> Option<Ended> {
        self.state().ended.take()
    }

    fn has_ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// Ends the call, or gives its end back if nobody waits for it.
    fn finish(&self, ended: Ended) -> Option<Ended> {
        let mut state = self.state();
        if state.orphan {
            return Some(ended);
        }
        state.ended = Some(ended);
        let (thread, waker) = (state.thread.take(), state.waker.take());
        drop(state);
        thread.into_iter().for_each(|thread| thread.unpark());
        waker.into_iter().for_each(Waker::wake);
        None
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    /// The end of a reply.
    pub(crate) fn into_reply(self) -> Result<(), CallError> {
        match self {
            Self::Done {
                status: NtStatus::SUCCESS,
                ..
            } => Ok(()),
            Self::Done {
                status: NtStatus::BUFFER_OVERFLOW,
                ..
            } => Err(CallError::ReplyTooLong),
            Self::Done { status, needed, .. } => Err(CallError::from_status(status, needed)),
            Self::Message(_) => Err(CallError::Disconnected),
        }
    }

    /// The end of a get.
    pub(crate) fn into_message(self) -> Result<Delivered, CallError> {
        match self {
            Self::Message(message) => Ok(message),
            Self::Done { status, needed, .. } => Err(CallError::from_status(status, needed)),
        }
    }
}

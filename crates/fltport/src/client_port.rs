//! The filter's end of a connection, as its owner uses it: sending, asking, closing.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use fltport_engine::connection::State;
use fltport_engine::output::{Outcome, SendKey};
use fltport_engine::{NtStatus, Timeout};

use crate::begun::BegunAsk;
use crate::body::{Body, Reply};
use crate::clock::Limit;
use crate::driver::{Core, Outgoing, Sender};
use crate::driver_plane::Direct;
use crate::error::SendError;
use crate::peer::Peer;
use crate::slot::{News, Slot};
use crate::sync::Mutex;
use crate::sys::{self, Attachment};

/// The filter's end of one connection (`PFLT_PORT` of a client).
///
/// Clones are the same end. Dropping them does not close it: the connection lasts until either side closes it or the
/// server port is shut down.
#[derive(Clone, Debug)]
pub struct ClientPort {
    core: Arc<Core>,
}

/// A message to send: its bytes, and perhaps an open file.
#[derive(Clone, Debug)]
pub struct Outbound<'a> {
    bytes: &'a [u8],
    attachment: Option<Arc<Attachment>>,
}

/// What is known of a connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Names the connection among those of its server port.
    pub id: u64,
    /// Whether both ends are open.
    pub connected: bool,
    /// Gets that wait for a message.
    pub gets: usize,
    /// Messages that wait for a get.
    pub waiting: usize,
    /// Messages that wait for a reply.
    pub outstanding: usize,
    /// Messages delivered so far.
    pub delivered: u64,
    /// Replies that reached their sender.
    pub replied: u64,
    /// Sends that ended at their deadline.
    pub timed_out: u64,
    /// Replies that came too late, twice, or to nothing.
    pub late_replies: u64,
}

/// A send that is under way, and can be given up.
#[derive(Debug)]
pub struct Pending {
    core: Arc<Core>,
    key: SendKey,
}

impl<'a> Outbound<'a> {
    /// A message of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            attachment: None,
        }
    }

    /// With an open file, which the receiver gets at delivery and never before. It must be a regular file that was
    /// opened for reading only; its offset is shared, so both sides read by position.
    #[must_use]
    pub fn attach(mut self, file: Arc<Attachment>) -> Self {
        self.attachment = Some(file);
        self
    }
}

impl<'a> From<&'a [u8]> for Outbound<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Outbound<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::new(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Outbound<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl ClientPort {
    pub(crate) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Sends a message and wants no reply. Blocks until a get of the client has taken it, `timeout`, or disconnect:
    /// nothing is buffered on the way.
    ///
    /// # Errors
    /// [`SendError`]; after a timeout no get of the client ends with the message.
    ///
    /// # References
    /// `FltSendMessage` without a reply buffer.
    #[doc(alias = "FltSendMessage")]
    pub fn notify<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        timeout: Timeout,
    ) -> Result<(), SendError> {
        self.wait(&message.into(), None, timeout, None)
            .and_then(|outcome| finish(outcome).map(|_| ()))
    }

    /// Sends a message and waits for its reply of at most `capacity` payload bytes. One `timeout` covers both; blocks
    /// until the reply, the timeout, or disconnect.
    ///
    /// # Errors
    /// [`SendError`]. A reply whose status says failure is a reply: look at [`Reply::status`].
    ///
    /// # References
    /// `FltSendMessage` with a reply buffer.
    #[doc(alias = "FltSendMessage")]
    pub fn ask<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        capacity: u32,
        timeout: Timeout,
    ) -> Result<Reply, SendError> {
        self.wait(&message.into(), Some(capacity), timeout, None)
            .and_then(finish)
    }

    /// As [`Self::ask`], with the reply written to `reply`, whose length is its capacity. Says what the replier said and
    /// how many bytes it has written. Allocates nothing where both sides are quick.
    ///
    /// # Errors
    /// As [`Self::ask`]; the bytes of [`SendError::ReplyTooLong`] are in `reply` as far as they fit.
    #[doc(alias = "FltSendMessage")]
    pub fn ask_into<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        reply: &mut [u8],
        timeout: Timeout,
    ) -> Result<(NtStatus, usize), SendError> {
        let capacity = u32::try_from(reply.len()).unwrap_or(u32::MAX);
        let outcome = self.wait(&message.into(), Some(capacity), timeout, Some(&mut *reply))?;
        finish_into(outcome, reply)
    }

    /// Begins [`Self::ask`] and returns when a get has taken the message, or when none is posted: one thread can have several
    /// under way, and waits for each when it wants its reply.
    ///
    /// ```
    /// # fn run(port: &fltport::ClientPort) -> Result<(), fltport::SendError> {
    /// use fltport::Timeout;
    ///
    /// let first = port.begin_ask(b"one?", 16, Timeout::Never)?;
    /// let second = port.begin_ask(b"two?", 16, Timeout::Never)?;
    /// let (one, two) = (first.wait()?, second.wait()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SendError::BadAttachment`]; others come from [`BegunAsk::wait`].
    pub fn begin_ask<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        capacity: u32,
        timeout: Timeout,
    ) -> Result<BegunAsk, SendError> {
        let message = message.into();
        check(&message)?;
        let mut limit = Limit::from(timeout);
        let (reply, file) = (Some(capacity), message.attachment.as_ref());
        let core = Arc::clone(&self.core);
        let direct = core.send_at_once(message.bytes, file, reply, limit);
        // From here on, and not from the wait on.
        limit.deadline();
        if let Some(direct) = direct {
            return Ok(BegunAsk::at_once(core, direct, limit));
        }
        let slot = Slot::take_one();
        let outgoing = prepare(&message, slot.copy(message.bytes), reply, timeout);
        let key = core.send(outgoing, Sender::Waits(Arc::clone(&slot)));
        // Nobody may come to wait before its time is over, and then it must not be delivered any more.
        core.watch();
        Ok(BegunAsk::waiting(core, slot, key, limit))
    }

    /// Starts [`Self::ask`] and returns at once. `done` is called exactly once, on whichever thread learns of the end,
    /// perhaps before this returns: it must not block. A thousand pending asks need no thread.
    pub fn ask_then<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        capacity: u32,
        timeout: Timeout,
        done: impl FnOnce(Result<Reply, SendError>) + Send + 'static,
    ) -> Pending {
        self.start(&message.into(), Some(capacity), timeout, done)
    }

    /// Starts [`Self::notify`] and returns at once; otherwise as [`Self::ask_then`].
    pub fn notify_then<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        timeout: Timeout,
        done: impl FnOnce(Result<(), SendError>) + Send + 'static,
    ) -> Pending {
        self.start(&message.into(), None, timeout, |result| {
            done(result.map(|_| ()))
        })
    }

    /// [`Self::ask`] as a future, for any runtime. Dropping the future gives the send up.
    pub fn ask_async<'a>(
        &self,
        message: impl Into<Outbound<'a>>,
        capacity: u32,
        timeout: Timeout,
    ) -> Asking {
        let shared = Arc::new(Mutex::new(Answered::default()));
        let told = Arc::clone(&shared);
        let pending = self.start(&message.into(), Some(capacity), timeout, move |result| {
            let mut state = told.lock().unwrap_or_else(PoisonError::into_inner);
            state.result = Some(result);
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        });
        Asking {
            shared,
            pending: Some(pending),
        }
    }

    /// Closes the filter's end. The client's gets end, its calls fail from now on, blocked sends return
    /// [`SendError::Disconnected`]. Never waits, so it may be called from any callback.
    ///
    /// # References
    /// `FltCloseClientPort`.
    #[doc(alias = "FltCloseClientPort")]
    pub fn close(&self) {
        self.core.close();
    }

    /// The process that connected.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        self.core.peer()
    }

    /// What is known of the connection now.
    #[must_use]
    pub fn info(&self) -> ConnectionInfo {
        let (state, (waiting, outstanding), gets, counters) = self.core.statistics();
        ConnectionInfo {
            id: self.core.id(),
            connected: state == State::Connected,
            gets,
            waiting,
            outstanding,
            delivered: counters.delivered,
            replied: counters.replied,
            timed_out: counters.timed_out,
            late_replies: counters.late_replies,
        }
    }

    /// Most payload bytes of a message or a reply.
    #[must_use]
    pub fn max_message(&self) -> u32 {
        self.core.max_message()
    }

    fn wait(
        &self,
        message: &Outbound<'_>,
        reply: Option<u32>,
        timeout: Timeout,
        into: Option<&mut [u8]>,
    ) -> Result<Outcome<Body>, SendError> {
        check(message)?;
        let mut limit = Limit::from(timeout);
        let file = message.attachment.as_ref();
        let asked = match self.core.send_at_once(message.bytes, file, reply, limit) {
            Some(Direct::Delivered) => return Ok(Outcome::Delivered),
            Some(Direct::Asked(asked)) => asked,
            None => {
                let slot = Slot::take_one();
                let outgoing = prepare(message, slot.copy(message.bytes), reply, timeout);
                self.core.send(outgoing, Sender::Waits(Arc::clone(&slot)));
                // Not before the engine's own, or the wait would end in a spin between the two.
                let news = slot.wait(limit.deadline(), || self.core.handle_timeout());
                slot.give_back();
                match news {
                    News::Ended(outcome) => return Ok(outcome),
                    News::Delivered(asked) => asked,
                }
            }
        };
        Ok(self.core.wait_for_reply(asked, limit, into))
    }

    fn start(
        &self,
        message: &Outbound<'_>,
        reply: Option<u32>,
        timeout: Timeout,
        done: impl FnOnce(Result<Reply, SendError>) + Send + 'static,
    ) -> Pending {
        let key = match check(message) {
            Ok(()) => self.core.send(
                prepare(message, message.bytes.to_vec(), reply, timeout),
                Sender::Calls(Box::new(move |outcome| done(finish(outcome)))),
            ),
            Err(error) => {
                done(Err(error));
                SendKey(0)
            }
        };
        Pending {
            core: Arc::clone(&self.core),
            key,
        }
    }
}

impl Pending {
    /// Gives the send up. Its `done` is called with [`SendError::Cancelled`], unless it has ended already.
    pub fn cancel(self) {
        self.core.cancel(self.key);
    }
}

/// The future of [`ClientPort::ask_async`].
#[derive(Debug)]
pub struct Asking {
    shared: Arc<Mutex<Answered>>,
    pending: Option<Pending>,
}

#[derive(Debug, Default)]
struct Answered {
    result: Option<Result<Reply, SendError>>,
    waker: Option<Waker>,
}

impl Future for Asking {
    type Output = Result<Reply, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(result) = state.result.take() else {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.pending = None;
        Poll::Ready(result)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.cancel();
        }
    }
}

fn check(message: &Outbound<'_>) -> Result<(), SendError> {
    let file = message.attachment.as_ref();
    if file.is_some_and(|file| !sys::check_attachment(file)) {
        return Err(SendError::BadAttachment);
    }
    Ok(())
}

fn prepare(
    message: &Outbound<'_>,
    bytes: Vec<u8>,
    reply: Option<u32>,
    timeout: Timeout,
) -> Outgoing {
    let body = Body {
        bytes,
        attachment: message.attachment.clone(),
        ..Body::default()
    };
    Outgoing {
        body,
        reply,
        timeout,
    }
}

/// The end of a send whose reply goes to `reply`, unless it is there already.
pub(crate) fn finish_into(
    outcome: Outcome<Body>,
    reply: &mut [u8],
) -> Result<(NtStatus, usize), SendError> {
    match outcome {
        // It came through memory, and is there.
        Outcome::Replied {
            status,
            reply: body,
            copied,
        } if body.bytes.is_empty() && !body.cut => {
            let copied = usize::try_from(copied).unwrap_or(usize::MAX);
            Ok((status, copied.min(reply.len())))
        }
        outcome => {
            let result = finish(outcome);
            if let Ok(came) | Err(SendError::ReplyTooLong(came)) = &result {
                let bytes = reply.iter_mut().zip(&came.bytes);
                bytes.for_each(|(to, from)| *to = *from);
            }
            result.map(|came| (came.status, came.bytes.len().min(reply.len())))
        }
    }
}

pub(crate) fn finish(outcome: Outcome<Body>) -> Result<Reply, SendError> {
    match outcome {
        Outcome::Delivered => Ok(Reply {
            status: NtStatus::SUCCESS,
            bytes: Vec::new(),
        }),
        Outcome::Replied {
            status,
            reply,
            copied,
        } => {
            let mut bytes = reply.bytes;
            let whole = !reply.cut && bytes.len() <= usize::try_from(copied).unwrap_or(usize::MAX);
            bytes.truncate(usize::try_from(copied).unwrap_or(usize::MAX));
            let reply = Reply { status, bytes };
            if whole {
                Ok(reply)
            } else {
                Err(SendError::ReplyTooLong(reply))
            }
        }
        Outcome::TimedOut { delivered } => Err(SendError::TimedOut { delivered }),
        Outcome::Disconnected { delivered } => Err(SendError::Disconnected { delivered }),
        Outcome::Cancelled { delivered } => Err(SendError::Cancelled { delivered }),
        Outcome::Refused(status) => Err(SendError::Refused(status)),
    }
}

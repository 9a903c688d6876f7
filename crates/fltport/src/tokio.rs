//! A client as futures of a tokio runtime: the same connection, the same rules, no threads of its own.
//!
//! The filter's side needs nothing here: [`crate::ClientPort::ask_async`] is a future for any runtime.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fltport_engine::NtStatus;
use tokio::io::unix::AsyncFd;

use crate::client_call::{Call, Ended};
use crate::error::CallError;
use crate::message::Message;
use crate::posted::At;
use crate::sys;

/// An asynchronous [`crate::Client`]. Calls may be made from several tasks at once.
///
/// A host that does not read its socket, because it was stopped or is overrun, holds up the thread of the task that sends.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = fltport::tokio::Client::new(fltport::Client::connect(r"\ScannerPort", b"")?)?;
/// loop {
///     let message = client.next_message().await?;
///     client.reply(message, b"clean").await?;
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    client: crate::Client,
    readable: AsyncFd<sys::Polled>,
}

impl Client {
    /// Makes a connected client asynchronous. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system's, when the runtime cannot poll the connection.
    pub fn new(client: crate::Client) -> io::Result<Self> {
        let readable = sys::register(Arc::clone(client.connection()))?;
        Ok(Self { client, readable })
    }

    /// The next message. Dropping the future loses nothing: a message that came is for the next call.
    ///
    /// # Errors
    /// As [`crate::Client::next_message`].
    pub async fn next_message(&self) -> Result<Message, CallError> {
        let mut get = self.client.post_polled();
        let ended = match get.at() {
            At::Host(call, _) => self.ended_call(call).await,
            At::Memory(slot) => {
                let (slot, size) = (*slot, self.client.whole_message());
                let connection = self.client.connection();
                let _registered = OnDrop(|| connection.forget_waker(slot));
                self.ended(|context| match get.look() {
                    Some(ended) => Poll::Ready(ended),
                    None => connection.wake_on_ring(slot, size, context.waker()),
                })
                .await
            }
        };
        get.end(Some(ended)).unwrap_or(Err(CallError::Disconnected))
    }

    /// Replies with `STATUS_SUCCESS`.
    ///
    /// # Errors
    /// As [`Message::reply`].
    pub async fn reply(&self, message: Message, payload: &[u8]) -> Result<(), CallError> {
        let (connection, message_id) = message.spend();
        let call = connection.start_reply(message_id, NtStatus::SUCCESS, payload);
        connection.replied(self.ended_call(&call).await, payload)
    }

    /// Sends a request to the filter's message callback.
    ///
    /// # Errors
    /// As [`crate::Client::send`].
    pub async fn send(&self, input: &[u8], capacity: u32) -> Result<Vec<u8>, CallError> {
        let call = self.client.connection().start_request(input, capacity);
        match self.ended_call(&call).await {
            Ended::Done {
                status: NtStatus::SUCCESS,
                bytes,
                ..
            } => Ok(bytes),
            Ended::Done { status, needed, .. } => Err(CallError::from_status(status, needed)),
            Ended::Message(_) => Err(CallError::Disconnected),
        }
    }

    async fn ended_call(&self, call: &Call) -> Ended {
        let _registered = OnDrop(|| call.forget_waker());
        self.ended(|context| call.poll(context)).await
    }

    /// Reads for all tasks while its own call lasts. Another task may end this call, so both are waited for.
    async fn ended(&self, poll: impl Fn(&Context<'_>) -> Poll<Ended>) -> Ended {
        loop {
            self.client.connection().pump();
            // One future for each wait: `poll_read_ready` would remember the last task only, which may give up.
            let mut readable = pin!(self.readable.readable());
            let turn = poll_fn(|context| {
                if let Poll::Ready(ended) = poll(context) {
                    return Poll::Ready(Some(ended));
                }
                readable.as_mut().poll(context).map(|ready| {
                    // Cleared before it is read: what comes after that is seen again.
                    ready.into_iter().for_each(|mut ready| ready.clear_ready());
                    None
                })
            });
            if let Some(ended) = turn.await {
                return ended;
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

/// What is done when a future is over or dropped: a waker that is kept longer would keep its task.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

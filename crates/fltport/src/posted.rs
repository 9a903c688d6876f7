//! A get that is posted: waited for, looked at, or withdrawn by whoever holds it. Withdrawing never loses a message.

use std::sync::Arc;
use std::time::Duration;

use crate::client_call::{Call, Ended};
use crate::client_driver::Connection;
use crate::error::CallError;
use crate::message::Message;
use crate::sync::Instant;

/// A get that waits for its message (an overlapped `FilterGetMessage`), of [`crate::Client::post_get`].
///
/// Dropping it withdraws the get. A message that was on its way to it goes to another get, or to the next one.
#[derive(Debug)]
#[must_use = "a get that is dropped is withdrawn"]
pub struct PostedGet {
    connection: Arc<Connection>,
    call: Arc<Call>,
    get: u64,
    over: bool,
}

impl PostedGet {
    pub(crate) fn new(connection: &Arc<Connection>, size: u32) -> Self {
        let (call, get) = connection.start_get(size);
        Self {
            connection: Arc::clone(connection),
            call,
            get,
            over: false,
        }
    }

    /// Waits for the message. Blocks until one comes or the connection is over.
    ///
    /// # Errors
    /// As [`crate::Client::get`].
    pub fn wait(mut self) -> Result<Message, CallError> {
        let ended = self.connection.wait(&self.call, None);
        self.end(ended).unwrap_or(Err(CallError::Disconnected))
    }

    /// The message, or why there will be none, if either comes within `wait`; zero only looks. To be called no more after
    /// it gave something.
    pub fn wait_within(&mut self, wait: Duration) -> Option<Result<Message, CallError>> {
        let ended = if wait.is_zero() {
            self.connection.pump();
            self.call.take()
        } else {
            let deadline = Instant::now().checked_add(wait);
            self.connection.wait(&self.call, deadline)
        };
        self.end(ended)
    }

    /// Withdraws the get, and blocks until the host has said whether that came in time: either a message is here, or its
    /// sender still has it. Dropping the get does not wait for
    /// that word; a message that was on its way is then for the next get.
    ///
    /// # Errors
    /// [`CallError::Cancelled`] if it was withdrawn, and those of [`Self::wait`].
    ///
    /// # References
    /// `CancelIoEx`.
    #[doc(alias = "CancelIoEx")]
    pub fn cancel(self) -> Result<Message, CallError> {
        self.connection.withdraw_get(self.get);
        self.wait()
    }

    /// The end of the get if it has come, without waiting; otherwise the get is withdrawn.
    pub(crate) fn give_up(mut self) -> Option<Result<Message, CallError>> {
        self.over = true;
        let ended = self.connection.give_up_get(&self.call, self.get)?;
        Some(self.message(ended))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// What has ended the get, if anything has.
    pub(crate) fn end(&mut self, ended: Option<Ended>) -> Option<Result<Message, CallError>> {
        let ended = ended?;
        self.over = true;
        self.connection.end_get(self.get);
        Some(self.message(ended))
    }

    fn message(&self, ended: Ended) -> Result<Message, CallError> {
        Ok(Message::new(
            Arc::clone(&self.connection),
            ended.into_message()?,
        ))
    }
}

impl Drop for PostedGet {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let ended = self.connection.give_up_get(&self.call, self.get);
        if let Some(Ended::Message(message)) = ended {
            self.connection.keep(message);
        }
    }
}

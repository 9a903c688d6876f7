//! A get that is posted: waited for, looked at, or withdrawn by whoever holds it. Withdrawing never loses a message.

use std::sync::Arc;
use std::time::Duration;

use crate::client_call::{Call, Ended};
use crate::client_driver::Connection;
use crate::error::CallError;
use crate::message::Message;
use crate::plane::client::Slot;
use crate::sync::Instant;

/// A get that waits for its message (an overlapped `FilterGetMessage`), of [`crate::Client::post_get`].
///
/// Dropping it withdraws the get. A message that was on its way to it goes to another get, or to the next one.
#[derive(Debug)]
#[must_use = "a get that is dropped is withdrawn"]
pub struct PostedGet {
    connection: Arc<Connection>,
    at: At,
    size: u32,
    over: bool,
}

/// Where a get is posted.
#[derive(Debug)]
pub(crate) enum At {
    /// At the host, by a frame.
    Host(Arc<Call>, u64),
    /// In memory.
    Memory(Slot),
}

impl PostedGet {
    /// Posts a get. `polled`: nobody will wait in it, a frame tells of its end.
    pub(crate) fn new(connection: &Arc<Connection>, size: u32, polled: bool) -> Self {
        let at = connection.post(size, polled);
        Self {
            connection: Arc::clone(connection),
            at,
            size,
            over: false,
        }
    }

    /// Posts a get that is over after `last`, of the same size and receiver, or the first of several such gets.
    pub(crate) fn behind(
        connection: &Arc<Connection>,
        size: u32,
        last: Option<&Self>,
        ahead: usize,
    ) -> Option<Self> {
        let at = connection.post_behind(size, last.map(|last| &last.at), ahead)?;
        Some(Self {
            connection: Arc::clone(connection),
            at,
            size,
            over: false,
        })
    }

    /// A get that is posted in memory.
    pub(crate) fn in_memory(connection: &Arc<Connection>, size: u32, slot: Slot) -> Self {
        Self {
            connection: Arc::clone(connection),
            at: At::Memory(slot),
            size,
            over: false,
        }
    }

    /// The get, once the host can see it.
    pub(crate) fn leave(self) -> Self {
        if matches!(self.at, At::Host(..)) {
            self.connection.leave_all();
        }
        self
    }

    /// Waits for the message. Blocks until one comes or the connection is over.
    ///
    /// # Errors
    /// As [`crate::Client::get`].
    pub fn wait(mut self) -> Result<Message, CallError> {
        let ended = self.wait_until(None);
        self.end(ended).unwrap_or(Err(CallError::Disconnected))
    }

    /// The message, or why there will be none, if either comes within `wait`; zero only looks. To be called no more after
    /// it gave something.
    pub fn wait_within(&mut self, wait: Duration) -> Option<Result<Message, CallError>> {
        let ended = if wait.is_zero() {
            self.connection.pump();
            self.look()
        } else {
            self.wait_until(Instant::now().checked_add(wait))
        };
        self.end(ended)
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Ended> {
        match &self.at {
            At::Host(call, _) => self.connection.wait(call, deadline),
            At::Memory(slot) => self.connection.wait_slot(*slot, self.size, deadline),
        }
    }

    /// How it has ended, if it has.
    pub(crate) fn look(&self) -> Option<Ended> {
        match &self.at {
            At::Host(call, _) => call.take(),
            At::Memory(slot) => self
                .connection
                .look_around(*slot, self.size, Some(Instant::now())),
        }
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
        match &self.at {
            At::Host(_, get) => self.connection.withdraw_get(*get),
            At::Memory(slot) => self.connection.withdraw_and_stay(*slot),
        }
        self.wait()
    }

    /// The end of the get if it has come, without waiting; otherwise the get is withdrawn.
    pub(crate) fn give_up(mut self) -> Option<Result<Message, CallError>> {
        self.over = true;
        let ended = self.take_back()?;
        Some(self.message(ended))
    }

    #[cfg(feature = "tokio")]
    pub(crate) const fn at(&self) -> &At {
        &self.at
    }

    fn take_back(&self) -> Option<Ended> {
        match &self.at {
            At::Host(call, get) => self.connection.give_up_get(call, *get),
            At::Memory(slot) => {
                self.connection
                    .withdraw_slot(*slot, self.size, Some(Instant::now()))
            }
        }
    }

    /// What has ended the get, if anything has.
    pub(crate) fn end(&mut self, ended: Option<Ended>) -> Option<Result<Message, CallError>> {
        let ended = ended?;
        self.over = true;
        if let At::Host(_, get) = self.at {
            self.connection.end_get(get);
        }
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
        if let Some(Ended::Message(message)) = self.take_back() {
            self.connection.keep(message);
        }
    }
}

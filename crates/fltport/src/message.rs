//! A message that a client has got, and the reply that it owes.

use std::sync::Arc;

use fltport_engine::NtStatus;
use fltport_engine::wire::MessageHeader;

use crate::client_call::{Delivered, Until};
use crate::client_driver::Connection;
use crate::error::CallError;
use crate::payload::Payload;
use crate::sync::Instant;
use crate::sys::Attachment;

/// A message of the filter. If it wants a reply, it is an obligation: [`Message::reply`] spends it, and dropping it tells
/// the sender at once that there will be none (`STATUS_CANCELLED`), instead of letting it wait for its deadline.
#[derive(Debug)]
#[must_use = "a message may want a reply; dropping it tells the sender that there is none"]
pub struct Message {
    connection: Arc<Connection>,
    header: MessageHeader,
    payload: Payload,
    attachment: Option<Attachment>,
    deadline: Option<Until>,
    owes_reply: bool,
}

impl Message {
    pub(crate) fn new(connection: Arc<Connection>, message: Delivered) -> Self {
        let Delivered {
            header,
            payload,
            attachment,
            deadline,
        } = message;
        let owes_reply = header.reply_length != 0;
        Self {
            connection,
            header,
            payload,
            attachment,
            deadline,
            owes_reply,
        }
    }

    /// Nothing yet, and no obligation.
    #[inline]
    pub(crate) fn empty(connection: &Arc<Connection>) -> Self {
        Self {
            connection: Arc::clone(connection),
            header: MessageHeader::new(0, 0),
            payload: Payload::empty(),
            attachment: None,
            deadline: None,
            owes_reply: false,
        }
    }

    /// Makes it this message, whose payload is what `copy` puts there.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        header: MessageHeader,
        deadline: u64,
        payload: impl FnOnce(&mut Payload),
    ) {
        self.header = header;
        self.owes_reply = header.reply_length != 0;
        self.deadline = (deadline != 0).then_some(Until::Nanos(deadline));
        payload(&mut self.payload);
    }

    /// The payload, without the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload.as_slice()
    }

    /// The header, as a Windows program would see it.
    #[must_use]
    pub const fn header(&self) -> MessageHeader {
        self.header
    }

    /// Payload bytes that the reply may have; `None` if the sender wants no reply.
    #[must_use]
    pub const fn reply_capacity(&self) -> Option<u32> {
        self.header.reply_capacity()
    }

    /// When the sender stops waiting; `None` without a limit. A reply after it finds nobody.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline?.instant()
    }

    /// Whether the sender has stopped waiting, as far as is known here. Work on the answer can stop then.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.owes_reply && self.connection.is_abandoned(self.header.message_id)
    }

    /// The open file that came with the message: a regular file, opened for reading only, whose offset is shared with
    /// the sender. Read it by position.
    #[must_use]
    pub const fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// Takes the open file out of the message.
    pub const fn take_attachment(&mut self) -> Option<Attachment> {
        self.attachment.take()
    }

    /// Replies with `STATUS_SUCCESS` and `payload`. After `Ok` the reply is its sender's, whatever happens next but the death of
    /// the filter's process. Through memory this blocks for nothing; as a packet until the host has matched the reply with its
    /// sender.
    ///
    /// # Errors
    /// [`CallError::NoWaiter`] if the sender has given up, [`CallError::ReplyTooLong`] if the payload was cut (the message
    /// counts as answered), [`CallError::Disconnected`].
    ///
    /// # References
    /// `FilterReplyMessage`.
    #[doc(alias = "FilterReplyMessage")]
    pub fn reply(self, payload: &[u8]) -> Result<(), CallError> {
        self.reply_with(NtStatus::SUCCESS, payload)
    }

    /// Replies with a status of one's own, which is what the send returns.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn reply_with(mut self, status: NtStatus, payload: &[u8]) -> Result<(), CallError> {
        self.owes_reply = false;
        self.connection
            .reply(self.header.message_id, status, payload)
    }

    /// Gives up the obligation to reply: whoever has the number answers with [`crate::Client::reply_to`], or nobody does
    /// and the sender waits for its deadline. The header has the number, see [`Self::header`].
    pub fn detach(mut self) -> u64 {
        self.owes_reply = false;
        self.connection.forget(self.header.message_id);
        self.header.message_id
    }

    /// Replies without waiting for the outcome.
    pub fn reply_and_forget(mut self, payload: &[u8]) {
        self.owes_reply = false;
        self.connection
            .start_reply(self.header.message_id, NtStatus::SUCCESS, payload);
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn spend(mut self) -> (Arc<Connection>, u64) {
        self.owes_reply = false;
        (Arc::clone(&self.connection), self.header.message_id)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if self.owes_reply {
            self.connection
                .start_reply(self.header.message_id, NtStatus::CANCELLED, &[]);
        }
    }
}

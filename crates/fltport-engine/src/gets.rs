//! Where the words of posted gets are, and what a link says of them to [`crate::questions`].
//!
//! Which get takes which message is the engine's to decide. Whether that get is still posted is known where its word is:
//! on a link of frames here, in the order of what the client said; on memory that both sides see, there.

use crate::output::SendKey;
use crate::time::Deadline;
use crate::wire::MessageHeader;

/// A message on its way into a get, with what its sender gave.
#[derive(Debug)]
pub struct Offer<B, S> {
    /// Names the send.
    pub key: SendKey,
    /// The message.
    pub body: B,
    /// Payload bytes that the sender can take back; `None` if it wants no reply.
    pub reply: Option<u32>,
    /// When the sender gives up.
    pub deadline: Deadline,
    /// The driver's mark of the send.
    pub sender: S,
}

/// Where the words of posted gets are.
pub trait Gets<B, S> {
    /// Puts a message into a get, if that is still posted.
    fn deliver(&mut self, get: u64, offer: Offer<B, S>) -> Delivery<B, S>;
    /// Tells a get that it is too small for a message of which it would need this many bytes, header included.
    fn refuse(&mut self, get: u64, needed: u32) -> Refusal;
}

/// What became of [`Gets::deliver`].
#[derive(Debug)]
pub enum Delivery<B, S> {
    /// The get was withdrawn; the message is for the next one.
    Withdrawn(Offer<B, S>),
    /// The get has it. The sender of a message that wants no reply comes back to be told; the other waits with the link.
    Done(Option<S>),
    /// The get is to have it by [`crate::output::Output::Deliver`]; who waits for the reply does so with the link.
    Announced {
        /// The header that the link has made.
        header: MessageHeader,
        /// When the sender gives up.
        deadline: Deadline,
        /// The message.
        body: B,
        /// The sender of a message that wants no reply.
        delivered: Option<S>,
    },
    /// The get is to have it by [`crate::output::Output::Deliver`], and everything else is the engine's.
    Framed(Offer<B, S>),
}

/// What became of [`Gets::refuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The get was withdrawn; it is told nothing.
    Withdrawn,
    /// The get has been told.
    Done,
    /// The get is to be told by [`crate::output::Output::GetFailed`].
    Framed,
}

/// The link on which everything is a frame: what the client says comes in order, so a get that is here is posted.
#[derive(Clone, Copy, Debug)]
pub struct Frames;

impl<B, S> Gets<B, S> for Frames {
    fn deliver(&mut self, _: u64, offer: Offer<B, S>) -> Delivery<B, S> {
        Delivery::Framed(offer)
    }

    fn refuse(&mut self, _: u64, _: u32) -> Refusal {
        Refusal::Framed
    }
}

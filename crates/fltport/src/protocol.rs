//! Typed messages: one type for each thing that crosses a port, and no bytes by hand.
//!
//! A [`Protocol`] names the types. They are plain structures whose layout is their content: zerocopy refuses padding at
//! compile time, so the size that is sent is the size that is meant. [`mod@file`] is the protocol of the filter host and its
//! services, [`control`] that of its command line.

use std::marker::PhantomData;

use fltport_engine::{NtStatus, Timeout};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::client::Client;
use crate::client_port::{ClientPort, Outbound, Pending};
use crate::error::{CallError, SendError};
use crate::message::Message;
use crate::sys::Attachment;

pub mod control;
#[cfg(unix)]
pub mod explain;
pub mod file;
pub mod mute;

/// The types of one port's messages.
///
/// ```
/// use fltport::protocol::Protocol;
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Question { size: u64, pid: u32, reserved: u32 } // without `reserved` this does not compile
///
/// struct Scan;
/// impl Protocol for Scan {
///     type Question = Question;
///     type Answer = u32;
///     type Request = [u8; 8];
///     type Response = u64;
/// }
/// ```
pub trait Protocol {
    /// What the filter asks.
    type Question: FromBytes + IntoBytes + Immutable;
    /// What the service answers.
    type Answer: FromBytes + IntoBytes + Immutable;
    /// What the service requests.
    type Request: FromBytes + IntoBytes + Immutable;
    /// What the filter responds.
    type Response: FromBytes + IntoBytes + Immutable;
}

/// Bytes that are not of the protocol's type: the peer speaks another protocol, or another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {got} bytes where the protocol has {expected}")]
pub struct WrongSize {
    /// Bytes that came.
    pub got: usize,
    /// Bytes of the type.
    pub expected: usize,
}

/// Why a typed question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The send failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The service replied with a failure.
    #[error("the service answered {0}")]
    Status(NtStatus),
    /// The service's answer is of another protocol.
    #[error(transparent)]
    WrongSize(#[from] WrongSize),
}

/// A [`ClientPort`] that speaks `P`.
#[derive(Debug)]
pub struct TypedPort<P> {
    port: ClientPort,
    protocol: PhantomData<fn() -> P>,
}

/// A [`Client`] that speaks `P`.
#[derive(Debug)]
pub struct TypedClient<P> {
    client: Client,
    protocol: PhantomData<fn() -> P>,
}

/// A [`Message`] of `P`, with its question read.
#[derive(Debug)]
#[must_use = "a message may want a reply; dropping it tells the sender that there is none"]
pub struct TypedMessage<P: Protocol> {
    message: Message,
    question: P::Question,
}

impl<P: Protocol> TypedPort<P> {
    /// Speaks `P` on `port`.
    #[must_use]
    pub const fn new(port: ClientPort) -> Self {
        Self {
            port,
            protocol: PhantomData,
        }
    }

    /// Asks, and waits for the answer; otherwise as [`ClientPort::ask`].
    ///
    /// # Errors
    /// [`AskError`].
    pub fn ask(&self, question: &P::Question, timeout: Timeout) -> Result<P::Answer, AskError> {
        let reply = self
            .port
            .ask(question.as_bytes(), capacity::<P::Answer>(), timeout)?;
        answer::<P>(&reply)
    }

    /// Starts to ask and returns at once; otherwise as [`ClientPort::ask_then`].
    pub fn ask_then(
        &self,
        question: &P::Question,
        attachment: Option<std::sync::Arc<Attachment>>,
        timeout: Timeout,
        done: impl FnOnce(Result<P::Answer, AskError>) + Send + 'static,
    ) -> Pending {
        let message = Outbound::new(question.as_bytes());
        let message = match attachment {
            Some(file) => message.attach(file),
            None => message,
        };
        self.port
            .ask_then(message, capacity::<P::Answer>(), timeout, |result| {
                done(
                    result
                        .map_err(AskError::from)
                        .and_then(|reply| answer::<P>(&reply)),
                );
            })
    }

    /// The port, for what is not typed.
    #[must_use]
    pub const fn port(&self) -> &ClientPort {
        &self.port
    }
}

impl<P: Protocol> TypedClient<P> {
    /// Speaks `P` on `client`.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self {
            client,
            protocol: PhantomData,
        }
    }

    /// The next question; otherwise as [`Client::next_message`].
    ///
    /// # Errors
    /// As [`Client::next_message`]. A message of another size is answered with `STATUS_INVALID_PARAMETER` and skipped.
    pub fn next_message(&self) -> Result<TypedMessage<P>, CallError> {
        loop {
            let message = self.client.next_message()?;
            match read::<P::Question>(message.payload()) {
                Ok(question) => return Ok(TypedMessage { message, question }),
                Err(_) if message.reply_capacity().is_none() => {}
                // Whether the sender still waits for this is its own business.
                Err(_) => message
                    .reply_with(NtStatus::INVALID_PARAMETER, &[])
                    .unwrap_or_default(),
            }
        }
    }

    /// Requests, and waits for the response; otherwise as [`Client::send`].
    ///
    /// # Errors
    /// As [`Client::send`]; a response of another size is `STATUS_INVALID_PARAMETER`.
    pub fn request(&self, request: &P::Request) -> Result<P::Response, CallError> {
        let bytes = self
            .client
            .send(request.as_bytes(), capacity::<P::Response>())?;
        read(&bytes).map_err(|_| CallError::Status(NtStatus::INVALID_PARAMETER))
    }

    /// The client, for what is not typed.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }
}

impl<P: Protocol> TypedMessage<P> {
    /// The question.
    #[must_use]
    pub const fn question(&self) -> &P::Question {
        &self.question
    }

    /// The message, for its attachment and deadline.
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Answers; otherwise as [`Message::reply`].
    ///
    /// # Errors
    /// As [`Message::reply`].
    pub fn reply(self, answer: &P::Answer) -> Result<(), CallError> {
        self.message.reply(answer.as_bytes())
    }
}

/// Reads a value of a type without padding.
///
/// # Errors
/// [`WrongSize`] unless `bytes` is exactly as long as the type.
pub fn read<T: FromBytes>(bytes: &[u8]) -> Result<T, WrongSize> {
    T::read_from_bytes(bytes).map_err(|_| WrongSize {
        got: bytes.len(),
        expected: size_of::<T>(),
    })
}

fn capacity<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

fn answer<P: Protocol>(reply: &crate::Reply) -> Result<P::Answer, AskError> {
    if reply.status != NtStatus::SUCCESS {
        return Err(AskError::Status(reply.status));
    }
    Ok(read(&reply.bytes)?)
}

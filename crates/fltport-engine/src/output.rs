//! Everything the engine can ask of whoever drives a connection.
//!
//! Outputs are taken with [`crate::connection::Connection::poll_output`] after each input, in order. They fall in three
//! kinds, and a driver treats each kind alike: what goes to the peer, what goes to the filter, what ends a send.

use crate::status::NtStatus;
use crate::time::Deadline;
use crate::wire::MessageHeader;

/// Bytes that travel: the engine only needs their number.
pub trait Body {
    /// Payload bytes.
    fn length(&self) -> u32;
}

/// The name of one send of a connection, in the order of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendKey(pub u64);

/// The name of one request of the client whose callback runs or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// How a send ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<B> {
    /// No reply was wanted; a get has taken the message.
    Delivered,
    /// A reply came. `copied` payload bytes of it are the sender's; `status` is what the replier said, or
    /// [`NtStatus::BUFFER_OVERFLOW`] if it said too much.
    Replied {
        /// The reply's status.
        status: NtStatus,
        /// The reply's bytes, perhaps more than the sender may see.
        reply: B,
        /// Bytes of `reply` that the sender may see.
        copied: u32,
    },
    /// The deadline passed. If it was not delivered, no get will ever see the message.
    TimedOut {
        /// Whether a get had taken the message.
        delivered: bool,
    },
    /// The connection ended.
    Disconnected {
        /// Whether a get had taken the message.
        delivered: bool,
    },
    /// The sender gave up by itself.
    Cancelled {
        /// Whether a get had taken the message.
        delivered: bool,
    },
    /// Refused at once: the message is longer than the port allows, or too many wait already.
    Refused(NtStatus),
}

impl<B> Outcome<B> {
    /// What `FltSendMessage` returns for this outcome.
    #[must_use]
    pub const fn status(&self) -> NtStatus {
        match self {
            Self::Delivered => NtStatus::SUCCESS,
            Self::Replied { status, .. } | Self::Refused(status) => *status,
            Self::TimedOut { .. } => NtStatus::TIMEOUT,
            Self::Disconnected { .. } => NtStatus::PORT_DISCONNECTED,
            Self::Cancelled { .. } => NtStatus::THREAD_IS_TERMINATING,
        }
    }
}

/// One thing to do. `S` is the driver's own mark of a send, handed back when that send ends.
#[derive(Debug)]
pub enum Output<B, S> {
    /// To the peer: the connection is made or refused.
    Connected(NtStatus),
    /// To the peer: this get takes this message.
    Deliver {
        /// The get, by the client's number.
        get: u64,
        /// Header of the message.
        header: MessageHeader,
        /// When the sender gives up, for the receiver to see.
        deadline: Deadline,
        /// The message.
        body: B,
    },
    /// To the peer: this get ends without a message.
    GetFailed {
        /// The get, by the client's number.
        get: u64,
        /// Why.
        status: NtStatus,
        /// With [`NtStatus::BUFFER_TOO_SMALL`]: bytes needed, header included.
        needed: u32,
    },
    /// To the peer: what became of its reply.
    ReplyDone {
        /// The reply, by the client's number.
        reply: u64,
        /// What `FilterReplyMessage` returns.
        status: NtStatus,
    },
    /// To the peer: the answer to its request.
    RequestDone {
        /// The request, by the client's number.
        request: u64,
        /// What the callback returned.
        status: NtStatus,
        /// What the callback wrote.
        body: Option<B>,
    },
    /// To the peer, a hint: nobody waits for this message's reply any more.
    Abandoned {
        /// The message.
        message_id: u64,
    },
    /// To the peer: the connection is over, apart from requests whose callbacks still run.
    Disconnected,
    /// To the transport: close it, after what was said before.
    Close,
    /// To the filter: run the message callback, then say so with `handle_request_returned`.
    RunMessage {
        /// Names the call in `handle_request_returned`.
        request: RequestKey,
        /// The client's bytes.
        input: B,
        /// Bytes that the callback may write.
        capacity: u32,
    },
    /// To the filter: run the disconnect callback, then say so with `handle_disconnect_returned`.
    RunDisconnect,
    /// To the port: this connection no longer counts against the port's limit.
    ReleaseSlot,
    /// To the sender: the send is over.
    Finished {
        /// The driver's mark of the send.
        sender: S,
        /// How it ended.
        outcome: Outcome<B>,
    },
}

//! Bytes on a Linux connection, and the two headers that Windows programs know.
//!
//! A frame is a fixed header of 40 bytes and a payload. Frames of more than [`FRAME_MAX`] bytes are cut: the header and
//! the first part come first, [`Kind::Chunk`] frames with the rest follow at once. Every field that a kind does not use
//! is zero, on sending and on receiving. Integers are in the machine's own order: both ends are on one machine.
//!
//! Parsing is the only way to get a [`ToHost`] or a [`ToClient`]; there is nothing to validate afterwards.

use core::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::status::NtStatus;

/// `FILTER_MESSAGE_HEADER`: in front of every message, 16 bytes on every ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct MessageHeader {
    /// Bytes that the sender can take back, header included; zero if it wants no reply.
    pub reply_length: u32,
    reserved: u32,
    /// Names the message in the reply; zero if no reply is wanted.
    pub message_id: u64,
}

/// `FILTER_REPLY_HEADER`: in front of every reply, 16 bytes on every ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct ReplyHeader {
    /// What the send returns.
    pub status: u32,
    reserved: u32,
    /// The message that is answered.
    pub message_id: u64,
}

const _: () = assert!(size_of::<MessageHeader>() == 16 && align_of::<MessageHeader>() == 8);
const _: () = assert!(core::mem::offset_of!(MessageHeader, message_id) == 8);
const _: () = assert!(size_of::<ReplyHeader>() == 16 && align_of::<ReplyHeader>() == 8);
const _: () = assert!(core::mem::offset_of!(ReplyHeader, message_id) == 8);

impl MessageHeader {
    /// A header with zeroed padding.
    #[must_use]
    pub const fn new(reply_length: u32, message_id: u64) -> Self {
        Self {
            reply_length,
            reserved: 0,
            message_id,
        }
    }

    /// Payload bytes that the sender can take back; `None` if it wants no reply.
    #[must_use]
    pub const fn reply_capacity(&self) -> Option<u32> {
        self.reply_length.checked_sub(crate::limits::HEADER)
    }
}

impl ReplyHeader {
    /// A header with zeroed padding.
    #[must_use]
    pub const fn new(status: NtStatus, message_id: u64) -> Self {
        Self {
            status: status.0,
            reserved: 0,
            message_id,
        }
    }
}

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = size_of::<FrameHeader>();

/// Most bytes of one frame, header included: well below the smallest default socket buffer, so that a frame always
/// fits once the peer has read.
pub const FRAME_MAX: usize = 32 << 10;

/// The protocol that both ends speak. A greeting with another number is refused.
pub const VERSION: u64 = u64::from_be_bytes(*b"fltport\x02");

/// The first 40 bytes of a frame.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FrameHeader {
    kind: u16,
    flags: u16,
    /// Payload bytes, chunks included.
    length: u32,
    token: u64,
    id: u64,
    nanos: u64,
    a: u32,
    b: u32,
}

const _: () = assert!(FRAME_HEADER == 40);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            const fn parse(value: u16) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Client: the greeting, with the connection context.
    Hello = 1,
    /// Client: posts a get.
    Get = 2,
    /// Client: withdraws a get.
    CancelGet = 3,
    /// Client: replies to a message.
    Reply = 4,
    /// Client: asks the filter's message callback.
    Request = 5,
    /// Client: closes its end.
    Close = 6,
    /// Client: asks for memory that both sides see.
    Attach = 7,
    /// Client: there is something in that memory to look at.
    Kick = 8,
    /// Host: the connection is made or refused.
    Connected = 16,
    /// Host: a get takes a message.
    Message = 17,
    /// Host: a get ends without a message.
    GetFailed = 18,
    /// Host: what became of a reply.
    ReplyDone = 19,
    /// Host: the answer to a request.
    RequestDone = 20,
    /// Host: nobody waits for this reply any more.
    Abandoned = 21,
    /// Host: the connection is over.
    Disconnected = 22,
    /// Host: the memory that was asked for, or why there is none.
    Attached = 23,
    /// Host: a get in that memory, whose owner polls, is over.
    Ring = 24,
    /// Host: the descriptors of messages in that memory.
    Files = 25,
    /// Either: the next part of the frame before.
    Chunk = 32,
}

/// A frame from client to host. `length` is the payload's bytes, which follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// The greeting; the payload is the connection context.
    Hello {
        /// Pointer width of the client in bits, as it says itself: 32 or 64.
        bits: u32,
        /// Bytes of context.
        length: u32,
    },
    /// Posts a get of `size` bytes, header included.
    Get {
        /// The client's number of it; numbers rise.
        get: u64,
        /// Bytes, header included.
        size: u32,
    },
    /// Withdraws a get.
    CancelGet {
        /// The client's number of it.
        get: u64,
    },
    /// Replies to a message.
    Reply {
        /// The client's number of the reply.
        reply: u64,
        /// The message.
        message_id: u64,
        /// What the send returns.
        status: NtStatus,
        /// Bytes of payload.
        length: u32,
    },
    /// Asks the filter's message callback.
    Request {
        /// The client's number of the request.
        request: u64,
        /// Bytes that the client can take back.
        capacity: u32,
        /// Bytes of payload.
        length: u32,
    },
    /// Closes the client's end; the host closes the transport once the disconnect callback has returned.
    Close,
    /// Asks for memory that both sides see, once for a connection.
    Attach,
    /// Something was put in that memory which the host had asked to be told of.
    Kick,
    /// The next part of the frame before.
    Chunk {
        /// Bytes in this part.
        length: u32,
    },
}

/// A frame from host to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToClient {
    /// The connection is made, or refused with a status.
    Connected {
        /// Success, or why not.
        status: NtStatus,
        /// Most payload bytes of one message, reply or request on this port.
        max_message: u32,
    },
    /// A get takes a message.
    Message {
        /// The client's number of the get.
        get: u64,
        /// The message's header.
        header: MessageHeader,
        /// How long the sender still waits; `None` without a limit.
        remaining: Option<Duration>,
        /// Whether a descriptor comes with it.
        attachment: bool,
        /// Bytes of payload.
        length: u32,
    },
    /// A get ends without a message.
    GetFailed {
        /// The client's number of the get.
        get: u64,
        /// Why.
        status: NtStatus,
        /// Bytes needed, header included, where it was too small.
        needed: u32,
    },
    /// What became of a reply.
    ReplyDone {
        /// The client's number of the reply.
        reply: u64,
        /// What `FilterReplyMessage` returns.
        status: NtStatus,
    },
    /// The answer to a request.
    RequestDone {
        /// The client's number of the request.
        request: u64,
        /// What the callback returned.
        status: NtStatus,
        /// Bytes of payload.
        length: u32,
    },
    /// Nobody waits for this reply any more.
    Abandoned {
        /// The message.
        message_id: u64,
    },
    /// The connection is over.
    Disconnected,
    /// The memory that was asked for: two descriptors come with it, the host's part and the client's.
    Attached {
        /// Success, or why there is none; gets, messages and replies go on as frames then.
        status: NtStatus,
        /// How the memory is laid out.
        layout: u32,
        /// The first number of a message whose reply belongs there.
        first_id: u64,
    },
    /// A get in that memory, whose owner polls, is over.
    Ring {
        /// The get's number.
        get: u64,
    },
    /// The descriptors of messages in that memory; the payload is the numbers of their gets.
    Files {
        /// Bytes of payload, 8 for each.
        length: u32,
    },
    /// The next part of the frame before.
    Chunk {
        /// Bytes in this part.
        length: u32,
    },
}

/// Why bytes are no frame. Whoever sent them does not speak this protocol or lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than a header.
    #[error("a frame of {0} bytes is shorter than its header")]
    Short(usize),
    /// A kind that this side never gets.
    #[error("frame kind {0} is unknown or comes from the wrong side")]
    Kind(u16),
    /// A field that must be zero is not.
    #[error("a field that frame kind {0} does not use is not zero")]
    Reserved(u16),
    /// A greeting in another protocol.
    #[error("the greeting is of another protocol or version")]
    Version,
    /// A field holds a value that its kind does not allow.
    #[error("a field of frame kind {0} has an impossible value")]
    Value(u16),
}

const FLAG_ATTACHMENT: u16 = 1;
const FLAG_DEADLINE: u16 = 2;

impl FrameHeader {
    /// Payload bytes that belong to the frame, chunks included.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    fn new(kind: Kind, length: u32) -> Self {
        Self {
            kind: kind as u16,
            length,
            ..Self::default()
        }
    }

    fn read(bytes: &[u8]) -> Result<(Self, Kind, &[u8]), WireError> {
        let (header, payload) =
            Self::read_from_prefix(bytes).map_err(|_| WireError::Short(bytes.len()))?;
        let kind = Kind::parse(header.kind).ok_or(WireError::Kind(header.kind))?;
        Ok((header, kind, payload))
    }

    /// Compares with the header that the parsed frame would have: any other difference is a field that must be zero.
    fn require(self, canonical: Self) -> Result<(), WireError> {
        if self == canonical {
            Ok(())
        } else {
            Err(WireError::Reserved(self.kind))
        }
    }
}

impl ToHost {
    /// The header of this frame.
    #[must_use]
    pub fn header(&self) -> FrameHeader {
        match *self {
            Self::Hello { bits, length } => FrameHeader {
                token: VERSION,
                a: bits,
                ..FrameHeader::new(Kind::Hello, length)
            },
            Self::Get { get, size } => FrameHeader {
                token: get,
                a: size,
                ..FrameHeader::new(Kind::Get, 0)
            },
            Self::CancelGet { get } => FrameHeader {
                token: get,
                ..FrameHeader::new(Kind::CancelGet, 0)
            },
            Self::Reply {
                reply,
                message_id,
                status,
                length,
            } => FrameHeader {
                token: reply,
                id: message_id,
                a: status.0,
                ..FrameHeader::new(Kind::Reply, length)
            },
            Self::Request {
                request,
                capacity,
                length,
            } => FrameHeader {
                token: request,
                a: capacity,
                ..FrameHeader::new(Kind::Request, length)
            },
            Self::Close => FrameHeader::new(Kind::Close, 0),
            Self::Attach => FrameHeader::new(Kind::Attach, 0),
            Self::Kick => FrameHeader::new(Kind::Kick, 0),
            Self::Chunk { length } => FrameHeader::new(Kind::Chunk, length),
        }
    }

    /// Parses one received frame into what it says and the payload bytes that came with it.
    ///
    /// # Errors
    /// [`WireError`] for anything that this protocol's client would not send.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (h, kind, payload) = FrameHeader::read(bytes)?;
        let frame = match kind {
            Kind::Hello if h.token != VERSION => return Err(WireError::Version),
            Kind::Hello if h.a != 32 && h.a != 64 => return Err(WireError::Value(h.kind)),
            Kind::Hello => Self::Hello {
                bits: h.a,
                length: h.length,
            },
            Kind::Get => Self::Get {
                get: h.token,
                size: h.a,
            },
            Kind::CancelGet => Self::CancelGet { get: h.token },
            Kind::Reply => Self::Reply {
                reply: h.token,
                message_id: h.id,
                status: NtStatus(h.a),
                length: h.length,
            },
            Kind::Request => Self::Request {
                request: h.token,
                capacity: h.a,
                length: h.length,
            },
            Kind::Close => Self::Close,
            Kind::Attach => Self::Attach,
            Kind::Kick => Self::Kick,
            Kind::Chunk => Self::Chunk { length: h.length },
            _ => return Err(WireError::Kind(h.kind)),
        };
        h.require(frame.header())?;
        Ok((frame, payload))
    }
}

impl ToClient {
    /// The header of this frame.
    #[must_use]
    pub fn header(&self) -> FrameHeader {
        match *self {
            Self::Connected {
                status,
                max_message,
            } => FrameHeader {
                token: VERSION,
                a: status.0,
                b: max_message,
                ..FrameHeader::new(Kind::Connected, 0)
            },
            Self::Message {
                get,
                header,
                remaining,
                attachment,
                length,
            } => FrameHeader {
                flags: if attachment { FLAG_ATTACHMENT } else { 0 }
                    | remaining.map_or(0, |_| FLAG_DEADLINE),
                token: get,
                id: header.message_id,
                nanos: remaining
                    .map_or(0, |left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
                a: header.reply_length,
                ..FrameHeader::new(Kind::Message, length)
            },
            Self::GetFailed {
                get,
                status,
                needed,
            } => FrameHeader {
                token: get,
                a: status.0,
                b: needed,
                ..FrameHeader::new(Kind::GetFailed, 0)
            },
            Self::ReplyDone { reply, status } => FrameHeader {
                token: reply,
                a: status.0,
                ..FrameHeader::new(Kind::ReplyDone, 0)
            },
            Self::RequestDone {
                request,
                status,
                length,
            } => FrameHeader {
                token: request,
                a: status.0,
                ..FrameHeader::new(Kind::RequestDone, length)
            },
            Self::Abandoned { message_id } => FrameHeader {
                id: message_id,
                ..FrameHeader::new(Kind::Abandoned, 0)
            },
            Self::Disconnected => FrameHeader::new(Kind::Disconnected, 0),
            Self::Attached {
                status,
                layout,
                first_id,
            } => FrameHeader {
                id: first_id,
                a: status.0,
                b: layout,
                ..FrameHeader::new(Kind::Attached, 0)
            },
            Self::Ring { get } => FrameHeader {
                token: get,
                ..FrameHeader::new(Kind::Ring, 0)
            },
            Self::Files { length } => FrameHeader::new(Kind::Files, length),
            Self::Chunk { length } => FrameHeader::new(Kind::Chunk, length),
        }
    }

    /// Parses one received frame into what it says and the payload bytes that came with it.
    ///
    /// # Errors
    /// [`WireError`] for anything that this protocol's host would not send.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (h, kind, payload) = FrameHeader::read(bytes)?;
        let frame = match kind {
            Kind::Connected if h.token != VERSION => return Err(WireError::Version),
            Kind::Connected => Self::Connected {
                status: NtStatus(h.a),
                max_message: h.b,
            },
            Kind::Message => Self::Message {
                get: h.token,
                header: MessageHeader::new(h.a, h.id),
                remaining: (h.flags & FLAG_DEADLINE != 0).then(|| Duration::from_nanos(h.nanos)),
                attachment: h.flags & FLAG_ATTACHMENT != 0,
                length: h.length,
            },
            Kind::GetFailed => Self::GetFailed {
                get: h.token,
                status: NtStatus(h.a),
                needed: h.b,
            },
            Kind::ReplyDone => Self::ReplyDone {
                reply: h.token,
                status: NtStatus(h.a),
            },
            Kind::RequestDone => Self::RequestDone {
                request: h.token,
                status: NtStatus(h.a),
                length: h.length,
            },
            Kind::Abandoned => Self::Abandoned { message_id: h.id },
            Kind::Disconnected => Self::Disconnected,
            Kind::Attached => Self::Attached {
                status: NtStatus(h.a),
                layout: h.b,
                first_id: h.id,
            },
            Kind::Ring => Self::Ring { get: h.token },
            Kind::Files => Self::Files { length: h.length },
            Kind::Chunk => Self::Chunk { length: h.length },
            _ => return Err(WireError::Kind(h.kind)),
        };
        h.require(frame.header())?;
        Ok((frame, payload))
    }
}

#[cfg(test)]
mod tests;

//! One small error for each operation. Every variant says who is wrong (the caller, the peer, the system) or that the
//! connection is over or late, and what a Windows program would have seen.

use std::io;
use std::path::PathBuf;

use fltport_engine::{HResult, NameError, NtStatus};

use crate::body::Reply;

/// Why a server port could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The caller's name is no port name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A limit of zero connections, or a message limit above 16 MiB.
    #[error("{0}")]
    Argument(&'static str),
    /// A living host has the name, perhaps in another case.
    #[error(
        "the port name is taken by a running host ({0}); stop that host or choose another name"
    )]
    Taken(PathBuf),
    /// Something that is no port has the name: a file, a folder, a symbolic link. It is left alone.
    #[error("{0} is not a port; remove it or choose another name")]
    NotAPort(PathBuf),
    /// A folder of the name does not exist.
    #[error(
        "the folder {0} of the port name does not exist; create it or use a name without folders"
    )]
    NoFolder(PathBuf),
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    /// What `FltCreateCommunicationPort` returns for it.
    #[must_use]
    pub fn status(&self) -> NtStatus {
        match self {
            Self::Name(name) => name.status(),
            Self::Argument(_) => NtStatus::INVALID_PARAMETER,
            Self::Taken(_) | Self::NotAPort(_) => NtStatus::OBJECT_NAME_COLLISION,
            Self::NoFolder(_) => NtStatus::OBJECT_PATH_NOT_FOUND,
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                NtStatus::ACCESS_DENIED
            }
            Self::System { .. } => NtStatus::INSUFFICIENT_RESOURCES,
        }
    }
}

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller's name is no port name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The caller's context is longer than 65,511 bytes.
    #[error("the connection context has {0} bytes; 65,511 are allowed")]
    ContextTooLong(usize),
    /// No such port: the usual one. The filter is not running, or has another name or directory.
    #[error("no port {name} in {directory}; is its filter running, and as the same user?")]
    NotFound {
        /// The name.
        name: String,
        /// The port directory looked in.
        directory: PathBuf,
    },
    /// A folder of the name does not exist.
    #[error("no folder {0} in the port directory")]
    NoFolder(PathBuf),
    /// The name belongs to something that is no port.
    #[error("{0} is not a port")]
    NotAPort(PathBuf),
    /// Somebody listens who is neither root, nor this user, nor a user that was named.
    #[error(
        "the port is served by user {uid}, who is not trusted; name that user to connect anyway"
    )]
    ForeignListener {
        /// Who listens.
        uid: u32,
    },
    /// The port, or its filter, refused with a status.
    #[error("the port refused: {0}")]
    Refused(NtStatus),
    /// The port's end went away, or does not speak this protocol.
    #[error("the port's host went away or does not speak this protocol")]
    Disconnected,
    /// The system refused.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ConnectError {
    /// What `FilterConnectCommunicationPort` returns for it.
    #[must_use]
    pub fn hresult(&self) -> HResult {
        let status = match self {
            Self::Name(name) => name.status(),
            Self::ContextTooLong(_) => NtStatus::INTEGER_OVERFLOW,
            Self::NotFound { .. } => NtStatus::OBJECT_NAME_NOT_FOUND,
            Self::NoFolder(_) => NtStatus::OBJECT_PATH_NOT_FOUND,
            Self::NotAPort(_) => NtStatus::OBJECT_TYPE_MISMATCH,
            Self::ForeignListener { .. } => NtStatus::ACCESS_DENIED,
            Self::Refused(status) => *status,
            Self::Disconnected => NtStatus::PORT_DISCONNECTED,
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                NtStatus::ACCESS_DENIED
            }
            Self::System { .. } => NtStatus::INSUFFICIENT_RESOURCES,
        };
        status.to_hresult()
    }
}

/// Why a message of the filter was not delivered or not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The deadline passed. Never a success, whatever `NT_SUCCESS` says of its status.
    #[error("the deadline passed {}", if *delivered { "before the reply" } else { "before anybody took the message" })]
    TimedOut {
        /// Whether the client has the message; if not, it will never see it.
        delivered: bool,
    },
    /// The connection is over.
    #[error("the connection is over")]
    Disconnected {
        /// Whether the client has had the message.
        delivered: bool,
    },
    /// The sender itself gave up.
    #[error("the send was cancelled")]
    Cancelled {
        /// Whether the client has the message.
        delivered: bool,
    },
    /// The peer replied with more bytes than were asked for. What fitted is here.
    #[error("the reply was longer than the {} bytes asked for and was cut", .0.bytes.len())]
    ReplyTooLong(Reply),
    /// The caller's message or reply capacity is over the port's limit, or too many sends are pending.
    #[error("the port cannot take the message: {0}")]
    Refused(NtStatus),
    /// The caller's attachment is not a regular file opened for reading only.
    #[error("an attachment must be a regular file opened for reading only")]
    BadAttachment,
}

impl SendError {
    /// What `FltSendMessage` returns for it.
    #[must_use]
    pub const fn status(&self) -> NtStatus {
        match self {
            Self::TimedOut { .. } => NtStatus::TIMEOUT,
            Self::Disconnected { .. } => NtStatus::PORT_DISCONNECTED,
            Self::Cancelled { .. } => NtStatus::THREAD_IS_TERMINATING,
            Self::ReplyTooLong(_) => NtStatus::BUFFER_OVERFLOW,
            Self::Refused(status) => *status,
            Self::BadAttachment => NtStatus::INVALID_PARAMETER,
        }
    }
}

/// Why a client's call on its connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection is over: the filter closed it or went away.
    #[error("the connection is over")]
    Disconnected,
    /// The caller's get is too small for the message that came; the message is not lost.
    #[error("the get is too small; {needed} bytes are needed, header included")]
    TooSmall {
        /// Bytes, header included.
        needed: u32,
    },
    /// The get was cancelled.
    #[error("the get was cancelled")]
    Cancelled,
    /// Nobody waits for this reply: the sender's deadline passed, or it was answered already.
    #[error("nobody waits for this reply any more")]
    NoWaiter,
    /// The caller's reply was longer than the sender asked for and was cut; the message counts as answered.
    #[error("the reply was longer than the sender asked for and was cut")]
    ReplyTooLong,
    /// Nothing came in the time given.
    #[error("nothing came in time")]
    TimedOut,
    /// The filter's callback, or a limit, refused with a status.
    #[error("the filter answered {0}")]
    Status(NtStatus),
}

impl CallError {
    /// What the user-mode function returns for it.
    #[must_use]
    pub const fn hresult(&self) -> HResult {
        let status = match self {
            Self::Disconnected => NtStatus::PORT_DISCONNECTED,
            Self::TooSmall { .. } => NtStatus::BUFFER_TOO_SMALL,
            Self::Cancelled => NtStatus::CANCELLED,
            Self::NoWaiter => NtStatus::FLT_NO_WAITER_FOR_REPLY,
            Self::ReplyTooLong => NtStatus::BUFFER_OVERFLOW,
            Self::TimedOut => NtStatus::TIMEOUT,
            Self::Status(status) => *status,
        };
        status.to_hresult()
    }

    pub(crate) const fn from_status(status: NtStatus, needed: u32) -> Self {
        match status {
            NtStatus::PORT_DISCONNECTED => Self::Disconnected,
            NtStatus::BUFFER_TOO_SMALL if needed > 0 => Self::TooSmall { needed },
            NtStatus::CANCELLED => Self::Cancelled,
            NtStatus::FLT_NO_WAITER_FOR_REPLY => Self::NoWaiter,
            other => Self::Status(other),
        }
    }
}

//! Bytes on their way, with what travels beside them.

use std::sync::Arc;

use fltport_engine::NtStatus;
use fltport_engine::output::Body as EngineBody;

use crate::sys::Attachment;

/// A message, reply or request inside the driver.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) attachment: Option<Arc<Attachment>>,
    /// Who sent it, stamped by the kernel; only on requests of a client.
    pub(crate) caller: Option<Caller>,
    /// Of a reply: it was longer, and this is what its sender could take.
    pub(crate) cut: bool,
}

/// The process that made a request. The kernel says so for each frame: a handle may be used by another process than the
/// one that connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process id.
    pub pid: u32,
    /// Real user id: that of whoever started a set-user-id program.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
}

/// The reply to a message of the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the replier said; `STATUS_SUCCESS` normally.
    pub status: NtStatus,
    /// The payload, at most as long as was asked for.
    pub bytes: Vec<u8>,
}

impl Body {
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

impl EngineBody for Body {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

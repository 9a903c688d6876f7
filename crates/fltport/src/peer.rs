//! Who is at the other end of a connection.

use fltport_engine::server::Credentials;

use crate::body::Caller;

/// The process that connected, as the kernel recorded it then. Later frames of the same connection may come from another
/// process that was given the handle: see [`Caller`].
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) pid: u32,
    pub(crate) credentials: Credentials,
    pub(crate) bits: u32,
    #[cfg(target_os = "linux")]
    pub(crate) socket: std::sync::Weak<std::os::fd::OwnedFd>,
}

impl Peer {
    /// Process id (thread group id) of the process that connected. It may have ended, and its id may be used again:
    /// compare with [`Self::pidfd`] before acting on it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Effective user id.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// Effective group id.
    #[must_use]
    pub const fn gid(&self) -> u32 {
        self.credentials.gid
    }

    /// Supplementary groups.
    #[must_use]
    pub fn groups(&self) -> &[u32] {
        &self.credentials.groups
    }

    /// Pointer width in bits, 32 or 64, **as the client says itself**: good for reading its structures, not for trust.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The peer as a [`Caller`].
    #[must_use]
    pub const fn caller(&self) -> Caller {
        Caller {
            pid: self.pid,
            uid: self.credentials.uid,
            gid: self.credentials.gid,
        }
    }

    /// A descriptor of the connecting process, free of races with its death; made on demand, because an idle connection
    /// is to cost the host one descriptor and no more.
    ///
    /// # Errors
    /// `NotConnected` when the connection is over, or was made by [`crate::ServerPort::offer`], where the kernel knows only
    /// the host; otherwise the system's error (`ENOPROTOOPT` before Linux 6.5).
    ///
    /// # References
    /// socket(7), `SO_PEERPIDFD`.
    #[cfg(target_os = "linux")]
    pub fn pidfd(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        let socket = self
            .socket
            .upgrade()
            .ok_or(std::io::ErrorKind::NotConnected)?;
        crate::sys::pidfd(&*socket)
    }
}

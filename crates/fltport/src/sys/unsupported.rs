//! A system without a transport of ports yet: ports exist in memory only.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fltport_engine::PortName;

pub(crate) use super::no_memory::{fill_memory, make_memory, open_memory, seal_client};
use crate::client_driver::Connection;
use crate::error::{ConnectError, ListenError};
use crate::link::{ClientLink, Received, Sent};
use crate::port::Shared;
pub(crate) use crate::sync::sleepers as futex;

/// No open file can travel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Never {}

/// An open file that travels with a message: none here.
pub(crate) type Attachment = Never;

impl Never {
    pub(crate) fn try_clone(&self) -> Result<Self, Infallible> {
        Ok(*self)
    }
}

pub(crate) const fn check_attachment(file: &Attachment) -> bool {
    match *file {}
}

/// No user ids: everybody is the host's user.
pub(crate) const fn host_uid() -> u32 {
    0
}

/// Nobody notices a host's death but by its packets, of which there are none.
pub(crate) fn watch(_: &Arc<Connection>) -> std::io::Result<u64> {
    Err(std::io::ErrorKind::Unsupported.into())
}

pub(crate) const fn lacks_descriptors(_: &std::io::Error) -> bool {
    false
}

/// There is nobody to do that, and no memory for which it would be needed.
pub(crate) const fn flush_later(_: &Connection, _: u64) {}

/// A clock of this process.
pub(crate) fn monotonic_nanos() -> u64 {
    u64::try_from(crate::sync::start().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The same: there is no cheaper one.
pub(crate) fn coarse_nanos() -> u64 {
    monotonic_nanos()
}

/// Nobody knows.
pub(crate) const fn only_core() -> Option<u64> {
    None
}

/// Nobody knows either: the same for all, as if they shared it.
pub(crate) const fn core() -> u64 {
    0
}

/// No port directory.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

/// No name can be taken.
#[derive(Debug)]
pub(crate) enum TakenName {}

impl Directory {
    pub(crate) fn resolve(path: Option<&Path>) -> Self {
        Self(path.map(Path::to_path_buf).unwrap_or_default())
    }

    pub(crate) fn take(&self, _: &PortName, _: bool) -> Result<TakenName, ListenError> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(ListenError::System {
            doing: "named ports need Linux:",
            path: self.0.clone(),
            source,
        })
    }

    pub(crate) fn connect(&self, _: &PortName, _: &[u32]) -> Result<Socket, ConnectError> {
        Err(ConnectError::System {
            doing: "named ports need Linux",
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }
}

/// No socket.
#[derive(Debug)]
pub(crate) enum Socket {}

impl ClientLink for Socket {
    fn send(&self, _: &[u8], _: &[u8]) -> Sent {
        match *self {}
    }
    fn receive(&self, _: &mut [u8]) -> Received {
        match *self {}
    }
    fn wait(&self, _: bool, _: Option<crate::sync::Instant>) -> bool {
        match *self {}
    }
    fn close(&self) {
        match *self {}
    }
    fn carries_memory(&self) -> bool {
        match *self {}
    }
}

/// No thread.
#[derive(Debug)]
pub(crate) struct Reactor;

impl Reactor {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn listen(&self, taken: TakenName, _: Arc<dyn Shared>) -> Result<(), ListenError> {
        match taken {}
    }

    pub(crate) const fn stop_listening(&self) {}

    pub(crate) const fn stop(&self) {}
}

/// Nothing to poll.
#[derive(Debug)]
pub(crate) struct Bell;

impl Bell {
    pub(crate) const fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(crate) const fn ring(&self) {}

    pub(crate) const fn silence(&self) {}
}

//! The host's way to one client over its socket, and what a client is told that gets none.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fltport_engine::NtStatus;
use fltport_engine::wire::ToClient;
use rustix::event::epoll::{self, EventData, EventFlags};
use zerocopy::IntoBytes;

use super::socket::Socket;
use crate::link::{HostLink, Sent};
use crate::sys::Attachment;

/// The host's way to one client over its socket.
#[derive(Debug)]
pub(super) struct SocketLink {
    socket: Socket,
    epoll: Arc<OwnedFd>,
    key: u64,
}

impl SocketLink {
    /// The way to the client whose events have this key in `epoll`.
    pub(super) const fn new(socket: Socket, epoll: Arc<OwnedFd>, key: u64) -> Self {
        Self { socket, epoll, key }
    }
}

impl HostLink for SocketLink {
    fn send(&mut self, head: &[u8], payload: &[u8], files: &[Arc<Attachment>]) -> Sent {
        self.socket.send(head, payload, files)
    }

    fn want_writable(&mut self, wanted: bool) {
        // Fails only where the reactor has let go of the connection already.
        epoll::modify(
            &self.epoll,
            self.socket.as_fd(),
            EventData::new_u64(self.key),
            listen_for(wanted),
        )
        .ok();
    }

    fn close(&mut self) {
        self.socket.close();
    }
}

/// The events that a connection is watched for. One that has to read first is not read.
pub(super) const fn listen_for(writable: bool) -> EventFlags {
    if writable {
        EventFlags::OUT
    } else {
        EventFlags::IN.union(EventFlags::RDHUP)
    }
}

/// Tells a process that it is not connected.
pub(super) fn refuse(socket: &Socket, status: NtStatus, max_message: u32) {
    let frame = ToClient::Connected {
        status,
        max_message,
    };
    // Whether it is still there to be told is its own business.
    let _: Sent = socket.send(frame.header().as_bytes(), &[], &[]);
    socket.close();
}

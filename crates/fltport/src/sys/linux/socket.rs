//! One SOCK_SEQPACKET socket: packets in order and whole, with the sender's identity and at most one descriptor.
//!
//! What comes in is believed in nothing but its bytes: the host takes no descriptors from clients at all (the kernel
//! closes what a client attaches, and the connection ends), a client takes at most one, from its host.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use fltport_engine::wire::FRAME_MAX;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};

use super::peer_packet;
use crate::body::Caller;
use crate::link::{ClientLink, Packet, Received, Sent};
use crate::sys::Attachment;

/// A connected socket.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Arc<OwnedFd>);

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    pub(super) fn shared(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Sends one packet without waiting.
    pub(crate) fn send(
        &self,
        head: &[u8],
        payload: &[u8],
        attachment: Option<&Attachment>,
    ) -> Sent {
        let fds: [BorrowedFd<'_>; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(attachment) = attachment {
            fds = [attachment.as_fd()];
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Sent::Down;
            }
        }
        let parts = [IoSlice::new(head), IoSlice::new(payload)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match rustix::net::sendmsg(&*self.0, &parts, &mut control, flags) {
                Ok(_) => Sent::Done,
                Err(rustix::io::Errno::INTR) => continue,
                // ETOOMANYREFS: descriptors in flight; the peer has to take some first.
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::NOBUFS
                    | rustix::io::Errno::TOOMANYREFS,
                ) => Sent::Full,
                Err(_) => Sent::Down,
            };
        }
    }

    /// Takes one packet without waiting, as a host: with its sender's identity, without descriptors.
    pub(crate) fn receive_as_host(&self, buffer: &mut [u8]) -> Received {
        loop {
            return match peer_packet::receive(&*self.0, buffer) {
                Ok(stamped) => received(stamped.length, stamped.cut, stamped.sender, None),
                Err(error) => match error.raw_os_error() {
                    // See `receive`.
                    Some(libc::EINTR | libc::ECONNRESET) => continue,
                    Some(libc::EAGAIN) => Received::Empty,
                    _ => Received::Down,
                },
            };
        }
    }

    /// Ends the connection for both sides. What was sent can still be read.
    pub(crate) fn close(&self) {
        // Fails only where the other side has closed already.
        rustix::net::shutdown(&*self.0, Shutdown::Both).ok();
    }
}

/// A packet, unless it says that there is nothing to come: one of no bytes is the end; one that was cut, or whose
/// descriptors did not fit, is a lie.
fn received(
    length: usize,
    cut: bool,
    caller: Option<Caller>,
    attachment: Option<OwnedFd>,
) -> Received {
    if length == 0 || cut {
        return Received::Down;
    }
    Received::Packet(Packet {
        length,
        caller,
        attachment,
    })
}

impl ClientLink for Socket {
    fn send(&self, head: &[u8], payload: &[u8]) -> Sent {
        Self::send(self, head, payload, None)
    }

    fn receive(&self, buffer: &mut [u8]) -> Received {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match rustix::net::recvmsg(&*self.0, &mut parts, &mut control, flags) {
                Ok(message) => break message,
                // CONNRESET: the other side closed before it had read everything. The kernel says so once, and before it
                // gives out what that side had sent.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(rustix::io::Errno::AGAIN) => return Received::Empty,
                Err(_) => return Received::Down,
            }
        };
        let attachment = control.drain().find_map(|ancillary| match ancillary {
            RecvAncillaryMessage::ScmRights(fds) => fds.last(),
            _ => None,
        });
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        received(
            message.bytes,
            message.flags.intersects(cut),
            None,
            attachment,
        )
    }

    fn wait(&self, writing: bool, deadline: Option<Instant>) -> bool {
        let mut events = PollFlags::IN;
        if writing {
            events |= PollFlags::OUT;
        }
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            match rustix::event::poll(&mut [PollFd::new(&*self.0, events)], timeout.as_ref()) {
                Ok(count) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    fn close(&self) {
        Self::close(self);
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A buffer for one packet.
pub(crate) fn packet_buffer() -> Vec<u8> {
    vec![0; FRAME_MAX]
}

/// Both ends of a new connection.
pub(crate) fn pair() -> io::Result<(Socket, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Socket::new(ours), theirs))
}

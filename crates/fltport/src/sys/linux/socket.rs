//! One SOCK_SEQPACKET socket: packets in order and whole, with the sender's identity and at most a few descriptors.
//!
//! What comes in is believed in nothing but its bytes: the host takes no descriptors from clients at all (the kernel
//! closes what a client attaches, and the connection ends), a client takes a few, from its host.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fltport_engine::limits;
use fltport_engine::wire::FRAME_MAX;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};

use super::peer_packet;
use crate::body::Caller;
use crate::link::{ClientLink, Packet, Received, Sent};
use crate::sync::Instant;
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
    pub(crate) fn send(&self, head: &[u8], payload: &[u8], files: &[Arc<Attachment>]) -> Sent {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(limits::FILES_PER_FRAME))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Sent::Down;
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
        let mut ended = false;
        loop {
            return match peer_packet::receive(&*self.0, buffer) {
                // See `receive`. A packet of no bytes is none of this: it is stamped, and a lie.
                Ok(stamped) if stamped.length == 0 && stamped.sender.is_none() && !ended => {
                    ended = true;
                    continue;
                }
                Ok(stamped) => received(stamped.length, stamped.cut, stamped.sender, Vec::new()),
                Err(error) => match error.raw_os_error() {
                    // See `receive`.
                    Some(libc::EINTR | libc::ECONNRESET) => continue,
                    Some(libc::EAGAIN) if !ended => Received::Empty,
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
fn received(length: usize, cut: bool, caller: Option<Caller>, files: Vec<OwnedFd>) -> Received {
    if length == 0 || cut {
        return Received::Down;
    }
    Received::Packet(Packet {
        length,
        caller,
        files,
    })
}

impl ClientLink for Socket {
    fn send(&self, head: &[u8], payload: &[u8]) -> Sent {
        Self::send(self, head, payload, &[])
    }

    fn receive(&self, buffer: &mut [u8]) -> Received {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(limits::FILES_PER_FRAME))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut ended = false;
        let message = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match rustix::net::recvmsg(&*self.0, &mut parts, &mut control, flags) {
                // The kernel looks for a packet, then whether the other side has closed: what was sent and closed in between
                // is not seen, but it is there. After the end nothing more can come, so a second look finds all.
                Ok(message) if message.bytes == 0 && !ended => ended = true,
                Ok(message) => break message,
                // CONNRESET: the other side closed before it had read everything. The kernel says so once, and before it
                // gives out what that side had sent.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(rustix::io::Errno::AGAIN) if !ended => return Received::Empty,
                Err(_) => return Received::Down,
            }
        };
        let mut files = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = ancillary {
                files.extend(fds);
            }
        }
        // This process has no room for more descriptors, or the host sends more than any does: what needs them says so.
        if message.flags.contains(ReturnFlags::CTRUNC) {
            files.clear();
        }
        received(
            message.bytes,
            message.flags.contains(ReturnFlags::TRUNC),
            None,
            files,
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

    fn carries_memory(&self) -> bool {
        true
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The other side sends one packet and closes, while this side looks again and again.
    fn last_words_are_heard(receive: impl Fn(&Socket, &mut [u8]) -> Received) {
        let (give, sockets) = mpsc::channel::<(Socket, mpsc::SyncSender<()>)>();
        let speaker = std::thread::spawn(move || {
            for (socket, ready) in sockets {
                ready.send(()).unwrap();
                assert_eq!(socket.send(b"last words", &[], &[]), Sent::Done);
                socket.close();
            }
        });
        let mut buffer = [0; 32];
        for round in 0..4_000 {
            let (ours, theirs) = pair().unwrap();
            rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
            let (ready, is_ready) = mpsc::sync_channel(0);
            give.send((Socket::new(theirs), ready)).unwrap();
            is_ready.recv().unwrap();
            let mut next = || loop {
                match receive(&ours, &mut buffer) {
                    Received::Empty => std::hint::spin_loop(),
                    other => return other,
                }
            };
            let first = next();
            let heard = matches!(first, Received::Packet(Packet { length: 10, .. }));
            assert!(heard, "round {round}: {first:?}");
            assert!(matches!(next(), Received::Down), "round {round}");
        }
        drop(give);
        speaker.join().unwrap();
    }

    #[test]
    fn what_was_sent_before_the_end_is_read_before_the_end() {
        last_words_are_heard(ClientLink::receive);
        last_words_are_heard(Socket::receive_as_host);
    }
}

//! A client that is nobody's library: a bare socket and bytes of one's own.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use fltport::NtStatus;
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, ToClient, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use zerocopy::IntoBytes;

use super::{Host, LIMIT};

/// Payload bytes of one packet.
pub(crate) const PART: usize = FRAME_MAX - FRAME_HEADER;

/// Descriptors that the kernel takes with one packet.
pub(crate) const SCM_MAX_FD: usize = 253;

pub(crate) struct Raw(pub(crate) OwnedFd);

impl Raw {
    /// Connects and says nothing.
    pub(crate) fn connect(host: &Host) -> Self {
        Self::connect_below(host.directory.path())
    }

    pub(crate) fn connect_below(directory: &Path) -> Self {
        let kind = SocketType::SEQPACKET;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let socket = socket.unwrap();
        let address = SocketAddrUnix::new(directory.join("Test.port")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        Self(socket)
    }

    /// Connects, greets, and is accepted.
    pub(crate) fn greeted(host: &Host) -> Self {
        let raw = Self::connect(host);
        raw.frame(&hello(0), b"");
        assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
        raw
    }

    /// As [`Self::greeted`], with a context, at the port in this directory.
    pub(crate) fn greeted_below(directory: &Path, context: &[u8]) -> Self {
        let raw = Self::greeting_below(directory, context);
        assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
        raw
    }

    /// Connects and greets, and does not wait for the answer.
    pub(crate) fn greeting_below(directory: &Path, context: &[u8]) -> Self {
        let raw = Self::connect_below(directory);
        raw.frame(&hello(u32::try_from(context.len()).unwrap()), context);
        raw
    }

    /// Listens in place of a host.
    pub(crate) fn listen_below(directory: &Path) -> Self {
        let kind = SocketType::SEQPACKET;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let socket = socket.unwrap();
        let address = SocketAddrUnix::new(directory.join("Test.port")).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 64).unwrap();
        Self(socket)
    }

    /// The next client of a [`Self::listen_below`].
    pub(crate) fn accept(&self) -> Self {
        Self(rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC).unwrap())
    }

    /// The next frame of a client that is told that there is no memory for it.
    pub(crate) fn question(&self) -> Option<Vec<u8>> {
        loop {
            let packet = self.packet()?;
            if !matches!(ToHost::parse(&packet), Ok((ToHost::Attach, _))) {
                return Some(packet);
            }
            let none = ToClient::Attached {
                status: NtStatus::INSUFFICIENT_RESOURCES,
                layout: 0,
                first_id: 0,
            };
            self.tell(&none, b"");
        }
    }

    /// Sends a frame as a host does; whether the client still takes packets.
    pub(crate) fn tell(&self, frame: &ToClient, payload: &[u8]) -> bool {
        self.bytes(&[frame.header().as_bytes(), payload].concat())
    }

    /// Sends a request with this text.
    pub(crate) fn ask(&self, number: u64, text: &str) -> bool {
        let length = u32::try_from(text.len()).unwrap();
        let frame = ToHost::Request {
            request: number,
            capacity: 64,
            length,
        };
        self.frame(&frame, text.as_bytes())
    }

    /// The next frame of a kind that `wanted` knows.
    pub(crate) fn next<T>(&self, mut wanted: impl FnMut(ToClient) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.answer().expect("the host ends the connection")) {
                return found;
            }
        }
    }

    /// The id of the next message.
    pub(crate) fn message(&self) -> u64 {
        self.next(|frame| match frame {
            ToClient::Message { header, .. } => Some(header.message_id),
            _ => None,
        })
    }

    /// Replies to a message; what became of it.
    pub(crate) fn reply(&self, message_id: u64, bytes: &[u8]) -> NtStatus {
        let frame = ToHost::Reply {
            reply: message_id,
            message_id,
            status: NtStatus::SUCCESS,
            length: u32::try_from(bytes.len()).unwrap(),
        };
        assert!(self.frame(&frame, bytes));
        self.next(|frame| match frame {
            ToClient::ReplyDone { status, .. } => Some(status),
            _ => None,
        })
    }

    /// Sends a packet of these bytes; whether the host still takes packets.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> bool {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends one packet: the frame's header, and these bytes after it.
    pub(crate) fn frame(&self, frame: &ToHost, payload: &[u8]) -> bool {
        self.bytes(&[frame.header().as_bytes(), payload].concat())
    }

    /// As [`Self::frame`], without waiting for room. `None`: there is none.
    pub(crate) fn try_frame(&self, frame: &ToHost, payload: &[u8]) -> Option<bool> {
        let bytes = [frame.header().as_bytes(), payload].concat();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(&self.0, &bytes, flags) {
            Err(Errno::AGAIN) => None,
            sent => Some(sent.is_ok()),
        }
    }

    /// Sends one packet with open files attached.
    pub(crate) fn frame_with(&self, frame: &ToHost, files: &[BorrowedFd<'_>]) -> bool {
        self.bytes_with(frame.header().as_bytes(), files)
    }

    /// Sends one packet of these bytes with open files attached, as many as the kernel takes at once.
    pub(crate) fn bytes_with(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        let parts = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// The next packet; `None` when the host has ended the connection.
    pub(crate) fn packet(&self) -> Option<Vec<u8>> {
        let end = Instant::now() + LIMIT;
        let mut over = false;
        loop {
            let mut buffer = vec![0; FRAME_MAX];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut control = rustix::net::RecvAncillaryBuffer::default();
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::DONTWAIT) {
                Ok(message) if message.bytes == 0 && over => return None,
                // A packet and the end of the connection that came together are told in either order: look once more.
                Ok(message) if message.bytes == 0 => over = true,
                Ok(message) => {
                    buffer.truncate(message.bytes);
                    return Some(buffer);
                }
                // Said once, before what the host had sent.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    assert!(
                        Instant::now() < end,
                        "the host neither answers nor hangs up"
                    );
                    let second = Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
                    rustix::event::poll(&mut fds, Some(&second)).ok();
                }
                Err(_) => return None,
            }
        }
    }

    /// The next frame, without its payload.
    pub(crate) fn answer(&self) -> Option<ToClient> {
        self.packet()
            .map(|packet| ToClient::parse(&packet).unwrap().0)
    }

    /// What the host says to the greeting.
    pub(crate) fn status(&self) -> Option<NtStatus> {
        match self.answer()? {
            ToClient::Connected { status, .. } => Some(status),
            other => panic!("{other:?} instead of an answer to the greeting"),
        }
    }

    /// Waits until the host has ended the connection, whatever it says before.
    pub(crate) fn assert_ended(&self) {
        while self.packet().is_some() {}
    }
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) const fn hello(length: u32) -> ToHost {
    ToHost::Hello { bits: 64, length }
}

pub(crate) const fn request(request: u64, length: u32) -> ToHost {
    ToHost::Request {
        request,
        capacity: 16,
        length,
    }
}

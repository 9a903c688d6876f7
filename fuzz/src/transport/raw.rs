//! A client that is nobody's library: a bare socket that never waits for room.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fltport_engine::wire::{FRAME_MAX, ToClient};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

use super::host::LIMIT;
use crate::frames::Assembler;

pub(super) struct Raw {
    socket: OwnedFd,
    incoming: Assembler<ToClient>,
}

impl Raw {
    pub(super) fn connect(directory: &Path) -> Self {
        let kind = SocketType::SEQPACKET;
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        let address = SocketAddrUnix::new(directory.join("Fuzz.port")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        Self {
            socket,
            incoming: Assembler::new(),
        }
    }

    /// Sends one packet, unless there is no room for it or nobody to take it. Says whether it went.
    pub(super) fn send(&self, packet: &[u8]) -> bool {
        rustix::net::send(
            &self.socket,
            packet,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
        .is_ok()
    }

    /// Sends one packet with so many open files, unless the kernel or the host refuses them.
    pub(super) fn send_with_files(&self, packet: &[u8], count: u8) {
        let file = File::open("/proc/self/exe").unwrap();
        let files = vec![file.as_fd(); usize::from(count)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, flags).ok();
    }

    pub(super) fn half_close(&self, how: u8) {
        let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how % 3)];
        rustix::net::shutdown(&self.socket, how).ok();
    }

    /// Waits until there is something to read, or the host has hung up.
    pub(super) fn wait_for_answer(&self) {
        let wait = Timespec {
            tv_sec: LIMIT.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&wait));
        assert_ne!(
            ready,
            Ok(0),
            "the host neither answers a greeting nor hangs up"
        );
    }

    /// All frames that have come.
    pub(super) fn read_all(&mut self) -> Vec<ToClient> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut control = RecvAncillaryBuffer::default();
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::DONTWAIT)
            {
                Ok(message) if message.bytes > 0 => {
                    let taken = self.incoming.take(&buffer[..message.bytes], u32::MAX);
                    frames.extend(
                        taken
                            .expect("a host that never lies")
                            .map(|(frame, _)| frame),
                    );
                }
                // Said once, before what the host had sent.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                _ => return frames,
            }
        }
    }
}

//! What the kernel says of the sender of a packet, and of the other end of a socket.
//!
//! By libc and not by rustix: a process in another pid namespace has no id here, the kernel says 0 then, and rustix's type
//! for an id cannot be 0.
#![allow(unsafe_code)] // recvmsg and getsockopt with struct ucred

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};

use crate::body::Caller;

/// One packet, as it came.
#[derive(Debug)]
pub(super) struct Stamped {
    /// Bytes of the buffer that it fills.
    pub(super) length: usize,
    /// Whether something of it did not fit: bytes, or descriptors, which the kernel has closed.
    pub(super) cut: bool,
    /// Who sent it, where the socket asks for that. The process id is 0 outside this pid namespace.
    pub(super) sender: Option<Caller>,
}

/// Room for one `struct ucred` and for nothing else, so that descriptors never fit.
const ROOM: usize = (HEADER + size_of::<libc::ucred>()).next_multiple_of(size_of::<usize>());

/// `CMSG_LEN(0)`.
const HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());

#[repr(C, align(8))]
struct Control([u8; ROOM]);

/// Takes one packet without waiting and without descriptors.
///
/// # Errors
/// The system's; `EAGAIN` where there is none.
///
/// # References
/// recvmsg(2); unix(7), `SCM_CREDENTIALS`.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Stamped> {
    let mut control = Control([0; ROOM]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control.0.as_mut_ptr().cast(),
        msg_controllen: ROOM,
        msg_flags: 0,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the descriptor is open for the call, as it is borrowed; the header, its one part and the control buffer are
    // live on this frame with the lengths that they give; `buffer` is borrowed for writing; any bytes are valid in both.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let cut = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let sender = credentials(control.0.get(..message.msg_controllen).unwrap_or_default());
    Ok(Stamped {
        length,
        cut,
        sender,
    })
}

/// The process that connected or listens: its id, 0 outside this pid namespace, and its user and group.
///
/// # Errors
/// The system's.
///
/// # References
/// unix(7), `SO_PEERCRED`.
pub(super) fn other_end(socket: impl AsFd) -> io::Result<Caller> {
    let mut who = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: the descriptor is open for the call, as it is borrowed; the value is a live ucred of this frame, which any
    // bytes make a valid one, and `length` is its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Caller {
        pid: u32::try_from(who.pid).unwrap_or(0),
        uid: who.uid,
        gid: who.gid,
    })
}

/// Reads a control message of credentials, field by field.
fn credentials(control: &[u8]) -> Option<Caller> {
    let word = |at: usize| Some(i32::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    let kind = (
        word(offset_of!(libc::cmsghdr, cmsg_level))?,
        word(offset_of!(libc::cmsghdr, cmsg_type))?,
    );
    if kind != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
        return None;
    }
    let field = |at: usize| Some(u32::from_ne_bytes(word(HEADER + at)?.to_ne_bytes()));
    let pid = word(HEADER + offset_of!(libc::ucred, pid))?;
    Some(Caller {
        pid: u32::try_from(pid).unwrap_or(0),
        uid: field(offset_of!(libc::ucred, uid))?,
        gid: field(offset_of!(libc::ucred, gid))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

    #[test]
    fn a_packet_carries_its_sender_and_an_unstamped_one_nobody() {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let mut buffer = [0; 8];
        rustix::net::send(&other, b"plain", SendFlags::empty()).unwrap();
        let plain = receive(&one, &mut buffer).unwrap();
        assert_eq!((plain.length, plain.cut, plain.sender), (5, false, None));
        rustix::net::sockopt::set_socket_passcred(&one, true).unwrap();
        rustix::net::send(&other, b"a longer one", SendFlags::empty()).unwrap();
        let stamped = receive(&one, &mut buffer).unwrap();
        assert!(stamped.cut);
        let sender = stamped.sender.unwrap();
        assert_eq!(sender.pid, std::process::id());
        assert_eq!(sender.uid, rustix::process::getuid().as_raw());
        assert_eq!(other_end(&one).unwrap().pid, std::process::id());
        assert_eq!(
            receive(&one, &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn control_bytes_of_every_length_are_read_without_harm() {
        for length in 0..ROOM {
            assert_eq!(credentials(&vec![0xFF; length]), None);
        }
    }
}

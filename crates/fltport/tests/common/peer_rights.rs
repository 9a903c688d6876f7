//! Ports as they are before Linux 6.16, where no socket can refuse the descriptors that its peer attaches.
#![allow(unsafe_code)] // setsockopt with SO_PASSRIGHTS

use std::os::fd::{AsFd, AsRawFd};

/// Linux 6.16; not in every libc.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Lets the listening sockets of this process, and what they will accept, take descriptors again. Older kernels know no
/// other way; there is nothing to be done there.
pub(crate) fn accept_descriptors() {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().into_string().unwrap();
        let number: i32 = number.parse().unwrap();
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|name| name.to_string_lossy().starts_with("socket:"));
        if !is_socket {
            continue;
        }
        // SAFETY: the kernel has just listed this descriptor as a socket; nobody closes one before the port ends, which is
        // after this returns; the borrow ends with this round of the loop.
        let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if rustix::net::sockopt::socket_acceptconn(socket) == Ok(true) {
            accept(socket);
        }
    }
}

fn accept(socket: impl AsFd) {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
    // SAFETY: the descriptor is open for the call, as it is borrowed; the value is a live c_int of this frame, which the
    // kernel only reads, and the length is its size.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const on).cast(),
            length,
        );
    }
}

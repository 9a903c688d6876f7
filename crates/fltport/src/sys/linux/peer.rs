//! Who is at the other end of a socket, and what this process is, as the kernel says. The only unsafe code of the
//! transport: what rustix does not have.
#![allow(unsafe_code)] // getsockopt with SO_PEERGROUPS and SO_PEERPIDFD, setsockopt with SO_PASSRIGHTS; getauxval; tokio's AsyncFd

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use fltport_engine::server::Credentials;

use super::peer_packet;
use crate::body::Caller;

/// Process id and credentials of the process that connected or listens, as they were then.
///
/// # References
/// unix(7), `SO_PEERCRED`; socket(7), `SO_PEERGROUPS`.
pub(super) fn identify(socket: impl AsFd) -> io::Result<(u32, Credentials)> {
    let socket = socket.as_fd();
    let Caller { pid, uid, gid } = peer_packet::other_end(socket)?;
    let groups = supplementary_groups(&socket)?;
    Ok((pid, Credentials { uid, gid, groups }))
}

/// A descriptor of the process that connected, free of races with its death.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.5; `EINVAL` or `ESRCH` where the process is gone.
///
/// # References
/// socket(7), `SO_PEERPIDFD`.
pub(super) fn pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = socklen(size_of::<libc::c_int>());
    // SAFETY: the descriptor is open for the call, as it is borrowed; the value is a live c_int and `length` its size,
    // both on this frame; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if fd < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the kernel refuse descriptors that the other side attaches, at its send. Otherwise this side has to close them,
/// and the last close of some (a TCP socket that lingers) waits for as long as whoever sent it likes. A listening socket
/// hands the setting on to its connections.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.16.
///
/// # References
/// `SO_PASSRIGHTS`.
pub(super) fn refuse_descriptors(socket: impl AsFd) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call, as it is borrowed; the value is a live c_int of this frame, which the
    // kernel only reads, and the length is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            socklen(size_of::<libc::c_int>()),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether this process has just gained rights (set-user-id, file capabilities), so that its environment is not its own.
///
/// # References
/// getauxval(3), `AT_SECURE`.
pub(super) fn gained_rights() -> bool {
    // SAFETY: getauxval has no preconditions; it reads a vector that the kernel laid out at exec.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// A client's connection as tokio polls it.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Polled(std::sync::Arc<crate::client_driver::Connection>);

#[cfg(feature = "tokio")]
impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.descriptor().as_raw_fd()
    }
}

/// Registers a connection with the current tokio runtime, to be told when it is readable.
#[cfg(feature = "tokio")]
pub(crate) fn register(
    connection: std::sync::Arc<crate::client_driver::Connection>,
) -> io::Result<tokio::io::unix::AsyncFd<Polled>> {
    let (polled, interest) = (Polled(connection), tokio::io::Interest::READABLE);
    // SAFETY: the descriptor is owned by the connection's link, which is set once and never replaced, and is closed only
    // when the last reference to the connection is dropped; `Polled` holds one, so it stays open and the same for as long
    // as the AsyncFd has it.
    let registered = unsafe { tokio::io::unix::AsyncFd::register_with_interest(polled, interest) };
    Ok(registered?)
}

fn supplementary_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut length = socklen(room);
        // SAFETY: the descriptor is open for the call, as it is borrowed; the buffer is `room` writable bytes that live
        // through the call, and `length` says so; gid_t has no invalid values.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match io::Error::last_os_error() {
            // The kernel has said how many there are.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0)
            }
            // A socket pair has no groups recorded.
            error if error.raw_os_error() == Some(libc::ENODATA) => return Ok(Vec::new()),
            error => return Err(error),
        }
    }
}

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX)
}

/// Linux 6.5; not in every libc.
const SO_PEERPIDFD: libc::c_int = 77;

/// Linux 6.16; not in every libc.
const SO_PASSRIGHTS: libc::c_int = 83;

//! Linux: one SOCK_SEQPACKET connection for each client, port names as sockets in a directory.

mod directory;
#[cfg(not(any(miri, all(test, any(loom, shuttle)))))]
pub(crate) mod futex;
#[cfg(not(any(miri, all(test, any(loom, shuttle)))))]
mod memory_plane;
mod peer;
mod peer_packet;
mod reactor;
mod socket;
mod socket_link;
mod watch;

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};

pub use directory::PortEntry;
pub(crate) use directory::{Directory, list};
#[cfg(not(any(miri, all(test, any(loom, shuttle)))))]
pub(crate) use memory_plane::{
    fill as fill_memory, make as make_memory, open as open_memory, seal_client,
};
#[cfg(feature = "tokio")]
pub(crate) use peer::{Polled, register};
pub(crate) use reactor::Reactor;
pub(crate) use socket::Socket;
pub(crate) use watch::{flush_later, watch};

/// An open file that travels with a message.
pub(crate) type Attachment = OwnedFd;

/// Whether an open file may travel: a regular file, opened for reading only. Anything else would let the receiver
/// change what the sender decides about, or block on it. Never waits for the file's filesystem.
pub(crate) fn check_attachment(file: &Attachment) -> bool {
    let attributes = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let regular = rustix::fs::statx(file, c"", attributes, StatxFlags::TYPE)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.stx_mode.into()).is_file());
    let flags = rustix::fs::fcntl_getfl(file);
    regular
        && flags.is_ok_and(|flags| {
            flags & OFlags::ACCMODE == OFlags::RDONLY && !flags.contains(OFlags::PATH)
        })
}

/// The system's monotonic clock, in nanoseconds.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos(rustix::time::ClockId::Monotonic)
}

/// The same clock as it was at its last tick, some milliseconds ago at most.
pub(crate) fn coarse_nanos() -> u64 {
    nanos(rustix::time::ClockId::MonotonicCoarse)
}

fn nanos(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The core that this thread is on.
pub(crate) fn core() -> u64 {
    u64::try_from(rustix::thread::sched_getcpu()).unwrap_or(0)
}

/// The only core that this thread may run on, if there is only one.
pub(crate) fn only_core() -> Option<u64> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    if set.count() != 1 {
        return None;
    }
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|core| set.is_set(*core))?;
    u64::try_from(core).ok()
}

/// The effective user of this process.
pub(crate) fn host_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A descriptor of the process at the other end of a socket.
pub(crate) fn pidfd(socket: impl std::os::fd::AsFd) -> std::io::Result<OwnedFd> {
    peer::pidfd(socket)
}

/// A descriptor that is readable while it rings: what an in-memory client polls.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(crate) fn ring(&self) {
        // A full counter rings as well.
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).ok();
    }

    pub(crate) fn silence(&self) {
        // Fails only where it does not ring.
        rustix::io::read(&self.0, &mut [0u8; 8]).ok();
    }

    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }
}

/// Whether what failed did so because this process, or the system, has no room for another descriptor.
pub(crate) fn lacks_descriptors(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

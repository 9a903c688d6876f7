//! Signals that end a command in an orderly way, as a descriptor that becomes readable.
//!
//! Next room: `host.rs`, which waits for it and for the host at once.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGINT and SIGTERM, caught; SIGHUP too, unless it is ignored as under `nohup`.
#[derive(Debug)]
pub(crate) struct Signals(UnixStream);

impl Signals {
    /// Catches the signals for as long as this process lives.
    pub(crate) fn catch() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
            signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
        }
        Ok(Self(ours))
    }

    /// Whether a signal came since the last call.
    pub(crate) fn take(&self) -> bool {
        let mut came = false;
        while (&self.0).read(&mut [0; 16]).is_ok_and(|count| count > 0) {
            came = true;
        }
        came
    }
}

/// Readable when a signal has come.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this process was started with the signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

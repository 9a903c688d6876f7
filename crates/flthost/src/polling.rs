//! Waiting for one descriptor, or a few, for no longer than is said. Allocates nothing: the supervisor waits by it too.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};

/// Whether a descriptor is, or becomes within this time, what is waited for, or can be that no more. Whoever asks says what
/// an error means to him: it is a descriptor that cannot be waited for, or a system without memory.
pub(crate) fn is_ready(fd: impl AsFd, what: PollFlags, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    let mut left = limit;
    loop {
        match wait(&mut [PollFd::new(&fd, what)], left) {
            Err(Errno::INTR) => left = end.saturating_duration_since(Instant::now()),
            result => return result.map(|ready| ready > 0),
        }
    }
}

/// Waits until one of them is ready, for at most this long; how many are.
pub(crate) fn wait(fds: &mut [PollFd<'_>], limit: Duration) -> Result<usize> {
    // What is longer than the system can say is as good as for ever.
    let limit = Timespec::try_from(limit).ok();
    poll(fds, limit.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_ready_when_something_is_in_it_or_nobody_can_write_to_it_any_more() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let is_ready = |limit| is_ready(&read, PollFlags::IN, limit);
        assert_eq!(is_ready(Duration::ZERO), Ok(false));
        assert_eq!(is_ready(Duration::from_millis(1)), Ok(false));
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(is_ready(Duration::from_secs(20)), Ok(true));
        rustix::io::read(&read, &mut [0; 1]).unwrap();
        drop(write);
        assert_eq!(is_ready(Duration::from_secs(20)), Ok(true));
    }
}

//! Words for the operator on standard error: said if somebody reads them, lost otherwise.
//!
//! The standard macro panics when the reader is gone and waits when the reader is slow. Neither may happen to a process
//! that others wait for: operations would hang behind a full pipe, or pass because the supervisor died of a closed one.

use std::fmt::Display;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Says one line, which begins with the program's name. Never waits and never fails.
pub fn say(text: impl Display) {
    let error = rustix::stdio::stderr();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if poll(&mut [PollFd::new(&error, PollFlags::OUT)], Some(&now)) != Ok(1) {
        return;
    }
    let mut line = format!("flthostd: {text}").into_bytes();
    // A pipe that polls writable has room for this much.
    line.truncate(LINE_MAX - 1);
    line.push(b'\n');
    // Whether it was read is the reader's own business.
    rustix::io::write(error, &line).ok();
}

/// Longest line in bytes: `PIPE_BUF`.
const LINE_MAX: usize = 4_096;

//! Words for the operator on standard error: said if somebody reads them, lost otherwise.
//!
//! The standard macro panics when the reader is gone and waits when the reader is slow. Neither may happen to a process
//! that others wait for: operations would hang behind a full pipe, or pass because the supervisor died of a closed one.

use std::fmt::{self, Display, Write};

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
    // No allocation: the supervisor says things where nothing else must be able to fail or wait.
    let mut line = Line {
        bytes: [0; LINE_MAX],
        length: 0,
    };
    // What does not fit is cut off.
    write!(line, "flthostd: {text}").ok();
    let end = line.length.min(LINE_MAX - 1);
    if let Some(byte) = line.bytes.get_mut(end) {
        *byte = b'\n';
    }
    let text = line.bytes.get(..=end).unwrap_or_default();
    // Whether it was read is the reader's own business.
    rustix::io::write(error, text).ok();
}

/// A line that is being put together.
struct Line {
    bytes: [u8; LINE_MAX],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let length = room.len().min(text.len());
        for (into, from) in room.iter_mut().zip(text.bytes()) {
            *into = from;
        }
        self.length += length;
        if length < text.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Longest line in bytes: `PIPE_BUF`.
const LINE_MAX: usize = 4_096;

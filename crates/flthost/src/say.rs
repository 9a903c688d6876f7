//! Words for the operator on standard error: said if somebody reads them, lost otherwise.
//!
//! The standard macro panics when the reader is gone and waits when the reader is slow. Neither may happen to a process
//! that others wait for: operations would hang behind a full pipe, or pass because the supervisor died of a closed one.

use std::fmt::{self, Display, Write};
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use rustix::net::SendFlags;

use crate::polling::is_ready;

/// Says one line, which begins with the program's name. Never waits and never fails.
pub fn say(text: impl Display) {
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
    write_now(rustix::stdio::stderr(), text);
}

/// Writes what can be written without waiting.
fn write_now(to: BorrowedFd<'_>, text: &[u8]) {
    if is_ready(to, PollFlags::OUT, Duration::ZERO) != Ok(true) {
        return;
    }
    // Others write to the same pipe or socket, which may be full again by now; and its flags are theirs too, so each
    // write has to say for itself that it does not wait.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if rustix::net::send(to, text, flags) != Err(Errno::NOTSOCK) {
        return;
    }
    let at_its_place = u64::MAX;
    let text = [IoSlice::new(text)];
    let written = pwritev2(to, &text, at_its_place, ReadWriteFlags::NOWAIT);
    // Terminals, and what else does not know that flag.
    if let Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) = written {
        rustix::io::writev(to, &text).ok();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn what_is_said_comes_and_nobody_waits_when_others_fill_the_pipe_meanwhile() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        write_now(write.as_fd(), b"words");
        let mut bytes = [0; 10];
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(5));
        let page = [b'x'; LINE_MAX];
        (0..100).for_each(|_| write_now(write.as_fd(), &page)); // more than it takes
        let (sender, done) = channel();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            // Room for one, and two that look and write at the same time.
            for reads in [true, false] {
                let (read, write, barrier, sender) = (&read, &write, &barrier, sender.clone());
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        if reads {
                            rustix::io::read(read, &mut [0; LINE_MAX]).ok();
                        }
                        barrier.wait();
                        write_now(write.as_fd(), &page);
                        barrier.wait();
                    }
                    sender.send(()).ok();
                });
            }
            let ended = [0; 2].map(|_| done.recv_timeout(Duration::from_secs(10)).is_ok());
            if ended != [true; 2] {
                rustix::io::write(rustix::stdio::stderr(), b"a writer waits for ever\n").ok();
                std::process::abort(); // it could not be joined
            }
        });
    }
}

//! Words for the operator on standard error: said if somebody reads them, lost and counted otherwise. How many were lost is
//! said before the next line that can be.
//!
//! The standard macro panics when the reader is gone and waits when the reader is slow. Neither may happen to a process
//! that others wait for: operations would hang behind a full pipe, or pass because the supervisor died of a closed one.

use std::fmt::{self, Display, Write};
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use rustix::net::SendFlags;

use crate::polling::is_ready;

/// Says one line, which begins with the program's name. Never waits and never fails.
pub fn say(text: impl Display) {
    OWN.say(rustix::stdio::stderr(), text);
}

/// What this process has said in vain.
static OWN: Losses = Losses {
    lines: AtomicU64::new(0),
    torn: AtomicBool::new(false),
};

/// Lines that nobody took: a full pipe, a full disk, a reader who is gone.
#[derive(Debug)]
struct Losses {
    lines: AtomicU64,
    /// A line was begun and not ended.
    torn: AtomicBool,
}

impl Losses {
    fn say(&self, to: BorrowedFd<'_>, text: impl Display) {
        // Relaxed: two threads may tell of the same gap, or in turn of parts of it; nothing is published by it.
        let lost = self.lines.load(Ordering::Relaxed);
        let caught_up = lost == 0 || {
            let told = self.write(to, format_args!("lines lost here: {lost}"));
            if told {
                self.lines.fetch_sub(lost, Ordering::Relaxed);
            }
            told
        };
        // Never without what was lost before it.
        if !(caught_up && self.write(to, text)) {
            self.lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the whole line was taken.
    fn write(&self, to: BorrowedFd<'_>, text: impl Display) -> bool {
        // No allocation: the supervisor says things where nothing else must be able to fail or wait.
        let mut line = Line {
            bytes: [0; LINE_MAX],
            length: 0,
        };
        let torn = self.torn.swap(false, Ordering::Relaxed);
        let begin = if torn { "\n" } else { "" };
        // What does not fit is cut off.
        write!(line, "{begin}flthostd: {text}").ok();
        let end = line.length.min(LINE_MAX - 1);
        if let Some(byte) = line.bytes.get_mut(end) {
            *byte = b'\n';
        }
        let text = line.bytes.get(..=end).unwrap_or_default();
        let written = write_now(to, text);
        let torn = if written == 0 {
            torn
        } else {
            written < text.len()
        };
        if torn {
            self.torn.store(true, Ordering::Relaxed);
        }
        written == text.len()
    }
}

/// Writes what can be written without waiting; how much that was.
fn write_now(to: BorrowedFd<'_>, text: &[u8]) -> usize {
    if is_ready(to, PollFlags::OUT, Duration::ZERO) != Ok(true) {
        return 0;
    }
    // Others write to the same pipe or socket, which may be full again by now; and its flags are theirs too, so each
    // write has to say for itself that it does not wait.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(to, text, flags) {
        Err(Errno::NOTSOCK) => {}
        sent => return sent.unwrap_or(0),
    }
    let at_its_place = u64::MAX;
    let text = [IoSlice::new(text)];
    let written = match pwritev2(to, &text, at_its_place, ReadWriteFlags::NOWAIT) {
        // Terminals, and what else does not know that flag.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => rustix::io::writev(to, &text),
        written => written,
    };
    written.unwrap_or(0)
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
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::os::fd::AsFd;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn what_was_lost_is_counted_and_told_before_the_next_line_that_comes() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let losses = Losses {
            lines: AtomicU64::new(0),
            torn: AtomicBool::new(false),
        };
        let page = [b'x'; LINE_MAX];
        while write_now(write.as_fd(), &page) > 0 {}
        losses.say(write.as_fd(), "a");
        losses.say(write.as_fd(), "b");
        let mut bytes = [0; 2 * LINE_MAX];
        let room = rustix::io::read(&read, &mut bytes).unwrap();
        assert_eq!(room, 2 * LINE_MAX);
        losses.say(write.as_fd(), "c");
        let mut length = LINE_MAX;
        while length == LINE_MAX {
            length = rustix::io::read(&read, &mut bytes[..LINE_MAX]).unwrap();
        }
        losses.say(write.as_fd(), "d");
        let told = &bytes[..length];
        let text = "flthostd: lines lost here: 2\nflthostd: c\n";
        assert_eq!(str::from_utf8(told), Ok(text));
        let length = rustix::io::read(&read, &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"flthostd: d\n");
    }

    #[test]
    fn a_line_that_was_cut_by_a_full_disk_is_ended_before_the_next() {
        // A file that may not grow any more is as good as a full disk, and needs none.
        let file = rustix::fs::memfd_create(c"log", MemfdFlags::ALLOW_SEALING).unwrap();
        let losses = Losses {
            lines: AtomicU64::new(0),
            torn: AtomicBool::new(true),
        };
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        losses.say(file.as_fd(), "lost");
        assert_eq!(losses.lines.load(Ordering::Relaxed), 1);
        assert!(losses.torn.load(Ordering::Relaxed));
        let (read, write) = rustix::pipe::pipe().unwrap();
        losses.say(write.as_fd(), "said");
        let mut bytes = [0; LINE_MAX];
        let length = rustix::io::read(&read, &mut bytes).unwrap();
        let text = "\nflthostd: lines lost here: 1\nflthostd: said\n";
        assert_eq!(str::from_utf8(&bytes[..length]), Ok(text));
    }

    #[test]
    fn what_is_said_comes_and_nobody_waits_when_others_fill_the_pipe_meanwhile() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        write_now(write.as_fd(), b"words");
        let mut bytes = [0; 10];
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(5));
        let page = [b'x'; LINE_MAX];
        while write_now(write.as_fd(), &page) > 0 {}
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

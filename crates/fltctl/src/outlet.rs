//! Output that never holds anybody up: a bounded queue, and a thread that writes.
//!
//! The guard must go on whatever becomes of its output: a terminal stopped with Ctrl-S, a pipe that nobody reads, a full
//! disk. So lines are offered, not written. What finds the queue full is lost; how much is said in its place, as soon as
//! there is room. Not for listings, which may wait for their reader. Next room: `commands/guard.rs`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A stream that lines can be offered to from any thread.
#[derive(Debug)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
}

/// How lost lines are told of, in their place.
pub(crate) type Gap = fn(u64) -> Vec<u8>;

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    lost: u64,
    state: State,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Lost(u64),
}

/// ```text
/// Open ──finish──▶ Closing ──all written──▶ Over
///   └──────────┴──the stream is broken──────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Closing,
    Over,
}

impl Outlet {
    /// Starts to write to `stream`. When it breaks, `broken` is called once and later lines are dropped in silence.
    pub(crate) fn start(
        stream: impl Write + Send + 'static,
        gap: Gap,
        broken: impl FnOnce(&io::Error) + Send + 'static,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            if let Err(error) = theirs.write_all(stream, gap) {
                broken(&error);
            }
            theirs.end();
        });
        Self { shared }
    }

    /// Queues a line, without its end. Never blocks.
    pub(crate) fn offer(&self, line: impl Into<Vec<u8>>) {
        let mut queue = self.shared.lock();
        if queue.state == State::Open {
            queue.push(line.into());
            drop(queue);
            self.shared.changed.notify_all();
        }
    }

    /// Lines that found no room so far.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lock().lost
    }

    /// Takes no more lines, and waits at most `limit` for those that are queued to be written.
    pub(crate) fn finish(&self, limit: Duration) {
        let mut queue = self.shared.lock();
        if queue.state == State::Open {
            queue.state = State::Closing;
        }
        self.shared.changed.notify_all();
        let end = Instant::now() + limit;
        while queue.state != State::Over {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut stream: impl Write, gap: Gap) -> io::Result<()> {
        while let Some(batch) = self.next_batch(gap) {
            stream.write_all(&batch)?;
            stream.flush()?;
        }
        Ok(())
    }

    /// Waits for lines; `None` after the last.
    fn next_batch(&self, gap: Gap) -> Option<Vec<u8>> {
        let mut queue = self.lock();
        while queue.items.is_empty() {
            if queue.state != State::Open {
                return None;
            }
            let waited = self.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(item) = queue.items.pop_front() else {
                break;
            };
            match item {
                Item::Line(line) => {
                    queue.bytes = queue.bytes.saturating_sub(line.len());
                    batch.extend(line);
                }
                Item::Lost(count) => batch.extend(gap(count)),
            }
            batch.push(b'\n');
        }
        Some(batch)
    }

    fn end(&self) {
        let mut queue = self.lock();
        queue.items.clear();
        queue.state = State::Over;
        drop(queue);
        self.changed.notify_all();
    }
}

impl Queue {
    fn push(&mut self, line: Vec<u8>) {
        if self.items.len() < MOST_LINES && self.bytes.saturating_add(line.len()) <= MOST_BYTES {
            self.bytes += line.len();
            self.items.push_back(Item::Line(line));
            return;
        }
        self.lost += 1;
        match self.items.back_mut() {
            Some(Item::Lost(count)) => *count += 1,
            _ => self.items.push_back(Item::Lost(1)),
        }
    }
}

/// Lines that wait: some seconds of a busy machine, so that a scrolling terminal loses nothing.
const MOST_LINES: usize = 8192;

/// Bytes that wait: paths may have 4 KiB each, and a guard should stay small.
const MOST_BYTES: usize = 4 << 20;

/// Bytes written at a time: what a pipe takes in one go.
const BATCH: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A stream that lets nothing through before it is told to.
    struct Gate {
        opened: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Open for good once the other side has gone.
            self.opened.recv().ok();
            self.written.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Gate, Sender<()>, Receiver<Vec<u8>>) {
        let (open, opened) = channel();
        let (written, read) = channel();
        (Gate { opened, written }, open, read)
    }

    fn tell(lost: u64) -> Vec<u8> {
        format!("lost {lost}").into_bytes()
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time_and_the_gap_is_told_in_its_place() {
        let (stream, open, read) = gate();
        let outlet = Outlet::start(stream, tell, |_| ());
        let offered = 3 * MOST_LINES;
        let start = Instant::now();
        for number in 0..offered {
            outlet.offer(format!("line {number}"));
        }
        assert!(start.elapsed() < SOON);
        let lost = outlet.lost();
        assert!(lost > 0);
        drop(open);
        outlet.finish(SOON);
        outlet.offer("too late");
        let text = String::from_utf8(read.iter().flatten().collect()).unwrap();
        let gaps = text.lines().filter_map(|line| line.strip_prefix("lost "));
        let told: Vec<u64> = gaps.map(|count| count.parse().unwrap()).collect();
        assert_eq!(told.iter().sum::<u64>(), lost);
        let lines = text.lines().count() - told.len();
        assert_eq!(lines as u64 + lost, offered as u64);
        assert!(text.starts_with("line 0\n"));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let (stream, open, read) = gate();
        let outlet = Outlet::start(stream, tell, |_| ());
        for _ in 0..64 {
            outlet.offer(vec![b'x'; MOST_BYTES / 16]);
        }
        assert!(outlet.lost() >= 40, "{} lost", outlet.lost());
        drop((open, read));
    }

    #[test]
    fn a_broken_stream_is_told_once_and_takes_the_rest_in_silence() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (tell_end, told) = channel();
        let outlet = Outlet::start(Broken, tell, move |error| {
            tell_end.send(error.kind()).unwrap();
        });
        outlet.offer("a line");
        assert_eq!(told.recv_timeout(SOON), Ok(io::ErrorKind::BrokenPipe));
        for _ in 0..2 * MOST_LINES {
            outlet.offer("more");
        }
        outlet.finish(SOON);
        assert_eq!(told.try_iter().count(), 0);
    }

    #[test]
    fn finishing_does_not_wait_for_a_stuck_reader() {
        let (stream, open, read) = gate();
        let outlet = Outlet::start(stream, tell, |_| ());
        outlet.offer("a line");
        let start = Instant::now();
        outlet.finish(Duration::from_millis(50));
        assert!(start.elapsed() < SOON);
        drop((open, read));
    }
}

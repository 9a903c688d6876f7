//! Output that never holds anybody up: a bounded queue, and a thread that writes.
//!
//! The guard must go on whatever becomes of its output: a terminal stopped with Ctrl-S, a pipe that nobody reads, a full
//! disk. So lines are offered, not written. What finds the queue full is lost; how much is said in its place, as soon as
//! there is room. A full disk is tried again, once a second; any other error is the end of the stream. Not for listings, which may wait for their reader. Next room: `commands/guard.rs`.

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
    /// Starts to write to `stream`. `failed` is called once whenever its disk becomes full ([`is_full`]), and once if it
    /// breaks: then later lines are dropped in silence.
    pub(crate) fn start(
        stream: impl Write + Send + 'static,
        gap: Gap,
        mut failed: impl FnMut(&io::Error) + Send + 'static,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            if let Err(error) = theirs.write_all(stream, gap, &mut failed) {
                failed(&error);
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

    fn write_all(
        &self,
        mut stream: impl Write,
        gap: Gap,
        failed: &mut impl FnMut(&io::Error),
    ) -> io::Result<()> {
        let mut told = false;
        while let Some(batch) = self.next_batch(gap) {
            let mut rest = batch.as_slice();
            while let Err(error) = write_rest(&mut stream, &mut rest) {
                if !is_full(&error) {
                    return Err(error);
                }
                if !std::mem::replace(&mut told, true) {
                    failed(&error);
                }
                if !self.pause() {
                    // The end; what is left finds no room any more.
                    self.give_up(rest);
                    return Ok(());
                }
            }
            told = false;
        }
        Ok(())
    }

    /// Lets some time pass; not if this is the end.
    fn pause(&self) -> bool {
        let queue = self.lock();
        let is_open = |queue: &mut Queue| queue.state == State::Open;
        let waited = self.changed.wait_timeout_while(queue, AGAIN, is_open);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.state == State::Open
    }

    /// Counts what was taken and not written.
    fn give_up(&self, rest: &[u8]) {
        let begun = rest.iter().filter(|byte| **byte == b'\n').count();
        let mut queue = self.lock();
        let is_line = |item: &&Item| matches!(item, Item::Line(_));
        let queued = queue.items.iter().filter(is_line).count();
        queue.lost += u64::try_from(begun + queued).unwrap_or(u64::MAX);
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

/// Writes and flushes what is left, as far as that goes.
fn write_rest(stream: &mut impl Write, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

/// Whether there may be room again.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
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

/// Between two tries to write to a disk that is full.
const AGAIN: Duration = Duration::from_secs(1);

/// Bytes written at a time: what a pipe takes in one go.
const BATCH: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

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

    /// A disk that is full until it is told to have room, and takes a few bytes at a time.
    struct Disk {
        room: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room.try_recv() == Err(TryRecvError::Empty) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(5);
            self.written.send(bytes[..taken].to_vec()).unwrap();
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_of_once_and_tried_again_until_every_line_is_whole() {
        let (make_room, room) = channel();
        let (written, read) = channel();
        let (full, told) = channel();
        let outlet = Outlet::start(Disk { room, written }, tell, move |error| {
            full.send(is_full(error)).unwrap();
        });
        outlet.offer("a line that is longer");
        assert_eq!(told.recv_timeout(SOON), Ok(true));
        make_room.send(()).unwrap(); // for the beginning of a line
        assert_eq!(read.recv_timeout(SOON).unwrap(), b"a lin");
        outlet.offer("and another");
        drop(make_room);
        let mut text = Vec::new();
        while !text.ends_with(b"another\n") {
            text.extend(read.recv_timeout(SOON).unwrap());
        }
        assert_eq!(text, b"e that is longer\nand another\n");
        outlet.finish(SOON);
        assert_eq!((outlet.lost(), told.try_iter().count()), (0, 0));
    }

    #[test]
    fn what_a_full_disk_never_took_is_counted_at_the_end_which_comes_at_once() {
        let (make_room, room) = channel();
        let (full, told) = channel();
        let disk = Disk {
            room,
            written: channel().0,
        };
        let outlet = Outlet::start(disk, tell, move |error| {
            full.send(is_full(error)).unwrap();
        });
        outlet.offer("one");
        assert_eq!(told.recv_timeout(SOON), Ok(true));
        outlet.offer("two");
        outlet.offer("three");
        outlet.finish(SOON);
        assert_eq!(outlet.lost(), 3);
        drop(make_room);
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

//! One descriptor in, one finding out, in bounded time.
//!
//! For the worker threads of the service: each has an [`Engine`]. The file is hostile. It is read by position (the
//! offset is shared with the process that opened it), never mapped (whoever truncates a mapped file kills us with
//! SIGBUS), and its size is a hint only; whatever stops a scan has a finding of its own that is not [`Finding::Clean`].
//! Not for caching: a finding holds for the bytes that were read, and whether they are still those of the file is
//! for the host to check. The rules come from `rules.rs`; next room: the service that turns findings into replies.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::Rules;

/// A scanner for one thread, with its buffer, to be used again and again.
///
/// Each has a YARA-X machine of its own, which reserves 85 MiB of address space (measured; older versions 8 GiB) and
/// cannot move between threads: have one per worker, and no RLIMIT_AS. It borrows its rules, so a worker that gets new
/// ones makes a new engine.
pub struct Engine<'r> {
    rules: &'r Rules,
    /// Absent only after a panic inside YARA-X: the next scan makes a new one.
    scanner: Option<yara_x::Scanner<'r>>,
    /// Initialized up to the longest file of late; what a file filled of it is known only during its scan.
    buffer: Vec<u8>,
}

impl<'r> Engine<'r> {
    /// Makes a scanner over the rules and tries it on nothing.
    ///
    /// The trial starts the one clock thread that YARA-X has in a process, so that a sandbox may forbid new threads
    /// from here on, and it shows at once what the sandbox already forbids.
    ///
    /// # Errors
    ///
    /// If YARA-X cannot set up its machine here (no executable memory, too little address space).
    pub fn new(rules: &'r Rules) -> Result<Self, Failure> {
        let mut engine = Self {
            rules,
            scanner: None,
            buffer: Vec::new(),
        };
        match engine.judge(0, None) {
            Finding::Failed(failure) => Err(failure),
            _ => Ok(engine),
        }
    }

    /// Reads and scans a file.
    ///
    /// The descriptor needs to be open for reading; its offset is neither used nor moved. Blocks for `limits.time`
    /// and a bit: see there for how much. A read that hangs in the kernel (a dead network server) cannot be ended
    /// from here.
    ///
    /// A match that is found late is reported as [`Finding::Match`] all the same: a file must not be able to buy itself
    /// a milder verdict by being slow.
    pub fn scan(&mut self, file: BorrowedFd<'_>, limits: &Limits) -> Finding {
        // A time too long for the clock to express is no limit.
        let deadline = Instant::now().checked_add(limits.time);
        let finding = match read_whole(file, &mut self.buffer, limits.max_file, deadline) {
            Ok(length) => self.judge(length, deadline),
            Err(error) => error.into(),
        };
        if self.buffer.capacity() > KEPT {
            self.buffer.truncate(KEPT);
            self.buffer.shrink_to(KEPT);
        }
        finding
    }

    /// Scans the first `length` bytes of the buffer.
    fn judge(&mut self, length: usize, deadline: Option<Instant>) -> Finding {
        let Self {
            rules,
            scanner,
            buffer,
        } = self;
        let data = buffer.get(..length).unwrap_or(buffer);
        // YARA-X parses hostile formats with code that may panic; that must cost one file its verdict, not the
        // machine its scanner. Nothing of the broken scanner is used again, hence the assertion holds.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scanner = scanner.get_or_insert_with(|| new_scanner(rules));
            scanner.set_timeout(ticks(deadline));
            let results = scanner.scan(data)?;
            // YARA-X has the sources in the order in which each first matched anything, in this file or an earlier one.
            let mut rules: Vec<_> = results.matching_rules().collect();
            rules.sort_by_key(Rules::place);
            let names = rules.iter().map(|rule| rule.identifier().to_owned());
            Ok(names.collect::<Vec<_>>())
        }));
        match outcome {
            Ok(Ok(rules)) if !rules.is_empty() => Finding::Match { rules },
            Ok(Ok(_)) if has_passed(deadline) => Finding::TimedOut,
            Ok(Ok(_)) => Finding::Clean,
            Ok(Err(yara_x::ScanError::Timeout)) => Finding::TimedOut,
            Ok(Err(error)) => Finding::Failed(Failure::Scanner {
                message: error.to_string(),
            }),
            Err(_) => {
                self.scanner = None;
                Finding::Failed(Failure::Panicked)
            }
        }
    }
}

impl fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("rules", self.rules)
            .field("buffer", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

/// What is known about a file after a scan.
///
/// Only `Clean` means that the file was read to its end and no rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Every byte was looked at, and no rule matched.
    Clean,
    /// At least one rule matched.
    Match {
        /// The names of all rules that matched, in the order of the sources; private rules are not among them, and a
        /// name stands twice if two sources have a rule of that name. A `global` rule counts like any other: one that
        /// is meant as a condition for the others has to be `private` as well.
        rules: Vec<String>,
    },
    /// The file is larger than [`Limits::max_file`].
    TooLarge {
        /// Its size, as far as it was seen.
        size: u64,
    },
    /// [`Limits::time`] was over before the scan was.
    TimedOut,
    /// There was nothing to scan.
    Unreadable(Unreadable),
    /// The scanner itself failed.
    Failed(Failure),
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is a pipe, a socket, a device or a directory.
    #[error("not a regular file")]
    NotRegular,
    /// The operating system refused: no read access, a broken disk, a network server that forgot the file.
    #[error("{}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The error number.
        errno: i32,
    },
}

/// Why the scanner could not judge a file that it had read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// YARA-X reported an error of its own, such as one of a module.
    #[error("scanner: {message}")]
    Scanner {
        /// Its words.
        message: String,
    },
    /// YARA-X panicked; the panic hook has seen the details.
    #[error("the scanner panicked")]
    Panicked,
    /// No memory for a file of this size.
    #[error("out of memory")]
    OutOfMemory,
}

/// What one scan may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of the largest file that is scanned, in bytes; all of it is held in memory. Default: 64 MiB, which
    /// nearly all programs and libraries are below, while a handful of workers stays below a gigabyte.
    pub max_file: u64,
    /// The time for reading and scanning together. Default: 1500 ms, so that with the host's default of 2 s the
    /// service is the one to say why.
    ///
    /// Reading stops at this time to within one read of 1 MiB. YARA-X is coarser: it counts the ticks of one thread
    /// that ticks once a second, no matter when a scan begins, and looks at the count at each possible match and each
    /// turn of a condition's loop. It is given the rest of the time in whole seconds, rounded up and at least two,
    /// because a single tick may come at once and hit a scan that is not slow at all. So a slow scan is ended up to a
    /// second before its time, but not before it ran for a second, or up to two seconds after. Measured with an endless
    /// condition: 1.1 to 2.0 s for limits of 50, 500, 1000 and 1500 ms, 2.1 to 3.1 s for 2500 ms.
    ///
    /// A scan that ends by itself after its time, without a match, is [`Finding::TimedOut`] too.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file: 64 << 20,
            time: Duration::from_millis(1500),
        }
    }
}

/// What stopped [`read_whole`].
#[derive(Debug)]
pub(crate) enum ReadError {
    NotRegular,
    TooLarge { size: u64 },
    TimedOut,
    NoMemory,
    Os(Errno),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl From<ReadError> for Finding {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotRegular => Self::Unreadable(Unreadable::NotRegular),
            ReadError::TooLarge { size } => Self::TooLarge { size },
            ReadError::TimedOut => Self::TimedOut,
            ReadError::NoMemory => Self::Failed(Failure::OutOfMemory),
            ReadError::Os(errno) => Self::Unreadable(Unreadable::Os {
                errno: errno.raw_os_error(),
            }),
        }
    }
}

/// Reads a regular file by position from 0 to where it ends now, to the front of `buffer`; returns how many bytes.
///
/// The buffer grows as needed and never shrinks; what is behind the returned length is left over from before. The
/// size of the file only says how much to ask for: it may grow or shrink meanwhile, and in `/proc` it is 0.
pub(crate) fn read_whole(
    file: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    limit: u64,
    deadline: Option<Instant>,
) -> Result<usize, ReadError> {
    let stat = rustix::fs::fstat(file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(ReadError::NotRegular);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > limit {
        return Err(ReadError::TooLarge { size });
    }
    let mut filled = 0;
    let mut offset = 0_u64;
    loop {
        if has_passed(deadline) {
            return Err(ReadError::TimedOut);
        }
        // One byte more than expected shows the end, or that the limit is broken; never more than that.
        let expected = (size.saturating_sub(offset) + 1).max(LEAST_READ);
        let allowed = (limit - offset).saturating_add(1);
        let wanted = usize::try_from(expected.min(allowed)).unwrap_or(usize::MAX);
        let end = filled + wanted.min(STEP);
        if buffer.len() < end {
            // Room for all that is expected, so that the buffer moves once; filled with zeros as it is needed.
            let missing = filled.saturating_add(wanted) - buffer.len();
            buffer
                .try_reserve_exact(missing)
                .map_err(|_| ReadError::NoMemory)?;
            buffer.resize(end, 0);
        }
        let Some(space) = buffer.get_mut(filled..end) else {
            return Err(ReadError::NoMemory);
        };
        let read = match rustix::io::pread(file, space, offset) {
            Ok(0) => return Ok(filled),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        filled += read;
        offset += read as u64;
        if offset > limit {
            return Err(ReadError::TooLarge { size: offset });
        }
    }
}

fn new_scanner(rules: &Rules) -> yara_x::Scanner<'_> {
    let mut scanner = yara_x::Scanner::new(rules.compiled());
    // We report rules, not places: one match per pattern will do where a condition does not count them. It saves
    // memory too, or a file made for it could have a million matches recorded for each pattern.
    scanner.fast_scan(true);
    scanner
}

/// The rest of the time as YARA-X counts it; the reasons are told at [`Limits::time`].
fn ticks(deadline: Option<Instant>) -> Duration {
    let rest = deadline.map_or(Duration::MAX, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    });
    let whole = rest
        .as_secs()
        .saturating_add(u64::from(rest.subsec_nanos() > 0));
    Duration::from_secs(whole.max(2))
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The most that one read asks for: small enough that a slow disk cannot take us far past the deadline.
const STEP: usize = 1 << 20;

/// The least that one read asks for, because a size of 0 may be a lie.
const LEAST_READ: u64 = 4096;

/// What an engine keeps of its buffer between files: most files fit, and the memory of a rare large one goes back.
const KEPT: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::RuleSource;

    #[test]
    fn ticks_are_whole_seconds_rounded_up_and_at_least_two() {
        let after = |millis| ticks(Some(Instant::now() + Duration::from_millis(millis)));
        assert_eq!(after(0), Duration::from_secs(2));
        assert_eq!(after(1500), Duration::from_secs(2));
        assert_eq!(after(2500), Duration::from_secs(3));
        assert!(ticks(None) > Duration::from_secs(1 << 40));
    }

    #[test]
    fn a_scan_that_ends_late_has_timed_out_unless_it_found_something() {
        let rules = Rules::builtin().unwrap();
        let mut engine = Engine::new(&rules).unwrap();
        engine.buffer = b"clean".to_vec();
        assert_eq!(engine.judge(5, Some(Instant::now())), Finding::TimedOut);
        engine.buffer = crate::test_file();
        assert!(matches!(
            engine.judge(68, Some(Instant::now())),
            Finding::Match { .. }
        ));
    }

    #[test]
    fn a_panic_inside_the_scanner_fails_one_file_and_the_next_is_scanned() {
        let text =
            "import \"console\" rule loud { condition: uint8(0) == 0x21 and console.log(\"!\") }";
        let loud = RuleSource {
            name: "loud.yar".to_owned(),
            text: text.as_bytes().to_vec(),
        };
        let rules = Rules::compile([loud]).unwrap();
        let mut engine = Engine::new(&rules).unwrap();
        engine
            .scanner
            .as_mut()
            .unwrap()
            .console_log(|_| panic!("a panic made by a test"));
        engine.buffer = b"!".to_vec();
        assert_eq!(engine.judge(1, None), Finding::Failed(Failure::Panicked));
        // The new scanner has no such callback.
        assert_eq!(
            engine.judge(1, None),
            Finding::Match {
                rules: vec!["loud".to_owned()]
            }
        );
    }

    #[test]
    fn the_memory_of_a_large_file_is_given_back() {
        let rules = Rules::builtin().unwrap();
        let mut engine = Engine::new(&rules).unwrap();
        let file = tempfile::tempfile().unwrap();
        for size in [9 << 20, 1000] {
            file.set_len(size).unwrap();
            let limits = Limits {
                time: Duration::from_secs(60),
                ..Limits::default()
            };
            assert_eq!(engine.scan(file.as_fd(), &limits), Finding::Clean);
            assert_eq!(engine.buffer.capacity(), KEPT);
        }
    }
}

//! The verdict cache: files that services have found clean, and may be opened again without a question.
//!
//! A hole here lasts, so the cache keeps nothing in doubt. A file is kept only if its time of change was old when it was
//! read (else another change might not show), nobody can write to it now, it looks as it did before it was scanned, and
//! its filesystem is one whose contents change in no other way. [`crate::pair`] says what the kernel's part of it rests on.

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fanotify::Operation as Kind;
use crate::fanotify_writers::has_writer;
use crate::operation::Operation;
use crate::pair::Pair;
use crate::stamp::{FileId, Stamp};

/// How much is kept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum CacheMode {
    /// Nothing is kept: every open is a question.
    Off,
    /// The worker keeps verdicts: a known file costs an event.
    Worker,
    /// The kernel keeps verdicts about files that only root can write to, where whole filesystems are guarded: such a
    /// file costs nothing until it is modified. The worker keeps the others.
    #[default]
    Kernel,
}

impl FromStr for CacheMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "worker" => Ok(Self::Worker),
            "kernel" => Ok(Self::Kernel),
            other => Err(format!("{other}: write off, worker or kernel")),
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    mode: CacheMode,
    pairs: Vec<Arc<Pair>>,
    state: Mutex<State>,
    /// Grows when everything is forgotten, and when somebody was seen who can write.
    time: AtomicU64,
    hits: AtomicU64,
    in_kernel: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<FileId, Entry>,
    /// In the order in which they came.
    order: VecDeque<FileId>,
    /// Whether files of a device may be kept.
    devices: HashMap<u64, bool>,
    /// When somebody was seen last who can write to a file.
    writers: HashMap<FileId, u64>,
    /// What was read before this cannot be kept any more.
    since: u64,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    open: bool,
    exec: bool,
    /// How often it is still offered to the kernel again.
    offers: u8,
}

/// See [`Cache::offer_again`].
const OFFERS: u8 = 3;

/// Files that the worker keeps; each takes some 200 bytes.
const ENTRIES: usize = 65_536;

/// How old a change must be for the next one to have another time: the coarsest clock of the filesystems that are kept.
const SETTLED: Duration = Duration::from_secs(1);

impl Cache {
    /// An empty cache for what these pairs guard.
    pub(crate) fn new(mode: CacheMode, pairs: Vec<Arc<Pair>>) -> Self {
        Self {
            mode,
            pairs,
            state: Mutex::default(),
            time: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            in_kernel: AtomicU64::new(0),
        }
    }

    /// Operations that were allowed because their file is known, and files that the kernel was told of.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.in_kernel.load(Ordering::Relaxed),
        )
    }

    /// Looks at a file whose operation has just been read: when that was, as the cache counts time, and whether somebody
    /// can write to the file, who may be the opener himself. Then nothing is known of it any more: a store through a
    /// mapping may leave no other trace. Has to be done for every operation that is seen, whoever decides it, where files
    /// may be kept at all; elsewhere there is no stamp to give, and yes is the answer.
    pub(crate) fn look(&self, file: BorrowedFd<'_>, stamp: Option<&Stamp>) -> (u64, bool) {
        let now = self.time.load(Ordering::Acquire);
        let Some(stamp) = stamp.filter(|stamp| self.mode != CacheMode::Off && stamp.is_file())
        else {
            return (now, true);
        };
        let written = has_writer(file);
        if written {
            self.lock().note_writer(stamp.id, self.tick());
        }
        (now, written)
    }

    /// Whether the file of this operation is known to be clean, as it is now.
    pub(crate) fn knows(&self, operation: &Operation) -> bool {
        let Some(stamp) = self.stamp_of(operation).filter(|_| !operation.written) else {
            return false;
        };
        let state = self.lock();
        let entry = state.entries.get(&stamp.id);
        let known =
            entry.is_some_and(|entry| entry.stamp == *stamp && entry.is_for(operation.kind()));
        drop(state);
        // As a rule it comes again, among questions: it is counted once.
        if known && !operation.is_repeated() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        known
    }

    /// Whether the file of an operation is what it was when the operation was read, nobody could change it meanwhile, and
    /// nobody can now: what a service has said of its content since then still holds.
    pub(crate) fn is_unchanged(&self, operation: &Operation) -> bool {
        let Some(stamp) = self.stamp_of(operation) else {
            return false;
        };
        let file = operation.file();
        // In this order: who stopped writing before the second look has left his trace for the third.
        was_settled(stamp, operation)
            && self.keeps_device(file, stamp.id.device)
            && !has_writer(file)
            && Stamp::of(file).as_ref() == Some(stamp)
            && self.lock().is_untouched(stamp.id, operation.read_at)
    }

    /// A service has found the file of this operation clean, by its content alone.
    pub(crate) fn keep(&self, operation: &Operation, pair: &Pair) {
        let Some(stamp) = self
            .stamp_of(operation)
            .filter(|_| self.is_unchanged(operation))
        else {
            return;
        };
        // Where not everything on a filesystem is seen, a second name could be opened for writing unseen. A new one, or
        // another place for the only one, changes the stamp.
        if stamp.links != 1 && !pair.is_whole() {
            return;
        }
        let mut state = self.lock();
        // Once more under the lock, so that nothing is kept of what is being forgotten.
        if !state.is_untouched(stamp.id, operation.read_at) {
            return;
        }
        state.insert(stamp, operation.kind());
        drop(state);
        if self.may_be_in_kernel(stamp, pair) {
            self.offer(operation, stamp, pair);
        }
    }

    /// The file of this operation is known to be clean, and yet seen: the kernel could not keep that, because another open
    /// was on its way, or has forgotten it with the file. It is offered again, a few times.
    pub(crate) fn offer_again(&self, operation: &Operation, pair: &Pair) {
        let Some(stamp) = self
            .stamp_of(operation)
            .filter(|stamp| self.may_be_in_kernel(stamp, pair))
        else {
            return;
        };
        let mut state = self.lock();
        let entry = state.entries.get_mut(&stamp.id);
        let Some(entry) = entry.filter(|entry| entry.offers > 0 && entry.stamp == *stamp) else {
            return;
        };
        entry.offers -= 1;
        drop(state);
        if self.is_unchanged(operation) {
            self.offer(operation, stamp, pair);
        }
    }

    fn may_be_in_kernel(&self, stamp: &Stamp, pair: &Pair) -> bool {
        self.mode == CacheMode::Kernel && stamp.is_of_root() && pair.keeps_in_kernel()
    }

    fn offer(&self, operation: &Operation, stamp: &Stamp, pair: &Pair) {
        if !pair.keep_in_kernel(operation, stamp) {
            return;
        }
        self.in_kernel.fetch_add(1, Ordering::Relaxed);
        // Whoever forgets everything says so first, and takes marks away then: one of the two sees the other.
        if self.lock().since > operation.read_at {
            pair.forget_in_kernel();
        }
    }

    /// Forgets everything: rules have changed, or a service has died, and what it said before may be wrong.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.since = self.tick();
        state.entries.clear();
        state.order.clear();
        state.writers.clear();
        drop(state);
        self.pairs.iter().for_each(|pair| pair.forget_in_kernel());
    }

    fn tick(&self) -> u64 {
        self.time.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The stamp of a file that may be kept at all.
    fn stamp_of<'a>(&self, operation: &'a Operation) -> Option<&'a Stamp> {
        let stamp = operation
            .stamp()
            // A remote filesystem is never asked about anything: it could keep whoever asks waiting.
            .filter(|stamp| stamp.is_file() && !operation.passing && !operation.remote);
        stamp.filter(|_| self.mode != CacheMode::Off)
    }

    /// Takes the lock that deciding needs, and gives it back.
    pub(crate) fn touch(&self) {
        drop(self.lock());
    }

    fn keeps_device(&self, file: BorrowedFd<'_>, device: u64) -> bool {
        let known = self.lock().devices.get(&device).copied();
        known.unwrap_or_else(|| {
            let keeps = is_kept(file);
            let mut state = self.lock();
            // A device number may come back as another filesystem; few are ever seen.
            if state.devices.len() >= DEVICES {
                state.devices.clear();
            }
            state.devices.insert(device, keeps);
            drop(state);
            keeps
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Somebody can write to this file: at `now`, nothing is known of it any more.
    fn note_writer(&mut self, id: FileId, now: u64) {
        self.entries.remove(&id);
        if self.writers.len() >= WRITERS {
            self.writers.clear();
            self.since = now;
        }
        self.writers.insert(id, now);
    }

    /// Whether nobody was seen who could write to this file since then.
    fn is_untouched(&self, id: FileId, since: u64) -> bool {
        self.since <= since && self.writers.get(&id).is_none_or(|seen| *seen <= since)
    }

    fn insert(&mut self, stamp: &Stamp, kind: Kind) {
        if let Some(entry) = self
            .entries
            .get_mut(&stamp.id)
            .filter(|e| e.stamp == *stamp)
        {
            entry.open |= kind == Kind::Open;
            entry.exec |= kind == Kind::Exec;
            return;
        }
        // Entries that ended early leave their place in the order behind.
        while self.order.len() >= ENTRIES {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        let entry = Entry {
            stamp: *stamp,
            open: kind == Kind::Open,
            exec: kind == Kind::Exec,
            offers: OFFERS,
        };
        if self.entries.insert(stamp.id, entry).is_none() {
            self.order.push_back(stamp.id);
        }
    }
}

impl Entry {
    fn is_for(&self, kind: Kind) -> bool {
        match kind {
            Kind::Open => self.open,
            Kind::Exec => self.exec,
        }
    }
}

/// Whether the last change was old when the operation was read.
fn was_settled(stamp: &Stamp, operation: &Operation) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return false;
    };
    let Ok(seconds) = u64::try_from(stamp.changed.0) else {
        return false;
    };
    let read = now.saturating_sub(operation.started.elapsed());
    Duration::new(seconds, stamp.changed.1)
        .checked_add(SETTLED)
        .is_some_and(|settled| settled < read)
}

/// Whether a filesystem's files change only by what the kernel sees.
fn is_kept(file: BorrowedFd<'_>) -> bool {
    let kind = rustix::fs::fstatfs(file).map(|stat| stat.f_type);
    kind.is_ok_and(|kind| {
        KEPT.iter()
            .any(|kept| i128::from(*kept) == i128::from(kind))
    })
}

/// ext2 to ext4, xfs, btrfs, f2fs, tmpfs. See statfs(2).
const KEPT: [i64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994];

/// Files whose writers are remembered.
const WRITERS: usize = 16_384;

/// Devices whose kind is remembered.
const DEVICES: usize = 1_024;

//! What a filter remembers of files and of processes: as stream and process contexts of minifilters.
//!
//! A table has an end, and whoever is longest in it goes first: what a filter remembers must not be had for memory by whoever
//! opens many files. So a context is never what a permission depends on alone; a filter must be right without it too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fanotify::DirectoryHandle;
use crate::notice::{Notice, NoticeKind};
use crate::operation::Operation;
use crate::polling::is_ready;
use crate::stamp::FileId;

/// What a filter remembers, by file or by process. The filter owns it; any thread may use it.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use flthost::{Altitude, Cause, ContextKey, Contexts, Filter, Notice, Operation, Pre, Verdict};
///
/// /// Nobody opens more than a thousand files below the guarded directory.
/// struct Greed {
///     opened: Contexts<AtomicU32>,
/// }
///
/// impl Filter for Greed {
///     fn name(&self) -> &str { "greed" }
///     fn altitude(&self) -> Altitude { Altitude(385_200) }
///     fn pre_operation(&self, operation: &Operation) -> Pre {
///         // Asked twice about an operation that waits: counted once.
///         let Some(key) = ContextKey::process(operation).filter(|_| !operation.is_repeated()) else {
///             return Pre::Pass;
///         };
///         let opened = self.opened.get_or_insert_with(key, AtomicU32::default);
///         match opened.fetch_add(1, Ordering::Relaxed) {
///             0..1_000 => Pre::Pass,
///             _ => Pre::Complete(Verdict::deny(Cause::Filter, "too many files")),
///         }
///     }
///     fn tidy(&self) { self.opened.forget_ended(); }
/// }
///
/// let filter = Greed { opened: Contexts::new(10_000) };
/// # assert!(filter.opened.is_empty());
/// ```
#[doc(alias = "FltAllocateContext")]
#[doc(alias = "FltSetStreamContext")]
pub struct Contexts<T> {
    most: usize,
    table: Mutex<Table<T>>,
}

struct Table<T> {
    contexts: HashMap<ContextKey, Held<T>>,
    /// By age: whoever came first goes first.
    ages: BTreeMap<u64, ContextKey>,
    /// Files by their lasting names, by which their removal is told.
    handles: HashMap<DirectoryHandle, ContextKey>,
    next: u64,
    displaced: u64,
}

struct Held<T> {
    context: Arc<T>,
    age: u64,
}

impl<T> Contexts<T> {
    /// An empty table of at most `most` contexts, and of at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            table: Mutex::new(Table {
                contexts: HashMap::new(),
                ages: BTreeMap::new(),
                handles: HashMap::new(),
                next: 0,
                displaced: 0,
            }),
        }
    }

    /// The context of this file or process, if there is one.
    #[doc(alias = "FltGetStreamContext")]
    #[must_use]
    pub fn get(&self, key: &ContextKey) -> Option<Arc<T>> {
        let table = self.lock();
        table
            .contexts
            .get(key)
            .map(|held| Arc::clone(&held.context))
    }

    /// The context of this file or process; a new one if there is none, for which the oldest may have to go.
    ///
    /// `make` is called without a lock: of two threads that make one at the same time, both get the first one's.
    pub fn get_or_insert_with(&self, key: ContextKey, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(context) = self.get(&key) {
            return context;
        }
        let made = Arc::new(make());
        let mut table = self.lock();
        if let Some(held) = table.contexts.get(&key) {
            return Arc::clone(&held.context);
        }
        let displaced = if table.contexts.len() >= self.most {
            table.displaced += 1;
            let oldest = table.ages.first_key_value().map(|(_, key)| key.clone());
            oldest.and_then(|oldest| table.remove(&oldest))
        } else {
            None
        };
        table.insert(key, Arc::clone(&made));
        drop(table);
        // What is forgotten is put away without the lock.
        drop(displaced);
        made
    }

    /// Takes the context of this file or process out.
    #[doc(alias = "FltDeleteStreamContext")]
    pub fn remove(&self, key: &ContextKey) -> Option<Arc<T>> {
        self.lock().remove(key)
    }

    /// Forgets the file that this notice tells the end of: for [`Filter::post_operation`](crate::Filter::post_operation).
    /// A file that has another name left goes on, and so does one whose end cannot be told for certain.
    pub fn forget_removed(&self, notice: &Notice) {
        // A file that was replaced by a rename ends without a notice of its own; it is displaced in time.
        let Some(target) = notice
            .target()
            .filter(|_| notice.kind() == NoticeKind::Delete)
        else {
            return;
        };
        let key = self.lock().handles.get(target).cloned();
        // Looked at without the lock, because it may take its time.
        if let Some(key) = key.filter(|_| notice.is_target_gone()) {
            self.remove(&key);
        }
    }

    /// Forgets all processes that have ended: for [`Filter::tidy`](crate::Filter::tidy). Costs a few system calls for each
    /// process. Whether or not this is called, no process gets the context of another.
    pub fn forget_ended(&self) {
        let keys: Vec<_> = self.lock().contexts.keys().cloned().collect();
        for key in keys.into_iter().filter(ContextKey::has_ended) {
            self.remove(&key);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().contexts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many had to go because there were too many.
    #[must_use]
    pub fn displaced(&self) -> u64 {
        self.lock().displaced
    }

    fn lock(&self) -> MutexGuard<'_, Table<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Contexts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts")
            .field("len", &self.len())
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl<T> Table<T> {
    fn insert(&mut self, key: ContextKey, context: Arc<T>) {
        let age = self.next;
        self.next += 1;
        self.ages.insert(age, key.clone());
        if let Subject::File { handle, .. } = &key.subject
            && let Some(handle) = handle
        {
            self.handles.insert(handle.clone(), key.clone());
        }
        self.contexts.insert(key, Held { context, age });
    }

    fn remove(&mut self, key: &ContextKey) -> Option<Arc<T>> {
        let (key, held) = self.contexts.remove_entry(key)?;
        self.ages.remove(&held.age);
        if let Subject::File { handle, .. } = &key.subject
            && let Some(handle) = handle
            && self.handles.get(handle) == Some(&key)
        {
            self.handles.remove(handle);
        }
        Some(held.context)
    }
}

/// What a context is of. Two that are equal are the same file or the same process, also where a number was used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContextKey {
    subject: Subject,
}

#[derive(Clone, Debug)]
enum Subject {
    File {
        id: FileId,
        born: (i64, u32),
        /// Not part of what is compared.
        handle: Option<DirectoryHandle>,
    },
    Process {
        pid: Pid,
        mark: Mark,
    },
}

/// What tells a process from a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mark {
    /// The number of its pidfd's inode, which is never used again (Linux 6.9).
    Inode(u64),
    /// When it was started, in ticks since the system was.
    Started(u64),
}

impl ContextKey {
    /// The operation's file, by device, inode, and the time of its making. Nothing where its filesystem does not say.
    ///
    /// # References
    /// statx(2), name_to_handle_at(2).
    #[must_use]
    pub fn file(operation: &Operation) -> Option<Self> {
        let stamp = operation.stamp()?;
        let subject = Subject::File {
            id: stamp.id,
            born: stamp.born,
            handle: DirectoryHandle::of(operation.file()).ok(),
        };
        Some(Self { subject })
    }

    /// The operation's process. Nothing if it is outside this pid namespace, or was killed.
    ///
    /// Before Linux 6.9 this opens a file of `/proc`, and keeps the operation waiting for that.
    ///
    /// # References
    /// pidfd_open(2), proc_pid_stat(5).
    #[must_use]
    pub fn process(operation: &Operation) -> Option<Self> {
        Self::of_process(operation.pid()?)
    }

    /// The process that has this id now. Nothing if there is none.
    ///
    /// # References
    /// pidfd_open(2), proc_pid_stat(5).
    #[must_use]
    pub fn of_process(pid: Pid) -> Option<Self> {
        let mark = mark_of(pid)?;
        let subject = Subject::Process { pid, mark };
        Some(Self { subject })
    }

    /// Whether it is a process that has ended.
    fn has_ended(&self) -> bool {
        match self.subject {
            Subject::File { .. } => false,
            Subject::Process { pid, mark } => mark_of(pid) != Some(mark),
        }
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { id, born, .. },
                Self::File {
                    id: other_id,
                    born: other_born,
                    ..
                },
            ) => id == other_id && born == other_born,
            (
                Self::Process { pid, mark },
                Self::Process {
                    pid: other_pid,
                    mark: other_mark,
                },
            ) => pid == other_pid && mark == other_mark,
            _ => false,
        }
    }
}

impl Eq for Subject {}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::File { id, born, .. } => (id, born).hash(state),
            Self::Process { pid, mark } => (pid, mark).hash(state),
        }
    }
}

/// What tells this process from others; nothing if it has ended.
fn mark_of(pid: Pid) -> Option<Mark> {
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let mark = match rustix::fs::fstatfs(&process) {
        Ok(stat) if stat.f_type == PIDFS => Mark::Inode(rustix::fs::fstat(&process).ok()?.st_ino),
        _ => Mark::Started(started(pid)?),
    };
    // While it lives, its id is nobody else's: what was read above was its.
    (!has_ended(&process)).then_some(mark)
}

/// A pidfd is readable when its process has ended.
fn has_ended(process: &OwnedFd) -> bool {
    is_ready(process, PollFlags::IN, Duration::ZERO) != Ok(false)
}

/// When a process was started: the 22nd field, counted behind the name, which may have anything in it.
fn started(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// `PID_FS_MAGIC` of <linux/magic.h>.
const PIDFS: rustix::fs::FsWord = 0x5049_4446;

#[cfg(test)]
mod tests;

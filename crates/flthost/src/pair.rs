//! The two groups of a filesystem: triage, which sees every operation first and answers at once, and questions, where
//! operations wait for services.
//!
//! The kernel wakes everybody who waits in a group at each answer in it. So whoever waits long waits in a group of his
//! own, and the quick ones are not slowed by them.
//!
//! An operation that triage allows for good would still be seen in the group of questions, so its file is ignored there.
//! That must let no other operation past: triage sees all of them, one after the other, takes the mark away before it sends
//! one on, and sets none while one is on its way, nor on a file that had one while something was sent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::fanotify::{Class, DirectoryHandle, Group, GroupError, MarkError};
use crate::fanotify_attributes::Attributes;
use crate::fanotify_watch::look_at;
use crate::filesystem::Filesystem;
use crate::operation::Operation;
use crate::order;
use crate::stamp::{FileId, Stamp};
use crate::supervisor_memory::Journal;
use crate::threads::{fail, spawn};

/// The two groups of a filesystem, or of none yet.
#[derive(Debug)]
pub struct Pair {
    /// Sees operations first, and answers them at once.
    pub triage: Arc<Group>,
    /// Sees what triage lets pass, and answers when services have.
    pub questions: Arc<Group>,
    /// What kind of filesystem it is, once it is known.
    pub(crate) filesystem: OnceLock<Filesystem>,
    gate: Mutex<HashMap<FileId, Gate>>,
    is_whole: AtomicBool,
    /// Tells whose files the kernel may not keep any more. Without it, it keeps none.
    attributes: OnceLock<Attributes>,
    /// Until when no file is kept out.
    open_until: Mutex<Option<Instant>>,
    /// Whether closing one of its files may wait for somebody.
    pub(crate) slow: bool,
    /// Whether it is for filesystems that come and go: one that comes back may have changed meanwhile without a trace.
    pub(crate) spare: bool,
    /// Whether the filesystem that it guards now may keep whoever reads its files waiting. For a spare pair, which may be
    /// slow for one that comes later, that is not the same.
    remote: AtomicBool,
    /// Whether it is known what it guards. A spare pair that an earlier worker or host has used is read before that.
    is_known: AtomicBool,
    /// Whether it has guarded a remote filesystem, whose operations may still come.
    was_remote: AtomicBool,
    /// Whether services are asked in the group of questions; otherwise in triage, which then decides everything.
    split: AtomicBool,
    /// An older host had the groups, which may have sent operations to the group of questions.
    inherited: bool,
}

/// What triage knows of a file and the group of questions.
#[derive(Debug)]
enum Gate {
    /// Its opens are not seen there.
    KeptOut,
    /// All of its opens are seen there. Those of these processes are on their way: what triage sent on, and what it
    /// allowed, because who is who cannot be told when they arrive.
    Seen {
        on_their_way: Vec<Passing>,
        /// A mark of its own has been there since something was sent. Then it is never kept out again: what is on its way
        /// has met that mark, and would pass if it were changed.
        marked: bool,
    },
}

impl Gate {
    /// Of a file that nothing is known of.
    const fn unmarked() -> Self {
        Self::Seen {
            on_their_way: Vec::new(),
            marked: false,
        }
    }
}

/// What may be done about marks of single files in the group of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileMarks {
    /// They are set and taken away.
    Kept,
    /// There are none: a mark of a file asks its filesystem, which a remote one might answer late, or with an error.
    None,
    /// There may be some, and they must not be touched: it may be a remote filesystem's pair.
    Unknown,
}

/// Who is on the way, as far as the kernel says at both ends, and since when.
#[derive(Clone, Copy, Debug)]
struct Passing {
    pid: Option<Pid>,
    since: Instant,
}

impl Passing {
    fn now(pid: Option<Pid>) -> Self {
        let since = Instant::now();
        Self { pid, since }
    }
}

/// Files that account is kept of; each takes some 64 bytes.
const KEPT: usize = 262_144;

/// What a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// See [`Pair::triage`].
    Triage,
    /// See [`Pair::questions`].
    Questions,
}

impl Pair {
    /// Two groups without marks; the `place`th pair of the host. Forks, so the process must have one thread.
    ///
    /// Both are of the class that may choose an errno. In which order the kernel asks two groups of one class is not
    /// documented, but it is the same for all files: a file in memory shows it. In the wrong order, what triage sends on
    /// would have passed the other group already.
    ///
    /// # Errors
    /// [`GroupError`] says what is missing.
    pub(crate) fn new(place: usize, journal: Journal) -> Result<Self, GroupError> {
        let (one, other) = (
            Group::new(Class::PreContent)?,
            Group::new(Class::PreContent)?,
        );
        let (first, second) = match order::is_asked_first(&one, &other) {
            Some(false) => (other, one),
            Some(true) => (one, other),
            None => return Err(GroupError::NoOrder),
        };
        Ok(Self::of(place, journal, first, second))
    }

    /// Of two groups that are asked in this order.
    fn of(place: usize, journal: Journal, first: Group, second: Group) -> Self {
        Self {
            triage: Arc::new(first.journaled(journal, 2 * place)),
            questions: Arc::new(second.journaled(journal, 2 * place + 1)),
            filesystem: OnceLock::new(),
            gate: Mutex::default(),
            is_whole: AtomicBool::new(false),
            attributes: OnceLock::new(),
            open_until: Mutex::default(),
            slow: false,
            spare: false,
            remote: AtomicBool::new(false),
            is_known: AtomicBool::new(true),
            was_remote: AtomicBool::new(false),
            split: AtomicBool::new(true),
            inherited: false,
        }
    }

    /// Triage has allowed an operation of this process for good: keeps its file out of the group of questions, if that can
    /// be done without letting another operation past it. Whether this one will not be seen there; otherwise it has to be
    /// allowed there again.
    pub(crate) fn keep_out(&self, file: BorrowedFd<'_>, id: FileId, pid: Option<Pid>) -> bool {
        if self.file_marks() != FileMarks::Kept {
            return false;
        }
        let mut gate = self.lock();
        if !self.has_room(&gate, id) {
            return false;
        }
        let state = match gate.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            // The file may have been forgotten here, or known to an earlier worker only: the kernel knows of its mark.
            Entry::Vacant(unknown) => unknown.insert(Gate::Seen {
                on_their_way: Vec::new(),
                marked: self.questions.unignore(file) != Err(MarkError::NotMarked),
            }),
        };
        let Gate::Seen {
            on_their_way,
            marked,
        } = state
        else {
            return true;
        };
        // The kernel forgets the mark when the file is modified or evicted, and sets none while somebody writes.
        let is_free = on_their_way.is_empty() && !*marked && !self.is_open();
        if is_free && self.questions.ignore_evictable(file, None).is_ok() {
            *state = Gate::KeptOut;
        } else {
            on_their_way.push(Passing::now(pid));
        }
        // It looked for marks before it asked triage, so this operation it sends on all the same.
        false
    }

    /// Lets the kernel allow this operation on this file from now on, until the file is modified or evicted. The file looked
    /// like `stamp` when it was found clean, and nobody may be able to write to it now.
    ///
    /// Triage first: until the other group has its mark too, every open is still seen there. Whatever modifies the file
    /// takes both marks away, or, if it comes before the second is set, the first: then triage sees the next open.
    pub(crate) fn keep_in_kernel(&self, operation: &Operation, stamp: &Stamp) -> bool {
        let (file, kind) = (operation.file(), Some(operation.kind()));
        if !self.keeps_in_kernel() {
            return false;
        }
        // Whoever is sent on waits for this lock: nobody is on his way while marks change.
        let mut gate = self.lock();
        if !self.has_room(&gate, stamp.id) {
            return false;
        }
        match gate.get_mut(&stamp.id) {
            Some(Gate::Seen {
                on_their_way,
                marked,
            }) => {
                if !on_their_way.is_empty() {
                    return false;
                }
                *marked = true;
            }
            // More may be ignored there than the kernel may keep, also by a mark that only an earlier worker knew of.
            Some(Gate::KeptOut) | None => {
                self.questions.unignore(file).ok();
                let known = Gate::Seen {
                    on_their_way: Vec::new(),
                    marked: true,
                };
                gate.insert(stamp.id, known);
            }
        }
        // First of all, so that a change of owner or mode is told from here on, or shows in the stamp.
        let watched = self.attributes.get().map(|all| all.watch(file));
        if !matches!(watched, Some(Ok(()))) || self.triage.ignore_evictable(file, kind).is_err() {
            return false;
        }
        let is_same = || Stamp::of(file).as_ref() == Some(stamp);
        if is_same() && self.questions.ignore_evictable(file, kind).is_ok() && is_same() {
            return true;
        }
        // What has changed in between and left the marks as they are. Both are changed and not removed, as ever; triage
        // first, which then sees who is sent on.
        self.triage.unignore(file).ok();
        self.questions.unignore(file).ok();
        false
    }

    /// Whether the kernel may keep verdicts about files of this pair at all, as things are now.
    pub(crate) fn keeps_in_kernel(&self) -> bool {
        // Where triage decides all, nobody stands behind it while its own marks are removed.
        self.is_whole() && self.is_split() && !self.is_open() && self.attributes.get().is_some()
    }

    /// Takes back all of [`Self::keep_in_kernel`]: triage sees every open again, and lets no other past it.
    pub(crate) fn forget_in_kernel(&self) {
        // Marks of files only, where the whole filesystem has one of its own. Fails where there are none.
        if self.is_whole() {
            self.triage.unmark_files().ok();
        }
    }

    /// Hears from now on of changes that leave [`Self::keep_in_kernel`]'s marks as they are: another owner, or other
    /// permissions, by which somebody may write to a file through a mapping. `dir` is on the filesystem.
    ///
    /// # Errors
    /// In words, when there can be no group or thread for it. Then nothing is kept in the kernel.
    pub(crate) fn follow_attributes(self: &Arc<Self>, dir: OwnedFd) -> Result<(), String> {
        if self.attributes.get().is_some() {
            return Ok(());
        }
        let attributes = Attributes::new().map_err(|error| error.to_string())?;
        // Some filesystems take no such marks (subvolumes of btrfs before Linux 6.8).
        attributes
            .watch(dir.as_fd())
            .map_err(|error| error.to_string())?;
        let pair = Arc::clone(self);
        // It is there before the thread, which is there before anything is kept.
        self.attributes.set(attributes).ok();
        spawn("attributes", move || pair.let_changed_go(&dir))
    }

    fn let_changed_go(&self, dir: &OwnedFd) {
        let Some(attributes) = self.attributes.get() else {
            return;
        };
        loop {
            match poll(&mut [PollFd::new(attributes, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => fail(format_args!("cannot wait for changed attributes: {error}")),
            }
            let read = attributes.read(|changed| self.let_go(dir.as_fd(), changed.as_ref()));
            if let Err(error) = read {
                fail(format_args!(
                    "cannot read what attributes have changed: {error}"
                ));
            }
        }
    }

    /// Takes the mark of one file back; those of all if it cannot be told which, or cannot be found.
    fn let_go(&self, dir: BorrowedFd<'_>, changed: Option<&DirectoryHandle>) {
        // Triage is enough: it sees the next open, and takes the other group's mark back before it sends that on.
        let unignore = |handle| match look_at(dir, handle) {
            Ok(file) => self.triage.unignore_path(file.as_fd()),
            // It is gone, and its marks with it.
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(()),
            Err(_) => Err(MarkError::NoHandles),
        };
        match changed.map(unignore) {
            Some(Ok(()) | Err(MarkError::NotMarked)) => {}
            _ => self.forget_in_kernel(),
        }
    }

    /// Whether every open on the filesystem is seen, by whatever name.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Whether operations that services are asked about are sent on to the group of questions.
    pub(crate) fn is_split(&self) -> bool {
        self.split.load(Ordering::Acquire)
    }

    /// Whether what comes to the group of questions has been decided in triage.
    pub(crate) fn is_decided_in_triage(&self) -> bool {
        !self.is_split() && !self.inherited
    }

    /// See [`Self::is_split`]; before anything is read.
    pub(crate) fn set_split(&self, split: bool) {
        self.split.store(split, Ordering::Release);
    }

    /// Whether services that read its files may have to wait for a server or a daemon.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.load(Ordering::Acquire)
    }

    /// See [`Self::is_remote`].
    pub(crate) fn set_remote(&self, remote: bool) {
        self.remote.store(remote, Ordering::Release);
        // Once is enough: what waits in the groups may be of the filesystem that was there before.
        self.was_remote.fetch_or(remote, Ordering::AcqRel);
        self.is_known.store(true, Ordering::Release);
    }

    /// What it guards is known later, and may be a remote filesystem or not.
    pub(crate) fn set_unknown(&self, may_be_remote: bool) {
        self.remote.store(may_be_remote, Ordering::Release);
        self.is_known.store(false, Ordering::Release);
    }

    /// It guards nothing any more. What comes by it, or waits for triage, is decided there: the other group may not see it.
    pub(crate) fn give_up(&self) {
        if !self.is_known.swap(false, Ordering::AcqRel) {
            self.was_remote.store(true, Ordering::Release);
        }
    }

    fn file_marks(&self) -> FileMarks {
        match self.is_known.load(Ordering::Acquire) {
            false => FileMarks::Unknown,
            true if self.was_remote.load(Ordering::Acquire) => FileMarks::None,
            true => FileMarks::Kept,
        }
    }

    /// The whole filesystem is marked: marks of single files may come and go.
    pub(crate) fn set_whole(&self) {
        self.is_whole.store(true, Ordering::Release);
    }

    /// For a worker that follows another: nobody knows what the dead one has sent to the group of questions. For a while
    /// no file is kept out, until all of that has arrived.
    pub(crate) fn keep_nothing_out(&self) {
        let open_until = self.open_until.lock();
        *open_until.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + ARRIVAL);
    }

    /// Whether no file may be kept out now.
    fn is_open(&self) -> bool {
        let open_until = self.open_until.lock();
        let open_until = *open_until.unwrap_or_else(PoisonError::into_inner);
        open_until.is_some_and(|end| Instant::now() < end)
    }

    /// Whether an account of this file can be kept. If not, who is on his way now is in none, and nothing is kept out until
    /// he has arrived.
    fn has_room(&self, gate: &HashMap<FileId, Gate>, id: FileId) -> bool {
        let has_room = gate.len() < KEPT || gate.contains_key(&id);
        if !has_room {
            self.keep_nothing_out();
        }
        has_room
    }

    /// Triage lets an operation pass on to the group of questions, which has to see it: until it has arrived there, no
    /// other operation may keep its file out. False: it may not be seen there, and has to wait where it is.
    #[must_use]
    pub(crate) fn send(&self, file: BorrowedFd<'_>, id: FileId, pid: Option<Pid>) -> bool {
        match self.file_marks() {
            FileMarks::Kept => {}
            FileMarks::None => return true,
            FileMarks::Unknown => return false,
        }
        let mut gate = self.lock();
        // As a rule it was not.
        let was_marked = match self.questions.unignore(file) {
            Ok(()) => true,
            Err(MarkError::NotMarked) => false,
            // The filesystem, or a security module, does not let us near the mark, which may be there.
            Err(_) => return false,
        };
        if !self.has_room(&gate, id) {
            return true;
        }
        match gate.entry(id).or_insert_with(Gate::unmarked) {
            Gate::Seen {
                on_their_way,
                marked,
            } => {
                on_their_way.push(Passing::now(pid));
                *marked |= was_marked;
            }
            kept => {
                *kept = Gate::Seen {
                    on_their_way: vec![Passing::now(pid)],
                    marked: true,
                }
            }
        }
        true
    }

    /// An operation has come to the group of questions.
    pub(crate) fn arrived(&self, id: FileId, pid: Option<Pid>) {
        let mut gate = self.lock();
        if let Some(Gate::Seen { on_their_way, .. }) = gate.get_mut(&id)
            && let Some(place) = on_their_way.iter().position(|other| other.pid == pid)
        {
            on_their_way.swap_remove(place);
            free_if_empty(on_their_way);
        }
    }

    /// Forgets operations that were killed on their way or never had to arrive, and files of which nothing is known. Where
    /// the table is full, also which files have marks: those stay, and tell of themselves.
    pub(crate) fn forget_past(&self) {
        let mut gate = self.lock();
        let is_full = gate.len() >= KEPT / 2;
        gate.retain(|_, state| match state {
            Gate::KeptOut => !is_full,
            Gate::Seen {
                on_their_way,
                marked,
            } => {
                on_their_way.retain(|passing| passing.since.elapsed() < ARRIVAL);
                free_if_empty(on_their_way);
                *marked && !is_full || !on_their_way.is_empty()
            }
        });
    }

    /// Forgets which files are kept out: the pair guards another filesystem next, whose numbers may be the same.
    pub(crate) fn forget_kept_out(&self) {
        let mut gate = self.lock();
        gate.retain(|_, state| matches!(state, Gate::Seen { .. }));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Gate>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two groups of an older host, with their marks.
    pub(crate) fn from_fds(
        place: usize,
        journal: Journal,
        triage: OwnedFd,
        questions: OwnedFd,
        slow: bool,
        spare: bool,
    ) -> Self {
        let group = |fd, role| Group::from_fd(fd).journaled(journal, 2 * place + role);
        Self {
            triage: Arc::new(group(triage, 0)),
            questions: Arc::new(group(questions, 1)),
            gate: Mutex::default(),
            is_whole: AtomicBool::new(false),
            attributes: OnceLock::new(),
            open_until: Mutex::default(),
            filesystem: OnceLock::new(),
            slow,
            spare,
            remote: AtomicBool::new(slow),
            is_known: AtomicBool::new(!spare),
            was_remote: AtomicBool::new(slow && !spare),
            split: AtomicBool::new(true),
            inherited: true,
        }
    }

    /// The group of this role.
    pub(crate) const fn group(&self, role: Role) -> &Arc<Group> {
        match role {
            Role::Triage => &self.triage,
            Role::Questions => &self.questions,
        }
    }

    /// Both, in the order in which the kernel asks.
    pub(crate) fn groups(&self) -> [(Role, &Arc<Group>); 2] {
        [
            (Role::Triage, &self.triage),
            (Role::Questions, &self.questions),
        ]
    }
}

/// An account is kept for good; room for who is on the way is not needed when nobody is.
fn free_if_empty(sent: &mut Vec<Passing>) {
    if sent.is_empty() {
        *sent = Vec::new();
    }
}

/// Time from one group to the other, for a process that has to wait for a processor too.
const ARRIVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

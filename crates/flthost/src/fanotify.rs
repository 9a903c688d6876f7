//! The binding to fanotify: groups that may veto, and a watch that sees directories appear.
//!
//! Only what the host needs, and only in forms that cannot be misused: descriptors are owned,
//! events must be answered ([`Permission`]), marks go by descriptor and never by path. What to
//! guard is decided in [`crate::marks`]; what to answer, by the filters. Events, the watch, and notices are in
//! private modules next door (`fanotify_event`, `fanotify_watch`, `fanotify_notify`) and exported here.
#![allow(unsafe_code)] // Neither std nor rustix has fanotify.

use std::ffi::{CString, c_int, c_uint};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::answers::{Answer, Answers};
pub use crate::fanotify_error::{GroupError, MarkError};
pub(crate) use crate::fanotify_event::AnswerBuffer;
use crate::fanotify_event::RESPONSE_LEN;
pub use crate::fanotify_event::{
    AnswerError, Answered, Batch, Defaults, DenyErrno, Event, EventBuffer, Operation, Permission,
    Response,
};
pub use crate::fanotify_notify::{Entry, Notifier, RawNotice};
pub use crate::fanotify_watch::{DirectoryHandle, Watch, WatchEvent, open_parent};
use crate::pulse::gets_on;
use crate::supervisor_memory::{Journal, Owed};

/// A permission group: asks before files are opened or executed where it has marks.
///
/// Closing the last descriptor of a group allows everything that waits in it. Only one process may
/// read a group at a time, because answers are matched by the reader's descriptor numbers; within
/// that process, any thread may answer.
///
/// # References
///
/// fanotify(7), fanotify_init(2).
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    dropped: AtomicU64,
    journal: Option<(Journal, usize)>,
    pub(crate) answers: Answers,
}

/// Answers that one system call carries.
const TOGETHER: usize = 64;

impl Group {
    /// Creates a group without marks: close-on-exec, nonblocking, queue and marks unlimited.
    ///
    /// The queue has to be unlimited: on overflow the kernel lets operations pass unasked.
    ///
    /// # Errors
    ///
    /// [`GroupError`] says what is missing.
    ///
    /// # References
    ///
    /// fanotify_init(2).
    pub fn new(class: Class) -> Result<Self, GroupError> {
        let flags = match class {
            Class::Content => libc::FAN_CLASS_CONTENT,
            Class::PreContent => libc::FAN_CLASS_PRE_CONTENT,
        };
        // The kernel's own reason for an event that it could not open, since Linux 6.13.
        let fd = match init(flags | FAN_REPORT_FD_ERROR) {
            Err(Errno::INVAL) => init(flags),
            other => other,
        };
        fd.map(Self::from_fd).map_err(GroupError::from_errno)
    }

    /// Takes over a group that this program created before, here or in another process.
    ///
    /// The descriptor must be a nonblocking permission group; any other one fails at the first use.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            fd,
            dropped: AtomicU64::new(0),
            journal: None,
            answers: Answers::default(),
        }
    }

    /// The same group, which writes down what it owes an answer: at `place` among the groups of its host.
    #[must_use]
    pub(crate) fn journaled(mut self, journal: Journal, place: usize) -> Self {
        self.journal = Some((journal, place));
        self
    }

    /// An event was read; unless it is answered by this process, it gets `response`.
    pub(crate) fn note(&self, number: RawFd, response: Response, exec: bool, pid: Option<Pid>) {
        if let Some((journal, group)) = self.journal {
            let owed = Owed {
                group,
                response,
                exec,
                pid: pid.map_or(0, |pid| pid.as_raw_nonzero().get()),
            };
            journal.note(number, owed);
        }
    }

    /// Answers an event that this process has read, unless it was handed over meanwhile.
    pub(crate) fn respond_once(
        &self,
        number: RawFd,
        response: Response,
    ) -> Result<Response, AnswerError> {
        if !self.claims(number) {
            return Err(AnswerError::NotPending);
        }
        self.respond(number, response)
    }

    /// Whether this event is still this process's to answer; from now on it is nobody else's.
    fn claims(&self, number: RawFd) -> bool {
        self.journal
            .is_none_or(|(journal, _)| journal.claim(number))
    }

    /// This is the answer to an event, which goes out later.
    pub(crate) fn decide(&self, number: RawFd, response: Response) {
        if let Some((journal, _)) = self.journal {
            journal.decide(number, response);
        }
    }

    /// Answers several events that this process has read; how many were not taken, or handed over meanwhile.
    pub(crate) fn respond_together(&self, answers: &[Answer]) -> u64 {
        let mut failed = 0;
        for some in answers.chunks(TOGETHER) {
            gets_on();
            let owed = some.iter().filter(|answer| self.claims(answer.number));
            let mut bytes = [[0; RESPONSE_LEN]; TOGETHER];
            let mut numbers = [(0, Response::Deny); TOGETHER];
            let mut count = 0;
            for ((bytes, number), answer) in bytes.iter_mut().zip(&mut numbers).zip(owed) {
                *bytes = answer.response.to_bytes(answer.number);
                *number = (answer.number, answer.response);
                count += 1;
            }
            failed += some.len() - count;
            let mut from = 0;
            while from < count {
                let rest = bytes.get(from..count).unwrap_or_default();
                from += self.write_together(rest);
                // The kernel stops at one that it does not take: alone, that says why, or is taken in another form.
                if let Some((number, response)) = numbers.get(from..count).and_then(<[_]>::first) {
                    failed += usize::from(self.respond(*number, *response).is_err());
                    from += 1;
                }
            }
        }
        u64::try_from(failed).unwrap_or(u64::MAX)
    }

    /// Finds out whether permission events work here, without touching any filesystem.
    ///
    /// A group of each class is made, and a mark is put on a file that exists only in memory.
    ///
    /// # Errors
    ///
    /// [`GroupError`] says what is missing.
    ///
    /// # References
    ///
    /// fanotify_init(2), fanotify_mark(2), memfd_create(2).
    pub fn probe() -> Result<(), GroupError> {
        let file = rustix::fs::memfd_create(c"fanotify-probe", MemfdFlags::CLOEXEC)
            .map_err(GroupError::from_errno)?;
        for class in [Class::PreContent, Class::Content] {
            let group = Self::new(class)?;
            match mark(group.as_fd(), libc::FAN_MARK_ADD, PERMISSIONS, file.as_fd()) {
                Ok(()) => {}
                Err(Errno::INVAL) => return Err(GroupError::NoPermissionEvents),
                Err(errno) => return Err(GroupError::from_errno(errno)),
            }
        }
        Ok(())
    }

    /// Asks for this one file.
    ///
    /// # Errors
    ///
    /// See [`MarkError`].
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn mark_file(&self, file: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(libc::FAN_MARK_ADD, PERMISSIONS, file)
    }

    /// Takes the marks of all files and directories away; those of filesystems and mounts stay.
    ///
    /// # Errors
    ///
    /// See [`MarkError`].
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_FLUSH`.
    pub fn unmark_files(&self) -> Result<(), MarkError> {
        flush(self.as_fd(), libc::FAN_MARK_FLUSH).map_err(MarkError::from_errno)
    }

    /// Takes all marks of every kind away: nothing is asked about any more. What waits goes on waiting.
    ///
    /// # Errors
    ///
    /// See [`MarkError`].
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_FLUSH`.
    pub fn unmark_all(&self) -> Result<(), MarkError> {
        let kinds = [0, libc::FAN_MARK_MOUNT, libc::FAN_MARK_FILESYSTEM];
        // All are tried, also after one that fails.
        let flushed = kinds.map(|kind| flush(self.as_fd(), libc::FAN_MARK_FLUSH | kind));
        flushed
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(MarkError::from_errno)
    }

    /// Asks for every file of the filesystem that `dir` is on, whatever mount it is reached by.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]. `dir` must not be an `O_PATH` descriptor.
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_FILESYSTEM`.
    pub fn mark_filesystem(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM,
            PERMISSIONS,
            dir,
        )
    }

    /// Takes back [`Group::mark_filesystem`].
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `NotMarked` if there was no such mark.
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn unmark_filesystem(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_FILESYSTEM,
            PERMISSIONS,
            dir,
        )
    }

    /// Asks for every file that is reached by the mount that `object` is on, and by no other mount.
    ///
    /// The mark goes when the mount does, and keeps nobody from unmounting it.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]. `object` must not be an `O_PATH` descriptor.
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_MOUNT`.
    pub fn mark_mount(&self, object: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT,
            PERMISSIONS,
            object,
        )
    }

    /// Asks for the files directly in the directory `dir`, not for those further below.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]. `dir` must not be an `O_PATH` descriptor.
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_EVENT_ON_CHILD`.
    pub fn mark_directory(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR,
            CHILD_PERMISSIONS,
            dir,
        )
    }

    /// Takes back [`Group::mark_directory`].
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `NotMarked` if there was no such mark.
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn unmark_directory(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR,
            CHILD_PERMISSIONS,
            dir,
        )
    }

    /// Lets the kernel allow `file` unasked in this group until it is modified or evicted; only this operation, or all.
    ///
    /// A store through a shared mapping does not end it, so the caller must make sure that no
    /// writer exists. `file` may be an event's own descriptor: this raises no event.
    ///
    /// The file gets a mark of its own that asks, as the group does anyway, and goes on to exist when
    /// [`Group::unignore`] takes the rest back. While a mark is being *removed*, the kernel lets whoever has met it
    /// pass unasked.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `Unsupported` before Linux 6.0.
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_IGNORE`, `FAN_MARK_EVICTABLE`.
    pub fn ignore_evictable(
        &self,
        file: BorrowedFd<'_>,
        operation: Option<Operation>,
    ) -> Result<(), MarkError> {
        let asks = libc::FAN_MARK_ADD | libc::FAN_MARK_EVICTABLE;
        let mask = match operation {
            None => PERMISSIONS,
            Some(Operation::Open) => libc::FAN_OPEN_PERM,
            Some(Operation::Exec) => libc::FAN_OPEN_EXEC_PERM,
        };
        self.mark(asks, PERMISSIONS, file)?;
        self.mark(libc::FAN_MARK_ADD | IGNORE, mask, file)
    }

    /// Takes back [`Group::ignore_evictable`]: from now on the file is asked about, also for operations that are on
    /// their way to this group.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `NotMarked` if the kernel has dropped it meanwhile, which is harmless.
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn unignore(&self, file: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORE,
            PERMISSIONS,
            file,
        )
    }

    /// As [`Group::unignore`], of a file that was opened with `O_PATH` only: opening it otherwise would raise an event.
    ///
    /// # Errors
    ///
    /// As [`Group::unignore`].
    ///
    /// # References
    ///
    /// fanotify_mark(2); proc_pid_fd(5).
    pub(crate) fn unignore_path(&self, file: BorrowedFd<'_>) -> Result<(), MarkError> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        let flags = libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORE;
        let group = self.fd.as_raw_fd();
        // SAFETY: (1) the group's descriptor is open: its owner is borrowed; (2) the path is NUL-terminated and lives until
        // the call is over.
        let call = || unsafe {
            libc::fanotify_mark(group, flags, PERMISSIONS, libc::AT_FDCWD, path.as_ptr())
        };
        check(call()).map(drop).map_err(MarkError::from_errno)
    }

    /// Takes the next events out of the queue; an empty batch means that there were none.
    ///
    /// `defaults` are what each [`Permission`] answers when it is dropped.
    ///
    /// # Blocks until
    ///
    /// the filesystem has opened every file of the batch: a hung one (network, FUSE) blocks this.
    ///
    /// # Errors
    ///
    /// Only if the descriptor is no permission group, so they are final. A file that could not be
    /// opened for us is [`Event::Unopenable`].
    ///
    /// # References
    ///
    /// fanotify(7), "Reading fanotify events".
    pub fn read<'a>(
        self: &Arc<Self>,
        buffer: &'a mut EventBuffer,
        defaults: impl Into<Defaults>,
    ) -> io::Result<Batch<'a>> {
        buffer.fill(self, defaults.into())
    }

    /// Takes the next events out of the queue and answers all of them; how many there were. Allocates nothing, and closes
    /// what the kernel has opened for them.
    ///
    /// # Blocks until
    ///
    /// the filesystem has opened every file of the batch, as [`Self::read`].
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    ///
    /// # References
    ///
    /// fanotify(7).
    pub(crate) fn answer_all(
        &self,
        buffer: &mut AnswerBuffer,
        defaults: Defaults,
    ) -> io::Result<usize> {
        buffer.answer(self, defaults)
    }

    /// Answers whatever waits under the descriptor numbers below `limit`, and tells how many did.
    ///
    /// For the process that outlives a reader: events that the dead reader had taken out can be
    /// answered only by number. While a reader lives this would answer in its place.
    ///
    /// # References
    ///
    /// fanotify(7), `struct fanotify_response`.
    pub fn sweep(&self, limit: u32, response: Response) -> u64 {
        let numbers = 0..RawFd::try_from(limit).unwrap_or(RawFd::MAX);
        let response = if self.supports(response) {
            response
        } else {
            Response::Deny
        };
        numbers
            .map(|number| u64::from(self.respond(number, response).is_ok()))
            .sum()
    }

    /// Whether the kernel takes this answer in this group as it is.
    ///
    /// # References
    ///
    /// fanotify(7), `FAN_DENY_ERRNO`.
    #[must_use]
    pub fn supports(&self, response: Response) -> bool {
        // The code is checked before the number is looked up, and no event has this number.
        self.write(RawFd::MAX, response) != Err(Errno::INVAL)
    }

    /// Whether the descriptor behaves like a group: says that nobody waits under a number that no
    /// event can have.
    pub(crate) fn takes_answers(&self) -> bool {
        self.write(RawFd::MAX, Response::Allow) == Err(Errno::NOENT)
    }

    /// How many events got their default answer because their [`Permission`] was dropped.
    #[must_use]
    pub fn dropped_answers(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn count_dropped(&self) {
        // Relaxed: a statistic, nothing is published by it.
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers event `number`; falls back to a plain deny, because an opener must not wait.
    pub(crate) fn respond(
        &self,
        number: RawFd,
        response: Response,
    ) -> Result<Response, AnswerError> {
        let (given, result) = match (response, self.write(number, response)) {
            (Response::DenyErrno(_), Err(Errno::INVAL)) => {
                (Response::Deny, self.write(number, Response::Deny))
            }
            (_, result) => (response, result),
        };
        match result {
            Ok(()) => Ok(given),
            Err(Errno::NOENT) => Err(AnswerError::NotPending),
            Err(errno) => Err(AnswerError::Os(errno)),
        }
    }

    fn write(&self, number: RawFd, response: Response) -> Result<(), Errno> {
        let bytes: [u8; RESPONSE_LEN] = response.to_bytes(number);
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &bytes)).map(drop)
    }

    /// How many of these answers the kernel has taken, before one that it does not take.
    fn write_together(&self, answers: &[[u8; RESPONSE_LEN]]) -> usize {
        let mut slices = [IoSlice::new(&[]); TOGETHER];
        for (slice, answer) in slices.iter_mut().zip(answers) {
            *slice = IoSlice::new(answer);
        }
        let slices = slices.get(..answers.len()).unwrap_or_default();
        let written = rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, slices));
        written.map_or(0, |bytes| bytes / RESPONSE_LEN)
    }

    fn mark(&self, flags: c_uint, mask: u64, object: BorrowedFd<'_>) -> Result<(), MarkError> {
        mark(self.as_fd(), flags, mask, object).map_err(MarkError::from_errno)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The place of a group in the order in which the kernel asks.
///
/// # References
///
/// fanotify_init(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Asked after every `PreContent` group has allowed.
    Content,
    /// Asked first, and the only class that may deny with an error of its choice (Linux 6.14).
    PreContent,
}

/// A group whose queue is unlimited.
pub(crate) fn init(flags: c_uint) -> Result<OwnedFd, Errno> {
    init_bounded(flags | libc::FAN_UNLIMITED_QUEUE)
}

/// A group whose queue ends where the system says, and tells when events were lost.
pub(crate) fn init_bounded(flags: c_uint) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_MARKS;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = check(unsafe { libc::fanotify_init(flags, EVENT_FLAGS) })?;
    // SAFETY: (1) `fd` is open and ours: the call has just made it; (2) not -1: `check`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn mark(
    group: BorrowedFd<'_>,
    flags: c_uint,
    mask: u64,
    object: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let (group, object) = (group.as_raw_fd(), object.as_raw_fd());
    // SAFETY: (1) both descriptors are open: their owners are borrowed; (2) a null path is allowed
    // and means the object behind the descriptor itself.
    check(unsafe { libc::fanotify_mark(group, flags, mask, object, ptr::null()) }).map(drop)
}

fn flush(group: BorrowedFd<'_>, flags: c_uint) -> Result<(), Errno> {
    let group = group.as_raw_fd();
    // SAFETY: (1) the descriptor is open: its owner is borrowed; (2) with this flag the call looks at no path.
    check(unsafe { libc::fanotify_mark(group, flags, 0, libc::AT_FDCWD, ptr::null()) }).map(drop)
}

pub(crate) fn check(result: c_int) -> Result<c_int, Errno> {
    if result >= 0 {
        Ok(result)
    } else {
        Err(last_error())
    }
}

fn last_error() -> Errno {
    io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// `FAN_REPORT_FD_ERROR` of <linux/fanotify.h>, not in the libc crate.
const FAN_REPORT_FD_ERROR: c_uint = 0x2000;
/// How the kernel opens the files of events. Not for writing: that would make the kernel deny
/// every running program (`ETXTBSY`). NOATIME: looking at a file must not change it.
const EVENT_FLAGS: c_uint =
    (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NOATIME).cast_unsigned();
const PERMISSIONS: u64 = libc::FAN_OPEN_PERM | libc::FAN_OPEN_EXEC_PERM;
const CHILD_PERMISSIONS: u64 = PERMISSIONS | libc::FAN_EVENT_ON_CHILD;
const IGNORE: c_uint = libc::FAN_MARK_IGNORE | libc::FAN_MARK_EVICTABLE;

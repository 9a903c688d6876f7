//! Events of a permission group: from the kernel's bytes to values that must be answered.
//!
//! Everything that one `read` brought is turned into owned descriptors before the caller sees the
//! first event, so nothing leaks and nobody stays blocked when the caller stops half-way. This
//! room decides nothing: it only knows what happens to an event that nobody decided (its default
//! answer). Groups and marks live in [`crate::fanotify`], through which all of this is exported.
#![allow(unsafe_code)] // A descriptor number in a kernel record has to become an owned descriptor.

use std::iter::FusedIterator;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::{io, vec};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::fanotify::Group;
use crate::fanotify_record::{METADATA_LEN, Record, Records};

/// One operation that waits for an answer: the obligation to give it exactly once.
///
/// The kernel matches answers by descriptor *number*, so the answer is always written while the
/// descriptor is open, and [`Permission::answer`] gives the descriptor out only afterwards.
/// Dropping the value gives the default answer that was passed to [`Group::read`], then closes,
/// and counts it in [`Group::dropped_answers`]. While it lives, the opener sleeps and only a fatal
/// signal ends that: never leak one with [`std::mem::forget`].
///
/// # References
///
/// fanotify(7), "Dealing with permission events".
#[derive(Debug)]
#[must_use = "dropping it gives the default answer"]
pub struct Permission {
    // Order matters: fields are dropped from the top, and the answer goes out before the close.
    duty: Duty,
    file: Arc<OwnedFd>,
    process: Option<OwnedFd>,
}

impl Permission {
    /// Answers, then hands out the descriptor, which may be kept or closed from now on.
    ///
    /// The descriptor stays invisible to fanotify: reading or mapping it raises no event.
    ///
    /// # Errors
    ///
    /// [`Answered::result`] carries them: see [`AnswerError`].
    ///
    /// # References
    ///
    /// fanotify(7), `struct fanotify_response`.
    pub fn answer(self, response: Response) -> Answered {
        let Self { mut duty, file, .. } = self;
        let group = &duty.group;
        if group.answers.take(group, duty.number, response, &file) {
            // Who writes it has the duty now, and counts it where it fails.
            duty.is_given_on();
            let result = Ok(response);
            return Answered { result, file };
        }
        let result = duty.answer(response);
        Answered { result, file }
    }

    /// The file that is being opened or executed, for reading.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The same, to be shared with a message: it stays open until the last holder lets go.
    #[must_use]
    pub const fn shared_file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// The opener's pidfd, when the group was made with `FAN_REPORT_PIDFD` and the opener lived.
    #[must_use]
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(AsFd::as_fd)
    }

    /// What the operation gets if nobody answers.
    #[must_use]
    pub fn default_response(&self) -> Response {
        self.duty.default
    }
}

/// The outcome of [`Permission::answer`].
#[derive(Debug)]
#[must_use = "the descriptor is closed here, and the kernel may have refused the answer"]
pub struct Answered {
    /// What the kernel took, or, from a group whose answers go out together, will be given: `Deny` in place of a `DenyErrno` that this group or kernel refuses.
    pub result: Result<Response, AnswerError>,
    /// The event's descriptor. Its number may be reused by the next event once all who share it have let go.
    pub file: Arc<OwnedFd>,
}

/// Why the kernel did not take an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No event waits under this number: somebody else sharing the group answered it already (a
    /// sweep), or this process is not the one that read it.
    ///
    /// An opener that was killed meanwhile is *not* reported so: the kernel takes the answer and
    /// throws it away.
    #[error("no event waits under this descriptor number: it was answered already")]
    NotPending,
    /// The system call failed for another reason, which the kernel does not document.
    #[error("the kernel refused the answer: {0}")]
    Os(Errno),
}

/// An answer to a permission event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    /// The operation goes on (to the next group, if there is one).
    Allow,
    /// The operation fails with `EPERM`.
    Deny,
    /// The operation fails with this error; takes a `PreContent` group and Linux 6.14, else it
    /// becomes a plain `Deny`.
    DenyErrno(DenyErrno),
}

impl Response {
    /// The kernel's code for it.
    pub(crate) fn to_code(self) -> u32 {
        match self {
            Self::Allow => libc::FAN_ALLOW,
            Self::Deny => libc::FAN_DENY,
            // FAN_DENY_ERRNO(e) of <linux/fanotify.h>; the values are far below 256.
            Self::DenyErrno(e) => libc::FAN_DENY | (e.code() << FAN_ERRNO_SHIFT),
        }
    }

    /// What the kernel's code means; nothing for one that [`Self::to_code`] never gives.
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        let errnos = DenyErrno::ALL.into_iter().map(Self::DenyErrno);
        [Self::Allow, Self::Deny]
            .into_iter()
            .chain(errnos)
            .find(|response| response.to_code() == code)
    }

    /// The bytes of `struct fanotify_response` that give this answer to event `number`.
    pub(crate) fn to_bytes(self, number: RawFd) -> [u8; RESPONSE_LEN] {
        let code = self.to_code();
        let mut bytes = [0; RESPONSE_LEN];
        let (head, tail) = bytes.split_at_mut(size_of::<RawFd>());
        head.copy_from_slice(&number.to_ne_bytes());
        tail.copy_from_slice(&code.to_ne_bytes());
        bytes
    }
}

/// The errors, and the only ones, with which the kernel lets a group deny an operation.
///
/// # References
///
/// fanotify(7), `FAN_DENY_ERRNO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyErrno {
    /// `EPERM`: operation not permitted.
    Eperm,
    /// `EIO`: input/output error.
    Eio,
    /// `EAGAIN`: try again.
    Eagain,
    /// `EBUSY`: resource busy.
    Ebusy,
    /// `ETXTBSY`: text file busy.
    Etxtbsy,
    /// `ENOSPC`: no space left on device.
    Enospc,
    /// `EDQUOT`: quota exceeded.
    Edquot,
}

impl DenyErrno {
    /// Every representable error.
    pub const ALL: [Self; 7] = [
        Self::Eperm,
        Self::Eio,
        Self::Eagain,
        Self::Ebusy,
        Self::Etxtbsy,
        Self::Enospc,
        Self::Edquot,
    ];

    /// The value for `errno`, or nothing if the kernel would refuse it.
    #[must_use]
    pub fn from_errno(errno: Errno) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.errno() == errno)
    }

    /// The error that the opener gets.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::Eperm => Errno::PERM,
            Self::Eio => Errno::IO,
            Self::Eagain => Errno::AGAIN,
            Self::Ebusy => Errno::BUSY,
            Self::Etxtbsy => Errno::TXTBSY,
            Self::Enospc => Errno::NOSPC,
            Self::Edquot => Errno::DQUOT,
        }
    }

    fn code(self) -> u32 {
        self.errno().raw_os_error().unsigned_abs()
    }
}

/// One event of a permission group.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A process waits for an answer.
    Permission {
        /// What it wants to do.
        operation: Operation,
        /// Its thread group id; nothing if it lives in a pid namespace that is not below ours.
        pid: Option<Pid>,
        /// The obligation to answer.
        permission: Permission,
    },
    /// The queue was full and the kernel let operations pass unasked.
    ///
    /// Cannot happen in a group that was made with `FAN_UNLIMITED_QUEUE`, as [`Group::new`] does.
    Overflow,
    /// The kernel could not open the file for us and has *denied* the operation already.
    ///
    /// Typical: `EMFILE` (our descriptor table is full), `ENXIO`, `ESTALE`.
    Unopenable {
        /// The opener, if the kernel told it.
        pid: Option<Pid>,
        /// The reason, if the kernel told it (`FAN_REPORT_FD_ERROR`, Linux 6.13).
        errno: Option<Errno>,
    },
    /// An event of a kind that [`Group`] never subscribes to. If it was one that waits for an
    /// answer, it has got the default.
    Other {
        /// The kernel's event mask.
        mask: u64,
    },
    /// The rest of the batch is not in the format this program knows; it was given up, and
    /// whoever waits behind it gets an answer only from [`Group::sweep`] or when the group closes.
    Malformed,
}

/// The kind of operation that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// The file is being opened.
    Open,
    /// The file is being executed. An `Open` of the same file follows if this is allowed.
    Exec,
}

/// The events of one `read`; whatever is not taken out is answered with the default on drop.
#[derive(Debug)]
pub struct Batch<'a> {
    events: vec::Drain<'a, Event>,
}

impl Iterator for Batch<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.events.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.events.size_hint()
    }
}

impl ExactSizeIterator for Batch<'_> {}
impl FusedIterator for Batch<'_> {}

/// Reusable memory for [`Group::read`], sized so that one `read` brings a known number of events.
///
/// Each event of a group made by [`Group::new`] installs one descriptor (two with
/// `FAN_REPORT_PIDFD`), so the size is a bound on how fast the descriptor table can fill.
#[derive(Debug)]
pub struct EventBuffer {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

impl EventBuffer {
    /// Memory for at most `events` events per `read`, and for at least one.
    #[must_use]
    pub fn with_capacity(events: usize) -> Self {
        let events = events.max(1);
        // The slack is less than one more event, and lets a lone event have a pidfd record.
        let len = events.saturating_mul(METADATA_LEN).saturating_add(SLACK);
        Self {
            bytes: vec![0; len],
            events: Vec::with_capacity(events),
        }
    }

    /// Reads once from `group`; see [`Group::read`].
    pub(crate) fn fill(&mut self, group: &Arc<Group>, defaults: Defaults) -> io::Result<Batch<'_>> {
        self.events.clear();
        match rustix::io::retry_on_intr(|| rustix::io::read(&**group, &mut self.bytes)) {
            Ok(len) => {
                let bytes = self.bytes.get(..len).unwrap_or_default();
                for record in Records::new(bytes) {
                    // Nothing may fail between two records: each may hold a descriptor.
                    self.events
                        .push(record.map_or(Event::Malformed, |r| adopt(&r, group, defaults)));
                }
            }
            Err(Errno::AGAIN) => {}
            // Before Linux 6.13 this is how the error of opening an event's file is told, and a FUSE
            // daemon can choose that error: it must not look like the end of the group.
            Err(errno) if !group.takes_answers() => return Err(errno.into()),
            Err(errno) => self.events.push(Event::Unopenable {
                pid: None,
                errno: Some(errno),
            }),
        }
        Ok(Batch {
            events: self.events.drain(..),
        })
    }
}

/// What operations get when nobody decides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// What opens get.
    pub open: Response,
    /// What executions get.
    pub exec: Response,
}

impl Defaults {
    pub(crate) fn of(self, operation: Option<Operation>) -> Response {
        match operation {
            Some(Operation::Exec) => self.exec,
            _ => self.open,
        }
    }
}

impl From<Response> for Defaults {
    fn from(response: Response) -> Self {
        Self {
            open: response,
            exec: response,
        }
    }
}

/// Memory for [`Group::answer_all`], made beforehand.
#[derive(Debug)]
pub(crate) struct AnswerBuffer {
    bytes: [u8; ANSWER_BYTES],
}

impl AnswerBuffer {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; ANSWER_BYTES],
        }
    }

    /// Reads once from `group` and answers what came.
    pub(crate) fn answer(&mut self, group: &Group, defaults: Defaults) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(group, &mut self.bytes));
        let length = match read {
            Ok(length) => length,
            Err(Errno::AGAIN) => return Ok(0),
            Err(errno) if !group.takes_answers() => return Err(errno.into()),
            Err(_) => return Ok(1),
        };
        let records = Records::new(self.bytes.get(..length).unwrap_or_default()).flatten();
        let answered = records.map(|record| {
            let file = own(record.fd);
            drop(record.infos().find_map(|info| info.pidfd()).and_then(own));
            if let Some(file) = &file {
                // Whoever waited may be gone; a mere notification has nobody.
                group
                    .respond(file.as_raw_fd(), defaults.of(record.operation()))
                    .ok();
            }
        });
        Ok(answered.count())
    }
}

/// Room for a batch of events on a small stack.
const ANSWER_BYTES: usize = 64 * METADATA_LEN;

/// The part of a [`Permission`] that knows whether the answer is still owed.
#[derive(Debug)]
struct Duty {
    group: Arc<Group>,
    number: RawFd,
    default: Response,
    owed: bool,
}

impl Duty {
    fn is_given_on(&mut self) {
        self.owed = false;
    }

    fn answer(&mut self, response: Response) -> Result<Response, AnswerError> {
        self.owed = false;
        self.group.answers.settle();
        self.group.respond_once(self.number, response)
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if self.owed {
            // An error has nobody to go to, and as a rule means that somebody else has answered.
            if self.answer(self.default).is_ok() {
                self.group.count_dropped();
            }
        }
    }
}

/// Takes over what one record of a permission group carries.
fn adopt(record: &Record<'_>, group: &Arc<Group>, defaults: Defaults) -> Event {
    // Both first, whatever the event turns out to be.
    let file = own(record.fd);
    let process = record.infos().find_map(|info| info.pidfd()).and_then(own);
    let pid = Some(record.pid)
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw);
    if record.mask & libc::FAN_Q_OVERFLOW != 0 {
        return Event::Overflow;
    }
    let operation = record.operation();
    if file.is_none() && operation.is_none() {
        return Event::Other { mask: record.mask };
    }
    let Some(file) = file else {
        // FAN_NOFD hides the reason; with FAN_REPORT_FD_ERROR the same value would be EPERM.
        let errno =
            (record.fd < libc::FAN_NOFD).then(|| Errno::from_raw_os_error(-record.fd.max(-4095)));
        return Event::Unopenable { pid, errno };
    };
    let default = defaults.of(operation);
    let exec = operation == Some(Operation::Exec);
    group.note(file.as_raw_fd(), default, exec, pid);
    let permission = Permission::new(group, file, process, default);
    match operation {
        Some(operation) => Event::Permission {
            operation,
            pid,
            permission,
        },
        // A permission kind we never asked for (a group made by somebody else) must not hang its
        // opener; for a mere notification the kernel shrugs the answer off.
        None => Event::Other {
            mask: permission.settle(record.mask),
        },
    }
}

impl Event {
    /// An operation that another process of this program has read, and handed over with its file under the same number.
    pub(crate) fn handed_over(
        group: &Arc<Group>,
        file: OwnedFd,
        operation: Operation,
        pid: Option<Pid>,
        defaults: Defaults,
    ) -> Self {
        let default = defaults.of(Some(operation));
        group.note(file.as_raw_fd(), default, operation == Operation::Exec, pid);
        Self::Permission {
            operation,
            pid,
            permission: Permission::new(group, file, None, default),
        }
    }
}

/// A descriptor of its own for a number that this process has in use.
///
/// # Errors
/// The system's: it is not in use any more.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; one that is not open is refused.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    own(copy).ok_or_else(io::Error::last_os_error)
}

impl Permission {
    fn new(group: &Arc<Group>, file: OwnedFd, process: Option<OwnedFd>, default: Response) -> Self {
        group.answers.owe();
        let duty = Duty {
            group: Arc::clone(group),
            number: file.as_raw_fd(),
            default,
            owed: true,
        };
        Self {
            duty,
            file: Arc::new(file),
            process,
        }
    }

    fn settle(mut self, mask: u64) -> u64 {
        let _answered = self.duty.answer(self.duty.default);
        mask
    }
}

fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: (1) open: the kernel installed it during the `read` or the duplication that was just
    // made, and nobody else knows the number; (2) owned by nobody else: `Records` yields each record once,
    // and `adopt` asks once for the file and once for the pidfd; (3) never -1: checked here.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Less than one more event.
const SLACK: usize = 16;
/// Size of `struct fanotify_response`.
pub(crate) const RESPONSE_LEN: usize = 8;
/// `FAN_ERRNO_SHIFT` of <linux/fanotify.h>, not in the libc crate.
const FAN_ERRNO_SHIFT: u32 = 24;

const _: () = assert!(METADATA_LEN == 24 && SLACK < METADATA_LEN);

#[cfg(test)]
mod tests;

//! Hearing of what has happened: a notification group for creations, removals, renames, changes of attributes, and ends of
//! writing.
//!
//! It vetoes nothing and holds no descriptors of files. Its queue is bounded: whoever does not keep up is told that something
//! was lost. What becomes of what it tells is [`crate::notice`]'s business. Exported through [`crate::fanotify`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::fanotify::{DirectoryHandle, GroupError, MarkError, init_bounded, mark};
use crate::fanotify_record::{Record, Records};
use crate::fanotify_watch::{FSID_LEN, Located};

/// A notification group that tells of what has happened to files and directories.
///
/// A group of its own, because it must not wait behind permission events, nor they behind it.
///
/// # References
///
/// fanotify(7), "Fanotify events with FAN_REPORT_NAME".
#[derive(Debug)]
pub struct Notifier {
    fd: OwnedFd,
    /// Whether the kernel tells of renames as such (Linux 5.17).
    renames: AtomicBool,
    unmarked: AtomicU64,
}

impl Notifier {
    /// Creates a notifier without marks: close-on-exec, nonblocking, marks unlimited, the queue as long as the system says.
    ///
    /// # Errors
    ///
    /// [`GroupError`] says what is missing; `NoPermissionEvents` stands for Linux before 5.9 here.
    ///
    /// # References
    ///
    /// fanotify_init(2), `FAN_REPORT_DFID_NAME_TARGET`; proc_sys_fs(5), `fanotify/max_queued_events`.
    pub fn new() -> Result<Self, GroupError> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID;
        // Which file a name stood for is told since Linux 5.17.
        let fd = match init_bounded(flags | libc::FAN_REPORT_TARGET_FID) {
            Err(Errno::INVAL) => init_bounded(flags),
            other => other,
        };
        fd.map(Self::from_fd).map_err(GroupError::from_errno)
    }

    /// Takes over a notifier that this program created before, here or in another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            fd,
            renames: AtomicBool::new(true),
            unmarked: AtomicU64::new(0),
        }
    }

    /// Tells of everything on the filesystem that `dir` is on.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `NoHandles` where the filesystem has no lasting names for files (overlayfs, FUSE).
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_MARK_FILESYSTEM`.
    pub fn mark_filesystem(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        self.mark(libc::FAN_MARK_FILESYSTEM, libc::FAN_ONDIR, dir)
    }

    /// Tells of the directory `dir` and of what is directly in it.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]. `dir` must not be an `O_PATH` descriptor.
    ///
    /// # References
    ///
    /// fanotify_mark(2), `FAN_EVENT_ON_CHILD`.
    pub fn mark_directory(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        let mask = libc::FAN_ONDIR | libc::FAN_EVENT_ON_CHILD;
        self.mark(libc::FAN_MARK_ONLYDIR, mask, dir)
    }

    /// Places that are guarded and that nothing is told of, because they could not be marked here.
    #[must_use]
    pub fn unmarked(&self) -> u64 {
        self.unmarked.load(Ordering::Relaxed)
    }

    /// Something is guarded and cannot be told of.
    pub(crate) fn miss(&self) {
        self.unmarked.fetch_add(1, Ordering::Relaxed);
    }

    fn mark(&self, kind: u32, extra: u64, object: BorrowedFd<'_>) -> Result<(), MarkError> {
        let flags = libc::FAN_MARK_ADD | kind;
        let mut result = Err(Errno::INVAL);
        if self.renames.load(Ordering::Relaxed) {
            result = mark(
                self.as_fd(),
                flags,
                EVENTS | libc::FAN_RENAME | extra,
                object,
            );
        }
        if result == Err(Errno::INVAL) {
            // A kernel that does not know renames, or a filesystem that takes no mark at all.
            let moves = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
            result = mark(self.as_fd(), flags, EVENTS | moves | extra, object);
            if result.is_ok() {
                self.renames.store(false, Ordering::Relaxed);
            }
        }
        if result.is_err() {
            self.miss();
        }
        result.map_err(MarkError::from_errno)
    }

    /// Adds what is in the queue to `notices`; false means the queue was empty.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    ///
    /// # References
    ///
    /// fanotify(7), `struct fanotify_event_info_fid`.
    pub fn read(&self, notices: &mut Vec<RawNotice>) -> io::Result<bool> {
        let mut bytes = [0; NOTICE_BYTES];
        let len = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut bytes)) {
            Ok(len) => len,
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for record in Records::new(bytes.get(..len).unwrap_or_default()) {
            // What cannot be read is as good as lost.
            let notice = record.map_or(RawNotice::lost(), |record| RawNotice::parse(&record));
            notices.push(notice);
        }
        Ok(true)
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel tells at once of one name: one thing that has happened, or several that it has put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawNotice {
    /// What has happened: the kernel's bits.
    pub mask: u64,
    /// Who did it (thread group id); nothing outside this pid namespace.
    pub pid: Option<Pid>,
    /// The name concerned; of a rename, the new one, if that is in a marked place.
    pub entry: Option<Entry>,
    /// Of a rename, the old name, if that was in a marked place.
    pub old: Option<Entry>,
    /// The file or directory itself, where the kernel tells it.
    pub target: Option<DirectoryHandle>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The id of the filesystem, as statfs(2) has it.
    pub filesystem: [u8; FSID_LEN],
    /// The directory.
    pub directory: DirectoryHandle,
    /// The name in it, as bytes; nothing if it is about the directory itself.
    pub name: Option<std::ffi::CString>,
}

impl RawNotice {
    /// Something was lost.
    #[must_use]
    pub const fn lost() -> Self {
        Self {
            mask: libc::FAN_Q_OVERFLOW,
            pid: None,
            entry: None,
            old: None,
            target: None,
        }
    }

    fn parse(record: &Record<'_>) -> Self {
        let mut notice = Self {
            mask: record.mask,
            pid: Some(record.pid)
                .filter(|pid| *pid > 0)
                .and_then(Pid::from_raw),
            ..Self::lost()
        };
        for info in record.infos() {
            let Some(located) = Located::parse(info.body) else {
                continue;
            };
            match info.kind {
                libc::FAN_EVENT_INFO_TYPE_FID => notice.target = Some(located.handle),
                libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => notice.old = Some(located.into()),
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME
                | libc::FAN_EVENT_INFO_TYPE_DFID
                | libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => notice.entry = Some(located.into()),
                _ => {}
            }
        }
        notice
    }
}

impl From<Located> for Entry {
    fn from(located: Located) -> Self {
        // The kernel calls the directory itself by this name.
        let name = located.name.filter(|name| name.as_c_str() != c".");
        Self {
            filesystem: located.filesystem,
            directory: located.handle,
            name,
        }
    }
}

const EVENTS: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_ATTRIB | libc::FAN_CLOSE_WRITE;
/// Room for the longest event (a rename, about 900 bytes) many times over, and small enough for the stack.
const NOTICE_BYTES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    /// One event as the kernel writes it, with these information records.
    fn event(mask: u64, infos: &[(u8, &[u8])]) -> Vec<u8> {
        let mut tail = Vec::new();
        for (kind, body) in infos {
            tail.extend([*kind, 0]);
            tail.extend(u16::try_from(4 + body.len()).unwrap().to_ne_bytes());
            tail.extend(*body);
        }
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(24 + tail.len()).unwrap().to_ne_bytes());
        bytes.extend([3, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(77_i32.to_ne_bytes());
        bytes.extend(tail);
        bytes
    }

    fn body(handle: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![7; FSID_LEN];
        bytes.extend(4_u32.to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend([handle; 4]);
        bytes.extend(name);
        bytes
    }

    fn parse(bytes: &[u8]) -> RawNotice {
        RawNotice::parse(&Records::new(bytes).next().unwrap().unwrap())
    }

    #[test]
    fn a_rename_has_both_names_and_the_file() {
        let (old, new, target) = (body(1, b"old\0"), body(2, b"new\0"), body(3, b""));
        let infos = [(10, &old[..]), (12, &new[..]), (1, &target[..])];
        let notice = parse(&event(libc::FAN_RENAME, &infos));
        let (old, new) = (notice.old.unwrap(), notice.entry.unwrap());
        assert_eq!(old.name.as_deref(), Some(c"old"));
        assert_eq!(new.name.as_deref(), Some(c"new"));
        assert_ne!(old.directory, new.directory);
        assert!(notice.target.is_some());
        assert_eq!(notice.pid, Pid::from_raw(77));
    }

    #[test]
    fn a_directory_itself_has_no_name_and_what_is_unknown_is_left_out() {
        let (itself, garbage) = (body(1, b".\0"), [1, 2, 3]);
        let notice = parse(&event(
            libc::FAN_ATTRIB,
            &[(200, &garbage), (2, &itself), (1, &garbage)],
        ));
        assert_eq!(notice.entry.unwrap().name, None);
        assert_eq!((notice.old, notice.target), (None, None));
    }
}

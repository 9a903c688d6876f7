//! Seeing directories appear: a notification group, and the handles by which it names them.
//!
//! It vetoes nothing and holds no descriptors of files. [`crate::marks`] uses it to keep a tree of
//! directory marks complete. Exported through [`crate::fanotify`].
#![allow(unsafe_code)] // Neither std nor rustix has file handles.

use std::ffi::{CStr, CString, c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::fanotify::{GroupError, MarkError, check, init, mark};
use crate::fanotify_record::{Records, take};

/// A notification group that tells of directories created in, or moved into, watched ones.
///
/// A group of its own, because it must not wait behind permission events. It holds nobody up: what
/// happens in a new directory before its mark is set goes unasked.
///
/// # References
///
/// fanotify(7), "Fanotify events with FAN_REPORT_NAME".
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    /// Creates a watch without marks: close-on-exec, nonblocking, queue and marks unlimited.
    ///
    /// # Errors
    ///
    /// [`GroupError`] says what is missing; `NoPermissionEvents` stands for Linux before 5.9 here.
    ///
    /// # References
    ///
    /// fanotify_init(2), `FAN_REPORT_DFID_NAME`.
    pub fn new() -> Result<Self, GroupError> {
        init(libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME)
            .map(Self::from_fd)
            .map_err(GroupError::from_errno)
    }

    /// Takes over a watch that this program created before, here or in another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Watches the directory `dir` for new entries, but not the directories below it.
    ///
    /// # Errors
    ///
    /// See [`MarkError`]. `dir` must not be an `O_PATH` descriptor.
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn watch_directory(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        mark(
            self.as_fd(),
            libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR,
            NEW_DIRECTORY,
            dir,
        )
        .map_err(MarkError::from_errno)
    }

    /// Takes back [`Watch::watch_directory`].
    ///
    /// # Errors
    ///
    /// See [`MarkError`]; `NotMarked` if there was no such mark.
    ///
    /// # References
    ///
    /// fanotify_mark(2).
    pub fn unwatch_directory(&self, dir: BorrowedFd<'_>) -> Result<(), MarkError> {
        mark(
            self.as_fd(),
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR,
            NEW_DIRECTORY,
            dir,
        )
        .map_err(MarkError::from_errno)
    }

    /// Adds the directories that are in the queue to `entries`; false means the queue was empty.
    ///
    /// The kernel reports new files as well, so this may have read something and added nothing.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    ///
    /// # References
    ///
    /// fanotify(7), `struct fanotify_event_info_fid`.
    pub fn read(&self, entries: &mut Vec<WatchEvent>) -> io::Result<bool> {
        let mut bytes = [0; WATCH_BYTES];
        let len = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut bytes)) {
            Ok(len) => len,
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for record in Records::new(bytes.get(..len).unwrap_or_default()) {
            let event = match record {
                Ok(record) if record.mask & libc::FAN_Q_OVERFLOW != 0 => Some(WatchEvent::Overflow),
                Ok(record) if record.mask & libc::FAN_ONDIR == 0 => continue,
                Ok(record) => record
                    .infos()
                    .find(|info| info.kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME)
                    .and_then(|info| WatchEvent::parse(info.body)),
                Err(_) => None,
            };
            // What cannot be read is as good as lost, and only a full look finds it again.
            entries.push(event.unwrap_or(WatchEvent::Overflow));
        }
        Ok(true)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a [`Watch`] saw.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WatchEvent {
    /// A directory has appeared.
    Directory {
        /// The directory that it appeared in.
        parent: DirectoryHandle,
        /// Its name there. It may be gone, or be something else, by now.
        name: CString,
    },
    /// Events were lost: everything has to be looked at again.
    Overflow,
}

impl WatchEvent {
    /// Parses what follows the header in `struct fanotify_event_info_fid`.
    fn parse(body: &[u8]) -> Option<Self> {
        let Located { handle, name, .. } = Located::parse(body)?;
        Some(Self::Directory {
            parent: handle,
            name: name?,
        })
    }
}

/// What an information record of an event says: an object, and as a rule a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    /// The filesystem's id, as statfs(2) has it.
    pub(crate) filesystem: [u8; FSID_LEN],
    /// The object.
    pub(crate) handle: DirectoryHandle,
    /// A name in it, if the record is of a kind that has one.
    pub(crate) name: Option<CString>,
}

impl Located {
    /// Parses what follows the header in `struct fanotify_event_info_fid`.
    pub(crate) fn parse(mut body: &[u8]) -> Option<Self> {
        let filesystem = take(&mut body)?;
        let len = usize::try_from(u32::from_ne_bytes(take(&mut body)?)).ok()?;
        let kind = i32::from_ne_bytes(take(&mut body)?);
        let (bytes, name) = body.split_at_checked(len)?;
        let name = match name {
            [] => None,
            name => Some(CStr::from_bytes_until_nul(name).ok()?),
        };
        (len <= HANDLE_MAX).then(|| Self {
            filesystem,
            handle: DirectoryHandle {
                kind,
                bytes: bytes.into(),
            },
            // A record without a name is padded.
            name: name.filter(|name| !name.is_empty()).map(Into::into),
        })
    }
}

/// The lasting name of a directory, or of another file, within its filesystem; finds it wherever it was moved.
///
/// # References
///
/// open_by_handle_at(2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirectoryHandle {
    kind: i32,
    bytes: Box<[u8]>, // at most HANDLE_MAX
}

impl DirectoryHandle {
    /// The handle of an open directory or file. Asks no server and no daemon.
    ///
    /// # Errors
    ///
    /// Those of name_to_handle_at(2), `EOPNOTSUPP` if the filesystem has none.
    ///
    /// # References
    ///
    /// name_to_handle_at(2).
    pub fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let mut raw = RawHandle::new();
        let mut mount: c_int = 0;
        let object = dir.as_raw_fd();
        let raw_ptr = (&raw mut raw).cast();
        // SAFETY: (1) `object` is open: `dir` borrows it; (2) the path is a NUL-terminated literal;
        // (3) `raw_ptr` has room for the `len` handle bytes that it says: `RawHandle` is laid out
        // like `struct file_handle`, and `new` says HANDLE_MAX; (4) `mount` is a valid int.
        let result = unsafe {
            libc::name_to_handle_at(
                object,
                c"".as_ptr(),
                raw_ptr,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        check(result)?;
        let len = usize::try_from(raw.len).unwrap_or(usize::MAX);
        let bytes = raw.bytes.get(..len).ok_or(Errno::OVERFLOW)?;
        Ok(Self {
            kind: raw.kind,
            bytes: bytes.into(),
        })
    }
}

/// Whether this kernel tells of what an overlay does in its layers: asks before it opens a file there, and says when it
/// has written to one. Any file of a filesystem with handles will do.
///
/// Nothing less than an overlay shows that itself. But the handles that are asked for here came with the same release
/// (Linux 6.5) by the same hand, and are as unlikely to be brought to an older one.
///
/// # References
///
/// name_to_handle_at(2), `AT_HANDLE_FID`.
pub(crate) fn tells_of_layers(file: BorrowedFd<'_>) -> bool {
    let mut raw = RawHandle::new();
    // Too little for any handle: a kernel that knows the flag says how much it wants.
    raw.len = 0;
    let mut mount: c_int = 0;
    let object = file.as_raw_fd();
    let flags = libc::AT_EMPTY_PATH | AT_HANDLE_FID;
    let raw_ptr = (&raw mut raw).cast();
    // SAFETY: (1) `object` is open: `file` borrows it; (2) the path is a NUL-terminated literal; (3) `raw_ptr` has room
    // for more than the `len` handle bytes that it says, and is laid out like `struct file_handle`; (4) `mount` is a
    // valid int.
    let result =
        unsafe { libc::name_to_handle_at(object, c"".as_ptr(), raw_ptr, &raw mut mount, flags) };
    check(result).err() == Some(Errno::OVERFLOW)
}

/// Opens the directory that `handle` names, on the filesystem of `mount`.
///
/// # Errors
///
/// Those of open_by_handle_at(2); `ESTALE` if the directory is gone or if the filesystem can name
/// directories but not find them by name (overlayfs), `EPERM` without `CAP_DAC_READ_SEARCH`.
///
/// # References
///
/// open_by_handle_at(2).
pub fn open_parent(mount: BorrowedFd<'_>, handle: &DirectoryHandle) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    open_by_handle(mount, handle, flags)
}

/// Opens whatever `handle` names, only to look at it: no event is raised.
///
/// # Errors
///
/// As [`open_parent`].
///
/// # References
///
/// open_by_handle_at(2), open(2) `O_PATH`.
pub(crate) fn look_at(mount: BorrowedFd<'_>, handle: &DirectoryHandle) -> io::Result<OwnedFd> {
    open_by_handle(mount, handle, libc::O_PATH | libc::O_CLOEXEC)
}

fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &DirectoryHandle,
    flags: c_int,
) -> io::Result<OwnedFd> {
    let mut raw = RawHandle::new();
    raw.kind = handle.kind;
    raw.len = u32::try_from(handle.bytes.len()).map_err(|_| Errno::INVAL)?;
    raw.bytes
        .get_mut(..handle.bytes.len())
        .ok_or(Errno::INVAL)?
        .copy_from_slice(&handle.bytes);
    let mount = mount.as_raw_fd();
    // SAFETY: (1) `mount` is open: its owner is borrowed; (2) the pointer is valid for the `len`
    // handle bytes that it says, checked two lines above; `RawHandle` is laid out like
    // `struct file_handle`.
    let fd = check(unsafe { libc::open_by_handle_at(mount, (&raw mut raw).cast(), flags) })?;
    // SAFETY: (1) `fd` is open and ours: the call has just made it; (2) not -1: `check`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `AT_HANDLE_FID` of <linux/fcntl.h>, not in the libc crate.
const AT_HANDLE_FID: c_int = 0x200;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    len: c_uint,
    kind: c_int,
    bytes: [u8; HANDLE_MAX],
}

impl RawHandle {
    fn new() -> Self {
        Self {
            len: HANDLE_MAX_U32,
            kind: 0,
            bytes: [0; HANDLE_MAX],
        }
    }
}

const NEW_DIRECTORY: u64 = libc::FAN_CREATE | libc::FAN_MOVED_TO | libc::FAN_ONDIR;
/// Room for the longest event (about 430 bytes) many times over, and small enough for the stack.
const WATCH_BYTES: usize = 8192;
/// Size of `__kernel_fsid_t`.
pub(crate) const FSID_LEN: usize = 8;
/// `MAX_HANDLE_SZ`.
const HANDLE_MAX: usize = 128;
const HANDLE_MAX_U32: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn body(handle_len: u32, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![7; FSID_LEN];
        bytes.extend(handle_len.to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(handle);
        bytes.extend(name);
        bytes
    }

    #[test]
    fn a_new_directory_is_read_with_its_parent_and_name() {
        let event = WatchEvent::parse(&body(4, &[1, 2, 3, 4], b"name\0\0\0\0"));
        let parent = DirectoryHandle {
            kind: 1,
            bytes: [1, 2, 3, 4].into(),
        };
        assert_eq!(
            event,
            Some(WatchEvent::Directory {
                parent,
                name: c"name".into()
            })
        );
    }

    #[test]
    fn wrong_lengths_and_names_are_refused() {
        for bad in [
            body(5, &[1, 2, 3, 4], b""),
            body(u32::MAX, &[1, 2, 3, 4], b"name\0"),
            body(4, &[1, 2, 3, 4], b"name without end"),
            body(4, &[1, 2, 3, 4], b"\0"),
            body(129, &[0; 129], b"name\0"),
            vec![0; 11],
            Vec::new(),
        ] {
            assert_eq!(WatchEvent::parse(&bad), None);
        }
    }

    #[test]
    fn a_handle_finds_its_directory() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let Ok(handle) = DirectoryHandle::of(dir.as_fd()) else {
            return;
        };
        match open_parent(dir.as_fd(), &handle) {
            Ok(again) => assert_eq!(DirectoryHandle::of(again.as_fd()).unwrap(), handle),
            Err(why) => println!("skipped: {why}"), // not root, or a filesystem that cannot
        }
    }
}

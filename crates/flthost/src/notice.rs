//! What filters are told after the fact: created, removed, renamed, changed, written.
//!
//! Nothing here can be prevented, only seen, and it is seen late: whoever acts on a notice looks at what there is by then.
//! One thread reads and calls filters; it is in nobody's way, and what it has no time for is lost and told as lost.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::process::Pid;

use crate::fanotify::{DirectoryHandle, Entry, Notifier, RawNotice, open_parent};
use crate::fanotify_watch::look_at;
use crate::stack::Stack;
use crate::threads::fail;

/// One thing that has happened, told after it has.
///
/// The kernel may put several things that one process does to one name together; they are told apart again, in the order
/// that a file's life has: made, changed, written, renamed, removed.
#[derive(Clone, Debug)]
pub struct Notice {
    kind: NoticeKind,
    raw: RawNotice,
    roots: Arc<Roots>,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoticeKind {
    /// A name was made: of a new file or directory, or a further one of an old (a hard link).
    Create,
    /// A name was removed. The file is gone with its last one.
    Delete,
    /// A name was changed, within a directory or to another. A name outside of what is guarded is not told.
    Rename,
    /// A name went away; where to is not told (Linux before 5.17, in the place of [`Self::Rename`]).
    MovedFrom,
    /// A name appeared; where from is not told (Linux before 5.17, in the place of [`Self::Rename`]).
    MovedTo,
    /// Owner, mode, times, number of names, or extended attributes have changed.
    Attributes,
    /// A file that was open for writing was closed. What is written through a mapping may come later than this.
    CloseWrite,
    /// Notices were lost, because filters did not keep up or because the host's worker was restarted: whoever keeps account
    /// of files looks at all of them again. Nothing else is known of a notice of this kind.
    Lost,
}

impl Notice {
    /// What has happened.
    #[must_use]
    pub const fn kind(&self) -> NoticeKind {
        self.kind
    }

    /// Whether it is about a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        self.raw.mask & libc::FAN_ONDIR != 0
    }

    /// The process that did it (thread group id), which may have ended. Nothing outside this pid namespace.
    #[must_use]
    pub const fn pid(&self) -> Option<Pid> {
        self.raw.pid
    }

    /// The directory in which it has happened; of a rename, the new one.
    #[must_use]
    pub fn directory(&self) -> Option<&DirectoryHandle> {
        self.raw.entry.as_ref().map(|entry| &entry.directory)
    }

    /// The name there; nothing if it is about the directory itself.
    #[must_use]
    pub fn name(&self) -> Option<&OsStr> {
        self.raw.entry.as_ref().and_then(name)
    }

    /// Of a rename, the directory that the name was in, if it is guarded.
    #[must_use]
    pub fn old_directory(&self) -> Option<&DirectoryHandle> {
        self.raw.old.as_ref().map(|entry| &entry.directory)
    }

    /// Of a rename, the name that was, if its directory is guarded.
    #[must_use]
    pub fn old_name(&self) -> Option<&OsStr> {
        self.raw.old.as_ref().and_then(name)
    }

    /// The file or directory itself. Of names that come and go it is told since Linux 5.17.
    #[must_use]
    pub const fn target(&self) -> Option<&DirectoryHandle> {
        self.raw.target.as_ref()
    }

    /// The path as it is now: the directory, wherever it has been moved since, and the name that was told, which may be gone
    /// or mean another file by now. Nothing if the directory is gone, or if its filesystem cannot find it.
    ///
    /// Costs several system calls; meant for people and for looking again, never for a decision that a name must not buy.
    ///
    /// # References
    /// open_by_handle_at(2).
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.roots.path(self.raw.entry.as_ref()?)
    }

    /// As [`Self::path`], of the name before a rename.
    ///
    /// # References
    /// open_by_handle_at(2).
    #[must_use]
    pub fn old_path(&self) -> Option<PathBuf> {
        self.roots.path(self.raw.old.as_ref()?)
    }

    /// Whether the file that this is about has no name any more: it is gone, or goes when its last user closes it. No if
    /// that cannot be told.
    ///
    /// # References
    /// open_by_handle_at(2), statx(2) `stx_nlink`.
    #[must_use]
    pub fn is_target_gone(&self) -> bool {
        let (Some(target), Some(entry)) = (&self.raw.target, &self.raw.entry) else {
            return false;
        };
        self.roots.is_gone(entry.filesystem, target)
    }

    /// The notices that one record of the kernel stands for.
    fn each(raw: &RawNotice, roots: &Arc<Roots>) -> impl Iterator<Item = Self> {
        let kinds = KINDS.into_iter().filter(|(bit, _)| raw.mask & bit != 0);
        kinds.map(|(_, kind)| Self {
            kind,
            raw: raw.clone(),
            roots: Arc::clone(roots),
        })
    }
}

fn name(entry: &Entry) -> Option<&OsStr> {
    let name = entry.name.as_ref().map(CString::as_bytes);
    name.map(OsStr::from_bytes)
}

/// In the order of a file's life.
const KINDS: [(u64, NoticeKind); 8] = [
    (libc::FAN_Q_OVERFLOW, NoticeKind::Lost),
    (libc::FAN_CREATE, NoticeKind::Create),
    (libc::FAN_MOVED_TO, NoticeKind::MovedTo),
    (libc::FAN_ATTRIB, NoticeKind::Attributes),
    (libc::FAN_CLOSE_WRITE, NoticeKind::CloseWrite),
    (libc::FAN_RENAME, NoticeKind::Rename),
    (libc::FAN_MOVED_FROM, NoticeKind::MovedFrom),
    (libc::FAN_DELETE, NoticeKind::Delete),
];

/// Where the filesystems are reached that notices come from.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    roots: Mutex<Vec<Root>>,
}

#[derive(Debug)]
struct Root {
    filesystem: [u8; 8],
    at: At,
}

#[derive(Debug)]
enum At {
    /// A directory that is held open anyway.
    Held(Arc<OwnedFd>),
    /// A mount that must not be held: somebody wants to unmount it.
    Path(PathBuf),
}

impl Roots {
    /// A filesystem is reached by this directory, for as long as the host lives.
    pub(crate) fn hold(&self, dir: OwnedFd) {
        if let Some(filesystem) = filesystem_of(&dir) {
            let at = At::Held(Arc::new(dir));
            self.lock().push(Root { filesystem, at });
        }
    }

    /// A filesystem is reached by this path, at which `dir` is now.
    pub(crate) fn add(&self, dir: impl AsFd, path: &Path) {
        self.remove(path);
        if let Some(filesystem) = filesystem_of(dir) {
            let at = At::Path(path.to_path_buf());
            self.lock().push(Root { filesystem, at });
        }
    }

    /// Nothing is reached by this path any more.
    pub(crate) fn remove(&self, path: &Path) {
        self.lock()
            .retain(|root| !matches!(&root.at, At::Path(other) if other == path));
    }

    fn path(&self, entry: &Entry) -> Option<PathBuf> {
        self.find(entry.filesystem, |root| {
            let directory = open_parent(root.as_fd(), &entry.directory).ok()?;
            let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
            let mut path = std::fs::read_link(link).ok()?;
            path.extend(name(entry));
            Some(path)
        })
    }

    fn is_gone(&self, filesystem: [u8; 8], target: &DirectoryHandle) -> bool {
        let gone = self.find(filesystem, |root| match look_at(root.as_fd(), target) {
            Ok(file) => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
                let stat = rustix::fs::statx(file, c"", flags, StatxFlags::NLINK).ok()?;
                Some(stat.stx_nlink == 0)
            }
            Err(error) => (error.raw_os_error() == Some(libc::ESTALE)).then_some(true),
        });
        gone == Some(true)
    }

    /// Tries the ways to a filesystem, one after the other. Not under the lock, because opening may take its time.
    fn find<T>(&self, filesystem: [u8; 8], look: impl Fn(&OwnedFd) -> Option<T>) -> Option<T> {
        let roots = self.lock();
        let mine = roots.iter().filter(|root| root.filesystem == filesystem);
        let ways: Vec<_> = mine
            .map(|root| match &root.at {
                At::Held(dir) => Ok(Arc::clone(dir)),
                At::Path(path) => Err(path.clone()),
            })
            .collect();
        drop(roots);
        ways.into_iter().find_map(|way| match way {
            Ok(dir) => look(&dir),
            Err(path) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(path, flags, Mode::empty()).ok()?;
                // What is there by now may be another filesystem.
                look(&dir).filter(|_| filesystem_of(&dir) == Some(filesystem))
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Root>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filesystem's id in the form that events have.
fn filesystem_of(dir: impl AsFd) -> Option<[u8; 8]> {
    let id = rustix::fs::fstatvfs(dir).ok()?.f_fsid;
    let mut bytes = [0; 8];
    let (low, high) = bytes.split_at_mut(4);
    // Two numbers of 32 bits, put together low one first.
    low.copy_from_slice(&u32::try_from(id & 0xffff_ffff).ok()?.to_ne_bytes());
    high.copy_from_slice(&u32::try_from(id >> 32).ok()?.to_ne_bytes());
    Some(bytes)
}

/// What the host knows of its notices.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Those that filters were told.
    pub(crate) told: AtomicU64,
    /// Times that some were lost.
    pub(crate) lost: AtomicU64,
    pub(crate) roots: Arc<Roots>,
}

impl Notices {
    /// Tells filters for as long as the process lives. `again`: an earlier worker may have taken notices with it.
    pub(crate) fn keep_telling(&self, notifier: &Notifier, stack: &Stack, again: bool) -> ! {
        let mut raw = Vec::new();
        if again {
            raw.push(RawNotice::lost());
        }
        loop {
            for raw in raw.drain(..) {
                for notice in Notice::each(&raw, &self.roots) {
                    let counter = match notice.kind {
                        NoticeKind::Lost => &self.lost,
                        _ => &self.told,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    stack.tell(&notice);
                }
            }
            match notifier.read(&mut raw) {
                Ok(true) => {}
                Ok(false) => match poll(&mut [PollFd::new(notifier, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => fail(format_args!("cannot wait for notices: {error}")),
                },
                Err(error) => fail(format_args!("cannot read notices: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_puts_together_is_told_apart_in_the_order_of_a_life() {
        let raw = RawNotice {
            mask: libc::FAN_DELETE | libc::FAN_CREATE | libc::FAN_CLOSE_WRITE,
            ..RawNotice::lost()
        };
        let kinds: Vec<_> = Notice::each(&raw, &Arc::default())
            .map(|notice| notice.kind())
            .collect();
        use NoticeKind::{CloseWrite, Create, Delete};
        assert_eq!(kinds, [Create, CloseWrite, Delete]);
    }

    #[test]
    fn a_loss_says_nothing_else() {
        let all: Vec<_> = Notice::each(&RawNotice::lost(), &Arc::default()).collect();
        assert_eq!(all.len(), 1);
        let lost = &all[0];
        assert_eq!(lost.kind(), NoticeKind::Lost);
        assert!(lost.path().is_none() && lost.name().is_none() && !lost.is_target_gone());
    }
}

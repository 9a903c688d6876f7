//! What to guard, and keeping it marked: one filesystem as a whole, or a tree directory by directory.
//!
//! A filesystem mark covers everything for ever. A plain directory needs a mark on every directory
//! below it and a [`Watch`] for new ones: [`mark_tree`] sets them, [`follow`] keeps them complete.
//! Always: watch a directory first, then mark it, then list it, so that what appears in between is
//! reported or listed. Nothing here answers events; that is [`crate::fanotify`].
//!
//! Limits: what happens in a new directory before [`follow`] has marked it goes unasked; hard links
//! from outside are not seen; a directory that is moved out keeps its marks; what lies under a mount
//! point stays unmarked when that is unmounted, until the next [`mark_tree`].

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, Dev, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::fanotify::{
    DirectoryHandle, Group, MarkError, Notifier, Watch, WatchEvent, open_parent,
};
use crate::marks::way::{DIRECTORY, Way, list_directories};
use crate::mounts::{Mount, MountList};

mod way;

/// A directory that is to be guarded, kept open.
#[derive(Debug)]
pub struct Target {
    /// Opened for reading: neither marks nor handles take an `O_PATH` descriptor.
    dir: OwnedFd,
    path: PathBuf,
    device: Dev,
    kind: TargetKind,
    /// Whether the filesystem finds a directory by its handle (overlayfs and some FUSE do not).
    handles: bool,
}

impl Target {
    /// Opens `path`, following symbolic links in it, and decides how it has to be guarded.
    ///
    /// The root of a mounted filesystem gets a filesystem mark. Everything else is guarded
    /// directory by directory, also a bind mount or a subvolume: a filesystem mark there would
    /// reach far beyond the directory that was asked for.
    ///
    /// # Errors
    ///
    /// See [`TargetError`].
    ///
    /// # References
    ///
    /// open(2), statx(2) `STATX_ATTR_MOUNT_ROOT`, proc_pid_mountinfo(5).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TargetError> {
        let path = path.as_ref();
        let failed = |errno| TargetError::from_errno(errno, path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        Self::from_fd(dir, path)
    }

    /// A directory that an older host has opened, which knew it by this path.
    ///
    /// # Errors
    ///
    /// See [`TargetError`].
    pub(crate) fn from_fd(dir: OwnedFd, path: PathBuf) -> Result<Self, TargetError> {
        let stat =
            rustix::fs::fstat(&dir).map_err(|errno| TargetError::from_errno(errno, &path))?;
        let kind = if is_filesystem_root(dir.as_fd()) {
            TargetKind::Filesystem
        } else {
            TargetKind::Directory
        };
        let handles = DirectoryHandle::of(dir.as_fd())
            .and_then(|handle| open_parent(dir.as_fd(), &handle))
            .is_ok();
        Ok(Self {
            dir,
            path,
            device: stat.st_dev,
            kind,
            handles,
        })
    }

    /// The path without symbolic links, as it was when the target was opened: for people to read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device number of the filesystem.
    #[must_use]
    pub fn device(&self) -> Dev {
        self.device
    }

    /// How this target is guarded.
    #[must_use]
    pub fn kind(&self) -> TargetKind {
        self.kind
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// How a [`Target`] is guarded: either way without the other filesystems mounted below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// By one mark on the whole filesystem.
    Filesystem,
    /// By a mark on each directory of the tree.
    Directory,
}

/// Why a path cannot be guarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is nothing at this path.
    #[error("{}: does not exist", .0.display())]
    NotFound(PathBuf),
    /// It is a file or something else that is no directory.
    #[error("{}: not a directory; guard the directory that it is in", .0.display())]
    NotDirectory(PathBuf),
    /// This process may not open it.
    #[error("{}: permission denied; run as root (sudo)", .0.display())]
    PermissionDenied(PathBuf),
    /// Any other error of the system.
    #[error("{}: {source}", path.display())]
    Os {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TargetError {
    fn from_errno(errno: Errno, path: &Path) -> Self {
        let path = path.to_path_buf();
        match errno {
            Errno::NOENT => Self::NotFound(path),
            Errno::NOTDIR => Self::NotDirectory(path),
            Errno::ACCESS | Errno::PERM => Self::PermissionDenied(path),
            other => Self::Os {
                path,
                source: other.into(),
            },
        }
    }
}

/// What [`mark_tree`] and [`follow`] have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MarkedTree {
    /// Directories that were marked now, some perhaps again. Zero for a filesystem mark.
    pub directories: u64,
    /// Directories left out because another filesystem is mounted on them.
    pub mount_points: u64,
    /// Whether the whole target had to be walked again, because events were lost or because the
    /// filesystem cannot find directories by handle.
    pub rescanned: bool,
}

/// A part of a target that is *not* guarded, and why.
///
/// The rest of the target was marked nevertheless; this is the first of possibly several errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A directory could not be opened or listed.
    #[error("{}: cannot be opened or listed, so it is not guarded: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, or the filesystem, could not be marked.
    #[error("{}: cannot be marked, so it is not fully guarded: {source}", path.display())]
    Mark {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: MarkError,
    },
    /// The watch could not be read.
    #[error("cannot read which directories are new: {0}")]
    Watch(#[source] io::Error),
}

/// Marks the whole of `target` in every group of `groups`, and watches it for new directories.
///
/// Symbolic links are not followed and mount points not crossed. A directory that vanishes
/// meanwhile is no error. A bounded number of descriptors is open at a time, however deep the tree is.
///
/// # Errors
///
/// See [`TreeError`].
///
/// # References
///
/// openat2(2), getdents64(2), fanotify_mark(2).
pub fn mark_tree(
    groups: &[&Group],
    watch: &Watch,
    target: &Target,
) -> Result<MarkedTree, TreeError> {
    mark_tree_with(groups, watch, None, target)
}

/// As [`mark_tree`], with what tells of the same place afterwards. That it cannot be told is no error: it is counted.
pub(crate) fn mark_tree_with(
    groups: &[&Group],
    watch: &Watch,
    notifier: Option<&Notifier>,
    target: &Target,
) -> Result<MarkedTree, TreeError> {
    if target.kind == TargetKind::Filesystem {
        for group in groups {
            group
                .mark_filesystem(target.as_fd())
                .map_err(|source| TreeError::Mark {
                    path: target.path.clone(),
                    source,
                })?;
        }
        if let Some(notifier) = notifier {
            notifier.mark_filesystem(target.as_fd()).ok();
        }
        return Ok(MarkedTree::default());
    }
    let mut walk = Walk::new(groups, watch, notifier);
    walk.target(target);
    walk.finish()
}

/// Marks what a readable `watch` tells of: each new directory, with everything below it.
///
/// Reads a bounded number of events, so call it as long as `watch` polls readable. All targets of
/// one watch must be this one.
///
/// # Errors
///
/// See [`TreeError`]. The events are consumed: to try again what is named there, call
/// [`mark_tree`].
///
/// # References
///
/// fanotify(7), open_by_handle_at(2), openat2(2).
pub fn follow(groups: &[&Group], watch: &Watch, target: &Target) -> Result<MarkedTree, TreeError> {
    follow_with(groups, watch, None, target)
}

/// As [`follow`], with what tells of the same place afterwards.
pub(crate) fn follow_with(
    groups: &[&Group],
    watch: &Watch,
    notifier: Option<&Notifier>,
    target: &Target,
) -> Result<MarkedTree, TreeError> {
    // All events first, then the walks: whatever a walk has covered needs no look again for an
    // event that is older than the walk. Else a chain of n directories would cost n * n.
    let mut events = Vec::new();
    for _ in 0..MAX_READS {
        if !watch.read(&mut events).map_err(TreeError::Watch)? {
            break;
        }
    }
    let mut walk = Walk::new(groups, watch, notifier);
    if !events.is_empty() && (!target.handles || events.contains(&WatchEvent::Overflow)) {
        walk.done.rescanned = true;
        walk.target(target);
        return walk.finish();
    }
    walk.seen = Some(HashSet::new());
    for event in events {
        let WatchEvent::Directory { parent, name } = event else {
            continue;
        };
        match open_parent(target.as_fd(), &parent) {
            Ok(parent) => walk.tree(Way::new(parent), vec![(0, name)]),
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {} // has vanished
            Err(source) => {
                // Its parent's name is not known.
                let name = OsStr::from_bytes(name.as_bytes());
                walk.fail_open(target.path.join("?").join(name), source);
            }
        }
    }
    walk.finish()
}

/// Walks trees, marks their directories, and goes on after an error.
struct Walk<'a> {
    groups: &'a [&'a Group],
    watch: &'a Watch,
    notifier: Option<&'a Notifier>,
    done: MarkedTree,
    error: Option<TreeError>,
    /// Every directory that was marked and then listed, where several walks may meet. By handle:
    /// inode numbers of some filesystems (FUSE) are not unique, and a wrong match is a hole.
    seen: Option<HashSet<DirectoryHandle>>,
}

impl<'a> Walk<'a> {
    fn new(groups: &'a [&'a Group], watch: &'a Watch, notifier: Option<&'a Notifier>) -> Self {
        Self {
            groups,
            watch,
            notifier,
            done: MarkedTree::default(),
            error: None,
            seen: None,
        }
    }

    /// Covers the whole target.
    fn target(&mut self, target: &Target) {
        // Opened again, because listing moves the position that all users of a descriptor share.
        match rustix::fs::openat(target, c".", DIRECTORY, Mode::empty()) {
            Ok(top) => {
                let (way, mut pending) = (Way::new(top), Vec::new());
                self.visit(&way, &mut pending);
                self.tree(way, pending);
            }
            Err(errno) => self.fail_open(target.path.clone(), errno.into()),
        }
    }

    /// Covers what is `pending` on the way (names with their depth), and everything below it.
    fn tree(&mut self, mut way: Way, mut pending: Vec<(usize, CString)>) {
        while let Some((depth, name)) = pending.pop() {
            match way.enter(depth, &name).map(drop) {
                Ok(()) => self.visit(&way, &mut pending),
                Err(Errno::XDEV) => self.done.mount_points += 1,
                // Vanished, or something else stands in its place by now: a file, a link.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => {}
                Err(errno) => self.fail_open(way.path(Some(&name)), errno.into()),
            }
        }
    }

    /// Watches, marks, and lists the directory that the way has come to, in this order.
    fn visit(&mut self, way: &Way, pending: &mut Vec<(usize, CString)>) {
        let dir = way.here();
        // A directory without a handle just counts as not seen yet.
        if let (Some(seen), Ok(handle)) = (&mut self.seen, DirectoryHandle::of(dir))
            && !seen.insert(handle)
        {
            return;
        }
        let watched = self.watch.watch_directory(dir);
        // Every mark that can be set is worth having, even if the others cannot.
        let marked = self.groups.iter().map(|group| group.mark_directory(dir));
        let marked = marked.fold(watched, Result::and);
        if let Some(notifier) = self.notifier {
            notifier.mark_directory(dir).ok();
        }
        match marked {
            Ok(()) => self.done.directories += 1,
            Err(source) => self.fail(TreeError::Mark {
                path: way.path(None),
                source,
            }),
        }
        if let Err(errno) = list_directories(dir, |name| pending.push((way.depth(), name.into()))) {
            self.fail_open(way.path(None), errno.into());
        }
    }

    fn fail_open(&mut self, path: PathBuf, source: io::Error) {
        self.fail(TreeError::Open { path, source });
    }

    fn fail(&mut self, error: TreeError) {
        self.error.get_or_insert(error);
    }

    fn finish(self) -> Result<MarkedTree, TreeError> {
        self.error.map_or(Ok(self.done), Err)
    }
}

/// Whether `dir` is where a filesystem is mounted with its own root, not a bind mount of a part.
/// When that cannot be found out (Linux before 5.8, no /proc), the narrower "no" is safe.
fn is_filesystem_root(dir: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) else {
        return false;
    };
    let shows_root = |mount: &Mount| mount.id == stat.stx_mnt_id && mount.root.as_os_str() == "/";
    stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        && StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID)
        && MountList::open()
            .and_then(|mut list| list.read())
            .is_ok_and(|mounts| mounts.iter().any(shows_root))
}

/// Reads of the watch per `follow`: some thousand events, then the caller gets its thread back.
const MAX_READS: usize = 64;

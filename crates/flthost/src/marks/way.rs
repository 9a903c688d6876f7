//! Going through a tree by descriptors: no link is followed, no mount crossed, no path too long.
//!
//! Knows nothing of marks. A tree may be as deep and as wide as somebody unprivileged likes to make
//! it, so a step costs the same at any depth and the number of open descriptors is bounded.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::slice;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;

/// Where a walk stands: some levels below the directory that it began at.
#[derive(Debug)]
pub(super) struct Way {
    top: OwnedFd,
    /// The names of the levels, from the top down.
    names: Vec<CString>,
    /// The directories of the last levels, at most `KEPT`: the last one belongs to the last name.
    /// Empty only at the top, or after a climb past the kept ones.
    open: VecDeque<OwnedFd>,
}

impl Way {
    pub(super) fn new(top: OwnedFd) -> Self {
        Self {
            top,
            names: Vec::new(),
            open: VecDeque::new(),
        }
    }

    /// Goes up to the level `depth`, which is at most the current one, and then down to `name`.
    ///
    /// `EXDEV` means that something is mounted there. After an error the walk stands at `depth`.
    pub(super) fn enter(&mut self, depth: usize, name: &CStr) -> Result<BorrowedFd<'_>, Errno> {
        let climb = self.names.len().saturating_sub(depth);
        self.names.truncate(depth);
        self.open.truncate(self.open.len().saturating_sub(climb));
        if self.open.is_empty() && depth > 0 {
            self.reopen().inspect_err(|_| self.open.clear())?;
        }
        let next = open_steps(self.here(), slice::from_ref(&name))?;
        self.names.push(name.into());
        self.open.push_back(next);
        if self.open.len() > KEPT {
            self.open.pop_front();
        }
        Ok(self.here())
    }

    /// How many levels below the top the walk stands.
    pub(super) fn depth(&self) -> usize {
        self.names.len()
    }

    /// The path of the directory that the walk stands in, or of `name` there: for people to read.
    pub(super) fn path(&self, name: Option<&CStr>) -> PathBuf {
        let link = format!("/proc/self/fd/{}", self.here().as_raw_fd());
        let mut path = fs::read_link(link).unwrap_or_else(|_| "?".into());
        if self.open.is_empty() {
            // Could not be opened again, so `here` is the top.
            path.extend(
                self.names
                    .iter()
                    .map(|name| OsStr::from_bytes(name.as_bytes())),
            );
        }
        path.extend(name.map(|name| OsStr::from_bytes(name.to_bytes())));
        path
    }

    /// The directory that the walk stands in.
    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.open.back().unwrap_or(&self.top).as_fd()
    }

    /// Opens the last levels again: several, so that the next climbs are cheap.
    fn reopen(&mut self) -> Result<(), Errno> {
        let (far, near) = self.names.split_at(self.names.len().saturating_sub(KEPT));
        let start = open_below(self.top.as_fd(), far)?;
        for name in near {
            let from = self.open.back().or(start.as_ref()).unwrap_or(&self.top);
            let next = open_steps(from.as_fd(), slice::from_ref(name))?;
            self.open.push_back(next);
        }
        Ok(())
    }
}

/// Calls `found` with the name of everything in `dir` that is, or may be, a directory.
pub(super) fn list_directories(
    dir: BorrowedFd<'_>,
    mut found: impl FnMut(&CStr),
) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name();
                let kind = entry.file_type();
                let itself = name == c"." || name == c"..";
                if !itself && matches!(kind, FileType::Directory | FileType::Unknown) {
                    found(name);
                }
            }
            Err(Errno::NOENT) => return Ok(()), // was removed while we held it open
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Opens the directory `steps` below `from`; nothing if there are no steps.
fn open_below(from: BorrowedFd<'_>, steps: &[CString]) -> Result<Option<OwnedFd>, Errno> {
    let mut dir: Option<OwnedFd> = None;
    let mut rest = steps;
    while !rest.is_empty() {
        // As many steps at a time as fit into one path.
        let mut len = 0;
        let fits = rest.iter().take_while(|name| {
            len += name.count_bytes() + 1;
            len <= MAX_PATH
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        dir = Some(open_steps(dir.as_ref().map_or(from, AsFd::as_fd), now)?);
        rest = later;
    }
    Ok(dir)
}

fn open_steps<S: AsRef<CStr>>(from: BorrowedFd<'_>, steps: &[S]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let path: Vec<&[u8]> = steps.iter().map(|step| step.as_ref().to_bytes()).collect();
    let path = path.join(&b'/');
    match rustix::fs::openat2(from, path.as_slice(), DIRECTORY, Mode::empty(), resolve) {
        // No openat2, or (EPERM) a seccomp filter that does not know it: the same step by step.
        Err(Errno::NOSYS | Errno::PERM) => open_each(from, steps),
        done => done,
    }
}

/// `open_steps` without openat2: no step follows a link, and the mount is looked at after each.
fn open_each<S: AsRef<CStr>>(from: BorrowedFd<'_>, steps: &[S]) -> Result<OwnedFd, Errno> {
    let mut dir: Option<OwnedFd> = None;
    for step in steps {
        let at = dir.as_ref().map_or(from, AsFd::as_fd);
        let next = rustix::fs::openat(at, step.as_ref(), DIRECTORY, Mode::empty())?;
        let stat = rustix::fs::statx(&next, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Errno::XDEV);
        }
        dir = Some(next);
    }
    dir.ok_or(Errno::INVAL)
}

/// How a directory is opened to be listed and marked.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Descriptors per walk. A climb past them costs the whole depth, once per so many levels.
const KEPT: usize = 32;
/// Below PATH_MAX, which counts the final NUL.
const MAX_PATH: usize = 4000;
const LIST_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn way(steps: &[&str]) -> Vec<CString> {
        steps
            .iter()
            .map(|step| CString::new(*step).unwrap())
            .collect()
    }

    #[test]
    fn no_way_down_follows_a_link_or_crosses_a_mount() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", top.path().join("link")).unwrap();
        let (top, root) = (
            fs::File::open(top.path()).unwrap(),
            fs::File::open("/").unwrap(),
        );
        for open in [open_steps::<CString>, open_each::<CString>] {
            assert!(open(top.as_fd(), &way(&["a", "b"])).is_ok());
            let failure = |top: BorrowedFd<'_>, steps: &[&str]| open(top, &way(steps)).unwrap_err();
            for link in [&["link"][..], &["link", "b"]] {
                let errno = failure(top.as_fd(), link);
                assert!(matches!(errno, Errno::LOOP | Errno::NOTDIR), "{errno}");
            }
            assert_eq!(failure(top.as_fd(), &["none"]), Errno::NOENT);
            assert_eq!(failure(root.as_fd(), &["proc"]), Errno::XDEV);
        }
    }

    #[test]
    fn a_way_finds_back_from_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = vec![fs::canonicalize(dir.path()).unwrap()];
        for depth in 0..3 * KEPT {
            fs::create_dir_all(paths[depth].join("side")).unwrap();
            paths.push(paths[depth].join("down"));
            fs::create_dir(&paths[depth + 1]).unwrap();
        }
        let mut way = Way::new(fs::File::open(dir.path()).unwrap().into());
        for depth in 0..3 * KEPT {
            way.enter(depth, c"down").unwrap();
            assert_eq!(way.path(None), paths[depth + 1]);
            assert!(way.open.len() <= KEPT);
        }
        for depth in (0..3 * KEPT).rev() {
            way.enter(depth, c"side").unwrap();
            assert_eq!(
                (way.depth(), way.path(None)),
                (depth + 1, paths[depth].join("side"))
            );
            assert_eq!(way.enter(depth, c"none").unwrap_err(), Errno::NOENT);
            assert_eq!((way.depth(), way.path(None)), (depth, paths[depth].clone()));
        }
    }
}

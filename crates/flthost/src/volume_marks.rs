//! Opening one mount and marking it, without touching anything else and without holding on to it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fanotify::{Group, MarkError};
use crate::mounts::Mount;
use crate::pair::Pair;
use crate::stamp::Look;

/// Why a mount is not marked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is hidden under another, has gone, or is neither a directory nor a file.
    Unreached,
    /// It cannot be opened or marked.
    Refused {
        /// Why.
        reason: String,
        /// Whether another try could end otherwise.
        again: bool,
    },
}

/// Marks a mount in both groups of a pair, or the whole filesystem behind it, and gives what it was reached by: to be closed
/// soon, as nobody can unmount it meanwhile.
///
/// # References
/// fanotify_mark(2).
pub(crate) fn mark(mount: &Mount, pair: &Pair, whole: bool) -> Result<OwnedFd, Failure> {
    let object = open(mount)?;
    let set = |group: &Group| {
        if whole {
            group.mark_filesystem(object.as_fd())
        } else {
            group.mark_mount(object.as_fd())
        }
    };
    // Questions first: what triage lets pass must be asked about.
    set(&pair.questions)
        .and_then(|()| set(&pair.triage))
        .map_err(|error| Failure::Refused {
            reason: error.to_string(),
            again: !matches!(error, MarkError::Unsupported),
        })?;
    Ok(object)
}

/// Opens what a mount shows, if it is what is seen at its path.
fn open(mount: &Mount) -> Result<OwnedFd, Failure> {
    let refused = |errno| match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => Failure::Unreached,
        errno => Failure::Refused {
            reason: format!("it cannot be opened: {errno}"),
            again: true,
        },
    };
    // First without opening it: a device or a pipe that is opened does things.
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let seen = rustix::fs::open(&mount.point, look, Mode::empty()).map_err(refused)?;
    let looked = Look::try_at(seen.as_fd()).map_err(refused)?;
    if looked.mount.is_some_and(|id| id != mount.id) {
        return Err(Failure::Unreached);
    }
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = match FileType::from_raw_mode(looked.stamp.mode.into()) {
        FileType::Directory => {
            rustix::fs::openat(&seen, c".", read | OFlags::DIRECTORY, Mode::empty())
        }
        FileType::RegularFile => {
            let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
            rustix::fs::open(path, read | OFlags::NONBLOCK, Mode::empty())
        }
        _ => return Err(Failure::Unreached),
    };
    opened.map_err(refused)
}

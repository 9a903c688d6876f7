//! What a worker that was killed, and is not gone, still has: while one of its threads is inside a hung filesystem, nothing
//! that it had open is closed. Its ports' names stay taken, and its services wait for a host that never answers.
//!
//! The next worker takes both from it: through one of its threads, which is the way that the kernel has for that.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Ends the connections of a process that is being killed, and gives its locks back. What cannot be had stays as it is:
/// before Linux 6.9 that is everything.
///
/// # References
/// pidfd_open(2), `PIDFD_THREAD`; pidfd_getfd(2); flock(2).
pub(crate) fn strip(process: Pid) {
    let threads = format!("/proc/{}/task", process.as_raw_nonzero());
    let own = links(Path::new("/proc/self/fd"));
    let own: HashSet<_> = own.into_iter().map(|(_, link)| link).collect();
    for thread in entries(Path::new(&threads)) {
        let id = thread
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let pidfd = id
            .and_then(Pid::from_raw)
            .and_then(|id| pidfd_open(id, THREAD).ok());
        let Some(pidfd) = pidfd else { continue };
        for (number, link) in links(&thread.join("fd")) {
            // What this process has too, it has from the supervisor: it is not the dead one's to lose.
            // Nothing else is fetched: closing a copy of a hung filesystem's file would wait for it.
            if !own.contains(&link)
                && is_ours(&link)
                && let Ok(file) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
            {
                let_go(&file, &link);
            }
        }
    }
}

fn is_ours(link: &OsString) -> bool {
    let link = link.to_string_lossy();
    link.starts_with("socket:") || link.ends_with(".lock")
}

fn let_go(file: &OwnedFd, link: &OsString) {
    let link = link.to_string_lossy();
    // Each fails only for what is no longer as it was.
    if link.starts_with("socket:") {
        rustix::net::shutdown(file, Shutdown::Both).ok();
        // Those who knocked and were not let in. Where nobody can, or all are gone, this fails at once.
        while rustix::net::accept(file).is_ok() {}
    } else if link.ends_with(".lock") {
        flock(file, FlockOperation::Unlock).ok();
    }
}

/// Whether the kernel has that way.
///
/// # References
/// pidfd_open(2), `PIDFD_THREAD`.
pub(crate) fn is_possible() -> bool {
    pidfd_open(rustix::thread::gettid(), THREAD).is_ok()
}

/// The numbers of a process's descriptors, and what they are.
fn links(directory: &Path) -> Vec<(RawFd, OsString)> {
    let link = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, fs::read_link(&path).ok()?.into_os_string()))
    };
    entries(directory).into_iter().filter_map(link).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// `PIDFD_THREAD`: a thread of its own, not the process that it belongs to, whose first thread has ended already.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

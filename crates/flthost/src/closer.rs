//! Closes files of filesystems that may make it wait: a close is a request to a server or a daemon, and it cannot be
//! interrupted. Whoever answers operations, keeps deadlines or tells of decisions must not be the one who waits for it.
//!
//! A closer has a reference of its own to every such file, and drops it when nobody else has one; so it does not matter
//! on which thread a file is needed last. One closer for each filesystem: one that hangs holds up only its own.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::fstatfs;

/// Closes the files of one filesystem.
#[derive(Debug, Default)]
pub(crate) struct Closer {
    files: Mutex<Vec<Arc<OwnedFd>>>,
    filled: Condvar,
}

/// Files that may wait to be closed. Each is a descriptor, and a daemon that hangs must not use up those of others.
pub(crate) const ROOM: usize = 256;

/// Between two looks for files that nobody needs any more.
const PAUSE: Duration = Duration::from_millis(10);

impl Closer {
    /// Starts the thread, which lives as long as the process.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let closer = Arc::new(Self::default());
        let own = Arc::clone(&closer);
        let thread = thread::Builder::new().name("closer".into());
        thread.spawn(move || own.close_all())?;
        Ok(closer)
    }

    /// Closes this file when nobody else needs it.
    pub(crate) fn keep(&self, file: &Arc<OwnedFd>) {
        self.lock().push(Arc::clone(file));
        self.filled.notify_one();
    }

    /// Waits until not too many files wait to be closed. For whoever opens more of the same filesystem.
    pub(crate) fn wait_for_room(&self) {
        loop {
            let files = self.lock();
            let is_full =
                files.len() >= ROOM && files.iter().filter(|file| is_free(file)).count() >= ROOM;
            drop(files);
            if !is_full {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    fn close_all(&self) -> ! {
        loop {
            let mut files = self.lock();
            while files.is_empty() {
                files = self
                    .filled
                    .wait(files)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let free = files.iter().position(is_free);
            let file = free.map(|place| files.swap_remove(place));
            drop(files);
            match file {
                Some(file) => drop(file),
                None => thread::sleep(PAUSE),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<OwnedFd>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody has the file but its closer; then nobody else can get it any more.
fn is_free(file: &Arc<OwnedFd>) -> bool {
    Arc::strong_count(file) == 1
}

/// Whether closing a file of this one's filesystem may wait for somebody: so it does wherever that is not known to be
/// otherwise.
///
/// # References
/// statfs(2).
pub(crate) fn may_wait(file: BorrowedFd<'_>) -> bool {
    fstatfs(file).map_or(true, |stat| {
        !LOCAL
            .iter()
            .any(|magic| i128::from(*magic) == i128::from(stat.f_type))
    })
}

/// Filesystems that do nothing when a file is closed: see <linux/magic.h>.
const LOCAL: [u32; 9] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x4d44,      // FAT
    0x9660,      // ISO 9660
    0x7371_7368, // Squashfs
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::Instant;

    #[test]
    fn a_file_is_closed_when_nobody_else_needs_it() {
        let closer = Closer::start().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let file = Arc::new(write);
        closer.keep(&file);
        thread::sleep(PAUSE * 3);
        rustix::io::write(&*file, b"it is open").unwrap();
        drop(file);
        let mut bytes = [0; 100];
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(10));
        assert_eq!(rustix::io::read(&read, &mut bytes), Ok(0)); // waits until it is closed
        let end = Instant::now() + Duration::from_secs(10);
        while !closer.lock().is_empty() && Instant::now() < end {}
        closer.wait_for_room();
    }

    #[test]
    fn only_what_is_known_is_closed_by_anybody() {
        let proc = std::fs::File::open("/proc/self/comm").unwrap();
        assert!(may_wait(proc.as_fd()));
        let memory = rustix::fs::memfd_create(c"local", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(!may_wait(memory.as_fd()));
    }
}

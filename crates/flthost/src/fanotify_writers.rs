//! Whether somebody can change a file without anybody noticing: has it open for writing, or mapped so.
//!
//! Beside fanotify, because an answer that is kept holds only while nobody does.
#![allow(unsafe_code)] // leases are not in rustix

use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether a process has the file open for writing, or has a writable shared mapping of it. Where that cannot be found
/// out, yes.
///
/// Takes a lease for reading, which the kernel gives only if there is no writer, and gives it back. Whoever opens the file
/// for writing between the two waits that long, or, if he said that he will not wait, fails with `EAGAIN`.
///
/// # References
/// fcntl(2), `F_SETLEASE`.
pub(crate) fn has_writer(file: BorrowedFd<'_>) -> bool {
    let file = file.as_raw_fd();
    // SAFETY: the descriptor is open, as its owner is borrowed, and the argument is a number.
    if unsafe { libc::fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
        return true;
    }
    // SAFETY: as above. Fails only where there is no lease, and there is.
    unsafe { libc::fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) };
    false
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_open_writer_shows_and_a_reader_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let _another = File::open(&path).unwrap();
        assert!(has_writer(reader.as_fd()));
        drop(writer);
        assert!(!has_writer(reader.as_fd()));
        assert!(!has_writer(reader.as_fd()));
    }
}

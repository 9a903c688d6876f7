//! Descriptors given by the parent process, by number on the command line.
//!
//! For taking what the parent meant for us and nothing else: a number that this process itself opened is refused. The
//! only unsafe code of the scanner, because a number becomes an owner here. Not for choosing numbers (`args.rs`), and not
//! for what the descriptors are (`main.rs`).
#![allow(unsafe_code)] // F_GETFD on a number, and OwnedFd from it

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

/// Takes ownership of an inherited descriptor, which from then on is not inherited further.
///
/// What came through `exec` has no close-on-exec flag, and whatever std and rustix open has one: that tells the parent's
/// gifts from our own descriptors.
///
/// # Errors
///
/// If the number is one of the three standard streams, was taken before, is not open, or was opened by this process.
///
/// # References
/// fcntl(2), `F_GETFD`, `FD_CLOEXEC`.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why: &str| {
        let text = format!("descriptor {number} {why}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    if number <= LAST_STANDARD {
        return refused("is a standard stream, or no descriptor at all");
    }
    // Held to the end: two callers must not pass the check for one number.
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&number) {
        return refused("is used twice");
    }
    // SAFETY: F_GETFD takes no argument, touches no memory, and is defined for every number, open or not.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        let error = io::Error::last_os_error();
        let text = format!("descriptor {number} was not handed over: {error}");
        return Err(io::Error::new(error.kind(), text));
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return refused("was not handed over by the parent: it is marked close-on-exec");
    }
    // SAFETY: the number is open, as fcntl has just said. Nobody else owns it: std owns the standard streams, which are
    // excluded; what this process opened has the flag that was just found clear; and `TAKEN`, locked since before the
    // check, says that no earlier call made an owner of it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    taken.insert(number);
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// What was taken, for the life of the process: the number may be reused later, but not by the parent.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

const LAST_STANDARD: RawFd = 2;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd as _, IntoRawFd as _};

    use super::*;

    #[test]
    fn only_what_was_inherited_is_taken_and_only_once() {
        let file = File::open("/dev/null").unwrap();
        let own = take(file.as_raw_fd()).unwrap_err();
        assert!(own.to_string().contains("close-on-exec"), "{own}");
        // As if a parent had opened it.
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let number = file.into_raw_fd();
        let owned = take(number).unwrap();
        assert_eq!(owned.as_raw_fd(), number);
        assert_eq!(rustix::io::fcntl_getfd(&owned).unwrap(), FdFlags::CLOEXEC);
        let again = take(number).unwrap_err();
        assert!(again.to_string().ends_with("is used twice"), "{again}");
    }

    #[test]
    fn standard_streams_and_numbers_that_are_not_open_are_refused() {
        for number in [RawFd::MIN, -1, 0, 1, 2] {
            let error = take(number).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{number}");
        }
        // Above what a process may open, so no other test has it.
        let error = take(RawFd::MAX).unwrap_err();
        assert!(error.to_string().contains("not handed over"), "{error}");
    }
}

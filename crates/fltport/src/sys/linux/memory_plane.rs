//! The two pieces of memory of a connection: made, sealed and filled by the host, checked by the client.
//!
//! A size that cannot change means that no access can fail where it did not before; pages that are there before the first
//! store mean that a full machine is an error here and not a signal there.
#![allow(unsafe_code)] // mmap, munmap, madvise

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::plane::memory_region::{Mapping, Region};
use crate::sync::AtomicU64;

/// Both pieces, mapped here, and the descriptors for the client.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) host: Region,
    pub(crate) client: Region,
    pub(crate) files: [OwnedFd; 2],
}

/// Makes both pieces for a host, of so many bytes each. No page of them is there yet; see [`fill`].
///
/// # Errors
/// The system's: too old (Linux 5.14 has all that is needed), or short of something.
///
/// # References
/// memfd_create(2), F_ADD_SEALS in fcntl(2), MADV_POPULATE_WRITE in madvise(2).
pub(crate) fn make(host: usize, client: usize) -> io::Result<Made> {
    let (host_region, host_file) = piece(host)?;
    // What is mapped stays writable here; nobody can map it so any more.
    seal(&host_file, SealFlags::FUTURE_WRITE)?;
    let (client_region, client_file) = piece(client)?;
    let size = SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_add_seals(&client_file, size)?;
    Ok(Made {
        host: host_region,
        client: client_region,
        files: [host_file, client_file],
    })
}

/// Seals the client's piece, which the client has mapped: what is mapped stays writable, nobody maps it so any more, and
/// nobody makes holes in it, in which a read of the host's would have to find new pages.
///
/// # Errors
/// The system's.
pub(crate) fn seal_client(file: &OwnedFd) -> io::Result<()> {
    seal(file, SealFlags::FUTURE_WRITE)
}

/// Maps both pieces for a client, once it has seen that they are what a host makes.
///
/// # Errors
/// `InvalidData` where they are not; otherwise the system's.
pub(crate) fn open(
    files: &[OwnedFd; 2],
    host: usize,
    client: usize,
) -> io::Result<(Region, Region)> {
    let [host_file, client_file] = files;
    let fixed = SealFlags::SHRINK;
    for (file, bytes, fixed) in [
        (host_file, host, fixed | SealFlags::SEAL),
        (client_file, client, fixed),
    ] {
        let size = rustix::fs::fstat(file)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(file)?;
        if u64::try_from(size).ok() != u64::try_from(bytes).ok() || !seals.contains(fixed) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the memory is not what a host makes",
            ));
        }
    }
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    Ok((
        map(host_file, host, ProtFlags::READ)?,
        map(client_file, client, writable)?,
    ))
}

/// Makes the pages of a part of a mapping be there, for its host.
///
/// # Errors
/// The system's; out of memory is one.
pub(crate) fn fill(words: &[AtomicU64]) -> io::Result<()> {
    let page = rustix::param::page_size();
    let first: *const AtomicU64 = words.as_ptr();
    let start = first.map_addr(|address| address / page * page);
    let end = first.wrapping_add(words.len()).addr();
    let start = start.cast_mut().cast::<c_void>();
    loop {
        // SAFETY: the range lies in a live mapping, whose beginning is a page's; filling changes no content.
        let result =
            unsafe { rustix::mm::madvise(start, end - start.addr(), Advice::LinuxPopulateWrite) };
        match result {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn piece(bytes: usize) -> io::Result<(Region, OwnedFd)> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
    if limit.current.is_some_and(|most| most < wanted) {
        // Asking for more would be answered by a signal.
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(c"fltport", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"fltport", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&file, wanted)?;
    let region = map(&file, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
    Ok((region, file))
}

fn seal(file: &OwnedFd, more: SealFlags) -> io::Result<()> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | more;
    Ok(rustix::fs::fcntl_add_seals(file, seals)?)
}

fn map(file: impl AsFd, bytes: usize, protection: ProtFlags) -> io::Result<Region> {
    // SAFETY: a new mapping at an address of the system's choice, over nothing that exists.
    let start =
        unsafe { rustix::mm::mmap(null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: the mapping was just made with so many bytes, and everybody who maps it before its seals are there is here.
    let mapping = unsafe { Mapping::new(start, bytes, unmap) };
    Ok(Region::mapped(mapping))
}

fn unmap(start: NonNull<AtomicU64>, bytes: usize) {
    // SAFETY: called once, by the end of what had the mapping.
    unsafe { rustix::mm::munmap(start.as_ptr().cast(), bytes) }.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn a_client_sees_what_the_host_writes_and_can_change_neither_it_nor_a_size() {
        let made = make(8192, 4096).unwrap();
        fill(made.host.part(0, 8192)).unwrap();
        fill(made.client.part(8, 16)).unwrap();
        let (host, client) = open(&made.files, 8192, 4096).unwrap();
        made.host.store(4096, 7, Ordering::Release);
        assert_eq!(host.load(4096, Ordering::Acquire), 7);
        client.store(8, 9, Ordering::Release);
        assert_eq!(made.client.load(8, Ordering::Acquire), 9);
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        assert!(map(&made.files[0], 8192, writable).is_err());
        for file in &made.files {
            assert!(rustix::fs::ftruncate(file, 1).is_err());
            assert!(rustix::fs::ftruncate(file, 1 << 20).is_err());
        }
        assert!(open(&made.files, 4096, 8192).is_err());
        // Once it is mapped, the client's piece has no holes either.
        seal_client(&made.files[1]).unwrap();
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(&made.files[1], hole, 0, 4096).is_err());
        assert!(map(&made.files[1], 4096, writable).is_err());
        client.store(8, 10, Ordering::Release);
        assert_eq!(made.client.load(8, Ordering::Acquire), 10);
        fill(made.client.part(0, 4096)).unwrap();
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = || {
            let file = rustix::fs::memfd_create(c"test", flags).unwrap();
            rustix::fs::ftruncate(&file, 4096).unwrap();
            file
        };
        let error = open(&[file(), file()], 4096, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

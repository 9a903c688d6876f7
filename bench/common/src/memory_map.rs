//! Memory that both processes of a limit case map: words that they hand to and fro, and room for what is copied.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped memfd of [`SharedMap::WORDS`] words on cache lines of their own, and bytes after them.
#[derive(Debug)]
pub struct SharedMap {
    start: NonNull<u8>,
    room: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to no thread; what is in it is reached through atomics, or copied.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

/// Two cache lines, because processors fetch the neighbour too.
const STRIDE: usize = 128;

impl SharedMap {
    /// Words at its start.
    pub const WORDS: usize = 32;

    /// A new one with room for `room` bytes.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(room: usize) -> Result<Self> {
        let file = memfd_create("fltbench", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, (Self::WORDS * STRIDE + room) as u64)?;
        Self::map(file, room)
    }

    /// The one that another process has made, by [`Self::path`].
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len())?;
        let room = length.checked_sub(Self::WORDS * STRIDE);
        Self::map(file.into(), room.context("too short for a shared map")?)
    }

    fn map(file: OwnedFd, room: usize) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let (length, flags) = (Self::WORDS * STRIDE + room, MapFlags::SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses, of a file that is this long and stays so.
        let start = unsafe { mmap(std::ptr::null_mut(), length, access, flags, &file, 0)? };
        let start = NonNull::new(start.cast()).context("mapped nowhere")?;
        Ok(Self { start, room, file })
    }

    /// Where another process opens it, while this one lives.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        let number = self.file.as_fd().as_raw_fd();
        format!("/proc/{}/fd/{number}", std::process::id())
    }

    /// One of the words.
    ///
    /// # Panics
    ///
    /// When there is no such word.
    pub fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < Self::WORDS, "no word {index}");
        // SAFETY: checked to be within the mapping.
        let word = unsafe { self.start.add(index * STRIDE) };
        // SAFETY: aligned, mapped as long as `self` lives, and used by atomics alone in both processes.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    /// Copies bytes in, `at` bytes after the words. The other process must not be at them: a word says whose turn it is.
    ///
    /// # Errors
    ///
    /// When they do not fit.
    pub fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let place = self.place(at, bytes.len())?;
        // SAFETY: checked to be within the mapping, which overlaps nothing of Rust's.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    /// Copies bytes out, as [`Self::copy_in`].
    ///
    /// # Errors
    ///
    /// When there are not so many.
    pub fn copy_out(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let place = self.place(at, bytes.len())?;
        let length = bytes.len();
        // SAFETY: checked to be within the mapping, which overlaps nothing of Rust's.
        unsafe { place.copy_to_nonoverlapping(NonNull::from(bytes).cast(), length) };
        Ok(())
    }

    fn place(&self, at: usize, length: usize) -> Result<NonNull<u8>> {
        let fits = at.checked_add(length).is_some_and(|end| end <= self.room);
        ensure!(fits, "past the end of a shared map");
        // SAFETY: checked to be within the mapping.
        Ok(unsafe { self.start.add(Self::WORDS * STRIDE + at) })
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        let length = Self::WORDS * STRIDE + self.room;
        // SAFETY: the whole of what was mapped; nothing borrows from it any more.
        unsafe { munmap(self.start.as_ptr().cast(), length) }.ok();
    }
}

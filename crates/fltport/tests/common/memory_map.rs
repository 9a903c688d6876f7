//! A piece of shared memory as words, mapped by whoever attacks with it, and a process that keeps nothing but its maps.
#![allow(unsafe_code)] // mmap, madvise, words of a mapping, fork

use std::io;
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A mapping that lasts as long as its process.
#[derive(Clone, Copy)]
pub(crate) struct Map {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process and not to a thread, is never undone, and is used by atomic words only.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps so many bytes of this file.
    pub(crate) fn new(file: impl AsFd, bytes: usize, writable: bool) -> io::Result<Self> {
        let mut protection = ProtFlags::READ;
        if writable {
            protection |= ProtFlags::WRITE;
        }
        // SAFETY: a new mapping at an address of the system's choice, over nothing that exists.
        let start =
            unsafe { rustix::mm::mmap(null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).unwrap();
        Ok(Self { start, bytes })
    }

    /// The word at this offset.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.bytes);
        // SAFETY: by the line above it stays inside of the mapping.
        let word = unsafe { self.start.as_ptr().byte_add(offset) };
        // SAFETY: the mapping is never undone, its file cannot shrink, and the word is aligned.
        unsafe { &*word }
    }

    /// The half of a word on which threads sleep.
    pub(crate) fn half(&self, offset: usize) -> &AtomicU32 {
        let word: *const AtomicU64 = self.word(offset);
        let lower = if cfg!(target_endian = "little") { 0 } else { 1 };
        // SAFETY: a word has two halves.
        let half = unsafe { word.cast::<AtomicU32>().add(lower) };
        // SAFETY: aligned as the word is, and there as long; only the system uses it.
        unsafe { &*half }
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::SeqCst)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    /// Bytes from an offset on.
    pub(crate) fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let words = (offset..offset + length).step_by(8);
        let mut bytes: Vec<u8> = words.flat_map(|at| self.load(at).to_ne_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Writes bytes from an offset on, and zeros up to the next word.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        for (part, at) in bytes.chunks(8).zip((offset..).step_by(8)) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.store(at, u64::from_ne_bytes(word));
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    /// Where it begins, for `/proc/self/mem`.
    pub(crate) fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// Takes the pages out of the file behind the mapping.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is this mapping; what is read there afterwards is zero, which atomic words allow.
        Ok(unsafe { rustix::mm::madvise(start, self.bytes, Advice::LinuxRemove) }?)
    }

    /// Makes all its pages be there.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range is this mapping; filling changes no content.
        Ok(unsafe { rustix::mm::madvise(start, self.bytes, Advice::LinuxPopulateWrite) }?)
    }

    /// Asks for the mapping to be writable.
    pub(crate) fn make_writable(&self) -> io::Result<()> {
        let flags = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
        // SAFETY: the range is this mapping, which nothing depends on being read-only.
        Ok(unsafe { rustix::mm::mprotect(self.start.as_ptr().cast(), self.bytes, flags) }?)
    }
}

/// Makes a process that has every map of this one and no descriptor, and that writes to this one for some seconds at most.
/// Its number.
pub(crate) fn leave_a_child_that_scribbles(map: Map) -> i32 {
    // SAFETY: the child calls nothing but what may be called after a fork: system calls and stores.
    let child = unsafe { libc::fork() };
    if child != 0 {
        return child;
    }
    // SAFETY: ends the child whatever happens; takes a number.
    unsafe { libc::alarm(20) };
    // SAFETY: closes descriptors of the child alone, which uses none of them any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let mut value: u64 = 1;
    loop {
        for offset in (0..32 << 10).step_by(8) {
            value = value.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
            map.store(offset, value);
        }
    }
}

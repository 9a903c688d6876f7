//! Words and bytes of a piece of memory that both sides may see.
//!
//! No reference to bytes is ever formed here: what another process writes is read by atomic words, or by an instruction
//! that the compiler knows nothing of, into bytes of one's own. A word outside of the memory is a word that nobody else has,
//! so no offset can do harm; offsets are made by [`super::layout`] all the same.
#![allow(unsafe_code)] // a mapping as words, and copies of long payloads

use std::fmt;
#[cfg(not(all(test, any(loom, shuttle))))]
use std::ptr::NonNull;

use crate::sync::{AtomicU64, Ordering};

/// A piece of memory.
pub(crate) struct Region {
    words: Words,
    /// What an offset outside gives.
    nowhere: AtomicU64,
}

enum Words {
    /// Of this process alone: for models, and for tests of the words without a system.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Heap(std::sync::Arc<[AtomicU64]>),
    #[cfg(not(all(test, any(loom, shuttle))))]
    Mapped(Mapping),
}

/// A mapping that is undone when it is dropped.
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
    /// Undoes the mapping of so many bytes.
    unmap: fn(NonNull<AtomicU64>, usize),
}

// SAFETY: a mapping belongs to the process and not to a thread, and is used by atomic words only.
#[cfg(not(all(test, any(loom, shuttle))))]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[cfg(not(all(test, any(loom, shuttle))))]
unsafe impl Sync for Mapping {}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Mapping {
    /// Takes on a mapping.
    ///
    /// # Safety
    /// `start` is the beginning of a mapping of `bytes` bytes, a page's multiple, that can be read until `unmap` is called
    /// with both, whatever other processes do; the memory behind it cannot shrink.
    pub(crate) unsafe fn new(
        start: NonNull<AtomicU64>,
        bytes: usize,
        unmap: fn(NonNull<AtomicU64>, usize),
    ) -> Self {
        let words = bytes / 8;
        Self {
            start,
            words,
            unmap,
        }
    }
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Drop for Mapping {
    fn drop(&mut self) {
        (self.unmap)(self.start, self.words * 8);
    }
}

impl Region {
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) const fn mapped(mapping: Mapping) -> Self {
        Self {
            words: Words::Mapped(mapping),
            nowhere: AtomicU64::new(0),
        }
    }

    /// Zeroed memory of this process.
    #[cfg(test)]
    pub(crate) fn heap(bytes: usize) -> Self {
        #[cfg(not(loom))]
        let word = |_| AtomicU64::new(0);
        #[cfg(loom)]
        let word = |_| AtomicU64::when_used();
        let words = (0..bytes.div_ceil(8)).map(word).collect();
        Self {
            words: Words::Heap(words),
            nowhere: AtomicU64::new(0),
        }
    }

    /// The same memory of this process, as its other side has it.
    #[cfg(test)]
    pub(crate) fn share(&self) -> Self {
        let words = match &self.words {
            Words::Heap(words) => Words::Heap(std::sync::Arc::clone(words)),
            #[cfg(not(all(test, any(loom, shuttle))))]
            Words::Mapped(_) => unreachable!("a mapping is shared by its descriptor"),
        };
        let nowhere = AtomicU64::new(0);
        Self { words, nowhere }
    }

    /// The word at this offset, a multiple of 8. Where the memory is read-only, it may only be loaded.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        self.words().get(offset / 8).unwrap_or(&self.nowhere)
    }

    #[inline]
    pub(crate) fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.word(offset).load(order)
    }

    #[inline]
    pub(crate) fn store(&self, offset: usize, value: u64, order: Ordering) {
        self.word(offset).store(value, order);
    }

    /// Says that the line at this offset will be written soon: another core has it, and it can come while other lines do. Where
    /// the memory is read-only, or there is no such instruction, nothing happens.
    #[inline]
    pub(crate) fn expect_write(&self, offset: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle)))))]
        if let Some(word) = self.words().get(offset / 8) {
            // SAFETY: a hint, which changes nothing that a program can see and fails nowhere; processors that do not know it
            // do nothing.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) std::ptr::from_ref(word),
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle))))))]
        let _ = offset;
    }

    /// Copies bytes in, at an offset that is a multiple of 8. Bytes up to the next such may be zeroed. What does not fit is
    /// not copied.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let room = self.words().get(offset / 8..).unwrap_or_default();
        #[cfg(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle)))))]
        if bytes.len() > BY_WORDS && bytes.len() <= room.len() * 8 {
            // SAFETY: `room` has that many bytes, by the line above, and `bytes` is borrowed for reading.
            unsafe { by_instruction(room.as_ptr().cast_mut().cast(), bytes.as_ptr(), bytes.len()) };
            return;
        }
        let whole = bytes.chunks_exact(8);
        let rest = whole.remainder();
        let last = bytes.len() / 8;
        for (word, bytes) in room.iter().zip(whole) {
            let bytes = bytes.try_into().unwrap_or_default();
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        if let (false, Some(word)) = (rest.is_empty(), room.get(last)) {
            let mut last = [0; 8];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Copies bytes out, from an offset that is a multiple of 8. What lies outside is left as it is.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let room = self.words().get(offset / 8..).unwrap_or_default();
        #[cfg(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle)))))]
        if bytes.len() > BY_WORDS && bytes.len() <= room.len() * 8 {
            // SAFETY: `room` has that many bytes, by the line above, and `bytes` is borrowed for writing.
            unsafe { by_instruction(bytes.as_mut_ptr(), room.as_ptr().cast(), bytes.len()) };
            return;
        }
        let words = bytes.len() / 8;
        let mut whole = bytes.chunks_exact_mut(8);
        for (word, bytes) in room.iter().zip(&mut whole) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let rest = whole.into_remainder();
        if let (false, Some(word)) = (rest.is_empty(), room.get(words)) {
            let last = word.load(Ordering::Relaxed).to_ne_bytes();
            rest.iter_mut().zip(last).for_each(|(to, from)| *to = from);
        }
    }

    /// The words from `offset` on, so many bytes of them.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> &[AtomicU64] {
        let end = (offset + bytes).div_ceil(8);
        self.words().get(offset / 8..end).unwrap_or_default()
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        match &self.words {
            Words::Heap(words) => words,
            #[cfg(not(all(test, any(loom, shuttle))))]
            #[expect(clippy::disallowed_methods, reason = "words, and not bytes")]
            // SAFETY: whoever made the mapping vouches for so many readable bytes, until it is dropped with `self`; atomic
            // words promise nothing of what others do to them.
            Words::Mapped(mapping) => unsafe {
                std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.words)
            },
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("bytes", &(self.words().len() * 8))
            .finish()
    }
}

/// Up to how many bytes words are faster than the instruction, which takes some 30 cycles to start.
#[cfg(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle)))))]
const BY_WORDS: usize = 256;

/// Copies bytes that another process may be changing. A compiler that knew of the copy could do with it what is only right
/// where nobody does; it does not look into an instruction.
///
/// # Safety
/// `to` can be written and `from` be read for `length` bytes, and the two do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri), not(all(test, any(loom, shuttle)))))]
#[inline]
unsafe fn by_instruction(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, as it is on every entry of assembly.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back_and_touch_nothing_else() {
        let region = Region::heap(4096);
        for length in (0..80).chain([255, 256, 257, 1000, 2040]) {
            let bytes: Vec<u8> = (1..=251).cycle().take(length).collect();
            let end = 1024 + length.next_multiple_of(8);
            region.store(1016, 7, Ordering::Relaxed);
            region.store(end, 9, Ordering::Relaxed);
            region.copy_in(1024, &bytes);
            let mut back = vec![0; length];
            region.copy_out(1024, &mut back);
            assert_eq!(back, bytes);
            assert_eq!(region.load(1016, Ordering::Relaxed), 7);
            assert_eq!(region.load(end, Ordering::Relaxed), 9);
        }
    }

    #[test]
    fn what_lies_outside_is_nowhere() {
        let region = Region::heap(64);
        region.store(64, 5, Ordering::Relaxed);
        region.copy_in(56, &[1; 40]);
        region.copy_in(640, &[1; 400]);
        let mut bytes = [9; 300];
        region.copy_out(1 << 40, &mut bytes);
        assert_eq!(bytes, [9; 300]);
        region.copy_out(56, &mut bytes);
        assert_eq!(bytes[..9], [1, 1, 1, 1, 1, 1, 1, 1, 9]);
    }
}

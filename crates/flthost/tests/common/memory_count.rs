//! An allocator that counts what one process allocates, where another process has told it to: a supervisor is to allocate
//! nothing after its start, and only its own memory could say otherwise.
#![allow(unsafe_code)] // an allocator, and memory that two processes share

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// The allocator.
pub(crate) struct Counting;

/// What processes share, once [`share`] was called by the one that forks them.
struct Shared {
    words: &'static [AtomicU64; 2],
    /// The process that counts.
    process: u32,
}

const ARMED: usize = 0;
const COUNT: usize = 1;

static SHARED: OnceLock<Shared> = OnceLock::new();

/// This process is to be counted, when it, or one that it forks, says [`arm`].
pub(crate) fn share() {
    // SAFETY: a new mapping at an address of the system's choice touches no memory that there is.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            4_096,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )
    }
    .unwrap();
    // SAFETY: a page has room for two words, is aligned, all zero, and never unmapped; all accesses are atomic.
    let words = unsafe { &*start.cast::<[AtomicU64; 2]>() };
    let process = std::process::id();
    SHARED.set(Shared { words, process }).ok();
}

/// From now on it is counted what the process allocates that called [`share`].
pub(crate) fn arm() {
    if let Some(shared) = SHARED.get() {
        shared.words[ARMED].store(1, Ordering::Release);
    }
}

/// How much was counted.
pub(crate) fn count() -> u64 {
    SHARED
        .get()
        .map_or(0, |shared| shared.words[COUNT].load(Ordering::Acquire))
}

fn note() {
    if let Some(Shared { words, process }) = SHARED.get()
        && words[ARMED].load(Ordering::Acquire) == 1
        && std::process::id() == *process
    {
        words[COUNT].fetch_add(1, Ordering::Release);
    }
}

// SAFETY: every call goes to the system's allocator as it is; what is done besides allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

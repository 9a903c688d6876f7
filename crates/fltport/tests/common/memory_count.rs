//! An allocator that counts what all threads of a process allocate, and remembers where the first of them did.
//!
//! It is a file of its own and not a crate, because no crate says where an allocation comes from, and a mere number helps
//! nobody to get rid of it.
#![allow(unsafe_code)] // an allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system's allocator, counted.
pub(crate) struct Counting;

static WATCHED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static PLACES: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

/// Allocations whose places are remembered.
const KEPT: usize = 100;

/// Lines of a place that are told: the innermost ones of the library.
const LINES: usize = 5;

thread_local! {
    /// This thread writes down a place, for which it allocates.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// How many allocations there are in the whole process while `work` runs, and where the first of them are: how often which
/// lines of the library.
pub(crate) fn allocations(work: impl FnOnce()) -> (usize, BTreeMap<String, usize>) {
    places().clear();
    COUNT.store(0, Ordering::SeqCst);
    WATCHED.store(true, Ordering::SeqCst);
    work();
    WATCHED.store(false, Ordering::SeqCst);
    let mut found = BTreeMap::new();
    for place in std::mem::take(&mut *places()) {
        let place = place.to_string();
        let lines = place
            .lines()
            .filter_map(|line| line.trim().strip_prefix("at ./src/"));
        let lines: Vec<_> = lines.take(LINES).collect();
        *found.entry(lines.join(" < ")).or_default() += 1;
    }
    (COUNT.load(Ordering::SeqCst), found)
}

fn places() -> MutexGuard<'static, Vec<Backtrace>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count() {
    // A thread that is about to end has no locals any more, and is none of those that are measured.
    if !WATCHED.load(Ordering::Relaxed) || WRITING.try_with(Cell::get).unwrap_or(true) {
        return;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) < KEPT {
        WRITING.set(true);
        let place = Backtrace::force_capture();
        places().push(place);
        WRITING.set(false);
    }
}

// SAFETY: everything is the system allocator's, which keeps what is asked of an allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

//! Atomics, locks, threads and the monotonic clock, from one place, so that a model checker can stand in for them.
//!
//! Every build has those of the standard library, by their own names and at no cost. The tests of this crate alone have
//! loom's with `--cfg loom`, and shuttle's with `--cfg shuttle`: `crate::models` is what they check, and
//! `cargo xtask check --deep` runs it. `Arc` and `Weak` are the standard library's everywhere: what they count is not ours
//! to check. `sys` has its threads and locks from the standard library too: no checker knows the system calls beside them.

/// One that no model follows: it lives longer than any, or decides nothing.
pub(crate) use std::sync::atomic::AtomicU64 as StaticAtomicU64;

/// Half of a word, as the system knows it: never loaded or stored here.
#[cfg(all(target_os = "linux", not(any(miri, all(test, any(loom, shuttle))))))]
pub(crate) use std::sync::atomic::AtomicU32 as Half;

#[cfg(not(all(test, any(loom, shuttle))))]
mod standard {
    pub(crate) use crate::sys::futex;
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread;
    pub(crate) use std::time::Instant;

    /// Where the clock starts: its first reading.
    pub(crate) fn start() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }
}
#[cfg(all(test, any(loom, shuttle)))]
mod locks;
#[cfg(any(not(target_os = "linux"), miri, all(test, any(loom, shuttle))))]
pub(crate) mod sleepers;
#[cfg(all(test, loom))]
mod under_loom;
#[cfg(all(test, shuttle, not(loom)))]
mod under_shuttle;
#[cfg(all(test, any(loom, shuttle)))]
mod virtual_time;

#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use standard::*;
#[cfg(all(test, loom))]
pub(crate) use under_loom::*;
#[cfg(all(test, shuttle, not(loom)))]
pub(crate) use under_shuttle::*;

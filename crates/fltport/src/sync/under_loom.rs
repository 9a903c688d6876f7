//! What loom puts in the place of the standard library.
//!
//! Loom's waits have no limit. Here a wait with one comes to it at once, which is one of the orders that a limit allows; the
//! others are shuttle's, as are models of more than a few steps.

use std::cell::Cell;
use std::fmt;
use std::sync::{LockResult, OnceLock};
use std::time::Duration;

pub(crate) use loom::sync::atomic::Ordering;

pub(crate) use super::locks::{Mutex, MutexGuard};
pub(crate) use super::sleepers as futex;
use super::virtual_time;
pub(crate) use super::virtual_time::{Instant, start};

/// Moves the clock of this model. Nobody is woken by it.
pub(crate) fn advance(wait: Duration) {
    virtual_time::set(Instant::now() + wait);
}

/// A word.
///
/// Loom takes `SeqCst` for `AcqRel`, which allows what no machine does. Here a load of that order has a fence before it if its
/// thread has stored in that order since the last one: what a store and a load promise together, and neither alone.
pub(crate) struct AtomicU64(OnceLock<loom::sync::atomic::AtomicU64>);

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(OnceLock::from(loom::sync::atomic::AtomicU64::new(value)))
    }

    /// One of very many, 0 at first, that loom follows from its first use on. A model whose threads share it uses it before
    /// they are there, or loom says that its making is not synchronised.
    pub(crate) const fn when_used() -> Self {
        Self(OnceLock::new())
    }

    fn word(&self) -> &loom::sync::atomic::AtomicU64 {
        self.0.get_or_init(|| loom::sync::atomic::AtomicU64::new(0))
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        before_load(order);
        self.word().load(order)
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.word().store(value, order);
        after_store(order);
    }

    fn exchange<R>(
        &self,
        order: Ordering,
        step: impl FnOnce(&loom::sync::atomic::AtomicU64) -> R,
    ) -> R {
        before_load(order);
        let result = step(self.word());
        after_store(order);
        result
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.exchange(order, |word| word.swap(value, order))
    }

    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.exchange(order, |word| word.fetch_add(value, order))
    }

    pub(crate) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.exchange(order, |word| word.fetch_or(value, order))
    }

    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.exchange(success, |word| {
            word.compare_exchange(current, new, success, failure)
        })
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

impl fmt::Debug for AtomicU64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtomicU64")
    }
}

loom::thread_local! {
    /// This thread has stored in sequential order, and not loaded since.
    static STORED: Cell<bool> = Cell::new(false);
}

fn before_load(order: Ordering) {
    if order == Ordering::SeqCst && STORED.with(|stored| stored.replace(false)) {
        loom::sync::atomic::fence(order);
    }
}

fn after_store(order: Ordering) {
    if order == Ordering::SeqCst {
        STORED.with(|stored| stored.set(true));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

#[derive(Debug)]
pub(crate) struct WaitTimeoutResult;

impl WaitTimeoutResult {
    pub(crate) const fn timed_out(&self) -> bool {
        true
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(guard.wait(|guard| self.0.wait(guard)))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (guard, ()) = guard.released(loom::thread::yield_now);
        Ok((guard, WaitTimeoutResult))
    }
}

pub(crate) mod thread {
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use loom::thread::{Builder, ThreadId, spawn, yield_now};

    use super::{Condvar, Mutex};

    // Parking is our own: loom's `unpark` also wakes a thread that waits for a lock, as if it had got it.
    loom::thread_local! {
        static BED: Arc<Bed> = Arc::default();
    }

    #[derive(Debug, Default)]
    struct Bed {
        woken: Mutex<bool>,
        changed: Condvar,
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Thread {
        id: ThreadId,
        bed: Arc<Bed>,
    }

    impl Thread {
        pub(crate) const fn id(&self) -> ThreadId {
            self.id
        }

        pub(crate) fn unpark(&self) {
            *self.bed.woken.lock().unwrap() = true;
            self.bed.changed.notify_one();
        }
    }

    pub(crate) fn current() -> Thread {
        let id = loom::thread::current().id();
        let bed = BED.with(Arc::clone);
        Thread { id, bed }
    }

    pub(crate) fn park() {
        let bed = current().bed;
        let mut woken = bed.woken.lock().unwrap();
        while !std::mem::take(&mut *woken) {
            woken = bed.changed.wait(woken).unwrap();
        }
    }

    pub(crate) fn park_timeout(_: Duration) {
        yield_now();
    }

    pub(crate) fn sleep(_: Duration) {
        yield_now();
    }
}

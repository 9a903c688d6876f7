//! What loom puts in the place of the standard library.
//!
//! Loom's waits have no limit. Here a wait with one comes to it at once, which is one of the orders that a limit allows; the
//! others are shuttle's, as are models of more than a few steps.

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

use super::virtual_time;
pub(crate) use super::virtual_time::{Instant, start};

/// Moves the clock of this model. Nobody is woken by it.
pub(crate) fn advance(wait: Duration) {
    virtual_time::set(Instant::now() + wait);
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex: self, guard })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
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
        let MutexGuard { mutex, guard } = guard;
        let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex, guard })
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let mutex = guard.mutex;
        drop(guard);
        loom::thread::yield_now();
        let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((guard, WaitTimeoutResult))
    }
}

pub(crate) mod thread {
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use loom::thread::{Builder, ThreadId, spawn};

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
        loom::thread::yield_now();
    }

    pub(crate) fn sleep(_: Duration) {
        loom::thread::yield_now();
    }
}

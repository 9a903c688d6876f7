//! A checker's lock, under the names of the standard library. Nobody poisons it: a panic ends the model.

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError};

#[cfg(loom)]
use loom::sync as checker;
#[cfg(not(loom))]
use shuttle::sync as checker;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(checker::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: checker::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Ok(self.hold())
    }

    fn hold(&self) -> MutexGuard<'_, T> {
        self.with(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<'a>(&'a self, guard: checker::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { mutex: self, guard }
    }
}

impl<'a, T> MutexGuard<'a, T> {
    /// Lets go of the lock while `wait` runs.
    pub(super) fn released<R>(self, wait: impl FnOnce() -> R) -> (Self, R) {
        let Self { mutex, guard } = self;
        drop(guard);
        let result = wait();
        (mutex.hold(), result)
    }

    /// Has a condition variable of the checker's wait.
    #[cfg(loom)]
    pub(super) fn wait(
        self,
        wait: impl FnOnce(Checked<'a, T>) -> LockResult<Checked<'a, T>>,
    ) -> Self {
        let Self { mutex, guard } = self;
        mutex.with(wait(guard).unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(loom)]
pub(super) type Checked<'a, T> = checker::MutexGuard<'a, T>;

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

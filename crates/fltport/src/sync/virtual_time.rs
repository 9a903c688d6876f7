//! The monotonic clock of a model: it stands still until the model moves it, so that a deadline is an event like others.
//!
//! A checker runs all threads of a model on one thread of the system, so the clock is that thread's.

use std::cell::Cell;
use std::ops::{Add, Sub};
use std::time::Duration;

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A reading of the model's clock; stands where [`std::time::Instant`] stands otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(unnameable_types, reason = "public as far as a public method gives it")]
pub struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub(crate) fn checked_add(self, wait: Duration) -> Option<Self> {
        self.0.checked_add(wait).map(Self)
    }

    pub(crate) fn checked_sub(self, wait: Duration) -> Option<Self> {
        self.0.checked_sub(wait).map(Self)
    }

    pub(crate) const fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0 + wait)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Where the clock starts.
pub(crate) const fn start() -> Instant {
    Instant(Duration::ZERO)
}

/// Moves the clock. Whoever waits for it is not woken here.
pub(super) fn set(now: Instant) {
    NOW.set(now.0);
}

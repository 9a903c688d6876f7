//! Time as the engine sees it: two clock readings handed in by the caller, and deadlines made from them.
//!
//! A relative timeout runs on the monotonic clock and does not care when somebody sets the wall clock; an absolute one
//! follows the wall clock, as `FltSendMessage` promises. The engine never reads either clock.

use core::time::Duration;

/// A reading of a monotonic clock, in nanoseconds from a start that only the caller knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The reading of `nanos` nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The reading `wait` later, or `None` where that is past the end of the clock.
    #[must_use]
    pub fn checked_add(self, wait: Duration) -> Option<Self> {
        let nanos = u64::try_from(wait.as_nanos()).ok()?;
        self.0.checked_add(nanos).map(Self)
    }

    /// The time from `self` until `later`; zero if `later` has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

/// A reading of the wall clock, in units of 100 ns since 1601-01-01 UTC (a Windows system time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

impl WallTime {
    /// Units of 100 ns between 1601-01-01 and 1970-01-01.
    const UNIX_EPOCH: u64 = 116_444_736_000_000_000;

    /// A system time in units of 100 ns since 1601-01-01 UTC.
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Self {
        Self(ticks)
    }

    /// Units of 100 ns since 1601-01-01 UTC.
    #[must_use]
    pub const fn as_ticks(self) -> u64 {
        self.0
    }

    /// The wall time `since` after 1970-01-01 UTC; clamped to the largest representable time.
    #[must_use]
    pub fn from_unix(since: Duration) -> Self {
        let ticks = u64::try_from(since.as_nanos() / 100).unwrap_or(u64::MAX);
        Self(Self::UNIX_EPOCH.saturating_add(ticks))
    }

    /// The time from `self` until `later`; zero if `later` has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        let ticks = later.0.saturating_sub(self.0);
        Duration::from_nanos(ticks.saturating_mul(100))
    }
}

/// Both clocks, read together by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: Instant,
    /// The wall clock.
    pub wall: WallTime,
}

/// How long a send may take, delivery and reply together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// No limit (`Timeout == NULL`). On the path of somebody's file operation this hangs the operation when the
    /// service hangs.
    Never,
    /// From now on, unaffected by changes of the wall clock. Zero polls: only a get that is already waiting is served.
    After(Duration),
    /// At this system time, moving with the wall clock. A time that has passed polls.
    At(WallTime),
}

impl Timeout {
    /// A relative timeout.
    #[must_use]
    pub const fn after(wait: Duration) -> Self {
        Self::After(wait)
    }

    /// Deliver only to a get that is already waiting, and do not wait for a reply.
    #[must_use]
    pub const fn poll() -> Self {
        Self::After(Duration::ZERO)
    }

    /// The deadline of a call that starts at `now`. A wait that does not fit the clock is no limit at all.
    #[must_use]
    pub fn deadline(self, now: Now) -> Deadline {
        match self {
            Self::Never => Deadline::Never,
            Self::After(wait) => now
                .monotonic
                .checked_add(wait)
                .map_or(Deadline::Never, Deadline::At),
            Self::At(wall) => Deadline::AtWall(wall),
        }
    }
}

/// The point at which a call ends by itself. Computed once, when the call starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// On the monotonic clock.
    At(Instant),
    /// On the wall clock.
    AtWall(WallTime),
    /// Never.
    Never,
}

impl Deadline {
    /// Whether the deadline has been reached.
    #[must_use]
    pub fn passed(self, now: Now) -> bool {
        match self {
            Self::At(at) => at <= now.monotonic,
            Self::AtWall(at) => at <= now.wall,
            Self::Never => false,
        }
    }

    /// The time left, `None` without a limit.
    #[must_use]
    pub fn remaining(self, now: Now) -> Option<Duration> {
        match self {
            Self::At(at) => Some(now.monotonic.until(at)),
            Self::AtWall(at) => Some(now.wall.until(at)),
            Self::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g11_a_wait_beyond_the_clock_is_no_limit() {
        let now = Now {
            monotonic: Instant::from_nanos(5),
            wall: WallTime::from_ticks(7),
        };
        assert_eq!(Timeout::after(Duration::MAX).deadline(now), Deadline::Never);
        assert_eq!(
            Timeout::after(Duration::from_nanos(u64::MAX)).deadline(now),
            Deadline::Never
        );
    }

    #[test]
    fn a_zero_wait_has_passed_at_once() {
        let now = Now {
            monotonic: Instant::from_nanos(5),
            wall: WallTime::default(),
        };
        assert!(Timeout::poll().deadline(now).passed(now));
    }

    #[test]
    fn the_unix_epoch_is_where_windows_has_it() {
        assert_eq!(
            WallTime::from_unix(Duration::ZERO).as_ticks(),
            116_444_736_000_000_000
        );
        assert_eq!(
            WallTime::from_unix(Duration::from_secs(1)).as_ticks(),
            116_444_736_010_000_000
        );
    }
}

//! The two clocks that the engine is told of.

use std::time::{Duration, SystemTime};

use fltport_engine::{Deadline, Now, Timeout, WallTime};

use crate::sync;

/// Both clocks, now. The monotonic one counts from the first call.
pub(crate) fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Now {
        monotonic: monotonic(),
        wall: WallTime::from_unix(unix),
    }
}

/// When a call ends by itself. A reading of a clock costs as much as a message, so it is made when somebody needs to know:
/// a call that is over by then has read none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// Counts from the first look at the clock, which follows the start of the call by a moment.
    After(Duration),
    Fixed(Deadline),
}

impl From<Timeout> for Limit {
    fn from(timeout: Timeout) -> Self {
        match timeout {
            Timeout::Never => Self::Fixed(Deadline::Never),
            Timeout::At(wall) => Self::Fixed(Deadline::AtWall(wall)),
            Timeout::After(wait) => Self::After(wait),
        }
    }
}

impl Limit {
    /// The deadline.
    pub(crate) fn deadline(&mut self) -> Deadline {
        if let Self::After(wait) = *self {
            let at = monotonic().checked_add(wait);
            *self = Self::Fixed(at.map_or(Deadline::Never, Deadline::At));
        }
        match *self {
            Self::Fixed(deadline) => deadline,
            Self::After(_) => Deadline::Never,
        }
    }

    /// Whether the call does not wait at all.
    pub(crate) fn is_poll(self) -> bool {
        matches!(self, Self::After(wait) if wait.is_zero())
    }

    /// The deadline as [`absolute`] has it, perhaps some milliseconds earlier: by the clock that costs nothing.
    pub(crate) fn hint(self) -> u64 {
        match self {
            Self::Fixed(deadline) => absolute(deadline),
            Self::After(wait) => {
                let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                crate::sys::coarse_nanos().saturating_add(wait)
            }
        }
    }
}

fn monotonic() -> fltport_engine::Instant {
    let nanos = u64::try_from(sync::start().elapsed().as_nanos()).unwrap_or(u64::MAX);
    fltport_engine::Instant::from_nanos(nanos)
}

/// A deadline on the system's monotonic clock, in nanoseconds, for another process to see; 0 without one.
pub(crate) fn absolute(deadline: Deadline) -> u64 {
    if deadline == Deadline::Never {
        return 0;
    }
    let left = deadline.remaining(now()).unwrap_or_default();
    system_nanos().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}

/// The system's monotonic clock, in nanoseconds.
pub(crate) fn system_nanos() -> u64 {
    crate::sys::monotonic_nanos()
}

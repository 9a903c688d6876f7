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

/// The deadline of a call that starts now. Reads no clock that it does not need.
pub(crate) fn deadline(timeout: Timeout) -> Deadline {
    match timeout {
        Timeout::Never => Deadline::Never,
        Timeout::At(wall) => Deadline::AtWall(wall),
        Timeout::After(_) => timeout.deadline(Now {
            monotonic: monotonic(),
            wall: WallTime::default(),
        }),
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

//! The two clocks that the engine is told of.

use std::time::{Duration, SystemTime};

use fltport_engine::{Now, WallTime};

use crate::sync;

/// Both clocks, now. The monotonic one counts from the first call.
pub(crate) fn now() -> Now {
    let nanos = u64::try_from(sync::start().elapsed().as_nanos()).unwrap_or(u64::MAX);
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Now {
        monotonic: fltport_engine::Instant::from_nanos(nanos),
        wall: WallTime::from_unix(unix),
    }
}

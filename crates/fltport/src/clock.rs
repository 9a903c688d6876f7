//! The two clocks that the engine is told of.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use fltport_engine::{Now, WallTime};

/// Both clocks, now. The monotonic one counts from the first call.
pub(crate) fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Now {
        monotonic: fltport_engine::Instant::from_nanos(nanos),
        wall: WallTime::from_unix(unix),
    }
}

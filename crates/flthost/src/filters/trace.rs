//! Counts what passes; decides nothing. It stands above all, so it sees what is excluded too.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fanotify::Operation as Kind;
use crate::filter::{Altitude, Filter, Pre};
use crate::operation::Operation;

/// How many operations of each kind have come.
#[derive(Debug, Default)]
pub struct Trace {
    opens: AtomicU64,
    execs: AtomicU64,
}

impl Trace {
    /// Opens and executions so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.opens.load(Ordering::Relaxed),
            self.execs.load(Ordering::Relaxed),
        )
    }
}

impl Filter for Trace {
    fn name(&self) -> &str {
        "trace"
    }

    fn altitude(&self) -> Altitude {
        Altitude(409_500)
    }

    fn may_be_skipped(&self) -> bool {
        true
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let counter = match operation.kind() {
            Kind::Exec => &self.execs,
            _ => &self.opens,
        };
        if !operation.is_repeated() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Pre::Pass
    }
}

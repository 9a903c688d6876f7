//! Lets operations go on whose file services have found clean, and nobody has touched since.

use std::sync::Arc;

use crate::cache::Cache;
use crate::filter::{Altitude, Filter, Pre};
use crate::operation::{Operation, Verdict};
use crate::policy::Cause;

/// The filter above those that ask services.
#[derive(Debug)]
pub struct Cached {
    cache: Arc<Cache>,
    altitude: Altitude,
}

impl Cached {
    /// Answers from this cache, at this altitude.
    #[must_use]
    pub const fn new(cache: Arc<Cache>, altitude: Altitude) -> Self {
        Self { cache, altitude }
    }
}

impl Filter for Cached {
    fn name(&self) -> &str {
        "cached"
    }

    fn altitude(&self) -> Altitude {
        self.altitude
    }

    fn may_be_skipped(&self) -> bool {
        true
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        if self.cache.knows(operation) {
            return Pre::Complete(Verdict::allow(Cause::Cached));
        }
        Pre::Pass
    }
}

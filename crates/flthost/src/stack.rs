//! The filters of a host, by altitude, and an operation's way through them.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::filter::{Altitude, Filter, Pre};
use crate::notice::Notice;
use crate::operation::{Pended, Verdict};
use crate::pulse::Pulse;

/// Filters in the order in which they are asked: highest altitude first. An operation is taken through them in triage, up
/// to the first that may wait; if it comes to that, it comes again where waiting slows nobody, and is taken through all.
pub struct Stack {
    filters: Vec<Arc<dyn Filter>>,
    pulse: OnceLock<Arc<Pulse>>,
    /// Those that are told what has happened, lowest altitude first.
    told: Vec<Arc<dyn Filter>>,
}

impl Stack {
    /// A stack of these filters. Those of equal altitude keep their order.
    #[must_use]
    pub fn new(mut filters: Vec<Arc<dyn Filter>>) -> Self {
        filters.sort_by_key(|filter| std::cmp::Reverse(filter.altitude()));
        let told = filters.iter().filter(|filter| filter.wants_notices());
        let told = told.rev().cloned().collect();
        Self {
            filters,
            told,
            pulse: OnceLock::new(),
        }
    }

    /// Whoever takes an operation up again is watched from now on, as readers are.
    pub(crate) fn watch(&self, pulse: Arc<Pulse>) {
        self.pulse.set(pulse).ok();
    }

    /// Names and altitudes, in order.
    pub fn list(&self) -> impl Iterator<Item = (&str, Altitude)> {
        self.filters
            .iter()
            .map(|filter| (filter.name(), filter.altitude()))
    }

    /// As [`Self::run`], for an operation that a filter had taken, on whatever thread that has.
    pub(crate) fn resume(&self, pended: Pended, so_far: Verdict) {
        // A filter further down may never come back, and this operation would have no deadline any more.
        let _at_work = self.pulse.get().map(|pulse| pulse.at_work());
        self.run(pended, so_far);
    }

    /// Tells the filters that want it what has happened, lowest altitude first.
    pub(crate) fn tell(&self, notice: &Notice) {
        self.told
            .iter()
            .for_each(|filter| filter.post_operation(notice));
    }

    /// Lets filters forget what nothing else forgets.
    pub(crate) fn tidy(&self) {
        self.filters.iter().for_each(|filter| filter.tidy());
    }

    /// Takes an operation through the filters from where it stands. `so_far` is the verdict when nobody objects.
    pub(crate) fn run(&self, mut pended: Pended, so_far: Verdict) {
        loop {
            let Some(filter) = pended.advance().and_then(|next| self.filters.get(next)) else {
                return pended.finish(so_far);
            };
            if filter.may_wait() && pended.can_be_sent_on() {
                match pended.send_on() {
                    Some(kept) => pended = kept,
                    None => return,
                }
            }
            let Some(operation) = pended.operation() else {
                return;
            };
            match filter.pre_operation(operation) {
                Pre::Pass => {}
                Pre::Complete(verdict) => return pended.complete(verdict),
                Pre::Pend(take) => return take(pended),
            }
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

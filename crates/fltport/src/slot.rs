//! Where a thread that has sent a message waits for the end of its send.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use fltport_engine::Deadline;
use fltport_engine::output::Outcome;

use crate::body::Body;
use crate::clock;

/// Where a blocked sender waits for the end of its send.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    outcome: Mutex<Option<Outcome<Body>>>,
    ended: Condvar,
}

/// How far apart looks at the wall clock are for an absolute deadline: somebody may set it.
const WALL_SLICE: Duration = Duration::from_millis(200);

impl Slot {
    pub(crate) fn finish(&self, outcome: Outcome<Body>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.ended.notify_one();
    }

    /// Waits for the outcome. When the deadline has passed, `expire` makes the engine see it, which ends the send one way
    /// or the other.
    pub(crate) fn wait(&self, deadline: Deadline, expire: impl Fn()) -> Outcome<Body> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            let now = clock::now();
            if deadline.passed(now) {
                drop(outcome);
                expire();
                outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            outcome = match deadline.remaining(now) {
                None => self
                    .ended
                    .wait(outcome)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let left = if matches!(deadline, Deadline::AtWall(_)) {
                        left.min(WALL_SLICE)
                    } else {
                        left
                    };
                    self.ended
                        .wait_timeout(outcome, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

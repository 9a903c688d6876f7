//! Ends asynchronous sends at their deadline. One thread for each server port, made with the first such send.
//!
//! Blocking sends watch their own deadline and do not come here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use fltport_engine::Deadline;

use crate::clock;
use crate::driver::Core;

/// How far apart looks at the wall clock are while an absolute deadline is pending: somebody may set it.
const WALL_SLICE: Duration = Duration::from_millis(200);

/// Calls [`Core::handle_timeout`] when a deadline may have passed.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    alarms: BinaryHeap<Reverse<Alarm>>,
    running: bool,
    stopped: bool,
}

#[derive(Debug)]
struct Alarm {
    at: Instant,
    core: Weak<Core>,
}

impl Timer {
    /// Looks at `core` when the earlier of its deadlines may have passed.
    pub(crate) fn watch(&self, core: &Arc<Core>, deadlines: (Deadline, Deadline)) {
        let Some(at) = next_look(deadlines) else {
            return;
        };
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return;
        }
        let earliest = state
            .alarms
            .peek()
            .is_none_or(|Reverse(first)| at < first.at);
        state.alarms.push(Reverse(Alarm {
            at,
            core: Arc::downgrade(core),
        }));
        if !state.running {
            let shared = Arc::clone(&self.shared);
            state.running = thread::Builder::new()
                .name("fltport-timer".into())
                .spawn(move || shared.serve())
                .is_ok();
        }
        if earliest {
            self.shared.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.stopped = true;
        state.alarms.clear();
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.stopped {
            let now = Instant::now();
            let Some(Reverse(first)) = state.alarms.peek() else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if first.at > now {
                let left = first.at - now;
                state = self
                    .changed
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            }
            let due = state
                .alarms
                .pop()
                .and_then(|Reverse(alarm)| alarm.core.upgrade());
            drop(state);
            if let Some(core) = &due {
                core.handle_timeout();
            }
            drop(due);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
        state.running = false;
    }
}

/// When to look next for these deadlines, monotonic and wall.
fn next_look((monotonic, wall): (Deadline, Deadline)) -> Option<Instant> {
    let now = clock::now();
    let slice = |left: Duration| left.min(WALL_SLICE);
    let left = [monotonic.remaining(now), wall.remaining(now).map(slice)]
        .into_iter()
        .flatten()
        .min()?;
    Instant::now().checked_add(left)
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

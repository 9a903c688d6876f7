//! Ends asynchronous sends at their deadline. One thread for each server port, made with the first such send.
//!
//! Blocking sends watch their own deadline and do not come here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use fltport_engine::Deadline;

use crate::clock;
use crate::sync::{Condvar, Instant, Mutex, thread};

/// How far apart looks at the wall clock are while an absolute deadline is pending: somebody may set it.
const WALL_SLICE: Duration = Duration::from_millis(200);

/// What has deadlines: a connection.
pub(crate) trait Alarm: Send + Sync + std::fmt::Debug {
    /// Names it among those of its port.
    fn alarm_id(&self) -> u64;
    /// A deadline may have passed.
    fn handle_alarm(self: Arc<Self>);
}

/// Calls [`Alarm::handle_alarm`] when a deadline may have passed.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// One alarm for each connection, at the earliest of its deadlines: however many sends it has, they cost nothing here.
#[derive(Debug, Default)]
struct State {
    alarms: BTreeSet<(Instant, u64)>,
    watched: BTreeMap<u64, (Instant, Weak<dyn Alarm>)>,
    running: bool,
    stopped: bool,
}

impl Timer {
    /// Looks at `watched` when the earlier of its deadlines may have passed.
    pub(crate) fn watch(&self, watched: &Arc<dyn Alarm>, deadlines: (Deadline, Deadline)) {
        let Some(at) = next_look(deadlines) else {
            return;
        };
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped || !state.set(watched, at) {
            return;
        }
        if !state.running {
            let shared = Arc::clone(&self.shared);
            state.running = thread::Builder::new()
                .name("fltport-timer".into())
                .spawn(move || shared.serve())
                .is_ok();
        }
        if state.alarms.first() == Some(&(at, watched.alarm_id())) {
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
        state.watched.clear();
        self.shared.changed.notify_one();
    }
}

impl State {
    /// Sets the alarm of `watched`, unless it has one that is as early.
    fn set(&mut self, watched: &Arc<dyn Alarm>, at: Instant) -> bool {
        let id = watched.alarm_id();
        match self.watched.get(&id) {
            Some((earlier, _)) if *earlier <= at => return false,
            Some((later, _)) => {
                self.alarms.remove(&(*later, id));
            }
            None => {}
        }
        self.alarms.insert((at, id));
        self.watched.insert(id, (at, Arc::downgrade(watched)));
        true
    }

    /// Takes out an alarm whose time has come.
    fn take_due(&mut self, now: Instant) -> Option<Weak<dyn Alarm>> {
        let (at, id) = self.alarms.first().copied()?;
        if at > now {
            return None;
        }
        self.alarms.remove(&(at, id));
        self.watched.remove(&id).map(|(_, watched)| watched)
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.stopped {
            let now = Instant::now();
            if let Some(due) = state.take_due(now) {
                drop(state);
                if let Some(watched) = due.upgrade() {
                    watched.handle_alarm();
                }
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let next = state.alarms.first().map(|(at, _)| *at - now);
            state = match next {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
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

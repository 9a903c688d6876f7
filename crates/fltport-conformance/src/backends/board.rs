//! Where the threads of a story leave what has happened, and where the story waits for it.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{CallId, Done, Event, Op};

/// Ends of operations, events of callbacks, and which held callbacks may go on.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: BTreeMap<Op, Done>,
    events: Vec<Event>,
    released: Vec<CallId>,
    /// The story is over: nothing is held any more.
    over: bool,
    next: u64,
}

impl Board {
    /// A number that was not given out before.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    pub(super) fn op(&self) -> Op {
        Op(self.number())
    }

    /// An operation has ended.
    pub(super) fn finish(&self, op: Op, done: Done) {
        let before = self.lock().done.insert(op, done);
        self.changed.notify_all();
        assert!(before.is_none(), "operation {} ended twice", op.0);
    }

    /// The end of an operation, once.
    pub(super) fn take(&self, op: Op, within: Duration) -> Option<Done> {
        let end = Instant::now() + within;
        let mut state = self.lock();
        loop {
            if let Some(done) = state.done.remove(&op) {
                return Some(done);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.wait(state, left);
        }
    }

    pub(super) fn note(&self, event: Event) {
        self.lock().events.push(event);
        self.changed.notify_all();
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Forgets all events so far.
    pub(super) fn forget(&self) {
        self.lock().events.clear();
    }

    /// Waits until something changes, but not for long: counts of a connection change without a word here.
    pub(super) fn step(&self) {
        drop(self.wait(self.lock(), Duration::from_millis(1)));
    }

    /// Waits until a held callback may go on.
    pub(super) fn hold(&self, call: CallId) {
        let mut state = self.lock();
        while !state.over && !state.released.contains(&call) {
            state = self.wait(state, Duration::from_secs(1));
        }
    }

    pub(super) fn release(&self, call: CallId) {
        self.lock().released.push(call);
        self.changed.notify_all();
    }

    /// Lets everything go on.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, most)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

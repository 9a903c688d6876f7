//! A door that callbacks wait at.

use std::sync::{Arc, Condvar, Mutex};

#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    came: usize,
    open: bool,
}

impl Gate {
    /// Waits until the gate is open.
    pub(crate) fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.came += 1;
        while !state.open {
            state = self.0.1.wait(state).unwrap();
        }
    }

    /// How many have come so far.
    pub(crate) fn came(&self) -> usize {
        self.0.0.lock().unwrap().came
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }
}

//! A process that kills itself at a step that it was told: nothing can be prepared for that.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

/// Where this process dies, and how often it passes there before.
#[derive(Default)]
pub(crate) struct Deadly(Mutex<Option<(String, usize)>>);

impl Deadly {
    /// Reads `<step>/<passes>`; anything else is nowhere.
    pub(crate) fn told(text: &str) -> Self {
        let told = text.split_once('/');
        let told = told.map(|(step, passes)| (step.to_string(), passes.parse().unwrap()));
        Self(Mutex::new(told))
    }

    /// A step that may be the last.
    pub(crate) fn step(&self, name: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *told {
            Some((step, 0)) if step == name => loop {
                kill_process(getpid(), Signal::KILL).unwrap();
                std::thread::park();
            },
            Some((step, passes)) if step == name => *passes -= 1,
            _ => {}
        }
    }
}

//! What is looked at every second while the soak runs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::process::Usage;
use crate::soak::Soak;

/// The host at one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) usage: Usage,
    /// Operations in the second before.
    pub(crate) operations: u64,
    pub(crate) live: usize,
}

/// A quiet point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    pub(crate) at: Duration,
    pub(crate) memory: u64,
}

pub(crate) type Samples = Mutex<Vec<Sample>>;

/// Looks each second until the soak is over. Ends the process if nothing moves any more.
pub(crate) fn run(soak: &Arc<Soak>, samples: &Samples) {
    let mut before = 0;
    let mut next = soak.started;
    while !soak.over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(100));
        if next.elapsed() < Duration::from_secs(1) {
            continue;
        }
        next += Duration::from_secs(1);
        for life in soak.lives() {
            life.look(soak);
        }
        let operations = soak.operations();
        if let Ok(usage) = Usage::now() {
            let sample = Sample {
                at: soak.started.elapsed(),
                usage,
                operations: operations - before,
                live: soak.live.load(Ordering::SeqCst),
            };
            samples
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sample);
        }
        before = operations;
        if let Some(step) = soak.stands_still() {
            eprintln!("soak: FAIL: nothing moves any more while {step}");
            std::process::abort();
        }
    }
}

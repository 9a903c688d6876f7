//! The worker's pulse: it beats only while every thread that must never stop has come by lately.
//!
//! The supervisor kills a worker whose pulse has stopped, because operations wait for it and nobody can ask it why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::supervisor_memory::Journal;

/// The pulse.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    threads: Mutex<Vec<Arc<Work>>>,
}

/// What one thread works at.
#[derive(Debug)]
pub(crate) struct Work {
    start: Instant,
    /// Milliseconds after `start` at which it began, plus one; 0 while it waits for work.
    since: AtomicU64,
}

/// How long one piece of work may take.
const STUCK: Duration = Duration::from_secs(1);

/// Between two beats.
const BEAT: Duration = Duration::from_millis(100);

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            threads: Mutex::default(),
        }
    }

    /// A thread whose work is watched from now on.
    pub(crate) fn watch(&self) -> Arc<Work> {
        let work = Arc::new(Work {
            start: self.start,
            since: AtomicU64::new(0),
        });
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&work));
        work
    }

    /// Beats for as long as the process lives. `touch` takes every lock that answers need, and gives it back: if one of
    /// them is never given back, neither is this thread's time, and the pulse stops.
    pub(crate) fn beat(&self, journal: Journal, touch: impl Fn()) -> ! {
        loop {
            touch();
            if !self.is_stuck() {
                journal.beat();
            }
            thread::sleep(BEAT);
        }
    }

    fn is_stuck(&self) -> bool {
        let now = millis(self.start.elapsed());
        let stuck = millis(STUCK);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().any(|work| {
            let since = work.since.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since - 1) > stuck
        })
    }
}

impl Work {
    /// It works from now on.
    pub(crate) fn begin(&self) {
        let now = millis(self.start.elapsed());
        self.since.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// It waits for work.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_takes_too_long_stops_the_pulse() {
        let mut pulse = Pulse::new();
        let (one, other) = (pulse.watch(), pulse.watch());
        one.begin();
        assert!(!pulse.is_stuck());
        // As if that had been long ago.
        let Some(past) = pulse.start.checked_sub(STUCK * 2) else {
            return;
        };
        pulse.start = past;
        assert!(pulse.is_stuck());
        one.end();
        other.end();
        assert!(!pulse.is_stuck());
    }
}

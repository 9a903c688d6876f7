//! The worker's pulse: it beats only while every thread that must never stop has come by lately.
//!
//! The supervisor kills a worker whose pulse has stopped, because operations wait for it and nobody can ask it why.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::supervisor_memory::Journal;

/// The pulse.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Those that have been at work, for as long as they live.
    threads: Mutex<Vec<Weak<Work>>>,
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

    /// This thread's work, which is watched from now on.
    pub(crate) fn this_thread(&self) -> Arc<Work> {
        let work = || {
            let work = Arc::new(Work {
                start: self.start,
                since: AtomicU64::new(0),
            });
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.push(Arc::downgrade(&work));
            work
        };
        OWN.with(|own| Arc::clone(own.get_or_init(work)))
    }

    /// This thread is at work until that is dropped.
    pub(crate) fn at_work(&self) -> AtWork {
        let work = self.this_thread();
        // Whoever calls this from inside other work is watched as a part of it.
        let begun = !work.is_begun();
        if begun {
            work.begin();
        }
        AtWork { work, begun }
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
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|work| work.strong_count() > 0);
        threads.iter().filter_map(Weak::upgrade).any(|work| {
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

    fn is_begun(&self) -> bool {
        self.since.load(Ordering::Relaxed) != 0
    }
}

/// A thread at work; see [`Pulse::at_work`].
#[derive(Debug)]
pub(crate) struct AtWork {
    work: Arc<Work>,
    begun: bool,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.begun {
            self.work.end();
        }
    }
}

/// The work that this thread is at is much, and gets on: what takes time is none of its pieces.
pub(crate) fn gets_on() {
    OWN.with(|own| {
        if let Some(work) = own.get().filter(|work| work.is_begun()) {
            work.begin();
        }
    });
}

thread_local! {
    /// A process has one pulse.
    static OWN: OnceCell<Arc<Work>> = const { OnceCell::new() };
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
        let work = pulse.this_thread();
        let outer = pulse.at_work();
        drop(pulse.at_work()); // a part of it
        assert!(work.is_begun() && !pulse.is_stuck());
        // As if that had been long ago.
        let Some(past) = pulse.start.checked_sub(STUCK * 2) else {
            return;
        };
        pulse.start = past;
        assert!(pulse.is_stuck());
        drop(outer);
        assert!(!pulse.is_stuck());
    }

    #[test]
    fn a_thread_that_has_ended_stops_nothing() {
        let pulse = Pulse::new();
        thread::scope(|scope| {
            // Joined, because the scope alone does not wait for what a thread still puts away.
            let thread = scope.spawn(|| pulse.this_thread().begin());
            thread.join().unwrap();
        });
        assert!(!pulse.is_stuck());
        assert!(pulse.threads.lock().unwrap().is_empty());
    }
}

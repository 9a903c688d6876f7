//! A thread that gives things up when their time comes, unless somebody was faster.
//!
//! For answers that must not be late: a worker leaves its question here while it scans, and whoever takes the question
//! out first, the worker or the watchdog, is the one to answer it. Not for stopping the scan, which nobody can.
//! Next room: `service.rs`, which says what the watchdog answers.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Things with a time each, and a place for the thread that waits for it.
#[derive(Debug)]
pub(crate) struct Watchdog<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The number tells things of the same time apart.
    held: BTreeMap<(Instant, u64), T>,
    next: u64,
    /// When the thread that waits looks again by itself; never, as long as it has nothing to wait for.
    looks_at: Option<Instant>,
    stopped: bool,
}

/// Something left with a [`Watchdog`]. If this is dropped, as by a panic, the watchdog still has it and its time comes.
#[derive(Debug)]
#[must_use = "what is not taken back is for the watchdog"]
pub(crate) struct Held<'w, T> {
    watchdog: &'w Watchdog<T>,
    place: Place<T>,
}

#[derive(Debug)]
enum Place<T> {
    /// Without a time there is nothing to watch.
    Here(T),
    There((Instant, u64)),
}

impl<T> Watchdog<T> {
    pub(crate) const fn new() -> Self {
        let state = State {
            held: BTreeMap::new(),
            next: 0,
            looks_at: None,
            stopped: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Leaves a thing until `time`, or for good.
    pub(crate) fn hold(&self, thing: T, time: Option<Instant>) -> Held<'_, T> {
        let place = match time {
            None => Place::Here(thing),
            Some(time) => {
                let mut state = self.state();
                let key = (time, state.next);
                state.next = state.next.wrapping_add(1);
                state.held.insert(key, thing);
                // As a rule it is up sooner, for something that is long taken back: a wake-up costs more than a small scan.
                let sooner = state.looks_at.is_none_or(|looks| time < looks);
                if sooner {
                    state.looks_at = Some(time);
                }
                drop(state);
                if sooner {
                    self.changed.notify_one();
                }
                Place::There(key)
            }
        };
        Held {
            watchdog: self,
            place,
        }
    }

    /// Gives each thing that is still here at its time to `expired`. Blocks until [`Self::stop`].
    pub(crate) fn run(&self, mut expired: impl FnMut(T)) {
        let mut state = self.state();
        while !state.stopped {
            let Some((&(time, _), _)) = state.held.first_key_value() else {
                state.looks_at = None;
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = time.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                state.looks_at = Some(time);
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let first = state.held.pop_first();
            drop(state);
            if let Some((_, thing)) = first {
                expired(thing);
            }
            state = self.state();
        }
    }

    /// Ends [`Self::run`]; what is still held stays.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Held<'_, T> {
    /// Takes the thing back; `None` if the watchdog has given it away.
    pub(crate) fn take(self) -> Option<T> {
        match self.place {
            Place::Here(thing) => Some(thing),
            Place::There(key) => self.watchdog.state().held.remove(&key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_taken_back_in_time_is_not_given_away() {
        watched(|watchdog, expired| {
            let soon = Instant::now() + Duration::from_millis(20);
            let late = soon + Duration::from_secs(60);
            let kept = watchdog.hold("kept", Some(late));
            let forever = watchdog.hold("forever", None);
            drop(watchdog.hold("lost", Some(soon)));
            assert_eq!(expired.recv().unwrap(), "lost");
            assert!(Instant::now() >= soon);
            assert_eq!(
                (kept.take(), forever.take()),
                (Some("kept"), Some("forever"))
            );
            assert!(expired.try_recv().is_err());
        });
    }

    #[test]
    fn what_was_given_away_cannot_be_taken_back() {
        watched(|watchdog, expired| {
            let held = watchdog.hold("over", Some(Instant::now()));
            assert_eq!(expired.recv().unwrap(), "over");
            assert_eq!(held.take(), None);
        });
    }

    #[test]
    fn an_earlier_time_goes_first_whenever_it_comes() {
        watched(|watchdog, expired| {
            let now = Instant::now();
            for (name, millis) in [("c", 90), ("b", 60), ("a", 30), ("b too", 60)] {
                drop(watchdog.hold(name, Some(now + Duration::from_millis(millis))));
            }
            let order: Vec<_> = expired.iter().take(4).collect();
            assert_eq!(order, ["a", "b", "b too", "c"]);
        });
    }

    fn watched(test: impl FnOnce(&Watchdog<&'static str>, &mpsc::Receiver<&'static str>)) {
        let watchdog = Watchdog::new();
        let (sender, expired) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| watchdog.run(|thing| sender.send(thing).unwrap()));
            test(&watchdog, &expired);
            watchdog.stop();
        });
    }
}

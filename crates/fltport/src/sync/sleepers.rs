//! Sleeping on words, and waking who sleeps there, as [`crate::sys`] has it of the system: for systems without that, for
//! Miri, and for models.
//!
//! Whoever wakes has changed the word before; whoever sleeps looks at it once more under the lock. So a wake-up is lost only
//! if the code around it loses one, and nobody wakes without a reason that could hide it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{AtomicU64, Condvar, Instant, Mutex, MutexGuard, Ordering};

/// Who sleeps, and on which words.
#[derive(Debug)]
struct Sleeper {
    /// Twice the same, for who sleeps on one.
    words: [usize; 2],
    woken: Arc<Condvar>,
}

#[cfg(not(all(test, any(loom, shuttle))))]
static SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::new(Vec::new());
#[cfg(all(test, loom))]
loom::lazy_static! {
    static ref SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::default();
}
#[cfg(all(test, shuttle, not(loom)))]
shuttle::lazy_static! {
    static ref SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::default();
}

/// Sleeps until one of two words is not as expected, or somebody wakes one, or `limit`.
pub(crate) fn sleep_either(
    shared: (&AtomicU64, u32),
    own: (&AtomicU64, u32),
    limit: Option<Duration>,
) {
    sleep_on([shared, own], limit);
}

/// Sleeps until the word is not as expected, or somebody wakes it, or `limit`.
pub(crate) fn sleep(word: &AtomicU64, low: u32, limit: Option<Duration>) {
    sleep_on([(word, low); 2], limit);
}

/// Wakes up to `count` threads that sleep on a word.
pub(crate) fn wake(word: &AtomicU64, count: u32) {
    let mut sleepers = lock();
    for _ in 0..count {
        let place = sleepers.iter().position(|s| s.words.contains(&name(word)));
        let Some(place) = place else { return };
        sleepers.remove(place).woken.notify_one();
    }
}

/// Wakes all threads that sleep on a word that only this process sees.
pub(crate) fn wake_own(word: &AtomicU64) {
    wake(word, u32::MAX);
}

fn sleep_on(words: [(&AtomicU64, u32); 2], limit: Option<Duration>) {
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut sleepers = lock();
    let expected = |(word, low): (&AtomicU64, u32)| {
        u64::from(low) == word.load(Ordering::Relaxed) & u64::from(u32::MAX)
    };
    if !words.into_iter().all(expected) {
        return;
    }
    let woken = Arc::new(Condvar::new());
    sleepers.push(Sleeper {
        words: words.map(|(word, _)| name(word)),
        woken: Arc::clone(&woken),
    });
    let sleeps = |sleepers: &[Sleeper]| sleepers.iter().position(|s| Arc::ptr_eq(&s.woken, &woken));
    while let Some(place) = sleeps(&sleepers) {
        let Some(end) = end else {
            sleepers = woken.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            sleepers.remove(place);
            return;
        }
        let (guard, late) = woken
            .wait_timeout(sleepers, left)
            .unwrap_or_else(PoisonError::into_inner);
        sleepers = guard;
        if late.timed_out() {
            sleepers.retain(|sleeper| !Arc::ptr_eq(&sleeper.woken, &woken));
        }
    }
}

fn lock() -> MutexGuard<'static, Vec<Sleeper>> {
    SLEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What words are told apart by.
fn name(word: &AtomicU64) -> usize {
    std::ptr::from_ref(word).addr()
}

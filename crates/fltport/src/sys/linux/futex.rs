//! Sleeping on words, and waking who sleeps there.
//!
//! A word that another process sees is slept on together with one that it does not: a process that can merely read a word
//! can move its sleepers to another (FUTEX_CMP_REQUEUE), so that a wake finds nobody. Nobody can move a sleeper away from a
//! word that he does not see. Two words cost more than one, and so does a clock: where only a peer that was checked could do
//! it, the sleep is on one word.
#![allow(unsafe_code)] // the lower half of a word as a word of its own, for the system only

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::sync::{AtomicU64, Half, Ordering, StaticAtomicU64};

/// Sleeps until `word`'s lower half is not `low`, somebody wakes it, or `limit`; perhaps shorter. For a word of this
/// process, or of a peer that is trusted to leave its sleepers there.
pub(crate) fn sleep(word: &AtomicU64, low: u32, limit: Option<Duration>) {
    let timeout = limit.map(timespec);
    // An interrupted or refused sleep is a short one.
    futex::wait(half(word), Flags::empty(), low, timeout.as_ref()).ok();
}

/// Sleeps until one of two words is not as expected, or somebody wakes one, or `limit`; perhaps shorter. `own` is a word
/// that only this process sees.
pub(crate) fn sleep_either(
    shared: (&AtomicU64, u32),
    own: (&AtomicU64, u32),
    limit: Option<Duration>,
) {
    static MISSING: StaticAtomicU64 = StaticAtomicU64::new(0);
    if MISSING.load(Ordering::Relaxed) == 0 {
        let waits = [
            wait(shared, WaitFlags::empty()),
            wait(own, WaitFlags::PRIVATE),
        ];
        let end = limit.map(|limit| {
            let now = clock_gettime(ClockId::Monotonic);
            timespec(duration(now).saturating_add(limit))
        });
        let result = futex::waitv(
            &waits,
            WaitvFlags::empty(),
            end.as_ref(),
            ClockId::Monotonic,
        );
        // It was there and has waited, or was told why not to.
        if matches!(
            result,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT)
        ) {
            return;
        }
        // The system has no such call, or somebody keeps this process from it: to try again and again would be to wait awake.
        if matches!(result, Err(Errno::NOSYS | Errno::PERM | Errno::INVAL)) {
            MISSING.store(1, Ordering::Relaxed);
        }
    }
    // Before Linux 5.16, or under a filter that does not know the call: short sleeps on the one, looks at the other.
    let limit = limit.map_or(SLICE, |limit| limit.min(SLICE));
    sleep(shared.0, shared.1, Some(limit));
}

/// Wakes up to `count` threads that sleep on a word.
pub(crate) fn wake(word: &AtomicU64, count: u32) {
    // Fails where there is no such memory, which there is.
    futex::wake(half(word), Flags::empty(), count).ok();
}

/// Wakes all threads that sleep on a word that only this process sees.
pub(crate) fn wake_own(word: &AtomicU64) {
    futex::wake(half(word), Flags::PRIVATE, i32::MAX.unsigned_abs()).ok();
}

/// How long a sleep is where two words cannot be slept on together.
const SLICE: Duration = Duration::from_millis(2);

fn wait((word, low): (&AtomicU64, u32), scope: WaitFlags) -> Wait {
    let mut wait = Wait::new();
    wait.val = low.into();
    let half: *const _ = half(word);
    wait.uaddr = WaitPtr::new(half.cast_mut().cast());
    wait.flags = WaitFlags::SIZE_U32 | scope;
    wait
}

/// The half of a word that has its lower bits.
fn half(word: &AtomicU64) -> &Half {
    let start: *const AtomicU64 = word;
    let halves: *const Half = start.cast();
    let lower = if cfg!(target_endian = "little") { 0 } else { 1 };
    // SAFETY: a word has two halves, so the sum stays inside of it.
    let half = unsafe { halves.add(lower) };
    // SAFETY: it is aligned, as the word is, and lives as long; it is given to the system only, never loaded or stored.
    unsafe { &*half }
}

fn timespec(length: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: length.subsec_nanos().into(),
    }
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_word_that_is_not_as_expected_is_no_reason_to_sleep() {
        let (one, other) = (AtomicU64::new(1), AtomicU64::new(2));
        let never = Some(Duration::from_secs(60));
        let start = Instant::now();
        sleep(&one, 2, never);
        sleep_either((&one, 2), (&other, 2), never);
        sleep_either((&one, 1), (&other, 1), never);
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_sleeper_wakes_by_either_word_and_by_the_clock() {
        let (one, other) = (AtomicU64::new(0), AtomicU64::new(0));
        for shared in [true, false] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while one.load(Ordering::Acquire) + other.load(Ordering::Acquire) == 0 {
                        sleep_either((&one, 0), (&other, 0), None);
                    }
                });
                if shared {
                    one.store(1, Ordering::Release);
                    wake(&one, 1);
                } else {
                    other.store(1, Ordering::Release);
                    wake_own(&other);
                }
            });
            one.store(0, Ordering::Release);
            other.store(0, Ordering::Release);
        }
        sleep_either((&one, 0), (&other, 0), Some(Duration::from_millis(1)));
        sleep(&one, 0, Some(Duration::from_millis(1)));
    }
}

//! What the first two cores share, seen from inside: a virtual machine is told nothing true about it, and it changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::run::pin;

#[repr(align(128))]
struct Line(AtomicU64);

/// Round trips that are timed together.
const BATCH: u32 = 50;

/// Nanoseconds of a round trip between two spinning threads on cores 0 and 1; nothing where there is one core.
///
/// The median of many batches, because whoever else runs on these cores meanwhile is not what is asked about. About 90 are two threads of one physical core, several hundred are cores that share a cache further away.
pub fn ping_pong(time: Duration) -> Option<f64> {
    if std::thread::available_parallelism().ok()?.get() < 2 {
        return None;
    }
    let lines = [Line(AtomicU64::new(0)), Line(AtomicU64::new(0))];
    let [to, from] = &lines;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            pin(1).ok()?;
            let start = Instant::now();
            let mut last = 0;
            loop {
                let mut turns = 0u32;
                let next = loop {
                    let next = to.0.load(Ordering::Acquire);
                    if next != last {
                        break next;
                    }
                    turns = turns.wrapping_add(1);
                    if turns.is_multiple_of(4096) && start.elapsed() > time + Duration::from_secs(1)
                    {
                        return None;
                    }
                    std::hint::spin_loop();
                };
                if next == u64::MAX {
                    return Some(());
                }
                from.0.store(next, Ordering::Release);
                last = next;
            }
        });
        let ask = scope.spawn(move || {
            let pinned = pin(0);
            let start = Instant::now();
            let mut count = 0;
            let mut batches = Vec::new();
            while pinned.is_ok() && start.elapsed() < time {
                let batch = Instant::now();
                for _ in 0..BATCH {
                    count += 1;
                    to.0.store(count, Ordering::Release);
                    let mut turns = 0u32;
                    while from.0.load(Ordering::Acquire) != count {
                        turns = turns.wrapping_add(1);
                        if turns.is_multiple_of(4096)
                            && start.elapsed() > time + Duration::from_secs(1)
                        {
                            return None;
                        }
                        std::hint::spin_loop();
                    }
                }
                batches.push(batch.elapsed().as_nanos() as f64 / f64::from(BATCH));
            }
            to.0.store(u64::MAX, Ordering::Release);
            batches.sort_by(f64::total_cmp);
            batches.get(batches.len() / 2).copied()
        });
        let nanos = ask.join().ok()?;
        echo.join().ok()??;
        nanos
    })
}

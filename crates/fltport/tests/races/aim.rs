//! Delays that find the moment at which a race is open: too early makes the next one longer, too late shorter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::random::Random;

pub(crate) struct Aim {
    nanos: AtomicU64,
    most: u64,
}

impl Aim {
    /// Begins at `micros`, and never gets longer than a hundred times that.
    pub(crate) const fn new(micros: u64) -> Self {
        Self {
            nanos: AtomicU64::new(micros * 1_000),
            most: micros * 100_000,
        }
    }

    /// Something between nothing and twice the aim.
    pub(crate) fn draw(&self, random: &mut Random) -> Duration {
        let nanos = self.nanos.load(Ordering::Relaxed);
        Duration::from_nanos(random.next() % (2 * nanos))
    }

    /// Lets that time pass.
    pub(crate) fn wait(&self, random: &mut Random) {
        spin(self.draw(random));
    }

    pub(crate) fn was_early(&self) {
        self.change(|nanos| nanos + nanos / 16 + 1);
    }

    pub(crate) fn was_late(&self) {
        self.change(|nanos| nanos - nanos / 16);
    }

    fn change(&self, by: impl Fn(u64) -> u64) {
        // A lost update is made good by the next.
        let nanos = by(self.nanos.load(Ordering::Relaxed));
        self.nanos
            .store(nanos.clamp(100, self.most), Ordering::Relaxed);
    }
}

/// Waits more exactly than a sleep can.
pub(crate) fn spin(wait: Duration) {
    let end = Instant::now() + wait;
    if wait > Duration::from_micros(300) {
        std::thread::sleep(wait - Duration::from_micros(200));
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

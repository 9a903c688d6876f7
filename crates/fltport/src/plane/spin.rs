//! When to wait awake.
//!
//! A wake-up costs more than most answers take, but only a wait that is short is worth a core. How long it will be depends on
//! the other side, and a guess of one's own is no help: a side that sleeps sees long waits *because* it sleeps. So each side
//! measures what it does itself (the filter from a reply to its next message, the service from a message to its reply; no
//! wake-up is in either) and publishes that, and each decides by what the other has published.

use std::time::Duration;

use crate::sync::{AtomicU64, Instant, Ordering, StaticAtomicU64, start};

/// Whether a peer with this published pace is worth waiting for awake.
pub(crate) fn is_quick(pace: u64) -> bool {
    pace != 0 && Duration::from_nanos(pace) < QUICK
}

/// Below this a peer is quick: about half of what two wake-ups cost.
const QUICK: Duration = Duration::from_micros(20);

/// How long to wait awake at most: what a peer that sleeps takes to wake up, and a bit.
const LIMIT: Duration = Duration::from_micros(50);

/// How long something takes here, now and then measured, for the other side to see.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the span began, in nanoseconds from the start; 0 if it is not being measured.
    since: StaticAtomicU64,
    average: StaticAtomicU64,
    count: StaticAtomicU64,
}

/// Of spans that are short, one in so many is measured.
const SAMPLE: u64 = 16;

/// What a longer span counts as: one that was interrupted must not be remembered for long.
const LONGEST: u64 = 200_000;

impl Pace {
    pub(crate) const fn new() -> Self {
        Self {
            since: StaticAtomicU64::new(0),
            average: StaticAtomicU64::new(0),
            count: StaticAtomicU64::new(0),
        }
    }

    /// A span begins.
    #[inline]
    pub(crate) fn begin(&self) {
        // Who races here loses a measurement.
        let count = self.count.load(Ordering::Relaxed).wrapping_add(1);
        self.count.store(count, Ordering::Relaxed);
        if count % SAMPLE == 0 || !is_quick(self.average.load(Ordering::Relaxed)) {
            self.since.store(nanos().max(1), Ordering::Relaxed);
        }
    }

    /// A span ends. Gives what is to be published, if that has changed.
    #[inline]
    pub(crate) fn end(&self) -> Option<u64> {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return None;
        }
        self.since.store(0, Ordering::Relaxed);
        let span = nanos().saturating_sub(since).min(LONGEST);
        let before = self.average.load(Ordering::Relaxed);
        let average = if before == 0 {
            span
        } else {
            (before * 3 + span) / 4
        };
        let average = average.max(1);
        self.average.store(average, Ordering::Relaxed);
        Some(average)
    }
}

/// The only core of this process, counted from 1, or 0 if it may use several: for the other side to see, because who waits
/// awake on a core keeps the other side from it.
pub(crate) fn home() -> u64 {
    match HOME.load(Ordering::Relaxed) {
        UNKNOWN => {
            let home = crate::sys::only_core().map_or(0, |core| core + 1);
            HOME.store(home, Ordering::Relaxed);
            home
        }
        known => known,
    }
}

/// Whether the other side, whose [`home`] this is, and this one share their only core.
pub(crate) fn is_here(there: u64) -> bool {
    there != 0 && there == home()
}

/// One wait, awake at first if that is worth it.
#[derive(Debug)]
pub(crate) struct Spin<'a> {
    /// The core that this side is on, for the other to see, and the other's.
    here: &'a AtomicU64,
    there: &'a AtomicU64,
    turns: u32,
    until: Option<Instant>,
    /// Has one of the places of those who wait awake.
    place: bool,
    over: bool,
}

impl<'a> Spin<'a> {
    /// `worth`: the other side is quick, and does not have to share its only core with this one.
    #[inline]
    pub(crate) const fn new(worth: bool, here: &'a AtomicU64, there: &'a AtomicU64) -> Self {
        Self {
            here,
            there,
            turns: 0,
            until: None,
            place: false,
            over: !worth,
        }
    }

    /// Lets a moment pass. `false`: sleep now.
    #[inline]
    pub(crate) fn again(&mut self) -> bool {
        if self.over {
            return false;
        }
        std::hint::spin_loop();
        self.turns += 1;
        if self.turns % LOOK == 0 {
            return self.look();
        }
        true
    }

    /// Waits awake for a while until `is_there`, looking at nothing else. `None`: sleep now.
    #[inline]
    pub(crate) fn look_for(&mut self, is_there: impl Fn() -> bool) -> Option<bool> {
        if self.over {
            return None;
        }
        for _ in 0..LOOK {
            if is_there() {
                return Some(true);
            }
            std::hint::spin_loop();
        }
        self.look().then_some(false)
    }

    #[cold]
    fn look(&mut self) -> bool {
        if !self.place {
            self.place = SPINNING.fetch_add(1, Ordering::Relaxed) < places();
            if !self.place {
                SPINNING.fetch_sub(1, Ordering::Relaxed);
                self.over = true;
                return false;
            }
        }
        // Two that were put on one core wait for each other in turns; one that sleeps is woken on a core that is idle.
        let core = crate::sys::core() + 1;
        self.here.store(core, Ordering::Relaxed);
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| now + LIMIT);
        if now >= until || self.there.load(Ordering::Relaxed) == core {
            self.over = true;
            HOME.store(UNKNOWN, Ordering::Relaxed);
        }
        !self.over
    }
}

/// A wait of a moment, for what is about to happen.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    turns: u32,
}

impl Patience {
    /// Lets a moment pass; on a core that both sides share, lets the other side have it. `false`: that is enough.
    #[inline]
    pub(crate) fn again(&mut self, there: u64) -> bool {
        self.turns += 1;
        if is_here(there) {
            crate::sync::thread::yield_now();
            return self.turns <= YIELDS;
        }
        std::hint::spin_loop();
        if self.turns == TURNS {
            // They may share a core all the same.
            crate::sync::thread::yield_now();
        }
        self.turns <= TURNS
    }
}

/// Times that the other side is given a shared core.
const YIELDS: u32 = 3;

/// Turns that are less than a wake-up by far: some microseconds.
const TURNS: u32 = 128;

impl Drop for Spin<'_> {
    fn drop(&mut self) {
        if self.place {
            SPINNING.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Turns between looks at the clock.
const LOOK: u32 = 64;

/// Threads of this process that wait awake.
static SPINNING: StaticAtomicU64 = StaticAtomicU64::new(0);

/// See [`home`].
static HOME: StaticAtomicU64 = StaticAtomicU64::new(UNKNOWN);

const UNKNOWN: u64 = u64::MAX;

/// How many threads of this process may wait awake: others have to work.
fn places() -> u64 {
    static PLACES: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *PLACES.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        u64::try_from(cores).unwrap_or(1).saturating_sub(1).max(1)
    })
}

fn nanos() -> u64 {
    u64::try_from(start().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

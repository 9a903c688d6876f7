//! Random choices that can be made again: the seed is printed, and `FLTPORT_SEED` sets it.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// Where a test gets its choices from.
#[derive(Clone)]
pub(crate) struct Random(u64);

/// The seed of this process: `FLTPORT_SEED`, or else a new one. It is printed once.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let told = std::env::var(VARIABLE).ok();
        let told = told.map(|text| text.parse().expect("FLTPORT_SEED is a number"));
        let seed =
            told.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) % 1_000_000_000);
        println!("{VARIABLE}={seed}");
        seed
    })
}

/// Sets the seed, also for a process that is started.
pub(crate) const VARIABLE: &str = "FLTPORT_SEED";

impl Random {
    /// Choices from the seed of this process.
    pub(crate) fn new() -> Self {
        Self(seed())
    }

    /// The next number (splitmix64).
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from(self.next() % end).unwrap()
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

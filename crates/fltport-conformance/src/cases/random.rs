//! Random choices of stories, which can be made again: the seed is printed, and `FLTPORT_SEED` sets it.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// Where a story gets its choices from.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Choices from the seed of this process.
    pub(super) fn new() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        Self(*SEED.get_or_init(|| {
            let told = std::env::var("FLTPORT_SEED").ok();
            let told = told.map(|text| text.parse().expect("FLTPORT_SEED is a number"));
            let new = || RandomState::new().hash_one(std::process::id()) % 1_000_000_000;
            let seed = told.unwrap_or_else(new);
            println!("FLTPORT_SEED={seed}");
            seed
        }))
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a number");
        usize::try_from(self.next() % end).expect("a number below it")
    }

    /// The next number (splitmix64).
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

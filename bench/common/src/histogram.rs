//! Counts of durations in buckets whose width grows with the duration: 128 buckets for each doubling, so that millions
//! of samples cost no memory and a quantile is off by less than 0.8 %.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Durations in ticks of a clock.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// Buckets for each doubling, as a power of two.
const BITS: u32 = 7;
const PER_DOUBLING: u64 = 1 << BITS;
/// Ticks from which on everything counts as the same: half an hour at 4 GHz.
const MOST: u64 = (1 << 43) - 1;

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            counts: vec![0; index(MOST) + 1],
            total: 0,
        }
    }

    /// Counts one duration.
    #[inline]
    pub fn record(&mut self, ticks: u64) {
        if let Some(count) = self.counts.get_mut(index(ticks.min(MOST))) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Adds everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many durations were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many were longer than so many ticks, to the width of a bucket.
    pub fn above(&self, ticks: u64) -> u64 {
        let longer = self.counts.iter().skip(index(ticks.min(MOST)) + 1);
        longer.sum()
    }

    /// The duration that `share` of all stay below, in ticks.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.total as f64;
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            if *count > 0 && (below + count) as f64 >= wanted {
                let (start, width) = bucket(index);
                let inside = (wanted - below as f64) / *count as f64;
                return start as f64 + width as f64 * inside;
            }
            below += count;
        }
        f64::NAN
    }

    /// The buckets that have something, as pairs of an index and a count.
    pub fn to_json(&self) -> Value {
        let pairs = self.counts.iter().enumerate().filter(|(_, n)| **n > 0);
        pairs.map(|(index, n)| json!([index, n])).collect()
    }

    /// The reverse of [`Self::to_json`].
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn from_json(value: &Value) -> Result<Self> {
        let mut histogram = Self::new();
        for pair in value.as_array().context("no buckets")? {
            let index = pair[0].as_u64().context("a bucket without a place")?;
            let count = pair[1].as_u64().context("a bucket without a count")?;
            let place = histogram.counts.get_mut(usize::try_from(index)?);
            *place.context("a bucket past the last")? += count;
            histogram.total += count;
        }
        Ok(histogram)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

const fn index(ticks: u64) -> usize {
    if ticks < 2 * PER_DOUBLING {
        return ticks as usize;
    }
    let shift = (63 - ticks.leading_zeros() - BITS) as u64;
    (shift * PER_DOUBLING + (ticks >> shift)) as usize
}

/// Start and width of a bucket.
const fn bucket(index: usize) -> (u64, u64) {
    let index = index as u64;
    if index < 2 * PER_DOUBLING {
        return (index, 1);
    }
    let shift = index / PER_DOUBLING - 1;
    ((index % PER_DOUBLING + PER_DOUBLING) << shift, 1 << shift)
}

#[cfg(test)]
mod tests {
    use super::{Histogram, MOST, bucket, index};

    #[test]
    fn every_duration_is_in_its_bucket() {
        for ticks in (0..5_000).chain([1 << 20, (1 << 30) + 12_345, MOST]) {
            let (start, width) = bucket(index(ticks));
            assert!((start..start + width).contains(&ticks), "{ticks}");
            assert!(width <= 1 + ticks / 128);
        }
    }

    #[test]
    fn quantiles_survive_the_way_through_json() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|ticks| histogram.record(ticks));
        let again = Histogram::from_json(&histogram.to_json()).unwrap();
        for (share, ticks) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            assert!((again.quantile(share) / ticks - 1.0_f64).abs() < 0.01);
        }
    }
}

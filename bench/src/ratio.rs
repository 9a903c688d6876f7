//! Ratios of paired repetitions: what ran within the same repetition is compared, and then the median is taken. With it
//! goes an interval of order statistics, which assumes nothing about how the values are distributed.

use std::fmt;

use crate::sample::{Run, Sample};

/// A value over the repetitions: its median, and an interval that holds the true one.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Of so many values.
    pub count: usize,
    /// It is made of pairs that were not measured under the same conditions, because there were no others.
    pub doubtful: bool,
}

impl Spread {
    /// Of these values; nothing of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let last = count.checked_sub(1)?;
        let at = |place: usize| values.get(place).copied();
        let (cut, _) = interval(count);
        Some(Self {
            median: f64::midpoint(at(last / 2)?, at(count / 2)?),
            low: at(cut)?,
            high: at(last - cut)?,
            count,
            doubtful: false,
        })
    }

    /// Of one value in all repetitions; the undisturbed ones alone if they are at least half.
    pub fn over(runs: &[Run], value: impl Fn(&Sample) -> f64) -> Option<Self> {
        let all = || runs.iter().filter_map(Run::sample);
        let quiet: Vec<f64> = all().filter(|one| one.is_quiet()).map(&value).collect();
        if quiet.len() * 2 >= runs.len() {
            return Self::of(quiet);
        }
        Self::of(all().map(&value).collect())
    }

    /// The other way round.
    pub fn inverse(self) -> Self {
        Self {
            median: 1.0 / self.median,
            low: 1.0 / self.high,
            high: 1.0 / self.low,
            ..self
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, low, high] = [self.median, self.low, self.high].map(short);
        write!(f, "{median} [{low}..{high}]")?;
        if self.doubtful {
            f.write_str("*")?;
        }
        Ok(())
    }
}

/// How sure an interval is to be, if there are values enough.
pub const SURE: f64 = 0.95;

/// How many of so many values are left out at each end of the interval, and how likely the true median is inside:
/// outside, all but those few values fell on the same side of it, as coins do.
pub fn interval(count: usize) -> (usize, f64) {
    let coins = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let (mut found, mut ways, mut outside) = ((0, 0.0), 1.0, 0.0);
    for cut in 0..count.div_ceil(2) {
        outside += ways * coins;
        let inside = 1.0 - 2.0 * outside;
        if cut > 0 && inside < SURE {
            break;
        }
        found = (cut, inside.max(0.0));
        ways *= (count - cut) as f64 / (cut + 1) as f64;
    }
    found
}

/// One value of the first over that of the second, within each repetition. Pairs that somebody else disturbed count only
/// if they are more than half. Those of spinning cases during which the two cores were not equally close to each other,
/// which is all that such a case depends on, count only if there are no others.
pub fn paired(
    spinning: bool,
    ones: &[Run],
    others: &[Run],
    value: impl Fn(&Sample) -> f64,
) -> Option<Spread> {
    let alike = |one: &Sample, other: &Sample| !spinning || alike(one, other);
    let pairs: Vec<(&Sample, &Sample)> = ones
        .iter()
        .zip(others)
        .filter_map(|(one, other)| one.sample().zip(other.sample()))
        .collect();
    let kept = |keep: &dyn Fn(&Sample, &Sample) -> bool| -> Vec<f64> {
        let kept = pairs.iter().filter(|(one, other)| keep(one, other));
        kept.map(|(one, other)| value(one) / value(other)).collect()
    };
    let best = kept(&|one, other| alike(one, other) && one.is_quiet() && other.is_quiet());
    if best.len() * 2 >= pairs.len() {
        return Spread::of(best);
    }
    Spread::of(kept(&|one, other| alike(one, other))).or_else(|| {
        Spread::of(kept(&|_, _| true)).map(|spread| Spread {
            doubtful: true,
            ..spread
        })
    })
}

/// Whether the cores were equally close to each other, before and after both.
fn alike(one: &Sample, other: &Sample) -> bool {
    let times = [one.topology_ns, other.topology_ns];
    let times: Vec<f64> = times.into_iter().flatten().flatten().collect();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    times.iter().all(|time| *time < least * SAME_PLACE)
}

/// How far two looks at the same cores may be apart: those of threads of one core are within a factor of two, those of
/// cores further away several times that.
pub const SAME_PLACE: f64 = 3.0;

/// Three digits that mean something.
pub fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value > 0.0 && value < 0.1 => format!("{value:.0$}", digits(value)),
        value => format!("{value:.2}"),
    }
}

/// Places after the point that a small value needs for two digits.
fn digits(value: f64) -> usize {
    let zeros = -value.log10().floor();
    (zeros as usize + 1).clamp(2, 7)
}

/// A number of things, with its unit.
pub fn count(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value >= 1e6 => format!("{} M", short(value / 1e6)),
        value if value >= 1e3 => format!("{} k", short(value / 1e3)),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, count, interval, short};

    #[test]
    fn an_interval_leaves_out_what_it_can_and_says_how_sure_it_is() {
        for (count, cut, sure) in [(1, 0, 0.0), (3, 0, 0.75), (5, 0, 0.938), (9, 1, 0.961)] {
            let (found, inside) = interval(count);
            assert_eq!(found, cut, "{count}");
            assert!((inside - sure).abs() < 0.001, "{count}: {inside}");
        }
        let nine = Spread::of((1..=9).map(f64::from).collect()).unwrap();
        assert_eq!(nine.to_string(), "5.00 [2.00..8.00]");
    }

    #[test]
    fn a_spread_has_its_median_between_the_ends() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0, f64::NAN]).unwrap();
        assert_eq!(spread.to_string(), "2.00 [1.00..3.00]");
        assert_eq!(spread.inverse().to_string(), "0.50 [0.33..1.00]");
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.123, 12.34, 1234.5].map(short), ["0.12", "12.3", "1234"]);
        assert_eq!(
            [0.0, 0.03, 0.000_123].map(short),
            ["0.00", "0.030", "0.00012"]
        );
        assert_eq!(
            [12.0, 17_300_000.0, 65_000.0].map(count),
            ["12", "17.3 M", "65.0 k"]
        );
    }
}

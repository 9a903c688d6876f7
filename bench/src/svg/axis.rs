//! From values to places on an axis, and the values that stand at it.

use super::Mark;

/// An axis from zero, or a logarithmic one.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    logarithmic: bool,
    least: f64,
    most: f64,
}

impl Axis {
    /// One with room for all these. The end of an interval may lie outside: one repetition that went astray must not make
    /// everything else small.
    pub fn of(marks: &[Mark], logarithmic: bool) -> Self {
        let good = |value: &f64| value.is_finite() && *value > 0.0;
        let values: Vec<f64> = marks.iter().map(|mark| mark.value).filter(good).collect();
        let highs = marks.iter().map(|mark| mark.high).filter(good);
        let middle = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let most = highs.fold(middle, f64::max).min(middle * 1.3);
        if !logarithmic || values.is_empty() {
            return Self {
                logarithmic: false,
                least: 0.0,
                most: most.max(1e-9),
            };
        }
        let lows = marks.iter().map(|mark| mark.low).filter(good);
        let least = values.iter().copied().fold(middle, f64::min);
        let least = lows.fold(least, f64::min).max(least / 2.0);
        let least = step(least * 0.9, false);
        Self {
            logarithmic: true,
            least,
            most: step(most, true).max(least * 2.0),
        }
    }

    /// Where a value is, from 0 to 1; what lies outside is put at the end.
    pub fn share(&self, value: f64) -> f64 {
        if value.is_nan() || value <= self.least {
            return 0.0;
        }
        let share = if self.logarithmic {
            (value / self.least).ln() / (self.most / self.least).ln()
        } else {
            value / self.most
        };
        share.min(1.0)
    }

    /// Whether a value lies on it.
    pub fn holds(&self, value: f64) -> bool {
        (self.least..=self.most).contains(&value)
    }

    /// The values that stand at it.
    pub fn steps(&self) -> Vec<f64> {
        let end = self.most * 1.000_001;
        let mut steps = Vec::new();
        if !self.logarithmic {
            let width = step(self.most / 6.0, true);
            while steps.len() as f64 * width <= end {
                steps.push(steps.len() as f64 * width);
            }
            return steps;
        }
        // Between the powers of ten, where there are few of them.
        let few = self.most / self.least < 400.0;
        let mut value = self.least;
        while value <= end {
            if few || (value.log10() - value.log10().round()).abs() < 1e-6 {
                steps.push(value);
            }
            value = step(value * 1.000_1, true);
        }
        steps
    }
}

/// The next of 1, 2, 5, 10 and so on, or the one before.
fn step(value: f64, up: bool) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let leads = [1.0, 2.0, 5.0, 10.0];
    let found = if up {
        leads
            .into_iter()
            .find(|lead| lead * power >= value * 0.999_999)
    } else {
        leads
            .into_iter()
            .rfind(|lead| lead * power <= value * 1.000_001)
    };
    found.unwrap_or(1.0) * power
}

/// A value at an axis.
pub fn plain(value: f64) -> String {
    let text = match value {
        value if value >= 1e6 => return format!("{} M", plain(value / 1e6)),
        value if value >= 1e4 => return format!("{} k", plain(value / 1e3)),
        value => format!("{value:.4}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Axis, plain, step};
    use crate::svg::Mark;

    fn axis(values: &[f64], logarithmic: bool) -> Axis {
        let mark = |value: &f64| Mark {
            value: *value,
            low: *value,
            high: *value,
        };
        let marks: Vec<Mark> = values.iter().map(mark).collect();
        Axis::of(&marks, logarithmic)
    }

    #[test]
    fn everything_is_on_the_axis_and_it_has_steps() {
        for logarithmic in [false, true] {
            let axis = axis(&[0.12, 0.93, 55.0], logarithmic);
            assert!([0.12, 0.93, 55.0].iter().all(|value| axis.holds(*value)));
            assert!(axis.share(0.12) > 0.0 && axis.share(55.0) > 0.7);
            assert!((3..12).contains(&axis.steps().len()), "{axis:?}");
        }
    }

    #[test]
    fn an_interval_that_went_astray_does_not_stretch_the_axis() {
        let mark = Mark {
            value: 1.0,
            low: 1.0,
            high: 1000.0,
        };
        let axis = Axis::of(&[mark], false);
        assert!(axis.share(1.0) > 0.7);
        assert!(!axis.holds(1000.0));
    }

    #[test]
    fn steps_are_round_and_written_short() {
        assert_eq!(
            [0.3, 20.0, 21.0].map(|value| step(value, true)),
            [0.5, 20.0, 50.0]
        );
        assert_eq!(
            [0.3, 20.0, 19.0].map(|value| step(value, false)),
            [0.2, 20.0, 10.0]
        );
        assert_eq!(
            [0.1, 20.0, 1e4, 2e6].map(plain),
            ["0.1", "20", "10 k", "2 M"]
        );
    }
}

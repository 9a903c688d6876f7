//! What is kept of one repetition of a case: a few numbers in the units of the tables, of which everything that is shown
//! is made. They are rounded when they are taken, so that what was kept in a file gives the same tables again.

use std::collections::BTreeMap;

use fltbench_common::Outcome;
use serde::{Deserialize, Serialize};

/// How a repetition of a case ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// With figures.
    Done(Sample),
    /// It cannot be measured here.
    Skipped(String),
    /// It should have been measured.
    Failed(String),
}

impl Run {
    /// The figures, if there are any.
    pub fn sample(&self) -> Option<&Sample> {
        match self {
            Self::Done(sample) => Some(sample),
            _ => None,
        }
    }

    /// Why there are none.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Done(_) => None,
            Self::Skipped(reason) => Some(format!("skipped: {reason}")),
            Self::Failed(reason) => Some(format!("failed: {reason}")),
        }
    }
}

/// The figures of a repetition; those that a case does not have are not numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The time that half of the operations stay below.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub p50_us: f64,
    /// That 99 of 100 stay below.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub p99_us: f64,
    /// That 999 of 1000 stay below.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub p999_us: f64,
    /// Operations in a second.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub per_second: f64,
    /// Processor time of the asking process for one operation.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub asking_cpu_us: f64,
    /// Processor time of the answering process for one operation.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub answering_cpu_us: f64,
    /// What only this case measures, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, f64>,
    /// Round trip of two spinning threads on cores 0 and 1, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_ns: Option<[f64; 2]>,
    /// Processor time of everybody else meanwhile, in cores.
    #[serde(default = "none", skip_serializing_if = "is_none")]
    pub foreign_cores: f64,
}

impl Sample {
    /// Of what a case's process has reported.
    pub fn of(outcome: &Outcome) -> Self {
        let figures = &outcome.figures;
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / figures.messages as f64;
        let extra = figures.extra.iter();
        Self {
            p50_us: rounded(figures.micros(0.5)),
            p99_us: rounded(figures.micros(0.99)),
            p999_us: rounded(figures.micros(0.999)),
            per_second: rounded(figures.per_second()),
            asking_cpu_us: rounded(each(figures.host_cpu)),
            answering_cpu_us: rounded(each(figures.peer_cpu)),
            extra: extra
                .map(|(name, value)| (name.clone(), rounded(*value)))
                .collect(),
            topology_ns: outcome.topology.map(|looks| looks.map(rounded)),
            foreign_cores: rounded(outcome.foreign),
        }
    }

    /// A value that only this case has.
    pub fn extra(&self, name: &str) -> f64 {
        self.extra.get(name).copied().unwrap_or(f64::NAN)
    }

    /// Whether everybody else left the cores alone, as far as that is known.
    pub fn is_quiet(&self) -> bool {
        self.foreign_cores.is_nan() || self.foreign_cores < 0.2
    }
}

/// To five digits: less than any case repeats to, and short enough to be read back as the same number.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(f64::NAN)
}

fn none() -> f64 {
    f64::NAN
}

fn is_none(value: &f64) -> bool {
    !value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn numbers_are_rounded_to_what_can_be_read_back() {
        assert_eq!(rounded(1_234_567.0), 1_234_600.0);
        assert_eq!(rounded(0.000_123_456), 0.000_123_46);
        assert!(rounded(f64::NAN).is_nan());
    }
}

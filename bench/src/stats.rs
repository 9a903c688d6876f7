//! Figures of a case, and the table that they end in.

use std::fmt;
use std::time::Duration;

/// Times of one case in one repetition.
#[derive(Clone, Debug)]
pub struct Sample {
    nanos: Vec<u64>,
    elapsed: Duration,
}

impl Sample {
    /// Times of single operations in nanoseconds, taken over `elapsed`.
    pub fn new(mut nanos: Vec<u64>, elapsed: Duration) -> Self {
        nanos.sort_unstable();
        Self { nanos, elapsed }
    }

    /// The single times.
    pub fn into_nanos(self) -> Vec<u64> {
        self.nanos
    }

    /// The time that `share` of the operations stay below, in microseconds.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.nanos.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.nanos
            .get(index)
            .map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
    }

    fn per_second(&self) -> f64 {
        self.nanos.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// One row: a case over all repetitions, beside the bare case of the same repetitions.
#[derive(Debug)]
struct Row {
    name: String,
    p50: f64,
    p99: f64,
    per_second: f64,
    ratio: Option<(f64, f64, f64)>,
}

/// The table of all cases.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a case; `bare` are the samples of the loop that it is compared with, in the same repetitions.
    pub fn add(&mut self, name: &str, samples: &[Sample], bare: Option<&[Sample]>) {
        let ratio = bare.map(|bare| {
            let pairs = samples.iter().zip(bare);
            let mut ratios: Vec<f64> = pairs
                .map(|(one, other)| one.quantile(0.5) / other.quantile(0.5))
                .collect();
            ratios.sort_by(f64::total_cmp);
            let first = ratios.first().copied().unwrap_or(f64::NAN);
            (
                median(ratios.clone()),
                first,
                ratios.last().copied().unwrap_or(f64::NAN),
            )
        });
        self.rows.push(Row {
            name: name.to_owned(),
            p50: median(samples.iter().map(|sample| sample.quantile(0.5)).collect()),
            p99: median(samples.iter().map(|sample| sample.quantile(0.99)).collect()),
            per_second: median(samples.iter().map(Sample::per_second).collect()),
            ratio,
        });
    }

    /// The figures for machines.
    pub fn to_json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            serde_json::json!({
                "case": row.name, "p50_us": row.p50, "p99_us": row.p99, "per_second": row.per_second,
                "ratio_to_bare": row.ratio.map(|(median, low, high)| serde_json::json!([median, low, high])),
            })
        });
        serde_json::Value::Array(rows.collect()).to_string()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| case | p50 us | p99 us | per second | p50 against the bare loop |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | --- |")?;
        for row in &self.rows {
            write!(
                f,
                "| {} | {:.2} | {:.2} | {:.0} | ",
                row.name, row.p50, row.p99, row.per_second
            )?;
            match row.ratio {
                Some((median, low, high)) => writeln!(f, "{median:.2}x [{low:.2}..{high:.2}] |")?,
                None => writeln!(f, "bare |")?,
            }
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! What a case has measured, and the line of JSON that carries it from the case's process to the harness.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::Histogram;

/// What was measured in one repetition of a case.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The time of every operation, in ticks.
    pub histogram: Histogram,
    /// Nanoseconds in one tick.
    pub tick_nanos: f64,
    /// Operations that were finished.
    pub messages: u64,
    /// In this time.
    pub elapsed: Duration,
    /// Processor time of the asking process.
    pub host_cpu: Duration,
    /// Processor time of the answering process.
    pub peer_cpu: Duration,
    /// What only this case measures, by name.
    pub extra: Vec<(String, f64)>,
}

impl Figures {
    /// Of a case that has nothing but a value of its own.
    pub fn only(name: &str, value: f64) -> Self {
        Self {
            histogram: Histogram::new(),
            tick_nanos: 1.0,
            messages: 0,
            elapsed: Duration::ZERO,
            host_cpu: Duration::ZERO,
            peer_cpu: Duration::ZERO,
            extra: vec![(name.to_owned(), value)],
        }
    }

    /// The time that `share` of the operations stay below, in microseconds.
    pub fn micros(&self, share: f64) -> f64 {
        self.histogram.quantile(share) * self.tick_nanos / 1e3
    }

    /// Operations in a second.
    pub fn per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor time of both processes for one operation, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        (self.host_cpu + self.peer_cpu).as_secs_f64() * 1e6 / self.messages as f64
    }

    /// A value that only this case has.
    pub fn extra(&self, name: &str) -> f64 {
        let found = self.extra.iter().find(|(other, _)| other == name);
        found.map_or(f64::NAN, |(_, value)| *value)
    }
}

/// How a repetition of a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was measured.
    pub figures: Figures,
    /// Round trip of two spinning threads on cores 0 and 1 before and after, in nanoseconds: what the cores share.
    pub topology: Option<[f64; 2]>,
    /// Processor time of everybody else during the case, in cores.
    pub foreign: f64,
}

impl Outcome {
    /// For the line that a case ends with.
    pub fn to_json(&self) -> Value {
        let figures = &self.figures;
        let extra: Map<String, Value> = figures
            .extra
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({
            "buckets": figures.histogram.to_json(), "tick_ns": figures.tick_nanos, "messages": figures.messages,
            "elapsed_ns": nanos(figures.elapsed), "host_cpu_ns": nanos(figures.host_cpu),
            "peer_cpu_ns": nanos(figures.peer_cpu), "extra": extra,
            "topology_ns": self.topology, "foreign_cores": self.foreign,
        })
    }

    /// The reverse of [`Self::to_json`].
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn from_json(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name}"));
        let time = |name: &str| number(name).map(Duration::from_nanos);
        let extra = value["extra"].as_object().into_iter().flatten();
        let topology = value["topology_ns"].as_array();
        Ok(Self {
            figures: Figures {
                histogram: Histogram::from_json(&value["buckets"])?,
                tick_nanos: value["tick_ns"].as_f64().context("no tick_ns")?,
                messages: number("messages")?,
                elapsed: time("elapsed_ns")?,
                host_cpu: time("host_cpu_ns")?,
                peer_cpu: time("peer_cpu_ns")?,
                extra: extra
                    .map(|(name, value)| (name.clone(), value.as_f64().unwrap_or(f64::NAN)))
                    .collect(),
            },
            topology: topology.and_then(|pair| Some([pair[0].as_f64()?, pair[1].as_f64()?])),
            foreign: value["foreign_cores"].as_f64().unwrap_or(0.0),
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

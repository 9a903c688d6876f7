//! The asking process of a case: chooses its core, measures, prints what came out as one line of JSON.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

use crate::{Clock, Cpu, Figures, Outcome, Spec, ping_pong, system_busy};

/// What a case is measured with.
#[derive(Debug)]
pub struct Context {
    /// What to do.
    pub spec: Spec,
    /// The clock of all threads.
    pub clock: Clock,
    /// A directory that is this case's own.
    pub directory: tempfile::TempDir,
}

/// Why a case cannot be measured here; not a failure.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs a case and prints its line.
pub fn run_case(spec: Spec, measure: impl FnOnce(&Context) -> Result<Figures>) {
    let line = match measured(spec, measure) {
        Ok(outcome) => outcome.to_json(),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => json!({ "skipped": reason }),
            None => json!({ "failed": format!("{error:#}") }),
        },
    };
    println!("{line}");
}

/// How long the cores are looked at before and after a case.
const LOOK: Duration = Duration::from_millis(3);

/// How far the system's counters of 10 ms may be off, which short cases must not be blamed for.
const COARSE: Duration = Duration::from_millis(20);

fn measured(spec: Spec, measure: impl FnOnce(&Context) -> Result<Figures>) -> Result<Outcome> {
    crate::answer::end_with_parent()?;
    let before = ping_pong(LOOK);
    if let Some(core) = spec.host_core {
        pin(core)?;
    }
    let context = Context {
        spec,
        clock: Clock::calibrate(),
        directory: tempfile::tempdir()?,
    };
    let (busy, start, own) = (system_busy(), Instant::now(), Cpu::read(None)?);
    let figures = measure(&context)?;
    let (busy, took) = (system_busy().saturating_sub(busy), start.elapsed());
    let own = Cpu::read(None)?.host.saturating_sub(own.host);
    // By now the answering process has ended, so its time is that of this process's children.
    let children = ended_children();
    let foreign = busy.saturating_sub(own + children + COARSE).as_secs_f64() / took.as_secs_f64();
    // The look at the cores starts threads of its own, which must not be kept on one of them.
    all_cores()?;
    let after = ping_pong(LOOK);
    Ok(Outcome {
        figures,
        topology: before.zip(after).map(|(before, after)| [before, after]),
        foreign,
    })
}

/// Processor time of all children that have ended and were waited for, in steps of 10 ms.
fn ended_children() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may contain anything; what follows does not.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let words: Vec<&str> = after.split_whitespace().collect();
    let ticks = [13, 14].map(|place: usize| {
        let word = words.get(place).copied().unwrap_or_default();
        word.parse::<u64>().unwrap_or(0)
    });
    Duration::from_millis(ticks.iter().sum::<u64>() * 10)
}

/// Keeps this thread, and all that it starts, on one core.
///
/// # Errors
///
/// When there is no such core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).context("cannot choose a core")
}

/// Lets this thread, and all that it starts, run on any core.
///
/// # Errors
///
/// The system's.
pub fn all_cores() -> Result<()> {
    let mut cores = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core));
    Ok(sched_setaffinity(None, &cores)?)
}

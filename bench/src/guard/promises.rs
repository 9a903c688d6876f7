//! What the host promises whatever its services do: how soon it protects, how long an open takes at most, and how much
//! memory what waits takes.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fltbench_common::{Figures, Outcome, Spec};
use rustix::process::{Pid, Signal, kill_process};

use super::beside::{pending, start};
use super::host::{Answers, Host};
use super::opens::opens;
use super::scratch::Scratch;
use super::service::Manner;
use super::until;
use crate::sample::{Run, Sample};

/// Runs a case of this kind.
pub fn run(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    match spec.kind.as_str() {
        "host-memory" => memory(programs, scratch, spec.window),
        "host-start" => started(programs, scratch, Answers::Nobody),
        "host-start-scanner" => started(programs, scratch, Answers::Scanner),
        "host-stopped" => stopped(programs, scratch, spec),
        "host-steady" => steady(programs, scratch, spec),
        other => bail!("no case is called {other}"),
    }
}

/// What the worker has in memory while so many operations wait for a service.
fn memory(programs: &Path, scratch: &Scratch, count: usize) -> Result<Run> {
    let host = start(programs, scratch, Manner::Slow, &["off"])?;
    let worker = host.status()?["worker"].as_u64().context("no worker")?;
    let [idle, _] = resident(worker)?;
    let crowd = pending(&host, scratch, count)?;
    let [full, locked] = resident(worker)?;
    drop(crowd);
    host.end()?;
    Ok(values(&[
        ("mib", full),
        ("idle_mib", idle),
        ("locked_mib", locked),
    ]))
}

/// A process's resident memory, of which locked memory is a part, and how much of it is locked; in MiB.
fn resident(pid: u64) -> Result<[f64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        number.map(|kib| kib / 1024.0).context("no such field")
    };
    Ok([field("Rss:")?, field("Locked:")?])
}

/// From the start of the host's process to the first open that it has denied: by its scanner, or by policy where there is
/// nobody to ask.
fn started(programs: &Path, scratch: &Scratch, answers: Answers) -> Result<Run> {
    let (file, options): (_, &[&str]) = match answers {
        // Denied by nobody but a scanner.
        Answers::Scanner => (scratch.eicar(), &["--cache", "off"]),
        _ => (scratch.file(0), &["--cache", "off", "--strict"]),
    };
    let begin = Instant::now();
    let host = Host::spawn(programs, scratch.path(), answers, options)?;
    until("an open is denied", 10, || Ok(File::open(&file).is_err()))?;
    let took = begin.elapsed();
    host.end()?;
    Ok(values(&[("ms", took.as_secs_f64() * 1e3)]))
}

/// Time that services have where the scanner is stopped.
const SHORT: Duration = Duration::from_millis(300);

/// Opens by several threads at once while the scanner is stopped; how much longer than its deadline the longest takes.
fn stopped(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let deadline = SHORT.as_millis().to_string();
    // Lenient, because a denied open would end the openers.
    let options = ["--cache", "off", "--deadline-ms", &deadline];
    let host = Host::spawn(programs, scratch.path(), Answers::Scanner, &options)?;
    until("the scanner denies", 10, || {
        Ok(File::open(scratch.eicar()).is_err())
    })?;
    let scanner = host
        .descendant("fltscand")
        .context("the scanner is not found")?;
    let scanner = Pid::from_raw(i32::try_from(scanner)?).context("no process")?;
    kill_process(scanner, Signal::STOP)?;
    let run = opens(scratch, spec, Some(SHORT));
    kill_process(scanner, Signal::CONT).ok();
    let Run::Done(mut sample) = run? else {
        bail!("the openers did not open");
    };
    host.end()?;
    let longest = sample.extra("longest_ms");
    let short = SHORT.as_secs_f64() * 1e3;
    ensure!(
        longest > 0.9 * short,
        "the longest open took {longest:.1} ms: somebody has answered"
    );
    sample.extra.insert("beyond_ms".to_owned(), longest - short);
    sample.extra.remove("late");
    Ok(Run::Done(sample))
}

/// The host's usual deadline.
const USUAL: Duration = Duration::from_millis(2_000);

/// Opens through the scanner for a long time, of which none may take longer than its deadline.
fn steady(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let deadline = USUAL.as_millis().to_string();
    let options = ["--cache", "off", "--deadline-ms", &deadline];
    let host = Host::start(
        programs,
        scratch.path(),
        Answers::Scanner,
        &options,
        &scratch.file(0),
    )?;
    let run = opens(scratch, spec, Some(USUAL))?;
    host.end()?;
    Ok(run)
}

/// A sample of nothing but values of its own.
fn values(values: &[(&str, f64)]) -> Run {
    let mut figures = Figures::only("", 0.0);
    figures.extra = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    Run::Done(Sample::of(&Outcome {
        figures,
        topology: None,
        foreign: 0.0,
    }))
}

//! Opens that are answered at once, beside others that wait for a slow service.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use fltbench_common::{Spec, end_with_parent};

use super::host::{Answers, Host};
use super::opens::opens;
use super::scratch::{SLOW, Scratch, slow_file};
use super::service::Manner;
use super::{Ended, this_program, until};
use crate::sample::Run;

/// Longer than any case: what waits is to wait until the end.
const PATIENT: &str = "120000";

/// Slow files that are opened at the same time.
const TOGETHER: usize = 50;

/// Runs a case of this kind.
pub fn run(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let muted = format!("path={}", scratch.file(0).display());
    // Another filesystem, for what waits elsewhere.
    let other = match spec.kind.as_str() {
        "beside-elsewhere" => Some(Scratch::new()?),
        _ => None,
    };
    let guarded = other
        .as_ref()
        .map(|other| other.path().display().to_string())
        .unwrap_or_default();
    let (manner, options) = match spec.kind.as_str() {
        // Nothing was ever sent on for this file: triage alone sees it.
        "beside-rule" => (Manner::Slow, vec!["off", "--mute", &muted]),
        "beside-kept" => (Manner::Content, vec!["worker"]),
        "beside-service" => (Manner::Slow, vec!["off"]),
        "beside-elsewhere" => (Manner::Slow, vec!["off", "--guard", &guarded]),
        other => bail!("no case is called {other}"),
    };
    scratch.settle();
    let host = start(programs, scratch, manner, &options)?;
    let crowd = pending(&host, scratch, spec.window)?;
    let run = opens(other.as_ref().unwrap_or(scratch), spec, None)?;
    drop(crowd);
    host.end()?;
    Ok(run)
}

/// A host whose services have all the time that they want.
pub fn start(programs: &Path, scratch: &Scratch, manner: Manner, options: &[&str]) -> Result<Host> {
    let options = [&["--deadline-ms", PATIENT, "--cache"], options].concat();
    let answers = Answers::Service(manner);
    Host::start(
        programs,
        scratch.path(),
        answers,
        &options,
        &scratch.file(1),
    )
}

/// Opens so many files that the service does not answer about, and waits until it has the questions. They wait for as
/// long as the result lives.
pub fn pending(host: &Host, scratch: &Scratch, count: usize) -> Result<Option<Ended>> {
    if count == 0 {
        return Ok(None);
    }
    let mut command = this_program("crowd")?;
    command
        .arg(scratch.path())
        .arg("--count")
        .arg(count.to_string())
        .stdin(Stdio::piped());
    let mut crowd = Ended(command.spawn().context("cannot start the slow openers")?);
    let mut pace = crowd.0.stdin.take().context("no input")?;
    // The kernel wakes all who wait in a group at each of its answers: all at once would hold each other up on their way
    // through triage, and everybody else on the machine.
    for sent in (0..count).step_by(TOGETHER) {
        pace.write_all(b"\n")?;
        let wanted = count.min(sent + TOGETHER) as u64;
        until("slow opens are pending", 10, || {
            Ok(host.count("with_services")? >= wanted)
        })
        .with_context(|| format!("{sent} of {count} are"))?;
    }
    Ok(Some(crowd))
}

/// The process that opens many files at once, each in a thread, and then stays.
#[derive(Debug, clap::Args)]
pub struct Crowd {
    scratch: PathBuf,
    /// How many
    #[arg(long)]
    count: usize,
}

impl Crowd {
    /// Ends only by a signal.
    pub fn run(self) -> Result<()> {
        end_with_parent()?;
        let count = self.count.min(SLOW);
        let mut lines = std::io::stdin().lines();
        for number in 0..count {
            if number % TOGETHER == 0 {
                lines.next().context("nobody sets the pace")??;
            }
            let file = slow_file(&self.scratch, number);
            std::thread::Builder::new()
                .stack_size(32 << 10)
                .spawn(move || drop(File::open(file)))
                .context("cannot start a thread for each open")?;
        }
        loop {
            std::thread::park();
        }
    }
}

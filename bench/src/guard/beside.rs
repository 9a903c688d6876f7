//! Opens that are answered at once, beside others on the same filesystem that wait for a slow service.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
const TOGETHER: usize = 16;

/// Runs a case of this kind.
pub fn run(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let muted = format!("path={}", scratch.file(0).display());
    let (manner, options) = match spec.kind.as_str() {
        // Nothing was ever sent on for this file: triage alone sees it.
        "beside-rule" => (Manner::Slow, vec!["off", "--mute", &muted]),
        "beside-kept" => (Manner::Content, vec!["worker"]),
        "beside-service" => (Manner::Slow, vec!["off"]),
        other => bail!("no case is called {other}"),
    };
    scratch.settle();
    let host = start(programs, scratch, manner, &options)?;
    let crowd = pending(&host, scratch, spec.window)?;
    let run = opens(scratch, spec, None)?;
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
        .arg(count.to_string());
    let crowd = Ended::start(&mut command)?;
    let mut waiting = 0;
    let all = until("all slow opens are pending", 40, || {
        // Not too often: the worker has other things to do.
        std::thread::sleep(Duration::from_millis(20));
        waiting = host.count("with_services")?;
        Ok(waiting >= count as u64)
    });
    all.with_context(|| format!("{waiting} of {count} are"))?;
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
        for number in 0..self.count.min(SLOW) {
            // The kernel wakes all who wait in a group at each of its answers: all at once would hold each other up on
            // their way through triage for minutes.
            if number % TOGETHER == 0 {
                std::thread::sleep(Duration::from_millis(2));
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

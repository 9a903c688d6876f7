//! Runs cases as processes of their own, each with an end: one that fails or hangs is a row that says so.

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fltbench_common::Outcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cases::{Case, Role};
use crate::guard::{self, Grounds};
use crate::sample::{Run, Sample};

/// Starts the processes.
#[derive(Debug)]
pub struct Runner {
    /// The program with the other libraries.
    peers: Option<PathBuf>,
    /// Where opens are guarded.
    grounds: Grounds,
    /// Why opens cannot be guarded here, once that was asked.
    unguarded: OnceCell<Option<String>>,
}

/// How long a case may take beyond the time that it is told to, its start and end included.
const WATCHDOG: Duration = Duration::from_secs(20);

impl Runner {
    /// One that knows where the programs are.
    pub fn new(peers: Option<PathBuf>, programs: PathBuf, seed: u64) -> Self {
        Self {
            peers,
            grounds: Grounds::new(programs, seed),
            unguarded: OnceCell::new(),
        }
    }

    /// Runs a case once.
    pub fn run(&self, case: &Case) -> Run {
        let run = if guard::is_one(&case.spec) {
            match self.unguarded.get_or_init(guard::impossible) {
                Some(reason) => return Run::Skipped(reason.clone()),
                None => self.grounds.run(&case.spec),
            }
        } else {
            let program = match (&self.peers, case.role) {
                (None, Role::Peer) => {
                    return Run::Skipped("built without the other libraries".to_owned());
                }
                (Some(peers), Role::Peer) => Ok(peers.clone()),
                _ => std::env::current_exe(),
            };
            let program = program.context("cannot find this program");
            program.and_then(|program| {
                run_command(
                    Command::new(program).arg("case").args(case.spec.to_words()),
                    Duration::ZERO,
                )
            })
        };
        run.unwrap_or_else(|error| Run::Failed(format!("{error:#}")))
    }
}

/// Runs the asking process of a case, which is to take about so long and ends with a line of JSON. Must be called on the
/// first thread.
pub fn run_command(command: &mut Command, time: Duration) -> Result<Run> {
    let mut errors = tempfile::tempfile()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.try_clone()?)
        .spawn()
        .context("cannot start the case's process")?;
    // The kernel ends the other process with the first one.
    let mut child = Ended(child);
    let output = child.0.stdout.take().context("no output")?;
    let text = match read_all(output, WATCHDOG + time) {
        Ok(text) => text,
        Err(error) => bail!("{error:#}{}", last_words(&mut errors)),
    };
    let status = child.0.wait()?;
    let Some(line) = text.lines().last() else {
        bail!("{status}{}", last_words(&mut errors));
    };
    let value: serde_json::Value = serde_json::from_str(line).context("not a line of JSON")?;
    if let Some(reason) = value["skipped"].as_str() {
        return Ok(Run::Skipped(reason.to_owned()));
    }
    if let Some(reason) = value["failed"].as_str() {
        bail!("{reason}{}", last_words(&mut errors));
    }
    Ok(Run::Done(Sample::of(&Outcome::from_json(&value)?)))
}

/// Never left behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Everything up to the end; sleeps meanwhile, because every wake-up here disturbs what is measured.
fn read_all(mut output: ChildStdout, limit: Duration) -> Result<String> {
    let end = Instant::now() + limit;
    let mut bytes = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no end after {} s", limit.as_secs());
        }
        let left = Timespec::try_from(left)?;
        if poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&left))? == 0 {
            continue;
        }
        let mut part = [0; 16384];
        match output.read(&mut part)? {
            0 => return Ok(String::from_utf8(bytes)?),
            length => bytes.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
}

/// What the processes complained about last.
fn last_words(errors: &mut File) -> impl fmt::Display {
    let mut text = String::new();
    errors.rewind().ok();
    errors.read_to_string(&mut text).ok();
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.map(|line| format!(" ({})", line.trim()))
        .unwrap_or_default()
}

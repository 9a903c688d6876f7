//! `fltctl host upgrade | release`: what is done to a host that runs.
//!
//! An upgrade starts another `flthostd` with the same arguments, which takes everything over from the one that runs.
//! A release is the same signal that a shell can send when nothing can be started any more.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fltport::Connector;
use fltport::protocol::control;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Outcome;
use crate::programs::cannot_start;
use crate::render::escape;
use crate::request::{Steer, Steering};

/// Does it.
pub(super) fn run(request: &Steer) -> anyhow::Result<Outcome> {
    match &request.what {
        Steering::Upgrade { program } => upgrade(request, program.as_deref()),
        Steering::Release => release(request),
    }
}

fn upgrade(request: &Steer, program: Option<&Path>) -> anyhow::Result<Outcome> {
    let old = status(request)?;
    let worker = number(&old, "worker").context("the host does not say which process it is")?;
    let mut words = command_line(worker)?;
    let program = match program {
        Some(program) => std::path::absolute(program)?,
        None => installed(worker)?,
    };
    words.retain(|word| word != "--lifeline" && word != "--take-over");
    let mut child = Command::new(&program)
        .args(words)
        .arg("--take-over")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| cannot_start(&program))?;
    // Once it has taken over it says things where the old host did: this stream ends.
    let mut said = String::new();
    if let Some(mut stream) = child.stderr.take() {
        stream.read_to_string(&mut said).ok();
    }
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(end) = child.try_wait()? {
            bail!(
                "the new host has not taken over ({end}), and the old one goes on: {}",
                escape(said.trim())
            );
        }
        let now = status(request).ok();
        let new = now
            .as_ref()
            .and_then(|now| Some((number(now, "worker")?, now)));
        if let Some((new, now)) = new.filter(|(new, _)| *new != worker) {
            let version = now["version"].as_str().unwrap_or("?");
            let text = format!(
                "flthostd {} (process {}, worker {new}) has taken over from worker {worker}; operations were neither lost nor let through",
                escape(version),
                child.id()
            );
            writeln!(io::stdout(), "{text}")?;
            return Ok(Outcome::Yes);
        }
        if Instant::now() > end {
            bail!("the new host (process {}) does not answer yet", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn release(request: &Steer) -> anyhow::Result<Outcome> {
    let now = status(request)?;
    let process = number(&now, "supervisor").filter(|process| *process != 0);
    let process = process.or_else(|| number(&now, "worker"));
    let pid = process.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.context("the host does not say which process it is")?;
    kill_process(pid, Signal::USR1).context("cannot signal the host; run this as root")?;
    let end = Instant::now() + PATIENCE;
    while status(request).is_ok() {
        if Instant::now() > end {
            bail!(
                "the host still answers; end it with: kill -KILL {}",
                pid.as_raw_nonzero()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    writeln!(
        io::stdout(),
        "released: everything that waited was allowed, the host has ended, and nothing is guarded any more"
    )?;
    Ok(Outcome::Yes)
}

/// What the host says of itself.
fn status(request: &Steer) -> anyhow::Result<Value> {
    let name = match &request.instance {
        Some(instance) => format!(r"\fltport\{instance}\control"),
        None => r"\fltport\control".to_owned(),
    };
    let mut connector = Connector::new();
    if let Some(directory) = &request.port_directory {
        connector = connector.directory(directory);
    }
    let client = connector.connect(&name, b"").with_context(|| {
        format!("no host answers at {name}; `fltctl ports` lists those that run (--instance NAME chooses one)")
    })?;
    let text = control::Request::Status.send(&client)?;
    Ok(serde_json::from_str(&text)?)
}

fn number(status: &Value, field: &str) -> Option<u64> {
    status[field].as_u64()
}

/// The arguments that a host was started with.
fn command_line(process: u64) -> anyhow::Result<Vec<OsString>> {
    let bytes = fs::read(format!("/proc/{process}/cmdline"))
        .context("cannot read how the host was started; run this as root")?;
    let words = bytes.split(|byte| *byte == 0).skip(1);
    let mut words: Vec<_> = words
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    // After the last word's end there is nothing.
    words.pop();
    Ok(words)
}

/// The program that stands where the host's own stood when it was started.
fn installed(process: u64) -> anyhow::Result<PathBuf> {
    let link = fs::read_link(format!("/proc/{process}/exe"))
        .context("cannot read which program the host is; run this as root")?;
    let path = link.to_string_lossy();
    let path = PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(&path));
    if !path.is_file() {
        bail!(
            "{} is gone; name the new program with --program",
            path.display()
        );
    }
    Ok(path)
}

/// For a host to answer, or to stop answering.
const PATIENCE: Duration = Duration::from_secs(15);

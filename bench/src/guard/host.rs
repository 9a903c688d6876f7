//! A filter host of a case, with its scanner or a service of this program.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use fltport::protocol::control::Request;
use serde_json::Value;

use super::service::{Manner, connect};
use super::{Ended, this_program, until};

/// Who answers the host's questions.
#[derive(Clone, Copy, Debug)]
pub enum Answers {
    /// fltscand, with its built-in rule.
    Scanner,
    /// This program.
    Service(Manner),
    /// Nobody.
    Nobody,
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    daemon: Child,
    service: Option<Ended>,
    ports: tempfile::TempDir,
}

impl Host {
    /// Starts one that guards this mount point, and waits for nothing.
    pub fn spawn(
        programs: &Path,
        guarded: &Path,
        answers: Answers,
        options: &[&str],
    ) -> Result<Self> {
        let ports = tempfile::tempdir()?;
        let mut command = Command::new(programs.join("flthostd"));
        command
            .args(["--instance", "bench", "--lifeline", "--guard"])
            .arg(guarded)
            .arg("--port-directory")
            .arg(ports.path())
            .args(options)
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        if !matches!(answers, Answers::Scanner) {
            command.arg("--no-scanner");
        }
        let daemon = command
            .spawn()
            .context("cannot start flthostd; run `cargo build --release` first")?;
        let mut host = Self {
            daemon,
            service: None,
            ports,
        };
        if let Answers::Service(manner) = answers {
            let mut command = this_program("service")?;
            command.arg(host.ports.path()).arg(manner.word());
            host.service = Some(Ended::start(&mut command)?);
        }
        Ok(host)
    }

    /// Starts one that denies what nobody answers, and waits until an open of `probe` is answered.
    pub fn start(
        programs: &Path,
        guarded: &Path,
        answers: Answers,
        options: &[&str],
        probe: &Path,
    ) -> Result<Self> {
        let options = [options, &["--strict"]].concat();
        let host = Self::spawn(programs, guarded, answers, &options)?;
        let events = connect(host.ports.path(), "events")?;
        drop(events.next_message()?);
        drop(events);
        // With --strict an open succeeds only once a service answers.
        until("a service answers", 5, || Ok(File::open(probe).is_ok()))?;
        Ok(host)
    }

    /// What the host says of itself.
    pub fn status(&self) -> Result<Value> {
        let control = connect(self.ports.path(), "control")?;
        Ok(serde_json::from_str(&Request::Status.send(&control)?)?)
    }

    /// One of its counters of operations.
    pub fn count(&self, counter: &str) -> Result<u64> {
        let status = self.status()?;
        status["operations"][counter]
            .as_u64()
            .with_context(|| format!("the host does not count {counter}"))
    }

    /// Its process of this name, somewhere below the one that was started.
    pub fn descendant(&self, name: &str) -> Option<u32> {
        let mut found = vec![self.daemon.id()];
        while let Some(pid) = found.pop() {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == name {
                return Some(pid);
            }
            // Whichever of its threads has started them.
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let children = std::fs::read_to_string(thread.path().join("children"));
                let children = children.unwrap_or_default();
                found.extend(
                    children
                        .split_whitespace()
                        .filter_map(|word| word.parse::<u32>().ok()),
                );
            }
        }
        None
    }

    /// Ends it as an administrator would.
    pub fn end(mut self) -> Result<()> {
        drop(self.daemon.stdin.take());
        until("flthostd ends", 5, || Ok(self.daemon.try_wait()?.is_some()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its lifeline: it has a moment to end by itself, and its worker ends by that even if it is killed.
        drop(self.daemon.stdin.take());
        until("flthostd ends", 2, || Ok(self.daemon.try_wait()?.is_some())).ok();
        self.daemon.kill().ok();
        self.daemon.wait().ok();
        drop(self.service.take());
    }
}

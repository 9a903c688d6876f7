//! The answering process of a case: the same program, started by the asking one in a role of its own.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::run::{all_cores, pin};
use crate::{PATIENCE, Spec};

/// What the answering process is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Answer {
    /// The case
    #[command(flatten)]
    pub spec: Spec,
    /// Where to find the other side
    #[arg(long)]
    pub endpoint: String,
    /// The process that asks
    #[arg(long)]
    pub parent: i32,
}

impl Answer {
    /// Prepares this process: it chooses its core, and ends when the asking process does, even while it spins.
    ///
    /// # Errors
    ///
    /// When that process is gone already, or there is no such core.
    pub fn begin(&self) -> Result<()> {
        end_with_parent()?;
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
        ensure!(parent == Some(self.parent), "the asking process is gone");
        match self.spec.peer_core {
            Some(core) => pin(core),
            None => all_cores(),
        }
    }
}

/// The kernel ends this process with the thread that started it: that is always a process's first one here.
///
/// # Errors
///
/// The system's.
pub fn end_with_parent() -> Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// The answering process, as the asking one sees it. Ends with this value.
#[derive(Debug)]
pub struct Other {
    child: Child,
}

impl Other {
    /// Starts it. Must be called on the first thread.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(spec: &Spec, endpoint: &str) -> Result<Self> {
        Self::start_with(spec, endpoint, None, None)
    }

    /// Starts it with descriptors as its standard input and output.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start_with(
        spec: &Spec,
        endpoint: &str,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("answer")
            .args(spec.to_words())
            .args(["--endpoint", endpoint, "--parent"])
            .arg(std::process::id().to_string())
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(output.map_or_else(Stdio::null, Stdio::from));
        let child = command.spawn().context("cannot start the other process")?;
        Ok(Self { child })
    }

    /// Names it.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it fails, or does not end.
    pub fn wait(mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the other process failed: {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the other process does not end")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

//! A `flthostd` of our own: started, watched, ended.
//!
//! The host lives as long as the write end of its standard input, which only this process has: however `fltctl` ends,
//! the guard ends with it. The host is in a process group of its own, so that Ctrl-C reaches `fltctl` alone, which then
//! ends it in order. Not here: what the host reports (`follow.rs`). Next room: `commands/guard.rs`.

use std::io::{self, BufRead as _, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::programs::cannot_start;
use crate::request::HostRequest;
use crate::signals::Signals;

/// A running `flthostd`. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    lifeline: Option<ChildStdin>,
    process: OwnedFd,
    /// Ends when the host's standard error does.
    relayed: Receiver<()>,
    ended: Option<End>,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The host has ended.
    Ended,
    /// A signal came.
    Signal,
    /// The time is over.
    Timeout,
}

/// How a host ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// By itself, or because it was asked to.
    Exited(ExitStatus),
    /// It did not end in time, and was killed.
    Killed,
}

impl Host {
    /// Starts a host. Each line that it writes to its standard error goes to `complain`.
    pub(crate) fn start(
        request: &HostRequest,
        complain: impl FnMut(String) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let program = &request.programs.host;
        let mut child = Command::new(program)
            .args(request.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| cannot_start(program))?;
        let lifeline = child.stdin.take();
        let relayed = relay(child.stderr.take(), complain);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                // Without its lifeline the host ends by itself.
                drop(lifeline);
                child.wait().ok();
                return Err(error).context("cannot watch flthostd; Linux 5.3 or newer is needed");
            }
        };
        Ok(Self {
            child,
            lifeline,
            process,
            relayed,
            ended: None,
        })
    }

    /// Waits for the end of the host, for a signal, or for as long as `limit`.
    pub(crate) fn wait(&mut self, signals: &Signals, limit: Duration) -> io::Result<Woken> {
        let end = Instant::now() + limit;
        loop {
            if signals.take() {
                return Ok(Woken::Signal);
            }
            if self.has_ended()? {
                return Ok(Woken::Ended);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Woken::Timeout);
            }
            readable(&[self.process.as_fd(), signals.as_fd()], left)?;
        }
    }

    /// Ends the host: lets its lifeline go, waits at most `limit`, then kills it.
    pub(crate) fn end(&mut self, limit: Duration) -> io::Result<End> {
        self.lifeline = None;
        let deadline = Instant::now() + limit;
        while !self.has_ended()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.child.kill()?;
                self.child.wait()?;
                self.ended = Some(End::Killed);
                break;
            }
            readable(&[self.process.as_fd()], left)?;
        }
        // Its last words. Children of its own may hold the stream for longer.
        self.relayed.recv_timeout(LAST_WORDS).ok();
        Ok(self.ended.unwrap_or(End::Killed))
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?.map(End::Exited);
        }
        Ok(self.ended.is_some())
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => status.fmt(f),
            Self::Killed => f.write_str("killed, because it did not end"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // There is nobody to tell; the lifeline is gone in any case.
            self.end(DROP_LIMIT).ok();
        }
    }
}

/// Reads the stream to its end, on a thread, so that its writer never waits for ours.
fn relay(
    stream: Option<impl Read + Send + 'static>,
    mut complain: impl FnMut(String) + Send + 'static,
) -> Receiver<()> {
    let (over, relayed) = channel();
    if let Some(stream) = stream {
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while (&mut stream)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                complain(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
                line.clear();
            }
            drop(over);
        });
    }
    relayed
}

/// Waits until one of them is readable, or a little earlier.
fn readable(descriptors: &[std::os::fd::BorrowedFd<'_>], limit: Duration) -> io::Result<()> {
    let mut polled: Vec<_> = descriptors
        .iter()
        .map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
        .collect();
    let limit = limit.try_into().ok();
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// For a host that is dropped on the way out of an error.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// For the standard error of a host that has ended.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Longer lines of the host's standard error are cut into several.
const LONGEST_LINE: u64 = 8 << 10;

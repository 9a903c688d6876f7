//! Processes that are never asked about: this one, and those that it has spawned itself.
//!
//! Connecting to a port exempts nobody. A process is registered before it executes anything, by its id, and each time it
//! matters a held pidfd confirms that the id still means that process.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::Pid;

use crate::polling::is_ready;

/// The processes of this host.
#[derive(Debug)]
pub struct Exempt {
    own: Pid,
    spawned: Mutex<HashMap<Pid, OwnedFd>>,
}

impl Exempt {
    /// Only this process.
    #[must_use]
    pub fn new() -> Self {
        Self {
            own: rustix::process::getpid(),
            spawned: Mutex::default(),
        }
    }

    /// Also this process, for as long as it lives.
    pub fn add(&self, pid: Pid, pidfd: OwnedFd) {
        self.spawned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, pidfd);
    }

    /// This process has ended.
    pub fn remove(&self, pid: Pid) {
        self.spawned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
    }

    /// Whether operations of this process go on unasked.
    #[must_use]
    pub fn covers(&self, pid: Pid) -> bool {
        if pid == self.own {
            return true;
        }
        let spawned = self.spawned.lock().unwrap_or_else(PoisonError::into_inner);
        spawned.get(&pid).is_some_and(|pidfd| {
            // A pidfd is readable when its process has ended; the id may mean another process then.
            is_ready(pidfd, PollFlags::IN, Duration::ZERO) == Ok(false)
        })
    }
}

impl Default for Exempt {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, pidfd_open};

    #[test]
    fn a_process_is_exempt_while_it_lives_and_its_successor_is_not() {
        let exempt = Exempt::new();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        assert!(!exempt.covers(pid));
        exempt.add(pid, pidfd_open(pid, PidfdFlags::empty()).unwrap());
        assert!(exempt.covers(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!exempt.covers(pid));
        assert!(exempt.covers(rustix::process::getpid()));
    }
}

//! Names of processes, looked up while their operations wait: afterwards a short-lived opener is gone.
//!
//! Looking up opens a file of `/proc`, which nothing may do that answers operations. So a thread of its own does it,
//! beside the service's work; what it has no room for stays without a name.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::process::Pid;

/// Where the name of an operation's process appears.
pub(crate) type NameSlot = Arc<OnceLock<String>>;

/// Looks names up.
#[derive(Debug)]
pub(crate) struct Names {
    wanted: SyncSender<(Pid, NameSlot)>,
}

/// Names that may wait to be looked up.
const ROOM: usize = 1_024;

impl Names {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub(crate) fn start() -> io::Result<Self> {
        let (wanted, asked) = sync_channel::<(Pid, NameSlot)>(ROOM);
        thread::Builder::new().name("names".into()).spawn(move || {
            for (pid, slot) in asked {
                if let Some(name) = name_of(pid) {
                    slot.get_or_init(|| name);
                }
            }
        })?;
        Ok(Self { wanted })
    }

    /// Has a name looked up, if there is room. Never waits.
    pub(crate) fn look_up(&self, pid: Pid, slot: &NameSlot) {
        // Without room the name is looked up when the decision is logged, if the process is still there.
        self.wanted.try_send((pid, Arc::clone(slot))).ok();
    }
}

/// What a process calls itself.
pub(crate) fn name_of(pid: Pid) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_name_appears_in_its_slot() {
        let names = Names::start().unwrap();
        let slot = NameSlot::default();
        names.look_up(rustix::process::getpid(), &slot);
        let end = Instant::now() + Duration::from_secs(10);
        while slot.get().is_none() && Instant::now() < end {
            thread::yield_now();
        }
        assert_eq!(slot.get(), name_of(rustix::process::getpid()).as_ref());
    }
}

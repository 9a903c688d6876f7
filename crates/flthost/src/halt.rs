//! Stops the threads that read groups, and lets them go on: for a handover, during which nobody may read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where readers stop.
#[derive(Debug)]
pub(crate) struct Halt {
    /// Readable while readers are to stop.
    bell: OwnedFd,
    ring: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    halted: usize,
}

impl Halt {
    /// Nobody is to stop.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new() -> std::io::Result<Self> {
        let (bell, ring) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self {
            bell,
            ring,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Readable while readers are to stop: they wait for this beside their groups.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// A reader has nothing in its hands: if readers are to stop, it stays here until they may go on.
    pub(crate) fn pass(&self) {
        let mut state = self.lock();
        if !state.wanted {
            return;
        }
        state.halted += 1;
        self.changed.notify_all();
        while state.wanted {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.halted -= 1;
    }

    /// Stops readers; whether so many have stopped within this time.
    pub(crate) fn stop(&self, readers: usize, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        // Rung once: it is silenced once.
        if !std::mem::replace(&mut state.wanted, true) {
            // A pipe that nobody reads has room for this.
            rustix::io::write(&self.ring, &[1]).ok();
        }
        while state.halted < readers {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Lets readers go on.
    pub(crate) fn go_on(&self) {
        let mut state = self.lock();
        if std::mem::take(&mut state.wanted) {
            rustix::io::read(&self.bell, &mut [0; 1]).ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polling::is_ready;
    use rustix::event::PollFlags;

    #[test]
    fn readers_stop_and_go_on() {
        let halt = Halt::new().unwrap();
        halt.pass(); // nobody wants it to stop
        assert!(!halt.stop(1, Duration::ZERO));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| halt.pass());
            assert!(halt.stop(1, Duration::from_secs(20)));
            assert!(!reader.is_finished());
            // Also asked for twice, the bell is silent afterwards.
            assert!(halt.stop(1, Duration::ZERO));
            halt.go_on();
            reader.join().unwrap();
        });
        let rings = is_ready(halt.bell(), PollFlags::IN, Duration::ZERO);
        assert_eq!(rings, Ok(false));
        halt.pass();
    }
}

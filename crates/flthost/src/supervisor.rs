//! The process that holds the fanotify groups, starts the worker, and starts it again when it dies.
//!
//! While the supervisor lives, a dead worker leaves no hole: the groups stay open, so operations that nobody has read
//! wait; those that the dead worker had read are decided by `on_crash` at once, before the next worker reads. Once it has
//! started it allocates nothing, opens nothing, and says nothing that could wait: what it would wait for could be an
//! operation that waits for it.
//!
//! ```text
//!   (start) ──▶ Running ── worker dies, or its pulse stops ──▶ settle ──▶ Running, or, budget used up,
//!                  │                                                      Alone: answers by on_crash itself
//!                  ├─ signal, lifeline ──▶ Stopping ── worker ended, or killed ──▶ (groups closed)
//!                  └─ SIGUSR1 ──▶ Released: no marks, everything allowed ──▶ (groups closed)
//! ```

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Signal, pidfd_send_signal, set_dumpable_behavior};

use crate::config::Config;
use crate::fanotify::{Defaults, Group, Response};
use crate::keepers::Keepers;
use crate::kernel::Kernel;
use crate::polling::{self, is_ready};
use crate::say::say;
pub use crate::start::StartError;
use crate::start::{Held, lock_memory};
use crate::supervisor_os::{
    Child, Told, fork_beside_keepers, is_at_end, reap, take_signals, told_by_signal,
};
use crate::taking::Handed;
use crate::worker;

/// The time in which restarts are counted; [`Config::restarts`] may be in it.
const WINDOW: Duration = Duration::from_secs(10);

/// How long the supervisor answers alone before it tries a worker again.
const ALONE: Duration = Duration::from_secs(60);

/// How long the worker may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(3);

/// How long a killed worker may take to be gone. One that takes longer has a thread inside a hung filesystem.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// Killed workers that may linger; as a rule there is none.
const LINGERING: usize = 8;

/// How often the supervisor looks whether the worker lives.
const LOOK: Duration = Duration::from_millis(250);

/// Looks in a row at which the worker's pulse has not moved before it is killed.
const LOOKS: u32 = 6;

/// Time for what waits unread when the host ends.
const LEFT_OVER: Duration = Duration::from_millis(500);

/// How a host has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Told,
    /// Another one has taken everything over.
    HandedOver,
}

/// Runs a filter host until it is told to end. Blocks; must be called while the process has one thread.
///
/// # Errors
/// [`StartError`] when it cannot start. Once it has started it ends only when it is told to.
pub fn run(config: &Config) -> Result<Ending, StartError> {
    let (held, handed) = Held::open(config)?;
    let kernel = Kernel::ask(held.pairs.first().map(|pair| &*pair.questions));
    let missing = kernel.missing(config, held.pairs.iter().any(|pair| pair.slow));
    for pair in &held.pairs {
        pair.set_split(kernel.splits);
    }
    // Whoever reads the words of one that takes over has read these.
    if !config.take_over {
        missing.iter().for_each(say);
    }
    let system = |doing| move |error| StartError::System(doing, error);
    // A dump of a dying worker is written before the worker counts as dead, often by a program that opens files; where
    // those are guarded, it would wait for an answer that nobody gives any more.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| StartError::System("cannot turn core dumps off", error.into()))?;
    let signals = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGPIPE,
        libc::SIGUSR1,
        // Whoever breaks a lease that the worker has for a moment has the kernel send this, which would end the worker.
        libc::SIGIO,
    ];
    let signals = take_signals(&signals).map_err(system("cannot take signals"))?;
    let groups = held.groups();
    let keepers = Keepers::start(&groups, held.journal, config.crash_defaults())
        .map_err(system("cannot start the supervisor's threads"))?;
    lock_memory();
    let mut supervisor = Supervisor {
        config,
        restarts: Vec::with_capacity(config.restarts.saturating_add(2)),
        held,
        kernel,
        missing,
        groups,
        keepers,
        signals,
        handed: Some(handed),
        lingering: [const { None }; LINGERING],
    };
    supervisor.run()
}

struct Supervisor<'a> {
    config: &'a Config,
    held: Held,
    kernel: Kernel,
    /// What it cannot do, in words.
    missing: Vec<String>,
    groups: Vec<Arc<Group>>,
    keepers: Keepers,
    signals: OwnedFd,
    restarts: Vec<Instant>,
    /// What an older host has handed over, for the first worker.
    handed: Option<Handed>,
    /// Workers that were killed and are not gone: each has a thread inside a hung filesystem.
    lingering: [Option<Child>; LINGERING],
}

/// The running worker, and the pipe by which it is told to end.
struct Running {
    child: Child,
    tell: OwnedFd,
    /// What the system says of its first thread, where it says something: one that has ended while another is inside a
    /// hung filesystem cannot be seen otherwise.
    state: Option<OwnedFd>,
}

/// Why a worker is watched no more.
enum Ended {
    /// By itself, or because it was stuck: its exit code, or the negative signal.
    Alone(i32),
    /// The host was told to end.
    Told(Told),
}

impl Supervisor<'_> {
    fn run(&mut self) -> Result<Ending, StartError> {
        let mut settled = None;
        loop {
            // Only the first worker may fail for good: behind a later one, and behind one that follows an older host's,
            // operations wait, and marks are set.
            let first = settled.is_none() && !self.config.take_over;
            let ended = match self.start_worker(settled) {
                Ok(worker) => self.watch(worker),
                Err(error) if first => {
                    return Err(StartError::System("cannot start the worker", error));
                }
                Err(error) => {
                    say(format_args!("cannot start the worker: {error}"));
                    Ended::Alone(worker::EXIT_CANNOT_START)
                }
            };
            // The next host holds the groups, however this worker has ended: there is nothing to settle, and nothing ends
            // with this process.
            if self.held.journal.is_handed_over() {
                return Ok(Ending::HandedOver);
            }
            let code = match ended {
                Ended::Alone(code) => code,
                Ended::Told(told) => {
                    self.end(told);
                    return Ok(Ending::Told);
                }
            };
            if first && code == worker::EXIT_CANNOT_START {
                return Err(StartError::System(
                    "the worker could not start",
                    io::Error::other("it said why above"),
                ));
            }
            let count = self.settle();
            say(format_args!(
                "the worker ended ({code}); {count} operations were decided by policy"
            ));
            settled = Some(count);
            if !self.may_restart() {
                say(
                    "the worker ends again and again; operations are decided by policy from now on",
                );
                if let Some(told) = self.answer_alone() {
                    self.end(told);
                    return Ok(Ending::Told);
                }
                say("trying a worker again");
                self.restarts.clear();
            }
        }
    }

    fn start_worker(&mut self, settled: Option<u64>) -> io::Result<Running> {
        // This process closes its copies when the worker has its own.
        let handed = self.handed.take().unwrap_or_default();
        self.held.journal.forget();
        let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let tell_of_parent = tell.as_raw_fd();
        let child = fork_beside_keepers(|| {
            let start = worker::Start {
                config: self.config,
                held: &self.held,
                kernel: self.kernel,
                missing: &self.missing,
                told,
                parents_end: tell_of_parent,
                signals: &self.signals,
                settled,
                lingering: &self.lingering,
            };
            worker::run(start, handed)
        })?;
        let state = open_state(child.pid);
        Ok(Running { child, tell, state })
    }

    /// Waits until the worker ends by itself, is killed because it is stuck, or the host is told to end.
    fn watch(&mut self, worker: Running) -> Ended {
        let (mut pulse, mut still) = (self.held.journal.pulse(), 0);
        let mut looked = Instant::now();
        loop {
            let (gone, told) = self.look(Some(&worker.child), LOOK);
            if gone {
                return Ended::Alone(reap(worker.child.pid));
            }
            if let Some(told) = told {
                match told {
                    Told::End => self.stop(worker),
                    Told::Release => drop(self.kill(worker.child)),
                }
                return Ended::Told(told);
            }
            // Looks, not time: a machine that was asleep, or has none to spare, is no fault of the worker.
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let now = self.held.journal.pulse();
                still = if now == pulse { still + 1 } else { 0 };
                pulse = now;
                if worker.state.as_ref().is_some_and(has_ended) {
                    return Ended::Alone(self.kill(worker.child));
                }
            }
            if still >= LOOKS {
                say("the worker is stuck; it is killed");
                return Ended::Alone(self.kill(worker.child));
            }
        }
    }

    /// Waits for at most this long: whether the worker is gone, and what the host was told.
    fn look(&mut self, worker: Option<&Child>, limit: Duration) -> (bool, Option<Told>) {
        let input = rustix::stdio::stdin();
        // What is not there has the signals in its place.
        let signals = self.signals.as_fd();
        let lifeline = if self.config.lifeline { input } else { signals };
        let worker_fd = worker.map_or(signals, |child| child.pidfd.as_fd());
        let mut all = [signals; 3 + LINGERING];
        for (place, child) in all.iter_mut().zip(&self.lingering) {
            *place = child.as_ref().map_or(signals, |child| child.pidfd.as_fd());
        }
        all[LINGERING..].copy_from_slice(&[signals, worker_fd, lifeline]);
        let mut fds = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        if polling::wait(&mut fds, limit).is_err() {
            return (false, None);
        }
        let ready = fds.map(|fd| !fd.revents().is_empty());
        let [.., signal, gone, lifeline] = ready;
        for (place, _) in (0..LINGERING).zip(ready).filter(|(_, ready)| *ready) {
            self.bury(place);
        }
        let told = if signal {
            told_by_signal(&self.signals)
        } else {
            None
        };
        let cut = self.config.lifeline && lifeline && is_at_end(input);
        (
            worker.is_some() && gone,
            told.or_else(|| cut.then_some(Told::End)),
        )
    }

    /// Tells the worker to end; kills it if it does not.
    fn stop(&mut self, worker: Running) {
        // Fails only where the worker has ended already.
        rustix::io::write(&worker.tell, b"s").ok();
        if is_gone(&worker.child, GRACE) {
            reap(worker.child.pid);
        } else {
            self.kill(worker.child);
        }
    }

    /// Kills the worker. One that does not go keeps the groups whose filesystems hold it, until it does.
    fn kill(&mut self, worker: Child) -> i32 {
        // Fails only where it has ended already.
        pidfd_send_signal(&worker.pidfd, Signal::KILL).ok();
        if is_gone(&worker, LAST_BREATH) {
            return reap(worker.pid);
        }
        say("a thread of the worker is inside a filesystem that hangs; only that one is held up");
        self.keepers.quarantine(worker.pid.as_raw_nonzero().get());
        // Of too many, the last are remembered; the groups of the others stay with the keepers.
        let free = self.lingering.iter().position(Option::is_none);
        if let Some(place) = self.lingering.get_mut(free.unwrap_or(0)) {
            *place = Some(worker);
        }
        -libc::SIGKILL
    }

    /// A killed worker has gone at last: what its last thread had read is decided, and its groups are free.
    fn bury(&mut self, place: usize) {
        let gone = self.lingering.get_mut(place).and_then(|child| {
            // Where nobody lingers, a signal stood in the place.
            let is_gone = child
                .as_ref()
                .is_some_and(|child| is_gone(child, Duration::ZERO));
            if is_gone { child.take() } else { None }
        });
        let Some(gone) = gone else {
            return;
        };
        reap(gone.pid);
        let (strictest, journal) = (self.strictest(), self.held.journal);
        for (place, group) in self.groups.iter().enumerate() {
            if journal.quarantined(place) == gone.pid.as_raw_nonzero().get() {
                group.sweep(self.held.descriptors, strictest);
                journal.quarantine(place, 0);
            }
        }
    }

    /// Decides what a dead worker had read: what the journal knows as it says, the rest as strictly as any policy does.
    /// Nobody else reads now, so no answer can hit another operation.
    fn settle(&self) -> u64 {
        let journal = &self.held.journal;
        let owed = journal.take_all().filter(|(number, owed)| {
            let group = self.groups.get(owed.group);
            group.is_some_and(|group| group.respond(*number, owed.response).is_ok())
        });
        let noted = u64::try_from(owed.count()).unwrap_or(u64::MAX);
        noted + self.sweep(self.strictest())
    }

    /// Answers whatever a dead worker may have read and not noted.
    fn sweep(&self, response: Response) -> u64 {
        // The system gives the lowest free number. So one that was not noted is above the highest noted one by no more
        // than what else a worker may hold.
        let limit = self
            .held
            .journal
            .highest()
            .saturating_add(self.held.reserved());
        // Of one that lingers nothing is known any more.
        let limit = match self.lingering.iter().any(Option::is_some) {
            true => self.held.descriptors,
            false => limit.min(self.held.descriptors),
        };
        self.used_groups()
            .map(|group| group.sweep(limit, response))
            .sum()
    }

    /// The groups that guard something.
    fn used_groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        let places = self.groups.iter().enumerate();
        places
            .filter(|(place, _)| self.held.is_used(place / 2))
            .map(|(_, group)| group)
    }

    /// What becomes of operations that the worker cannot decide any more.
    fn crash_defaults(&self) -> Defaults {
        self.config.crash_defaults()
    }

    /// The strictest of them.
    fn strictest(&self) -> Response {
        let Defaults { open, exec } = self.crash_defaults();
        match (open, exec) {
            (Response::Allow, other) | (other, Response::Allow) => other,
            (Response::Deny, _) | (_, Response::Deny) => Response::Deny,
            (errno, _) => errno,
        }
    }

    fn may_restart(&mut self) -> bool {
        self.restarts.retain(|restart| restart.elapsed() < WINDOW);
        self.restarts.push(Instant::now());
        self.restarts.len() <= self.config.restarts
    }

    /// Answers every operation by policy for a while: nothing, or until the host is told something: that.
    fn answer_alone(&mut self) -> Option<Told> {
        self.keepers.answer(self.crash_defaults());
        // New directories are marked by a process of its own, because that opens them.
        let follower = self.start_follower();
        let until = Instant::now() + ALONE;
        let mut told = None;
        while told.is_none() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            told = self.look(None, left).1;
        }
        if let Ok(follower) = follower {
            self.kill(follower.child);
        }
        self.keepers.rest();
        told
    }

    fn start_follower(&self) -> io::Result<Running> {
        // Where the dead worker's threads were says nothing of this one's.
        self.held.journal.forget();
        let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let tell_of_parent = tell.as_raw_fd();
        let child = fork_beside_keepers(|| {
            worker::follow_only(&self.held, self.config, told, tell_of_parent)
        })?;
        let state = None;
        Ok(Running { child, tell, state })
    }

    /// There is no worker any more, and the host ends: what is left is decided, so that the last close allows nothing
    /// that policy would not.
    fn end(&self, told: Told) {
        let (defaults, strictest) = match told {
            Told::End => (self.crash_defaults(), None),
            Told::Release => (Response::Allow.into(), Some(Response::Allow)),
        };
        // Nothing new comes; what fails here is asked until the groups are closed.
        for group in &self.groups {
            group.unmark_all().ok();
        }
        match strictest {
            None => self.settle(),
            Some(response) => self.sweep(response),
        };
        self.keepers.answer(defaults);
        let end = Instant::now() + LEFT_OVER;
        while self.used_groups().any(|group| is_readable(group)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        if told == Told::Release {
            say("released: everything that waited was allowed, and nothing is guarded any more");
        }
    }
}

fn is_readable(group: &Group) -> bool {
    is_ready(group, PollFlags::IN, Duration::ZERO) == Ok(true)
}

/// The file in which the system says how a process is. Nothing of it is on a filesystem that could be guarded.
fn open_state(process: Pid) -> Option<OwnedFd> {
    let mut path = [0u8; 32];
    // Fits; and without an allocation.
    write!(&mut path[..], "/proc/{}/stat", process.as_raw_nonzero()).ok()?;
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Whether the first thread of a process has ended.
fn has_ended(state: &OwnedFd) -> bool {
    let mut text = [0u8; 128];
    let length = rustix::io::pread(state, &mut text, 0).unwrap_or(0);
    let text = text.get(..length).unwrap_or_default();
    // The state stands behind the name, which stands in brackets.
    let mut rest = text.rsplitn(2, |byte| *byte == b')');
    rest.next().is_some_and(|rest| rest.starts_with(b" Z"))
}

/// Whether a process ends within this time.
fn is_gone(child: &Child, limit: Duration) -> bool {
    // Where the system cannot wait, nobody knows: as one that lingers.
    is_ready(&child.pidfd, PollFlags::IN, limit) == Ok(true)
}

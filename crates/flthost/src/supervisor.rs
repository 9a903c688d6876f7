//! The process that holds the fanotify groups, starts the worker, and starts it again when it dies.
//!
//! While the supervisor lives, a dead worker leaves no hole: the groups stay open, so operations that nobody has read
//! wait; those that the dead worker had read are decided by `on_crash` at once, before the next worker reads.
//!
//! ```text
//!   (start) ──▶ Running ── worker dies ──▶ settle what it had read ──▶ Running, or, budget used up,
//!                  │                                                   Alone: answers by on_crash itself
//!                  └─ signal, lifeline ──▶ Stopping ── worker ended, or killed ──▶ (groups closed)
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, pidfd_send_signal,
    set_dumpable_behavior, setrlimit,
};

use crate::config::Config;
use crate::fanotify::{Class, Event, EventBuffer, Group, GroupError, Response, Watch};
use crate::guarded::Guarded;
use crate::marks::{Target, TargetError, follow};
use crate::say::say;
use crate::supervisor_os::{Child, fork, is_at_end, is_told_by_signal, reap, take_signals};
use crate::worker;

/// Why a host cannot start. Nothing is guarded then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No directory to guard was named.
    #[error("nothing to guard: name at least one directory")]
    NothingToGuard,
    /// A directory cannot be guarded.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The kernel gives no permission events.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The limit of open files is too low for a filter host.
    #[error(
        "only {0} files may be open; a filter host needs at least {DESCRIPTORS_MIN} (raise the hard limit: ulimit -Hn)"
    )]
    Descriptors(u64),
    /// The system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// Descriptors below which a host does not start: each pending operation holds one.
const DESCRIPTORS_MIN: u64 = 4_096;

/// The time in which restarts are counted; [`Config::restarts`] may be in it.
const WINDOW: Duration = Duration::from_secs(10);

/// How long the supervisor answers alone before it tries a worker again.
const ALONE: Duration = Duration::from_secs(60);

/// How long the worker may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(3);

/// Runs a filter host until it is told to end. Blocks; must be called while the process has one thread.
///
/// # Errors
/// [`StartError`] when it cannot start. Once it has started it ends only when it is told to.
pub fn run(config: &Config) -> Result<(), StartError> {
    let descriptors = raise_descriptors()?;
    let guarded = prepare(config)?;
    let system = |doing| move |error| StartError::System(doing, error);
    // A dump of a dying worker is written before the worker counts as dead, often by a program that opens files; where
    // those are guarded, it would wait for an answer that nobody gives any more.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| StartError::System("cannot turn core dumps off", error.into()))?;
    let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE];
    let signals = take_signals(&signals).map_err(system("cannot take signals"))?;
    let mut supervisor = Supervisor {
        config,
        guarded,
        signals,
        descriptors,
        restarts: Vec::new(),
    };
    let mut settled = None;
    loop {
        // Only the first worker may fail for good: behind a later one operations wait, and marks are set.
        let first = settled.is_none();
        let ended = match supervisor.start_worker(settled) {
            Ok(worker) => supervisor.watch(worker),
            Err(error) if first => {
                return Err(StartError::System("cannot start the worker", error));
            }
            Err(error) => {
                say(format_args!("cannot start the worker: {error}"));
                Some(worker::EXIT_CANNOT_START)
            }
        };
        let Some(code) = ended else {
            return Ok(());
        };
        if first && code == worker::EXIT_CANNOT_START {
            return Err(StartError::System(
                "the worker could not start",
                io::Error::other("it said why above"),
            ));
        }
        let count = supervisor.settle();
        say(format_args!(
            "the worker ended ({code}); {count} operations were decided by policy"
        ));
        settled = Some(count);
        if !supervisor.may_restart() {
            say("the worker ends again and again; operations are decided by policy from now on");
            if supervisor.answer_alone() {
                return Ok(());
            }
            say("trying a worker again");
            supervisor.restarts.clear();
        }
    }
}

struct Supervisor<'a> {
    config: &'a Config,
    guarded: Vec<Guarded>,
    signals: OwnedFd,
    descriptors: u32,
    restarts: Vec<Instant>,
}

/// The running worker, and the pipe by which it is told to end.
struct Running {
    child: Child,
    tell: OwnedFd,
}

impl Supervisor<'_> {
    fn start_worker(&self, settled: Option<u64>) -> io::Result<Running> {
        let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let tell_of_parent = rustix::fd::AsRawFd::as_raw_fd(&tell);
        let child = fork(|| {
            let start = worker::Start {
                config: self.config,
                guarded: &self.guarded,
                told,
                parents_end: tell_of_parent,
                signals: &self.signals,
                descriptors: self.descriptors,
                settled,
            };
            worker::run(start)
        })?;
        Ok(Running { child, tell })
    }

    /// Waits until the worker ends by itself: its exit code. `None`: it was told to end, and has.
    fn watch(&self, worker: Running) -> Option<i32> {
        loop {
            let mut fds = vec![
                PollFd::new(&worker.child.pidfd, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            let input = rustix::stdio::stdin();
            if self.config.lifeline {
                fds.push(PollFd::new(&input, PollFlags::IN));
            }
            if poll(&mut fds, None).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready.first() == Some(&true) {
                return Some(reap(worker.child.pid));
            }
            let signalled = ready.get(1) == Some(&true) && is_told_by_signal(&self.signals);
            let lifeline_cut = ready.get(2) == Some(&true) && is_at_end(input);
            if signalled || lifeline_cut {
                stop(worker);
                // What it had not answered is decided here; the last close of the groups would allow it.
                self.settle();
                return None;
            }
        }
    }

    /// Decides what a dead worker had read. Nobody else reads now, so no answer can hit another operation.
    fn settle(&self) -> u64 {
        let response = self.crash_response();
        self.groups()
            .map(|group| group.sweep(self.descriptors, response))
            .sum()
    }

    /// What becomes of operations that the worker cannot decide any more.
    fn crash_response(&self) -> Response {
        if self.config.monitor {
            Response::Allow
        } else {
            self.config.policies.on_crash.response()
        }
    }

    fn may_restart(&mut self) -> bool {
        self.restarts.retain(|restart| restart.elapsed() < WINDOW);
        self.restarts.push(Instant::now());
        self.restarts.len() <= self.config.restarts
    }

    /// Answers every operation by policy, and marks new directories, for a while: `false`, or until the host is told to
    /// end: `true`.
    fn answer_alone(&self) -> bool {
        let response = self.crash_response();
        let mut buffer = EventBuffer::with_capacity(64);
        let until = Instant::now() + ALONE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let groups: Vec<_> = self.groups().cloned().collect();
            let mut fds: Vec<_> = groups
                .iter()
                .map(|group| PollFd::new(group, PollFlags::IN))
                .collect();
            fds.push(PollFd::new(&self.signals, PollFlags::IN));
            let input = rustix::stdio::stdin();
            if self.config.lifeline {
                fds.push(PollFd::new(&input, PollFlags::IN));
            }
            let watches = fds.len();
            fds.extend(
                self.guarded
                    .iter()
                    .map(|guarded| PollFd::new(&guarded.watch, PollFlags::IN)),
            );
            if poll(&mut fds, Some(&left)).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let told = ready.get(groups.len()) == Some(&true) && is_told_by_signal(&self.signals);
            let lifeline = self.config.lifeline && ready.get(groups.len() + 1) == Some(&true);
            if told || (lifeline && is_at_end(input)) {
                return true;
            }
            let news = ready.get(watches..).unwrap_or_default();
            for (guarded, _) in self.guarded.iter().zip(news).filter(|(_, news)| **news) {
                let followed = follow(&[&guarded.group], &guarded.watch, &guarded.target);
                if let Err(error) = followed {
                    say(format_args!("a directory is not guarded: {error}"));
                }
            }
            for (group, _) in groups.iter().zip(&ready).filter(|(_, ready)| **ready) {
                // Each permission is dropped, which answers with the default.
                for event in group.read(&mut buffer, response).into_iter().flatten() {
                    drop::<Event>(event);
                }
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        let mut seen: Vec<&Arc<Group>> = Vec::new();
        for guarded in &self.guarded {
            if !seen.iter().any(|group| Arc::ptr_eq(group, &guarded.group)) {
                seen.push(&guarded.group);
            }
        }
        seen.into_iter()
    }
}

/// Tells the worker to end; kills it if it does not.
fn stop(worker: Running) {
    // Fails only where the worker has ended already.
    rustix::io::write(&worker.tell, b"s").ok();
    let grace = Timespec {
        tv_sec: i64::try_from(GRACE.as_secs()).unwrap_or(1),
        tv_nsec: 0,
    };
    if poll(
        &mut [PollFd::new(&worker.child.pidfd, PollFlags::IN)],
        Some(&grace),
    ) == Ok(0)
    {
        pidfd_send_signal(&worker.child.pidfd, Signal::KILL).ok();
    }
    reap(worker.child.pid);
}

/// Raises the limit of open files to what is allowed, and checks that it will do.
fn raise_descriptors() -> Result<u32, StartError> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit
        .maximum
        .unwrap_or(DESCRIPTORS_MAX)
        .min(DESCRIPTORS_MAX);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| StartError::System("cannot raise the limit of files", error.into()))?;
    if most < DESCRIPTORS_MIN {
        return Err(StartError::Descriptors(most));
    }
    Ok(u32::try_from(most).unwrap_or(u32::MAX))
}

/// More than this is not needed, and settling looks at every number.
const DESCRIPTORS_MAX: u64 = 65_536;

/// Opens everything that guards, marks nothing yet. One group for each filesystem: a hung one blocks only its own.
fn prepare(config: &Config) -> Result<Vec<Guarded>, StartError> {
    if config.guards.is_empty() {
        return Err(StartError::NothingToGuard);
    }
    let targets = config
        .guards
        .iter()
        .map(Target::open)
        .collect::<Result<Vec<_>, _>>()?;
    Group::probe()?;
    let mut guarded: Vec<Guarded> = Vec::new();
    for target in targets {
        let same = guarded
            .iter()
            .find(|other| other.target.device() == target.device());
        let group = match same {
            Some(other) => Arc::clone(&other.group),
            None => Arc::new(Group::new(Class::PreContent)?),
        };
        guarded.push(Guarded {
            target,
            group,
            watch: Watch::new()?,
        });
    }
    Ok(guarded)
}

//! The process that does the work: reads operations, takes them through the filters, asks services, answers.
//!
//! Start: readers first (a restarted worker has operations waiting, perhaps its own), then ports, then the scanner, then
//! the marks; listeners are told that the host guards when all of it is there. End: marks stay with the groups, which the supervisor holds.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::config::Config;
use crate::control::Control;
use crate::events::{Event, Started};
use crate::giving::keep_door;
use crate::handover::Frame;
use crate::kernel::Kernel;
use crate::lingering;
use crate::marking::{keep_following, mark};
use crate::parts::Parts;
use crate::ports::{PortNames, Ports};
use crate::reader::ReaderThreads;
use crate::say::say;
use crate::services::{start_scanner, wait_for_scanner};
use crate::stack::Stack;
use crate::start::{Held, lock_memory};
use crate::supervisor_os::{Child, is_at_end, told_by_signal};
use crate::taking::Handed;
use crate::threads::{abort_on_panic, spawn};
use crate::volumes::{Helpers, Volumes};

/// What a worker begins with.
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    pub(crate) held: &'a Held,
    pub(crate) kernel: Kernel,
    /// What the kernel cannot do, in words.
    pub(crate) missing: &'a [String],
    /// Readable when the worker is to end; at its end when the supervisor has died.
    pub(crate) told: OwnedFd,
    /// The number of the supervisor's own end of it, which this process has a copy of.
    pub(crate) parents_end: RawFd,
    /// Readable when a signal has come to this process.
    pub(crate) signals: &'a OwnedFd,
    /// Set on a restart: operations of the dead worker that were decided by policy.
    pub(crate) settled: Option<u64>,
    /// Workers that were killed and are not gone.
    pub(crate) lingering: &'a [Option<Child>],
}

impl Start<'_> {
    /// Nothing is guarded yet: what cannot be done ends the start, and harms nobody.
    const fn is_fresh(&self) -> bool {
        self.settled.is_none() && !self.config.take_over
    }
}

/// Exit code of a worker that could not start and has said why: starting it again would not help.
pub(crate) const EXIT_CANNOT_START: i32 = 3;

/// Exit code of a worker that has handed everything over to the next host.
pub(crate) const EXIT_HANDED_OVER: i32 = 4;

/// Between two rounds of tidying up.
const TIDY: Duration = Duration::from_secs(10);

/// How long services of the old host may take to connect to this one.
const RETURN: Duration = Duration::from_secs(3);

/// Runs the worker; gives its exit code.
pub(crate) fn run(start: Start<'_>, handed: Handed) -> i32 {
    rustix::thread::set_name(c"flthostd-worker").ok();
    abort_on_panic();
    match serve(start, handed) {
        Ok(()) => 0,
        Err(error) => {
            say(error);
            EXIT_CANNOT_START
        }
    }
}

fn serve(start: Start<'_>, handed: Handed) -> Result<(), String> {
    close_number(start.parents_end);
    let config = start.config;
    let held = start.held;
    lock_memory();
    let parts = Parts::new(config, held, start.kernel, start.missing, supervisor())?;
    parts.start_pulse(held)?;
    let readers = parts.readers(config, held)?;
    let returns = config.take_over && start.settled.is_none();
    parts.services.expect(returns);
    // What an earlier worker has sent to the group of questions may be on its way.
    if start.settled.is_some() || returns {
        held.pairs.iter().for_each(|pair| pair.keep_nothing_out());
    }
    // Before anything else takes their numbers.
    for (pair, role, event) in handed.place(held, readers.defaults) {
        readers.handle(event, &pair, role);
    }
    // Before anything else is opened: marks of an earlier worker may cover it, and its question would wait for readers.
    let threads = parts.start_reading(held, &readers)?;
    parts.start_notices(held, start.settled.is_some())?;

    let lingering = start.lingering.iter().flatten();
    lingering.for_each(|child| lingering::strip(child.pid));
    let names = PortNames(&parts.control);
    let ports = Ports::open(config, &parts)?;
    let mut scanners = Vec::new();
    for (counter, port) in &ports.counters {
        let scanner = start_scanner(config, counter, port, &parts.exempt, &parts.events)?;
        scanners.extend(scanner.map(|scanner| (counter, scanner)));
    }
    if start.is_fresh() {
        scanners
            .iter()
            .try_for_each(|(counter, scanner)| wait_for_scanner(&counter.ask, scanner))?;
    }
    if returns {
        let services = Arc::clone(&parts.services);
        spawn("returns", move || {
            thread::sleep(RETURN);
            services.expect_no_more();
        })?;
    }
    guard(&start, &parts, threads)?;
    // The next host, which waits to hear that this one is gone.
    let waiting = Mutex::new(None);
    thread::scope(|scope| {
        for guarded in &held.guarded {
            scope.spawn(move || keep_following(guarded));
        }
        scope.spawn(|| keep_tidy(held, &parts.stack));
        let (given, give) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| format!("cannot make a pipe: {error}"))?;
        let giver = Arc::clone(&readers);
        let waiting = &waiting;
        scope.spawn(move || {
            if let Some(wire) = keep_door(config, held, &giver) {
                *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(wire);
                drop(give);
            } else {
                // The pipe stays open, or it would mean the end.
                loop {
                    thread::park();
                }
            }
        });
        if wait_for_end(&start, &given, &parts.control) {
            // What waits is the next host's: nothing is decided here any more, and the names are wanted.
            for pair in &held.pairs {
                pair.questions.answers.wait_for_writer();
            }
            drop(names);
            if let Some(wire) = &*waiting.lock().unwrap_or_else(PoisonError::into_inner) {
                // Whoever does not hear it sees the end of this process.
                wire.send(&Frame::Gone, &[]).ok();
            }
            end_process(EXIT_HANDED_OVER)
        }
        // Threads that read or follow end with the process; everything else is put away in order.
        drop(scanners);
        for pair in &held.pairs {
            pair.questions.answers.end(&pair.questions);
        }
        parts.services.stop();
        parts.decider.close_log();
        drop(names);
        end_process(0)
    })
}

/// Marks what is guarded, and tells so.
fn guard(start: &Start<'_>, parts: &Parts, threads: ReaderThreads) -> Result<(), String> {
    let (config, held) = (start.config, start.held);
    let fresh = start.is_fresh();
    let guards = mark(&held.guarded, fresh, config.many_directories)?;
    let helpers = Helpers {
        start_readers: Box::new(move |place| threads.start(place)),
        events: Some(Arc::clone(&parts.events)),
        notifier: held.notifier.clone(),
        roots: Arc::clone(&parts.notices.roots),
    };
    let volumes = Arc::new(Volumes::new(held, config, helpers));
    if !config.mounts {
        let count = volumes.give_up_inherited();
        if count > 0 {
            say(format_args!(
                "{count} filesystems that the host before this one guarded are NOT guarded any more: --no-mounts"
            ));
        }
    } else if let Err(error) = volumes.start() {
        if fresh {
            return Err(format!("{error} (--no-mounts guards without that)"));
        }
        say(error);
    }
    let control = &parts.control;
    control.volumes.set(Arc::clone(&volumes)).ok();
    *control
        .guards
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = guards.clone();
    parts.events.started(Started {
        instance: config.instance.clone(),
        worker: std::process::id(),
        guards,
        strict: config.is_strict(),
        monitor: config.monitor,
        deadline_ms: config.policies.deadline.as_millis(),
    });
    volumes.announce();
    if let Some(settled) = start.settled {
        parts.events.tell(&Event::Worker {
            state: "restarted",
            settled,
        });
    }
    Ok(())
}

/// Runs a process that marks new directories and filesystems, while the supervisor answers by policy; it ends when it is
/// killed.
pub(crate) fn follow_only(
    held: &Held,
    config: &Config,
    lifeline: OwnedFd,
    parents_end: RawFd,
) -> i32 {
    close_number(parents_end);
    rustix::thread::set_name(c"flthostd-follow").ok();
    // It has the groups too, which nobody reads then: also one that is stopped must not outlive the supervisor.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
    let helpers = Helpers {
        // The supervisor reads all pairs by itself now.
        start_readers: Box::new(|_| Ok(())),
        events: None,
        notifier: held.notifier.clone(),
        roots: Arc::default(),
    };
    if config.mounts
        && let Err(error) = Arc::new(Volumes::new(held, config, helpers)).start()
    {
        say(error);
    }
    // It must not outlive a supervisor that dies, and reads nothing.
    thread::scope(|scope| {
        for guarded in &held.guarded {
            scope.spawn(move || keep_following(guarded));
        }
        while !is_at_end(&lifeline) {}
        end_process(0)
    })
}

/// Forgets, now and then, what nothing else would.
fn keep_tidy(held: &Held, stack: &Stack) -> ! {
    loop {
        thread::sleep(TIDY);
        held.pairs.iter().for_each(|pair| pair.forget_past());
        stack.tidy();
    }
}

/// Waits until the worker is to end; whether that is because the next host has everything. A supervisor that dies does
/// not end it: it goes on, and the lifeline and the signals that the supervisor would have obeyed count here.
fn wait_for_end(start: &Start<'_>, given: &OwnedFd, control: &Control) -> bool {
    let mut supervised = true;
    let input = rustix::stdio::stdin();
    loop {
        let mut fds = Vec::with_capacity(3);
        if supervised {
            fds.push(PollFd::new(&start.told, PollFlags::IN));
        } else {
            fds.push(PollFd::new(start.signals, PollFlags::IN));
        }
        // The supervisor watches the lifeline; without it this process does.
        if !supervised && start.config.lifeline {
            fds.push(PollFd::new(&input, PollFlags::IN));
        }
        fds.push(PollFd::new(given, PollFlags::IN));
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready.pop() == Some(true) {
            return true;
        }
        if !supervised {
            let told = ready.first() == Some(&true) && told_by_signal(start.signals).is_some();
            if told || (ready.get(1) == Some(&true) && is_at_end(input)) {
                return false;
            }
            continue;
        }
        if !is_at_end(&start.told) {
            return false;
        }
        say("the supervisor has died; the worker goes on without it");
        control.supervisor.store(0, Ordering::Relaxed);
        supervised = false;
    }
}

/// The process that has forked this one.
fn supervisor() -> u32 {
    let parent = rustix::process::getppid();
    parent.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
}

/// Ends the process from inside the scope whose threads end only with it.
fn end_process(code: i32) -> ! {
    #[expect(
        clippy::exit,
        reason = "threads that wait for the kernel cannot be joined"
    )]
    std::process::exit(code)
}

/// Closes this process's copy of a descriptor that is the supervisor's.
fn close_number(number: RawFd) {
    crate::supervisor_os::close(number);
}

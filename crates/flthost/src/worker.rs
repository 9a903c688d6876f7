//! The process that does the work: reads operations, takes them through the filters, asks services, answers.
//!
//! Start: readers first (a restarted worker has operations waiting, perhaps its own), then ports, then the scanner, then
//! the marks; listeners are told that the host guards when all of it is there. End: marks stay with the groups, which the supervisor holds.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use fltport::{Access, PortHandler, ServerPort};
use rustix::event::{PollFd, PollFlags, poll};

use crate::cache::Cache;
use crate::config::Config;
use crate::control::{Control, ControlHandler};
use crate::decision::Decider;
use crate::events::{Event, Events, EventsHandler, Started};
use crate::exempt::Exempt;
use crate::explain::Watched;
use crate::filters::{Cached, Mute, Trace};
use crate::giving::keep_door;
use crate::halt::Halt;
use crate::handover::{Frame, remove_door};
use crate::lingering;
use crate::marking::{keep_following, mark};
use crate::mutes::Mutes;
use crate::names::Names;
use crate::notice::Notices;
use crate::pulse::Pulse;
use crate::reader::{ReaderThreads, Readers};
use crate::say::say;
use crate::services::{Services, start_scanner, wait_for_scanner};
use crate::stack::Stack;
use crate::start::{Held, lock_memory};
use crate::supervisor_os::{Child, is_at_end, told_by_signal};
use crate::taking::Handed;
use crate::volumes::{Helpers, Volumes};

/// What a worker begins with.
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    pub(crate) held: &'a Held,
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

/// Makes a panic of any thread the end of this process. A thread that answers operations and ends alone would leave
/// them waiting; the supervisor, which sees only processes, decides them and starts the next worker.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Ends this process because a part of it can do its work no more; the supervisor goes on as after a crash.
pub(crate) fn fail(why: impl std::fmt::Display) -> ! {
    say(why);
    std::process::abort()
}

fn serve(start: Start<'_>, handed: Handed) -> Result<(), String> {
    close_number(start.parents_end);
    let config = start.config;
    let (held, journal) = (start.held, start.held.journal);
    // Nothing is guarded yet: what cannot be done ends the start, and harms nobody.
    let fresh = start.settled.is_none() && !config.take_over;
    lock_memory();
    let cache = Arc::new(Cache::new(config.cache_mode(), held.pairs.clone()));
    let events = Arc::new(Events::default());
    let decider = Arc::new(Decider::new(
        config.policies,
        config.monitor,
        Arc::clone(&cache),
        events.heard(),
    ));
    let exempt = Arc::new(Exempt::new());
    let remote = held.pairs.iter().any(|pair| pair.slow);
    let services = Services::new(config, &cache, remote)
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let services = Arc::new(services);
    let trace = Arc::new(Trace::default());
    let mutes = Arc::new(Mutes::new(config.mutes.iter().cloned()));
    let mute = Arc::new(Mute::new(Arc::clone(&mutes)));
    let mut filters = config.filters.clone();
    filters.extend([
        Arc::clone(&trace) as _,
        mute as _,
        Arc::new(Cached::new(Arc::clone(&cache), config.cached_altitude())) as _,
    ]);
    filters.extend(services.filters(config));
    let stack = Arc::new(Stack::new(filters));
    let notices = Arc::new(Notices::default());
    let control = Arc::new(Control {
        config: config.clone(),
        decider: Arc::clone(&decider),
        stack: Arc::clone(&stack),
        services: Arc::clone(&services),
        trace,
        supervisor: AtomicU32::new(supervisor()),
        volumes: OnceLock::new(),
        notifier: held.notifier.clone(),
        notices: Arc::clone(&notices),
        mutes: Arc::clone(&mutes),
        watched: held.guarded.iter().map(Watched::of).collect(),
        guards: Mutex::default(),
        ports: Mutex::default(),
    });

    let room = held.descriptors.saturating_sub(held.reserved());
    let pulse = Arc::new(Pulse::new());
    stack.watch(Arc::clone(&pulse));
    services.watch(&pulse);
    let beating = (
        Arc::clone(&pulse),
        Arc::clone(&decider),
        Arc::clone(&cache),
        Arc::clone(&services),
        Arc::clone(&mutes),
        held.pairs.clone(),
    );
    spawn("pulse", move || {
        let (pulse, decider, cache, services, mutes, pairs) = beating;
        pulse.beat(journal, || {
            decider.touch();
            cache.touch();
            services.touch();
            mutes.touch();
            pairs.iter().for_each(|pair| pair.questions.answers.touch());
        })
    })?;
    let readers = Arc::new(Readers {
        decider: Arc::clone(&decider),
        stack: Arc::clone(&stack),
        exempt: Arc::clone(&exempt),
        cache,
        next_id: AtomicU64::new(1),
        room: usize::try_from(room).unwrap_or(usize::MAX),
        events: Arc::clone(&events),
        names: Names::start().map_err(|error| format!("cannot start a thread: {error}"))?,
        mounts: Arc::default(),
        journal,
        defaults: config.crash_defaults(),
        halt: Halt::new().map_err(|error| format!("cannot make a pipe: {error}"))?,
        running: AtomicUsize::new(0),
    });
    let returns = config.take_over && start.settled.is_none();
    services.expect(returns);
    // What an earlier worker has sent to the group of questions may be on its way.
    if start.settled.is_some() || returns {
        held.pairs.iter().for_each(|pair| pair.keep_nothing_out());
    }
    // Before anything else takes their numbers.
    for (pair, role, event) in handed.place(held, readers.defaults) {
        readers.handle(event, &pair, role);
    }
    let logged = (Arc::clone(&events), Arc::clone(&decider));
    let kept = (Arc::clone(&mutes), Arc::clone(&events));
    spawn("mutes", move || kept.0.keep(&kept.1))?;
    spawn("log", move || logged.0.log(&logged.1))?;
    // Before anything else is opened: marks of an earlier worker may cover it, and its question would wait for readers.
    let threads = ReaderThreads {
        readers: Arc::clone(&readers),
        pairs: held.pairs.clone(),
        pulse: Arc::clone(&pulse),
        read: Mutex::default(),
    };
    let mut used = (0..held.pairs.len()).filter(|place| held.is_used(*place));
    used.try_for_each(|place| threads.start(place))?;
    if let Some(notifier) = held.notifier.clone() {
        for guarded in &held.guarded {
            let dir = guarded.target.as_fd().try_clone_to_owned();
            notices
                .roots
                .hold(dir.map_err(|error| format!("cannot copy a descriptor: {error}"))?);
        }
        let (again, stack) = (start.settled.is_some(), Arc::clone(&stack));
        let notices = Arc::clone(&notices);
        spawn("notices", move || {
            notices.keep_telling(&notifier, &stack, again)
        })?;
    }

    let lingering = start.lingering.iter().flatten();
    lingering.for_each(|child| lingering::strip(child.pid));
    let names = PortNames(&control);
    let mut counters = Vec::new();
    for counter in services.counters() {
        let granted = counter.grant_mutes.then(|| Arc::clone(&mutes));
        let handler = counter.ask.handler(granted);
        let port = listen(config, &control, &counter.leaf, 16, handler)?;
        counters.push((counter, port));
    }
    let _events = listen(
        config,
        &control,
        "events",
        16,
        EventsHandler(Arc::clone(&events)),
    )?;
    let _control = listen(
        config,
        &control,
        "control",
        16,
        ControlHandler(Arc::clone(&control)),
    )?;

    let mut scanners = Vec::new();
    for (counter, port) in &counters {
        let scanner = start_scanner(config, counter, port, &exempt, &events)?;
        scanners.extend(scanner.map(|scanner| (counter, scanner)));
    }
    if fresh {
        scanners
            .iter()
            .try_for_each(|(counter, scanner)| wait_for_scanner(&counter.ask, scanner))?;
    }
    if returns {
        let services = Arc::clone(&services);
        spawn("returns", move || {
            thread::sleep(RETURN);
            services.expect_no_more();
        })?;
    }
    let guards = mark(&held.guarded, fresh, config.many_directories)?;
    let helpers = Helpers {
        start_readers: Box::new(move |place| threads.start(place)),
        events: Some(Arc::clone(&events)),
        notifier: held.notifier.clone(),
        roots: Arc::clone(&notices.roots),
    };
    let volumes = Arc::new(Volumes::new(held, config, helpers));
    if config.mounts
        && let Err(error) = volumes.start()
    {
        if fresh {
            return Err(format!("{error} (--no-mounts guards without that)"));
        }
        say(error);
    }
    control.volumes.set(Arc::clone(&volumes)).ok();
    *control
        .guards
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = guards.clone();
    events.started(Started {
        instance: config.instance.clone(),
        worker: std::process::id(),
        guards,
        strict: config.policies
            == crate::policy::Policies {
                deadline: config.policies.deadline,
                ..crate::policy::Policies::strict()
            },
        monitor: config.monitor,
        deadline_ms: config.policies.deadline.as_millis(),
    });
    volumes.announce();
    if let Some(settled) = start.settled {
        events.tell(&Event::Worker {
            state: "restarted",
            settled,
        });
    }
    // The next host, which waits to hear that this one is gone.
    let waiting = Mutex::new(None);
    thread::scope(|scope| {
        for guarded in &held.guarded {
            scope.spawn(move || keep_following(guarded));
        }
        scope.spawn(|| keep_tidy(held, &stack));
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
        if wait_for_end(&start, &given, &control) {
            // What waits is the next host's: nothing is decided here any more, and the names are wanted.
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
        services.stop();
        decider.close_log();
        drop(names);
        end_process(0)
    })
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
        held.pairs.iter().for_each(|pair| pair.forget_dead());
        stack.tidy();
    }
}

/// The names of this host's ports, which are given back when it ends, also where it ends before it guards.
struct PortNames<'a>(&'a Control);

impl Drop for PortNames<'_> {
    fn drop(&mut self) {
        remove_door(&self.0.config);
        let ports = self.0.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, port) in ports.iter() {
            port.close();
        }
    }
}

fn listen<H: PortHandler>(
    config: &Config,
    control: &Control,
    leaf: &str,
    most: u32,
    handler: H,
) -> Result<Arc<ServerPort>, String> {
    let (name, leaf) = (config.port_name(leaf), leaf.to_owned());
    let mut builder = ServerPort::builder(&name)
        .access(Access::host_only(rustix::process::geteuid().as_raw()))
        .max_connections(most)
        .notice(move |notice| say(format_args!("port {leaf}: {notice}")));
    if let Some(directory) = &config.port_directory {
        builder = builder.directory(directory);
    }
    let port = Arc::new(
        builder
            .listen(handler)
            .map_err(|error| format!("port {name}: {error}"))?,
    );
    let mut ports = control.ports.lock().unwrap_or_else(PoisonError::into_inner);
    ports.push((name, Arc::clone(&port)));
    Ok(port)
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

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread
        .map(drop)
        .map_err(|error: io::Error| format!("cannot start a thread: {error}"))
}

/// Closes this process's copy of a descriptor that is the supervisor's.
fn close_number(number: RawFd) {
    crate::supervisor_os::close(number);
}

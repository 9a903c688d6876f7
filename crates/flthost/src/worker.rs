//! The process that does the work: reads operations, takes them through the filters, asks services, answers.
//!
//! Start: readers first (a restarted worker has operations waiting, perhaps its own), then ports, then the scanner, then
//! the marks; listeners are told that the host guards when all of it is there. End: marks stay with the groups, which the supervisor holds.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fltport::{Access, PortHandler, ServerPort};
use rustix::event::{PollFd, PollFlags, poll};

use crate::config::Config;
use crate::control::{Control, ControlHandler};
use crate::decision::{Decider, RING};
use crate::events::{Event, Events, EventsHandler, Guard, Started};
use crate::exempt::Exempt;
use crate::fanotify;
use crate::filters::{Ask, Exclude, Trace};
use crate::guarded::Guarded;
use crate::marks::{MarkedTree, TargetKind, TreeError, follow, mark_tree};
use crate::names::{NameSlot, Names};
use crate::operation::{Operation, Pended, Verdict};
use crate::policy::Cause;
use crate::say::say;
use crate::scanner::{Scanner, scanner_uid};
use crate::stack::Stack;
use crate::supervisor_os::{is_at_end, is_told_by_signal};

/// What a worker begins with.
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    pub(crate) guarded: &'a [Guarded],
    /// Readable when the worker is to end; at its end when the supervisor has died.
    pub(crate) told: OwnedFd,
    /// The number of the supervisor's own end of it, which this process has a copy of.
    pub(crate) parents_end: RawFd,
    /// Readable when a signal has come to this process.
    pub(crate) signals: &'a OwnedFd,
    pub(crate) descriptors: u32,
    /// Set on a restart: operations of the dead worker that were decided by policy.
    pub(crate) settled: Option<u64>,
}

/// Exit code of a worker that could not start and has said why: starting it again would not help.
pub(crate) const EXIT_CANNOT_START: i32 = 3;

/// Events that one read may install descriptors for.
const BATCH: usize = 64;

/// Descriptors that are not for pending operations: the log's ring, ports, services, a walk through a tree.
const RESERVED: usize = RING + 1_024;

/// How long the first start waits for the scanner before it guards without one.
const SCANNER_WAIT: Duration = Duration::from_secs(30);

/// What the reading threads share.
#[derive(Debug)]
struct Host {
    decider: Arc<Decider>,
    stack: Arc<Stack>,
    exempt: Arc<Exempt>,
    next_id: AtomicU64,
    room: usize,
    events: Arc<Events>,
    names: Names,
}

/// Runs the worker; gives its exit code.
pub(crate) fn run(start: Start<'_>) -> i32 {
    rustix::thread::set_name(c"flthostd-worker").ok();
    abort_on_panic();
    match serve(start) {
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
fn fail(why: impl std::fmt::Display) -> ! {
    say(why);
    std::process::abort()
}

fn serve(start: Start<'_>) -> Result<(), String> {
    close_number(start.parents_end);
    let config = start.config;
    let decider = Arc::new(Decider::new(config.policies, config.monitor));
    let exempt = Arc::new(Exempt::new());
    let events = Arc::new(Events::default());
    let ask = Ask::new().map_err(|error| format!("cannot start a thread: {error}"))?;
    let trace = Arc::new(Trace::default());
    let exclude = Arc::new(Exclude::new(config.excludes.clone()));
    let mut filters = config.filters.clone();
    filters.extend([
        Arc::clone(&trace) as _,
        exclude as _,
        Arc::new(ask.clone()) as _,
    ]);
    let stack = Arc::new(Stack::new(filters));
    let control = Arc::new(Control {
        config: config.clone(),
        decider: Arc::clone(&decider),
        stack: Arc::clone(&stack),
        ask: ask.clone(),
        trace,
        guards: Mutex::default(),
        ports: Mutex::default(),
    });

    let descriptors = usize::try_from(start.descriptors).unwrap_or(usize::MAX);
    let room = descriptors.saturating_sub(RESERVED + BATCH * start.guarded.len());
    let host = Arc::new(Host {
        decider: Arc::clone(&decider),
        stack,
        exempt: Arc::clone(&exempt),
        next_id: AtomicU64::new(1),
        room,
        events: Arc::clone(&events),
        names: Names::start().map_err(|error| format!("cannot start a thread: {error}"))?,
    });
    let logged = (Arc::clone(&events), Arc::clone(&decider));
    spawn("log", move || logged.0.log(&logged.1))?;
    // Before anything else is opened: marks of an earlier worker may cover it, and its question would wait for readers.
    ask.expect_service(config.scanner.is_some());
    start_readers(&host, start.guarded)?;

    let names = PortNames(&control);
    let scan = listen(config, &control, "scan", 16, ask.handler())?;
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

    let scanner = match &config.scanner {
        Some(program) => Some(start_scanner(
            config, program, &scan, &ask, &exempt, &events,
        )?),
        None => None,
    };
    if let Some(scanner) = scanner.as_ref().filter(|_| start.settled.is_none()) {
        wait_for_service(&ask, scanner)?;
    }
    let guards = mark(start.guarded, start.settled.is_none())?;
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
    if let Some(settled) = start.settled {
        events.tell(&Event::Worker {
            state: "restarted",
            settled,
        });
    }
    thread::scope(|scope| {
        for guarded in start.guarded {
            scope.spawn(move || keep_following(guarded));
        }
        wait_for_end(&start);
        // Threads that read or follow end with the process; everything else is put away in order.
        drop(scanner);
        ask.stop();
        decider.close_log();
        drop(names);
        end_process()
    })
}

/// The names of this host's ports, which are given back when it ends, also where it ends before it guards.
struct PortNames<'a>(&'a Control);

impl Drop for PortNames<'_> {
    fn drop(&mut self) {
        let ports = self.0.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, port) in ports.iter() {
            port.close();
        }
    }
}

fn listen<H: PortHandler>(
    config: &Config,
    control: &Control,
    leaf: &'static str,
    most: u32,
    handler: H,
) -> Result<Arc<ServerPort>, String> {
    let name = config.port_name(leaf);
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

fn start_readers(host: &Arc<Host>, guarded: &[Guarded]) -> Result<(), String> {
    let mut started: Vec<&Arc<fanotify::Group>> = Vec::new();
    for Guarded { group, .. } in guarded {
        if started.iter().any(|other| Arc::ptr_eq(other, group)) {
            continue;
        }
        started.push(group);
        let (host, group) = (Arc::clone(host), Arc::clone(group));
        spawn("reader", move || host.read(&group))?;
    }
    Ok(())
}

fn start_scanner(
    config: &Config,
    program: &std::path::Path,
    port: &Arc<ServerPort>,
    ask: &Ask,
    exempt: &Arc<Exempt>,
    events: &Arc<Events>,
) -> Result<Scanner, String> {
    let uid = if rustix::process::geteuid().is_root() {
        scanner_uid().map_err(|error| format!("cannot choose a user for the scanner: {error}"))?
    } else {
        rustix::process::geteuid().as_raw()
    };
    let (port, exempt, events) = (Arc::clone(port), Arc::clone(exempt), Arc::clone(events));
    Scanner::start(
        program.to_path_buf(),
        config.rules.clone(),
        uid,
        port,
        ask.clone(),
        exempt,
        events,
    )
    .map_err(|error| format!("cannot start the scanner: {error}"))
}

/// Waits until the first scanner is connected. One that cannot use its rules ends the start; one that is only slow, or
/// cannot be run at all, does not.
fn wait_for_service(ask: &Ask, scanner: &Scanner) -> Result<(), String> {
    let end = Instant::now() + SCANNER_WAIT;
    while ask.load().0 == 0 && ask.expects_service() && Instant::now() < end {
        if scanner.gave_up() {
            return Err("the scanner cannot start; it says why above".to_owned());
        }
        thread::sleep(Duration::from_millis(2));
    }
    if ask.load().0 == 0 {
        say("the scanner is not ready yet; guarding by policy until it is");
    }
    Ok(())
}

/// Marks what is guarded. A restarted worker finds the marks of the first: what fails then is said, and guarding goes on.
fn mark(guarded: &[Guarded], first: bool) -> Result<Vec<Guard>, String> {
    let mut guards = Vec::new();
    for Guarded {
        target,
        group,
        watch,
    } in guarded
    {
        let kind = match target.kind() {
            TargetKind::Filesystem => "filesystem",
            TargetKind::Directory => "directory",
        };
        let marked = match mark_tree(&[group], watch, target) {
            Ok(marked) => marked,
            Err(error) => {
                let text = format!("cannot guard {}: {error}", target.path().display());
                if first {
                    return Err(text);
                }
                say(text);
                MarkedTree::default()
            }
        };
        guards.push(Guard {
            path: target.path().display().to_string(),
            kind,
            directories: marked.directories,
        });
    }
    Ok(guards)
}

/// Marks new directories for as long as the process lives.
fn keep_following(guarded: &Guarded) {
    loop {
        match poll(&mut [PollFd::new(&guarded.watch, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => fail(format_args!("cannot wait for new directories: {error}")),
        }
        match follow(&[&guarded.group], &guarded.watch, &guarded.target) {
            Ok(_) => {}
            Err(error @ TreeError::Watch(_)) => {
                fail(format_args!("new directories are no longer seen: {error}"));
            }
            Err(error) => {
                say(format_args!("a directory is not guarded: {error}"));
                mark_again(guarded);
            }
        }
    }
}

/// What was to be marked is known only by looking: marks the whole tree, until that succeeds, ever more rarely.
fn mark_again(guarded: &Guarded) {
    let mut pause = Duration::from_secs(1);
    loop {
        thread::sleep(pause);
        if mark_tree(&[&guarded.group], &guarded.watch, &guarded.target).is_ok() {
            return say("all directories are guarded again");
        }
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// Waits until the worker is to end. A supervisor that dies does not end it: it goes on, and the lifeline and the
/// signals that the supervisor would have obeyed count here.
fn wait_for_end(start: &Start<'_>) {
    let mut supervised = true;
    let input = rustix::stdio::stdin();
    loop {
        let mut fds = Vec::with_capacity(2);
        if supervised {
            fds.push(PollFd::new(&start.told, PollFlags::IN));
        } else {
            fds.push(PollFd::new(start.signals, PollFlags::IN));
        }
        // The supervisor watches the lifeline; without it this process does.
        if !supervised && start.config.lifeline {
            fds.push(PollFd::new(&input, PollFlags::IN));
        }
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if !supervised {
            let told = ready.first() == Some(&true) && is_told_by_signal(start.signals);
            if told || (ready.get(1) == Some(&true) && is_at_end(input)) {
                return;
            }
            continue;
        }
        if !is_at_end(&start.told) {
            return;
        }
        say("the supervisor has died; the worker goes on without it");
        supervised = false;
    }
}

/// Ends the process from inside the scope whose threads end only with it.
fn end_process() -> ! {
    #[expect(
        clippy::exit,
        reason = "threads that wait for the kernel cannot be joined"
    )]
    std::process::exit(0)
}

impl Host {
    /// Reads one group's operations for as long as the process lives.
    fn read(self: Arc<Self>, group: &Arc<fanotify::Group>) {
        let mut buffer = fanotify::EventBuffer::with_capacity(BATCH);
        let default = self.decider.default_response();
        loop {
            match poll(&mut [PollFd::new(group, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => fail(format_args!("cannot wait for operations: {error}")),
            }
            match group.read(&mut buffer, default) {
                Ok(batch) => batch.for_each(|event| self.handle(event)),
                Err(error) => fail(format_args!("cannot read operations: {error}")),
            }
        }
    }

    fn handle(&self, event: fanotify::Event) {
        let (operation, pid, permission) = match event {
            fanotify::Event::Permission {
                operation,
                pid,
                permission,
            } => (operation, pid, permission),
            fanotify::Event::Unopenable { .. } => return self.decider.unopenable(),
            // Whoever is behind it waits for an answer that this process cannot give; a sweep can.
            fanotify::Event::Malformed => fail("the kernel tells of operations in an unknown form"),
            _ => return,
        };
        if pid.is_some_and(|pid| self.exempt.covers(pid)) {
            return self.decider.exempt(permission);
        }
        let full = self.decider.pending() >= self.room;
        self.decider.begin();
        let started = Instant::now();
        let operation = Operation {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            kind: operation,
            pid,
            started,
            deadline: started + self.decider.policies().deadline,
            file: Arc::clone(permission.shared_file()),
            name: NameSlot::default(),
        };
        let name = Arc::clone(&operation.name);
        let pended = Pended::new(
            operation,
            permission,
            Arc::clone(&self.decider),
            Arc::clone(&self.stack),
        );
        if full {
            return pended.complete_by_policy(Cause::Overload, "too many operations are pending");
        }
        self.stack.run(pended, Verdict::allow(Cause::Filter));
        // After the question has gone out, and only for somebody who listens.
        if let Some(pid) = pid.filter(|_| self.events.is_heard()) {
            self.names.look_up(pid, &name);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread
        .map(drop)
        .map_err(|error: io::Error| format!("cannot start a thread: {error}"))
}

/// Closes this process's copy of a descriptor that is the supervisor's.
fn close_number(number: RawFd) {
    crate::supervisor_os::close(number);
}

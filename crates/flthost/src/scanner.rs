//! Keeps one scanning service running: started by the host, as a user of its own, with a connected socket and nothing
//! else. When it ends it is started again; when it ends again and again, questions no longer wait for it.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fltport::ServerPort;
use rustix::event::PollFlags;
use rustix::process::{Signal, pidfd_send_signal};

use crate::events::{Event, Events};
use crate::exempt::Exempt;
use crate::filters::Ask;
use crate::polling::is_ready;
use crate::say::say;
use crate::supervisor_os::{Child, Program, reap, spawn};

/// Keeps a scanner running until it is stopped.
#[derive(Debug)]
pub struct Scanner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    rules: Option<PathBuf>,
    uid: u32,
    port: Arc<ServerPort>,
    ask: Ask,
    exempt: Arc<Exempt>,
    events: Arc<Events>,
    stop: Mutex<bool>,
    stopping: Condvar,
    pid: AtomicU32,
    /// It ended by itself with an error that it has told: it cannot use what it was given.
    gave_up: AtomicBool,
}

/// Starts within this time that count as failing again and again.
const WINDOW: Duration = Duration::from_secs(10);

/// Starts in a window before questions stop waiting and starts become rare.
const BUDGET: usize = 8;

/// Pause between starts once the budget is used up.
const PAUSE: Duration = Duration::from_secs(1);

/// The number under which the scanner finds its socket; its rules follow.
const SOCKET: i32 = 3;

impl Scanner {
    /// Starts to keep a scanner running as `uid`, connected to `port`.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn start(
        program: PathBuf,
        rules: Option<PathBuf>,
        uid: u32,
        port: Arc<ServerPort>,
        ask: Ask,
        exempt: Arc<Exempt>,
        events: Arc<Events>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            program,
            rules,
            uid,
            port,
            ask,
            exempt,
            events,
            stop: Mutex::new(false),
            stopping: Condvar::new(),
            pid: AtomicU32::new(0),
            gave_up: AtomicBool::new(false),
        });
        shared.ask.expect_service(true);
        let keeper = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("scanner".into())
            .spawn(move || keeper.keep())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The scanner's process, zero while there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.pid.load(Ordering::Relaxed)
    }
}

impl Scanner {
    /// Whether a scanner has ended with an error of its own, such as rules that do not compile, and said so.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        self.shared.gave_up.load(Ordering::Relaxed)
    }
}

impl Drop for Scanner {
    /// Ends the scanner and waits for it.
    fn drop(&mut self) {
        self.shared.ask.expect_service(false);
        *self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stopping.notify_all();
        // The scanner ends when its connection does.
        self.shared
            .port
            .connections()
            .iter()
            .for_each(fltport::ClientPort::close);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn keep(&self) {
        let mut starts: Vec<Instant> = Vec::new();
        let mut said: Option<String> = None;
        while !self.is_stopping() {
            starts.retain(|start| start.elapsed() < WINDOW);
            if starts.len() >= BUDGET {
                self.ask.expect_service(false);
                self.pause(PAUSE);
            }
            starts.push(Instant::now());
            self.events.tell(&Event::Service {
                state: "starting",
                pid: None,
            });
            match self.run() {
                Ok(child) => self.watch(child),
                Err(error) => {
                    let text = format!("cannot start {}: {error}", self.program.display());
                    // It is tried for as long as the host lives, and said once.
                    if said.as_ref() != Some(&text) {
                        say(&text);
                        said = Some(text);
                    }
                    self.ask.expect_service(false);
                    self.pause(PAUSE);
                }
            }
        }
    }

    fn run(&self) -> io::Result<Child> {
        let mut descriptors = vec![(self.port.offer()?, SOCKET)];
        let mut arguments = vec!["--connect-fd".to_owned(), SOCKET.to_string()];
        for (number, (name, file)) in (SOCKET + 1..).zip(open_rules(self.rules.as_deref())?) {
            descriptors.push((file, number));
            arguments.push("--rules-fd".to_owned());
            arguments.push(format!("{number}={name}"));
        }
        let program = Program::open(&self.program, &arguments)?;
        let registered = Cell::new(None);
        let spawned = spawn(&program, self.uid, &descriptors, |child| {
            self.exempt.add(child.pid, child.pidfd.try_clone()?);
            registered.set(Some(child.pid));
            Ok(())
        });
        if let (Err(_), Some(pid)) = (&spawned, registered.get()) {
            self.exempt.remove(pid);
        }
        spawned
    }

    /// Waits until the scanner has ended. One that does not end when it is told to is killed.
    fn watch(&self, child: Child) {
        let pid = u32::try_from(child.pid.as_raw_nonzero().get()).unwrap_or(0);
        self.pid.store(pid, Ordering::Relaxed);
        let mut told = None;
        loop {
            if is_ready(&child.pidfd, PollFlags::IN, SLICE) == Ok(true) {
                break;
            }
            if self.is_stopping() && told.get_or_insert_with(Instant::now).elapsed() > PAUSE {
                // Fails only where it has ended meanwhile.
                pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
            }
        }
        self.exempt.remove(child.pid);
        self.pid.store(0, Ordering::Relaxed);
        let code = reap(child.pid);
        if !self.is_stopping() {
            self.ask.expect_service(true);
            self.events.tell(&Event::Service {
                state: "died",
                pid: Some(pid),
            });
            if code == 1 {
                self.gave_up.store(true, Ordering::Relaxed);
                // It has said why on standard error; starting it again at once would say it again.
                self.pause(PAUSE);
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, time: Duration) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.stopping.wait_timeout_while(stop, time, |stop| !*stop);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Opens the rules for the scanner, which may not open paths itself. This side never looks into them.
fn open_rules(path: Option<&Path>) -> io::Result<Vec<(String, OwnedFd)>> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
        files = entries.collect::<Result<_, _>>()?;
        files.retain(|file| is_rules(file));
        files.sort();
    }
    if files.is_empty() || files.len() > RULES_MAX {
        let text = format!(
            "{} has {} rules files; between 1 and {RULES_MAX} are needed",
            path.display(),
            files.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    files
        .into_iter()
        .map(|file| {
            let open = open_regular(&file).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            });
            Ok((file.display().to_string(), open?))
        })
        .collect()
}

/// Opens a file without waiting: a pipe under this name would never open.
fn open_regular(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{FileType, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// How long the scanner is waited for before it is looked whether it was told to end.
const SLICE: Duration = Duration::from_millis(100);

/// Rules files that a directory may have: each is a descriptor of the scanner's.
const RULES_MAX: usize = 48;

fn is_rules(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && file
            .extension()
            .is_some_and(|extension| extension == "yar" || extension == "yara")
}

/// The user that scanners run as: `fltscan` if there is such a user, else one of 61184-65519 that nobody has.
///
/// # Errors
/// The system's, when the users or the processes cannot be read.
pub fn scanner_uid() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt;
    let users = std::fs::read_to_string("/etc/passwd")?;
    let users = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let users: Vec<_> = users.collect();
    if let Some((_, uid)) = users.iter().find(|(name, _)| *name == "fltscan") {
        return Ok(*uid);
    }
    let mut taken: Vec<u32> = users.into_iter().map(|(_, uid)| uid).collect();
    for entry in std::fs::read_dir("/proc")? {
        // A process that ends meanwhile takes no user.
        taken.extend(entry?.metadata().map(|metadata| metadata.uid()).ok());
    }
    let free = (61_184..=65_519).find(|uid| !taken.contains(uid));
    free.ok_or_else(|| io::Error::other("all user ids from 61184 to 65519 are in use"))
}

//! A tmpfs of its own for each test, helper processes that open files, and a watchdog. `host` has a whole `flthostd`,
//! `crowd` many openers in one process, `daemon` a FUSE filesystem, `strict` a host that denies what it asks about.
#![allow(dead_code)] // every test file uses its own part of this

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use flthost::fanotify::{
    Class, DenyErrno, Event, EventBuffer, Group, Operation, Permission, Response,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

pub(crate) mod crowd;
pub(crate) mod daemon;
pub(crate) mod fuse;
pub(crate) mod host;
pub(crate) mod server;
pub(crate) mod strict;

/// One test's place: a tmpfs at `root`, gone when this is dropped. Tests run one after the other,
/// because some of them look at the descriptors of this process.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    _watchdog: Sender<()>,
    dir: TempDir,
    _serial: MutexGuard<'static, ()>,
}

impl Place {
    /// Nothing, after a line that says why, where fanotify cannot be used.
    pub(crate) fn new() -> Option<Self> {
        Self::lasting(40)
    }

    /// As [`Self::new`], for a test that may take this many seconds.
    pub(crate) fn lasting(seconds: u64) -> Option<Self> {
        static SERIAL: Mutex<()> = Mutex::new(());
        let serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = Group::probe() {
            println!("skipped: {why}");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("fs");
        fs::create_dir(&root).unwrap();
        if !run(
            "mount",
            ["-t", "tmpfs", "-o", "size=1g", "none", text(&root)],
        ) {
            println!("skipped: cannot mount a tmpfs");
            return None;
        }
        let (_watchdog, end) = channel();
        thread::spawn(move || watch(&end, Duration::from_secs(seconds)));
        Some(Self {
            root,
            _watchdog,
            dir,
            _serial: serial,
        })
    }

    /// A directory that is not guarded.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "content").unwrap();
        path
    }

    /// A group of this class that asks for everything on the tmpfs.
    pub(crate) fn group(&self, class: Class) -> Arc<Group> {
        let group = Arc::new(Group::new(class).unwrap());
        group.mark_filesystem(open(&self.root).as_fd()).unwrap();
        group
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        run("umount", ["-R", "-l", text(&self.root)]);
    }
}

/// Ends the process, and with it every wait for one of its groups, when a test takes too long.
fn watch(end: &Receiver<()>, limit: Duration) {
    if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        // Not by a macro, whose words the harness would keep to itself.
        let words = b"a test hangs: the watchdog ends all of them\n";
        rustix::io::write(rustix::stdio::stderr(), words).ok();
        std::process::abort();
    }
}

pub(crate) fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a str>) -> bool {
    Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Mounts an overlay at `merged`; says so where that does not work.
pub(crate) fn overlay(lower: &Path, upper: &Path, work: &Path, merged: &Path) -> bool {
    let [lower, upper, work] = [lower, upper, work].map(text);
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let arguments = ["-t", "overlay", "-o", &options, "none", text(merged)];
    let mounted = run("mount", arguments);
    if !mounted {
        println!("skipped: no overlay here");
    }
    mounted
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn open(path: &Path) -> fs::File {
    fs::File::open(path).unwrap()
}

/// A process that opens and reads `path`.
pub(crate) fn opener(path: &Path) -> Child {
    helper("cat", path)
}

/// A process that runs `path`: through a shell, because `spawn` itself waits for the exec.
pub(crate) fn runner(path: &Path) -> Child {
    Command::new("sh")
        .args([
            OsStr::new("-c"),
            OsStr::new("exec \"$0\""),
            path.as_os_str(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn helper(program: &str, path: &Path) -> Child {
    Command::new(program)
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What became of a helper: its output, or what it complained about.
pub(crate) fn outcome(child: Child) -> Result<String, String> {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Whether something can be read within the time.
pub(crate) fn readable(fd: impl AsFd, millis: i64) -> bool {
    let timeout = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// Waits until this many events are in the queue.
pub(crate) fn queued(group: &Group, events: u64) {
    while rustix::io::ioctl_fionread(group).unwrap() < events * 24 {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The next event, alone.
pub(crate) fn event(group: &Arc<Group>, default: Response) -> Event {
    assert!(readable(group, 10_000), "no event came");
    let mut buffer = EventBuffer::with_capacity(1);
    let mut batch = group.read(&mut buffer, default).unwrap();
    assert_eq!(batch.len(), 1);
    batch.next().unwrap()
}

/// The next event, which has to be a question; deny is its default.
pub(crate) fn question(group: &Arc<Group>) -> (Operation, Permission) {
    match event(group, Response::Deny) {
        Event::Permission {
            operation,
            permission,
            ..
        } => (operation, permission),
        other => panic!("not a question: {other:?}"),
    }
}

/// Whether opening `path` asks `group`. The answer is allow.
pub(crate) fn asks(group: &Arc<Group>, path: &Path) -> bool {
    let child = opener(path);
    // Not asked: the helper ends by itself, and the end of its output says so.
    let asked = loop {
        if readable(group, 10) {
            break true;
        }
        if readable(child.stdout.as_ref().unwrap(), 10) {
            break false;
        }
    };
    if asked {
        question(group).1.answer(Response::Allow).result.unwrap();
    }
    outcome(child).unwrap();
    asked
}

/// Whether the kernel denies with an error of a group's choice; without that it is `EPERM`.
pub(crate) fn takes_errnos() -> bool {
    let group = Group::new(Class::PreContent).unwrap();
    group.supports(Response::DenyErrno(DenyErrno::Eio))
}

/// The words for what an opener gets whose open is denied with `EIO`.
pub(crate) fn words_of_eio() -> &'static str {
    if takes_errnos() {
        "Input/output error"
    } else {
        "Operation not permitted"
    }
}

/// How many descriptors this process has.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

//! Opens on a tmpfs: unguarded, with a bare loop that allows everything, and the whole way through the filter host to a
//! service and back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fltbench_common::{Meter, Spec, end_with_parent, run_case};
use flthost::fanotify::{Class, Event, EventBuffer, Group, Response};
use fltport::protocol::TypedClient;
use fltport::protocol::file::{Answer, FileProtocol, Verdict};
use fltport::{Client, Connector};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::runner::run_command;
use crate::sample::{Run, Sample};

const SCAN: &str = r"\fltport\bench\scan";

/// Whether a case is one of these.
pub fn is_one(spec: &Spec) -> bool {
    spec.kind.starts_with("open-")
}

/// Why they cannot be measured here.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("guarded opens need root".to_owned());
    }
    Group::probe().err().map(|error| error.to_string())
}

/// Runs a case once, with a guard of its own.
pub fn run(programs: &Path, spec: &Spec) -> Result<Run> {
    let scratch = Scratch::new()?;
    let run = match spec.kind.as_str() {
        "open-unguarded" => opens(&scratch, spec)?,
        "open-bare" => {
            let bare = Guard::start("allow-all", scratch.path())?;
            scratch.wait_guarded()?;
            let run = opens(&scratch, spec)?;
            drop(bare);
            run
        }
        kind => {
            let host = Host::start(programs, &scratch, kind == "open-scanner")?;
            let run = opens(&scratch, spec)?;
            host.end()?;
            run
        }
    };
    Ok(match run {
        // The guard's own processes are not the opener's children, so nobody can tell them from anybody else's.
        Run::Done(sample) => Run::Done(Sample {
            foreign_cores: f64::NAN,
            ..sample
        }),
        other => other,
    })
}

/// Opens and closes from several threads of a process of their own, which may hang without harm.
fn opens(scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("open")
        .args(spec.to_words())
        .arg("--directory")
        .arg(scratch.path());
    run_command(&mut command)
}

/// The process that opens.
#[derive(Debug, clap::Args)]
pub struct Openers {
    #[command(flatten)]
    spec: Spec,
    /// Where the files are
    #[arg(long)]
    directory: PathBuf,
}

impl Openers {
    /// Each thread has a file of its own.
    pub fn run(self) {
        let directory = self.directory;
        run_case(self.spec, |context| {
            Meter::threads(&context.spec, context.clock, None, |thread| {
                let file = directory.join(thread.to_string());
                Ok(move || Ok(File::open(&file).map(drop)?))
            })
        });
    }
}

/// A process of this program that guards, or answers for the guard.
struct Guard(Child);

impl Guard {
    fn start(role: &str, directory: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).arg(directory).stdin(Stdio::null());
        Ok(Self(command.spawn().context("cannot start a guard")?))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A tmpfs of this run, with one file for each opener.
struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        mount(
            "fltbench",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            c"size=16m",
        )
        .context("cannot mount a tmpfs")?;
        let scratch = Self { directory };
        for opener in 0..64 {
            std::fs::write(scratch.file(opener), [b'x'; 4096])?;
        }
        Ok(scratch)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, opener: usize) -> PathBuf {
        self.path().join(opener.to_string())
    }

    /// Waits for the sign of the bare loop that it guards.
    fn wait_guarded(&self) -> Result<()> {
        let marker = self.path().join(".guarded");
        let end = Instant::now() + Duration::from_secs(5);
        while !marker.exists() {
            if Instant::now() > end {
                bail!("the bare loop did not start");
            }
            std::thread::yield_now();
        }
        Ok(std::fs::remove_dir(marker)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path().display());
        }
    }
}

/// A running filter host, and the service if it is this program.
struct Host {
    daemon: Child,
    service: Option<Guard>,
    ports: tempfile::TempDir,
}

impl Host {
    fn start(programs: &Path, scratch: &Scratch, scanner: bool) -> Result<Self> {
        let ports = tempfile::tempdir()?;
        let mut command = Command::new(programs.join("flthostd"));
        command
            .args(["--instance", "bench", "--lifeline", "--strict", "--guard"])
            .arg(scratch.path());
        command
            .arg("--port-directory")
            .arg(ports.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        if !scanner {
            command.arg("--no-scanner");
        }
        let daemon = command
            .spawn()
            .context("cannot start flthostd; run `cargo build --release` first")?;
        let mut host = Self {
            daemon,
            service: None,
            ports,
        };
        let events = connect(host.ports.path(), r"\fltport\bench\events")?;
        if !scanner {
            host.service = Some(Guard::start("service", host.ports.path())?);
        }
        drop(events.next_message()?);
        // With --strict an open succeeds only once a service answers.
        let end = Instant::now() + Duration::from_secs(5);
        while File::open(scratch.file(0)).is_err() {
            if Instant::now() > end {
                bail!("the service did not answer");
            }
        }
        Ok(host)
    }

    fn end(mut self) -> Result<()> {
        drop(self.daemon.stdin.take());
        let end = Instant::now() + Duration::from_secs(5);
        while self.daemon.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("flthostd does not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
        drop(self.service.take());
    }
}

/// Answers everything with allow.
pub fn service(directory: &Path) -> Result<()> {
    end_with_parent()?;
    let client = TypedClient::<FileProtocol>::new(connect(directory, SCAN)?);
    let allow = Answer::new(Verdict::Allow, "");
    while let Ok(message) = client.next_message() {
        message.reply(&allow).ok();
    }
    Ok(())
}

/// The bare loop: reads an event, allows it, closes.
pub fn allow_all(path: &Path) -> Result<()> {
    end_with_parent()?;
    let directory = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let group = Arc::new(Group::new(Class::Content)?);
    group.mark_filesystem(std::os::fd::AsFd::as_fd(&directory))?;
    // A directory, because making one opens nothing: this process cannot answer its own opens.
    std::fs::create_dir(path.join(".guarded"))?;
    let mut buffer = EventBuffer::with_capacity(64);
    loop {
        poll(&mut [PollFd::new(&*group, PollFlags::IN)], None)?;
        for event in group.read(&mut buffer, Response::Allow)? {
            if let Event::Permission { permission, .. } = event {
                drop(permission.answer(Response::Allow));
            }
        }
    }
}

fn connect(directory: &Path, name: &str) -> Result<Client> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match Connector::new().directory(directory).connect(name, b"") {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > end => return Err(error).context("cannot connect"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

//! Opens on a tmpfs: unguarded, with a bare loop that allows everything, and the whole way through the filter host to a
//! service and back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flthost::fanotify::{Class, Event, EventBuffer, Group, Response};
use fltport::protocol::TypedClient;
use fltport::protocol::file::{Answer, FileProtocol, Verdict};
use fltport::{Client, Connector};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::stats::{Sample, Table};
use crate::transport::{Other, timed};

const SCAN: &str = r"\fltport\bench\scan";

/// Measures all cases of guarded opens.
pub fn measure(quick: bool, programs: &Path, table: &mut Table) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: guarded opens, which need root");
        return Ok(());
    }
    if let Err(error) = Group::probe() {
        println!("skipped: guarded opens: {error}");
        return Ok(());
    }
    all_cores()?;
    let (repetitions, time) = if quick { (3, 100) } else { (7, 400) };
    let time = Duration::from_millis(time);
    let scratch = Scratch::new()?;
    for openers in [1, 64] {
        let mut samples: [Vec<Sample>; 4] = Default::default();
        for _ in 0..repetitions {
            samples[0].push(opens(&scratch, openers, time)?);
            let bare = Other::start(&["allow-all".into(), scratch.path().display().to_string()])?;
            scratch.wait_guarded()?;
            samples[1].push(opens(&scratch, openers, time)?);
            bare.kill()?;
            for (index, scanner) in [(2, false), (3, true)] {
                let host = Host::start(programs, &scratch, scanner)?;
                samples[index].push(opens(&scratch, openers, time)?);
                host.end()?;
            }
        }
        let [none, bare, service, scanner] = &samples;
        let named = |what: &str| format!("open and close, {what}; {openers} openers, any core");
        table.add(&named("no guard"), none, Some(bare));
        table.add(&named("bare loop that allows all"), bare, None);
        table.add(
            &named("host and a service that allows all"),
            service,
            Some(bare),
        );
        table.add(&named("host and fltscand"), scanner, Some(bare));
    }
    Ok(())
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
    service: Option<Other>,
    _ports: tempfile::TempDir,
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
        let events = connect(ports.path(), r"\fltport\bench\events")?;
        let service = match scanner {
            true => None,
            false => Some(Other::start(&[
                "service".into(),
                ports.path().display().to_string(),
            ])?),
        };
        drop(events.next_message()?);
        // With --strict an open succeeds only once a service answers.
        let end = Instant::now() + Duration::from_secs(5);
        while File::open(scratch.file(0)).is_err() {
            if Instant::now() > end {
                bail!("the service did not answer");
            }
        }
        Ok(Self {
            daemon,
            service,
            _ports: ports,
        })
    }

    fn end(mut self) -> Result<()> {
        drop(self.daemon.stdin.take());
        self.daemon.wait()?;
        self.service.map_or(Ok(()), Other::end)
    }
}

/// Answers everything with allow.
pub fn service(directory: &Path) -> Result<()> {
    let client = TypedClient::<FileProtocol>::new(connect(directory, SCAN)?);
    let allow = Answer::new(Verdict::Allow, "");
    while let Ok(message) = client.next_message() {
        message.reply(&allow).ok();
    }
    Ok(())
}

/// The bare loop: reads an event, allows it, closes.
pub fn allow_all(path: &Path) -> Result<()> {
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

/// Opens and closes from `openers` threads, each with a file of its own.
fn opens(scratch: &Scratch, openers: usize, time: Duration) -> Result<Sample> {
    let start = Instant::now();
    let threads: Vec<_> = (0..openers)
        .map(|opener| {
            let file = scratch.file(opener);
            std::thread::spawn(move || timed(time, || Ok(File::open(&file).map(drop)?)))
        })
        .collect();
    let mut nanos = Vec::new();
    for thread in threads {
        let sample = thread
            .join()
            .map_err(|_| anyhow::anyhow!("an opener failed"))??;
        nanos.extend(sample.into_nanos());
    }
    // The warm-up is a quarter of the time.
    Ok(Sample::new(nanos, start.elapsed().mul_f64(0.8)))
}

/// The transport cases have kept this process on one core.
fn all_cores() -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|core| cores.set(core));
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

//! `fltctl demo`: shows on a scratch directory that the whole path works, and why.
//!
//! A clean file and the EICAR test file are guarded by a real host with its real scanner, and opened by another process.
//! Each step has a limit; whatever goes wrong, the guard ends before the directory is removed. Next rooms: `host.rs`,
//! `follow.rs`, `open.rs`.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::open::Attempt;
use crate::Outcome;
use crate::eicar;
use crate::event::{Decision, Event, Started};
use crate::follow::{Follower, News};
use crate::host::{Host, Woken};
use crate::privilege;
use crate::render::{self, Mood, duration, paint};
use crate::request::{Demo, HostRequest};
use crate::signals::Signals;

/// Runs the demonstration.
pub(super) fn run(request: &Demo) -> anyhow::Result<Outcome> {
    if !request.host.programs.stand_in {
        privilege::ensure_may_guard()?;
    }
    request.host.programs.ensure_host_exists()?;
    let signals = Signals::catch()?;
    let start = Instant::now();
    // Removed when it is dropped, which is after the host's end.
    let mut scratch = tempfile::Builder::new()
        .prefix("fltctl-demo-")
        .tempdir()
        .context("cannot make a scratch directory; is the temporary directory writable?")?;
    scratch.disable_cleanup(request.keep);
    let stage = Stage::set(scratch.path())?;
    let words = Words::default();
    let outcome = play(request, &stage, &signals, &words, start);
    if !matches!(outcome, Ok(Outcome::Yes)) {
        words.show();
    }
    if request.keep {
        say(&format!("kept: {}", stage.directory.display()));
    }
    outcome
}

/// The files of the demonstration.
#[derive(Debug)]
struct Stage {
    directory: PathBuf,
    clean: PathBuf,
    eicar: PathBuf,
}

impl Stage {
    fn set(directory: &Path) -> anyhow::Result<Self> {
        let directory = directory.canonicalize()?;
        let write = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))
                .map(|()| path)
        };
        Ok(Self {
            clean: write("clean.txt", b"Nothing wrong with this file.\n")?,
            eicar: write("eicar.com", &eicar::test_file())
                .context("does another scanner guard this machine?")?,
            directory,
        })
    }
}

/// What the host has written to its standard error: of interest if something goes wrong.
#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Words {
    fn add(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MOST_WORDS {
            lines.push(render::escape(line));
        }
    }

    fn show(&self) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in &*lines {
            // With a closed standard error there is nobody left to tell.
            writeln!(io::stderr(), "{line}").ok();
        }
    }
}

fn play(
    request: &Demo,
    stage: &Stage,
    signals: &Signals,
    words: &Words,
    start: Instant,
) -> anyhow::Result<Outcome> {
    say(&format!("In {}:", stage.directory.display()));
    say("  clean.txt  one line of plain text");
    say("  eicar.com  the EICAR test file: harmless, and a virus to every scanner");
    let request_host = HostRequest {
        guards: vec![stage.directory.clone()],
        ..request.host.clone()
    };
    let host_start = Instant::now();
    let heard = words.clone();
    let mut host = Host::start(&request_host, move |line| heard.add(&line))?;
    let (send, events) = channel();
    let follower = Follower::start(
        request_host.port_directory.clone(),
        request_host.events_port(),
        move |news| {
            if let News::Event(bytes) = news {
                // Nobody listens any more once the demonstration is over.
                send.send(Event::parse(bytes)).ok();
            }
        },
    );
    let started = wait_until_ready(&mut host, &follower, &events, signals)?;
    say(&guarded(&started, host_start.elapsed()));

    let (attempts, opener) = open_both(request, stage)?;
    let [clean, eicar] = attempts;
    let decisions = collect(&events, stage);
    tell(
        "clean.txt",
        &clean,
        decide(&decisions, &stage.clean),
        opener,
    );
    tell(
        "eicar.com",
        &eicar,
        decide(&decisions, &stage.eicar),
        opener,
    );
    follower.expect_end();
    let end = host.end(END_LIMIT)?;
    follower.finish(FLUSH_LIMIT);
    if signals.take() {
        bail!("interrupted; the guard has ended and the scratch directory is removed");
    }

    let failures = failures(&clean, &eicar);
    let took = duration(start.elapsed());
    say("");
    if failures.is_empty() {
        let pass = paint("PASS", Mood::Good, request.colour);
        say(&format!(
            "{pass}: the clean file opened, the EICAR test file did not ({took})"
        ));
        return Ok(Outcome::Yes);
    }
    let fail = paint("FAIL", Mood::Bad, request.colour);
    say(&format!(
        "{fail}: {} ({took}; flthostd: {end})",
        failures.join("; ")
    ));
    Ok(Outcome::No)
}

/// Waits for the host to say that it guards.
fn wait_until_ready(
    host: &mut Host,
    follower: &Follower,
    events: &Receiver<Event>,
    signals: &Signals,
) -> anyhow::Result<Started> {
    let end = Instant::now() + START_LIMIT;
    loop {
        match host.wait(signals, STEP)? {
            Woken::Signal => bail!("interrupted; the scratch directory is removed"),
            Woken::Ended => {
                // For its last words, which go to standard error.
                let end = host.end(END_LIMIT)?;
                bail!("FAIL: flthostd ended before it was ready ({end}); what it said is above");
            }
            Woken::Timeout => {}
        }
        let started = events.try_iter().find_map(|event| match event {
            Event::Started(started) => Some(started),
            _ => None,
        });
        if let Some(started) = started {
            return Ok(started);
        }
        if Instant::now() > end {
            let why = follower.last_error().unwrap_or_else(|| {
                "its events port is there, but it did not say that it guards: its scanner may not start".to_owned()
            });
            bail!(
                "FAIL: flthostd was not ready within {}: {why}",
                duration(START_LIMIT)
            );
        }
    }
}

/// Opens both files from another process; also says which.
fn open_both(request: &Demo, stage: &Stage) -> anyhow::Result<([Attempt; 2], u32)> {
    let mut child = Command::new(&request.executable)
        .arg("open")
        .args([&stage.clean, &stage.eicar])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that opens the files")?;
    let pid = child.id();
    let (send, received) = channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut text = String::new();
        // What could be read is what there is.
        output.map(|mut output| output.read_to_string(&mut text).ok());
        send.send(text).ok();
    });
    let text = received.recv_timeout(OPEN_LIMIT).ok();
    if text.is_none() {
        // A process that waits for a verdict can be killed.
        child.kill()?;
    }
    child.wait()?;
    let Some(text) = text else {
        bail!(
            "FAIL: opening two files took over {}; nothing may hang that long",
            duration(OPEN_LIMIT)
        );
    };
    let attempts: Vec<_> = text.lines().filter_map(Attempt::parse).collect();
    let attempts = <[Attempt; 2]>::try_from(attempts);
    Ok((
        attempts
            .ok()
            .context("the process that opens the files did not do so")?,
        pid,
    ))
}

/// The decisions on both files. They are told after the verdict, so there is a short wait for them.
fn collect(events: &Receiver<Event>, stage: &Stage) -> Vec<Decision> {
    let mut decisions = Vec::new();
    let end = Instant::now() + TELL_LIMIT;
    while [&stage.clean, &stage.eicar]
        .iter()
        .any(|file| decide(&decisions, file).is_none())
    {
        let left = end.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Decision(decision)) => decisions.push(decision),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    decisions
}

/// The decision on a file: the one that refused it, if any did.
fn decide<'a>(decisions: &'a [Decision], file: &Path) -> Option<&'a Decision> {
    let on_file = || {
        decisions
            .iter()
            .filter(|decision| decision.path.as_deref().map(Path::new) == Some(file))
    };
    on_file()
        .find(|decision| !decision.means_allow())
        .or_else(|| on_file().next())
}

fn guarded(started: &Started, took: Duration) -> String {
    let worker = started
        .worker
        .map_or_else(String::new, |pid| format!(" (worker {pid})"));
    format!(
        "flthostd{worker} guards it with its scanner, ready after {}.",
        duration(took)
    )
}

fn tell(name: &str, attempt: &Attempt, decision: Option<&Decision>, opener: u32) {
    say("");
    say(name);
    match decision {
        Some(it) => {
            let operation = render::escape(it.operation.as_deref().unwrap_or("open"));
            say(&format!(
                "  asked     may {} {operation} it?",
                render::process(it)
            ));
            let took = it.micros.map_or_else(String::new, |micros| {
                format!(", after {}", duration(Duration::from_micros(micros)))
            });
            let verdict = render::escape(&it.verdict);
            say(&format!(
                "  answered  {verdict}, by {}{took}",
                render::why(it)
            ));
        }
        None => say("  asked     no decision was told of this file"),
    }
    let took = duration(attempt.took);
    match &attempt.refused {
        None => say(&format!(
            "  opener    process {opener} got its first byte after {took}"
        )),
        Some(errno) => say(&format!(
            "  opener    process {opener} got {errno} after {took}"
        )),
    }
}

fn failures(clean: &Attempt, eicar: &Attempt) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(errno) = &clean.refused {
        failures.push(format!("the clean file was refused with {errno}"));
    }
    match eicar.refused.as_deref() {
        Some("EPERM") => {}
        Some(errno) => failures.push(format!("the EICAR test file gave {errno} instead of EPERM")),
        None => failures.push("the EICAR test file could be opened".to_owned()),
    }
    failures
}

/// A line of the transcript. The exit status tells even if nobody reads it.
fn say(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}

/// For the host to say that it guards.
const START_LIMIT: Duration = Duration::from_secs(4);

/// Lines of the host's standard error that are kept for it.
const MOST_WORDS: usize = 100;

/// How often it is looked for.
const STEP: Duration = Duration::from_millis(5);

/// For both opens: above twice the deadline that the host is given.
const OPEN_LIMIT: Duration = Duration::from_secs(3);

/// For the events of decisions that have been taken.
const TELL_LIMIT: Duration = Duration::from_millis(500);

/// For the host to end.
const END_LIMIT: Duration = Duration::from_secs(3);

/// For the reader of events to end.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

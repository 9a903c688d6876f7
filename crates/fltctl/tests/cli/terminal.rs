//! `fltctl guard` at a terminal: lines for people, and a terminal that is stopped.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, tcflow};

use crate::util::{ALLOWED, DENIED, Running, SOON, STARTED, Stage};

/// A terminal: what is written to it, and the end that programs have.
fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
    (ours, theirs)
}

fn guard_at(stage: &Stage, terminal: &OwnedFd, arguments: &[&str]) -> Running {
    let mut command = stage.guard();
    command
        .args(arguments)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR");
    command
        .stdin(Stdio::null())
        .stdout(terminal.try_clone().unwrap())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    Running::watch(child, stderr)
}

/// The text that comes at a terminal.
fn read(terminal: OwnedFd) -> Receiver<String> {
    let (send, text) = channel();
    std::thread::spawn(move || {
        let mut terminal = File::from(terminal);
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if send.send(text).is_err() {
                return;
            }
        }
    });
    text
}

fn read_until(text: &Receiver<String>, part: &str) -> String {
    let mut all = String::new();
    while !all.contains(part) {
        all += &text
            .recv_timeout(SOON)
            .unwrap_or_else(|_| panic!("no {part:?} in {all:?}"));
    }
    all
}

#[test]
fn people_see_what_was_denied_in_colour_and_not_every_allow() {
    let end = r#"{"event":"service","state":"died","pid":77}"#;
    let stage = Stage::new(&["listener", STARTED, ALLOWED, DENIED, end]);
    let (ours, theirs) = terminal();
    let guard = guard_at(&stage, &theirs, &[]);
    let text = read_until(&read(ours), "(process 77): died");
    assert!(text.contains("guarding /x (3 directories)"), "{text:?}");
    assert!(text.contains("Ctrl-C ends"), "{text:?}");
    assert!(text.contains("\u{1b}[31mdeny"), "{text:?}");
    assert!(
        text.contains("/x/f  cat[55]  service: EICAR_Test_File"),
        "{text:?}"
    );
    assert!(!text.contains("/x/plain"), "{text:?}");
    guard.signal(Signal::INT);
    assert_eq!(guard.end().0, Some(0));
}

#[test]
fn all_shows_plain_allows_and_json_shows_json() {
    let stage = Stage::new(&["listener", STARTED, ALLOWED]);
    for (argument, sign) in [("--all", "/x/plain  ?"), ("--json", ALLOWED)] {
        let (ours, theirs) = terminal();
        let guard = guard_at(&stage, &theirs, &[argument]);
        read_until(&read(ours), sign);
        guard.signal(Signal::INT);
        assert_eq!(guard.end().0, Some(0));
    }
}

#[test]
fn a_stopped_terminal_does_not_stop_the_guard() {
    let stage = Stage::new(&["listener", STARTED, "flood 20000"]);
    let (ours, theirs) = terminal();
    tcflow(&theirs, Action::OOff).unwrap();
    let guard = guard_at(&stage, &theirs, &[]);
    guard.expect_notice("flooded");
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("lines lost"), "{said}");
    drop(ours);
}

//! `fltctl guard`, whose host is played by a script.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::util::{ALLOWED, DENIED, Running, SOON, STARTED, Stage, fltctl, run, soon};

#[test]
fn events_are_passed_on_as_they_came_also_those_of_later_versions() {
    let later = r#"{"event":"weather",  "sun" : true}"#;
    let stage = Stage::new(&["listener", STARTED, DENIED, later, ALLOWED]);
    let guard = Running::start(&mut stage.guard());
    for event in [STARTED, DENIED, later, ALLOWED] {
        assert_eq!(guard.next_line(), event);
    }
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("asked 2 in ") && said.contains("1 allowed, 1 denied"),
        "{said}"
    );
    assert!(said.contains("by cause: service 2"), "{said}");
    assert!(stage.host_ends());
}

const MUTES: [&str; 4] = ["--mute", "exec:tree=here", "--only", "user=7"];

#[test]
fn the_host_is_told_what_was_typed() {
    let stage = Stage::new(&["listener", STARTED]);
    let guard = Running::start(
        stage
            .guard()
            .args(["--monitor", "--deadline-ms", "700"])
            .args(MUTES)
            .args(["--grant-mutes", "scan", "--exclude"])
            .arg(stage.path("guarded/../bin")),
    );
    guard.next_line();
    let arguments = fs::read_to_string(stage.path("script.args")).unwrap();
    let guarded = stage.path("guarded").canonicalize().unwrap();
    let instance = format!("--instance\nguard-{}\n", guard.child.id());
    assert!(arguments.starts_with(&instance), "{arguments}");
    assert!(
        arguments.contains(&format!("--guard\n{}\n", guarded.display())),
        "{arguments}"
    );
    assert!(
        arguments.contains("--mute\nexec:tree=here\n--only\nuser=7\n"),
        "{arguments}"
    );
    let excluded = stage.path("bin").canonicalize().unwrap();
    let rest = format!("--exclude\n{}\n--grant-mutes\nscan\n", excluded.display());
    assert!(arguments.contains(&rest), "{arguments}");
    assert!(arguments.contains("--deadline-ms\n700\n"), "{arguments}");
    assert!(arguments.ends_with("--monitor\n--lifeline"), "{arguments}");
    guard.signal(Signal::INT);
    assert_eq!(guard.end().0, Some(0));
}

#[test]
fn a_closed_output_is_told_once_and_the_guard_goes_on() {
    let mut script = vec!["listener", STARTED];
    script.extend([DENIED; 50]);
    script.push("say told everything");
    let stage = Stage::new(&script);
    let mut command = stage.guard();
    let mut guard = Running::start(&mut command);
    // The reading end is closed with its thread, at the latest by the second line after this.
    guard.stdout = std::sync::mpsc::channel().1;
    guard.expect_notice("standard output is closed");
    guard.expect_notice("told everything");
    assert!(
        guard.child.try_wait().unwrap().is_none(),
        "the guard has ended"
    );
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("is closed"), "{said}");
    assert!(said.contains("50 denied"), "{said}");
}

#[test]
fn an_output_that_nobody_reads_does_not_stop_the_guard() {
    let stage = Stage::new(&["listener", STARTED, "flood 20000"]);
    let mut command = stage.guard();
    let command = command.stdin(Stdio::null());
    let (unread, stdout) = std::io::pipe().unwrap();
    let mut child = command
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let guard = Running::watch(child, stderr);
    guard.expect_notice("flooded");
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("asked 20000") && said.contains("lines lost"),
        "{said}"
    );
    drop(unread);
}

/// A tiny filesystem.
struct Tiny(PathBuf);

impl Drop for Tiny {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_behind_the_output_stops_nothing_and_lines_come_when_there_is_room() {
    let stage = Stage::new(&["listener", STARTED, DENIED, "say told everything"]);
    let point = stage.path("disk");
    fs::create_dir(&point).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=16k", "none"])
        .arg(&point);
    if !mount
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("skipped: cannot mount a tmpfs");
        return;
    }
    let disk = Tiny(point);
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write(&[0; 4096]).is_ok() {}
    let output = disk.0.join("output");
    let mut child = stage
        .guard()
        .stdin(Stdio::null())
        .stdout(fs::File::create(&output).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let guard = Running::watch(child, stderr);
    // In either order: the host's words and the output's trouble come by different ways.
    let mut awaited = vec!["lines wait for room", "told everything"];
    while !awaited.is_empty() {
        let line = guard.stderr.recv_timeout(SOON).unwrap();
        awaited.retain(|words| !line.contains(words));
    }
    assert_eq!(fs::metadata(&output).unwrap().len(), 0);
    drop(file);
    fs::remove_file(&filler).unwrap();
    let expected = format!("{STARTED}\n{DENIED}\n");
    assert!(soon(|| fs::read_to_string(&output).unwrap() == expected));
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 denied") && !said.contains("lost"),
        "{said}"
    );
}

#[test]
fn what_a_host_says_that_does_not_start_is_shown() {
    let stage = Stage::new(&["say flthostd: no such right", "die 2"]);
    let (code, out, said) = run(&mut stage.guard());
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(said.contains("flthostd: no such right\n"), "{said}");
    assert!(said.contains("ended before it guarded anything"), "{said}");
}

#[test]
fn a_host_that_ends_by_itself_is_no_success() {
    let stage = Stage::new(&["listener", STARTED, DENIED, "die 1"]);
    let guard = Running::start(&mut stage.guard());
    let (code, said) = guard.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing is guarded any more"), "{said}");
}

#[test]
fn the_events_of_a_restarted_worker_are_found_again() {
    let stage = Stage::new(&[
        "listener", STARTED, DENIED, "vanish", "listener", STARTED, ALLOWED,
    ]);
    let guard = Running::start(&mut stage.guard());
    for event in [STARTED, DENIED, STARTED, ALLOWED] {
        assert_eq!(guard.next_line(), event);
    }
    guard.expect_notice("lost the connection");
    guard.expect_notice("connected to the host's events again");
    guard.signal(Signal::TERM);
    assert_eq!(guard.end().0, Some(0));
}

#[test]
fn the_host_ends_with_a_fltctl_that_was_killed() {
    let stage = Stage::new(&["listener", STARTED]);
    let guard = Running::start(&mut stage.guard());
    guard.next_line();
    guard.signal(Signal::KILL);
    assert!(stage.host_ends(), "the host goes on");
    guard.end();
}

#[test]
fn a_guard_outlives_its_terminal_only_if_told_so() {
    for (disposition, stays) in [("trap '' HUP", true), (":", false)] {
        let stage = Stage::new(&["listener", STARTED]);
        let guard = stage.guard();
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("{disposition}; exec \"$@\""))
            .arg("sh");
        shell.arg(guard.get_program()).args(guard.get_args());
        shell.env("FAKE_HOST_SCRIPT", stage.path("script"));
        let guard = Running::start(&mut shell);
        guard.next_line();
        guard.signal(Signal::HUP);
        if stays {
            std::thread::sleep(Duration::from_millis(300));
            assert!(!stage.path("script.ended").exists());
            guard.signal(Signal::TERM);
        }
        assert_eq!(guard.end().0, Some(0));
        assert!(stage.host_ends());
    }
}

#[test]
fn a_host_that_does_not_end_is_killed() {
    let stage = Stage::new(&["stay", "listener", STARTED]);
    let guard = Running::start(&mut stage.guard());
    guard.next_line();
    let start = Instant::now();
    guard.signal(Signal::TERM);
    let (code, said) = guard.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("killed, because it did not end"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn rules_about_what_is_asked_are_explained_as_the_host_explains_them() {
    let host = fltctl().get_program().to_owned();
    let host = PathBuf::from(host).with_file_name("flthostd");
    if !host.is_file() {
        println!("skipped: no flthostd beside fltctl");
        return;
    }
    let help = |command: &mut Command| {
        let (_, text, _) = run(command);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let theirs = help(Command::new(host).arg("--help"));
    let ours = help(fltctl().args(["guard", "--help"]));
    for option in ["--mute", "--only", "--exclude", "--grant-mutes"] {
        let (_, text) = theirs.split_once(&format!("{option} <")).unwrap();
        let (text, _) = text.split_once(" --").unwrap();
        assert!(
            ours.contains(&format!("{option} <{text}")),
            "{option} <{text}\n{ours}"
        );
    }
}

#[test]
fn an_excluded_directory_that_is_not_there_is_an_error_with_advice() {
    let stage = Stage::new(&[]);
    let (code, _, said) = run(stage.guard().args(["--exclude", "/not/there"]));
    assert_eq!(code, Some(2));
    assert!(
        said.contains("/not/there") && said.contains("exists"),
        "{said}"
    );
}

#[test]
fn a_missing_host_is_an_error_with_advice() {
    let stage = Stage::new(&[]);
    fs::remove_file(stage.path("bin/flthostd")).unwrap();
    let (code, _, said) = run(&mut stage.guard());
    assert_eq!(code, Some(2));
    assert!(
        said.contains("bin/flthostd") && said.contains("one folder"),
        "{said}"
    );
}

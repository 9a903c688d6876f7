//! Another program that answers for files is named, at the start and in the status. Needs root.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use common::host::{Host, SOON, command, until};
use common::{Place, open, text};
use flthost::fanotify::{Class, Group};
use rustix::fs::MemfdFlags;
use serde_json::Value;

/// What a host's status says of this process.
fn of_this_process(host: &Host) -> Option<Value> {
    let status = host.status();
    let others = status["others"]["programs"].as_array().unwrap();
    let own = |other: &&Value| other["pid"] == std::process::id();
    others.iter().find(own).cloned()
}

#[test]
fn whoever_answers_too_is_named_with_the_filesystem_that_is_shared() {
    let Some(place) = Place::new() else { return };
    let before = Host::start(&place, &[]);
    assert_eq!(of_this_process(&before), None, "{}", before.said());
    drop(before);
    // Marks a directory of the guarded filesystem that nobody opens, so that nobody waits for this test.
    let dir = place.dir("theirs");
    let theirs = Group::new(Class::Content).unwrap();
    theirs.mark_file(open(&dir).as_fd()).unwrap();
    let host = Host::start(&place, &[]);
    let own = format!("(pid {})", std::process::id());
    host.says("too: ");
    let said = host.said();
    let line = said.lines().find(|line| line.contains(&own)).unwrap();
    let shared = format!("{own}, on the filesystem of {}", text(&place.root));
    assert!(
        line.contains(&shared) && line.contains("have to allow"),
        "{line}"
    );
    let seen = of_this_process(&host).unwrap();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(seen["program"], name.trim_end());
    assert_eq!(seen["shared"], serde_json::json!([text(&place.root)]));
    drop(theirs);
    until("it is gone from the status", || {
        of_this_process(&host).is_none()
    });
}

#[test]
fn groups_elsewhere_share_nothing_and_those_that_are_only_told_are_not_named() {
    let Some(place) = Place::new() else { return };
    let file = rustix::fs::memfd_create(c"elsewhere", MemfdFlags::CLOEXEC).unwrap();
    let theirs = Group::new(Class::PreContent).unwrap();
    theirs.mark_file(file.as_fd()).unwrap();
    let host = Host::start(&place, &[]);
    let seen = of_this_process(&host).unwrap();
    assert_eq!(seen["shared"], serde_json::json!([]));
    drop((host, theirs));
    let _told = flthost::fanotify::Notifier::new().unwrap();
    let host = Host::start(&place, &[]);
    assert_eq!(of_this_process(&host), None);
    assert!(
        !host
            .said()
            .contains(&format!("(pid {})", std::process::id()))
    );
}

#[test]
fn the_processes_of_a_host_are_no_others_to_it_and_one_to_another() {
    let Some(place) = Place::new() else { return };
    let host = Host::start(&place, &["--no-mounts"]);
    let ours = |status: &Value, pid: u32| {
        let others = status["others"]["programs"].as_array().unwrap();
        others.iter().any(|other| other["pid"] == pid)
    };
    let status = host.status();
    assert!(!ours(&status, host.supervisor()) && !ours(&status, host.worker()));
    let outside = place.outside("second");
    let ports = place.outside("second-ports");
    let mut second = command(&ports);
    second.args(["--no-scanner", "--guard", text(&outside)]);
    let second = Host::run(&mut second, ports);
    let status = second.status();
    // Its supervisor, which starts the worker, stands for both.
    assert!(ours(&status, host.supervisor()) && !ours(&status, host.worker()));
}

#[test]
fn very_many_descriptors_of_others_do_not_hold_a_host_up() {
    let Some(place) = Place::new() else { return };
    // As many as it may have, and each is looked at.
    let script = "import os,resource,sys\n\
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n\
        for i in range(min(most, 60000) - 10): os.dup(0)\n\
        print('there', flush=True)\n\
        sys.stdin.read()\n";
    let mut crowd = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(crowd.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let start = std::time::Instant::now();
    let host = Host::start(&place, &[]);
    host.status();
    let took = start.elapsed();
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
    assert!(took < SOON, "{took:?}");
}

//! The host's processes are killed while openers wait: nobody hangs, and nothing bad slips through. Needs root.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::host::{
    Host, SOON, allow, command, judge, kill, lives, opens, start_opener, try_open, until,
};
use common::{Place, outcome, text};
use rustix::process::Signal;

#[test]
fn openers_of_a_killed_worker_are_answered_by_policy() {
    for (policy, fine) in [("crash=allow", true), ("crash=deny", false)] {
        let Some(place) = Place::new() else { return };
        // Those who open one file share a question.
        let files = [0, 1, 2].map(|number| place.file(&format!("file{number}")));
        let host = Host::start(&place, &["--policy", policy, "--deadline-ms", "60000"]);
        let service = host.connect();
        let openers = files.each_ref().map(|file| start_opener(file));
        let held: Vec<_> = (0..3).map(|_| service.next_message().unwrap()).collect();
        let (old, start) = (host.worker(), Instant::now());
        host.kill_worker();
        for opener in openers {
            assert_eq!(outcome(opener).is_ok(), fine);
        }
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        host.says("3 operations were decided by policy");
        assert_ne!(host.worker(), old);
        drop(held);
        let _service = host.serve(|_, question| allow(question));
        assert!(opens(&files[0]));
    }
}

#[test]
fn beyond_its_budget_the_supervisor_answers_alone() {
    for (policy, monitor, fine) in [
        ("crash=deny", false, false),
        ("crash=allow", false, true),
        ("crash=deny", true, true),
    ] {
        let Some(place) = Place::new() else { return };
        let file = place.file("file");
        let mut arguments = vec!["--policy", policy, "--restarts", "2"];
        arguments.extend(monitor.then_some("--monitor"));
        let mut host = Host::start(&place, &arguments);
        for _ in 0..2 {
            let worker = host.worker();
            host.kill_worker();
            until("the next worker comes", || {
                host.connect_to("control").is_some() && host.worker() != worker
            });
        }
        host.kill_worker();
        host.says("by policy from now on");
        let (result, took) = try_open(&file);
        assert_eq!(result.is_ok(), fine, "{result:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(host.connect_to("control").is_none());
        host.cut_lifeline();
        assert!(host.ended().success());
        assert!(opens(&file));
    }
}

#[test]
fn five_restarts_are_the_budget_unless_told_otherwise() {
    let Some(place) = Place::lasting(40) else {
        return;
    };
    let host = Host::start(&place, &[]);
    for _ in 0..6 {
        let worker = host.worker();
        assert!(!host.said().contains("from now on"));
        kill(worker, Signal::KILL);
        until("the next worker comes", || {
            host.said().contains("from now on")
                || host.connect_to("control").is_some() && host.worker() != worker
        });
    }
    host.says("from now on");
}

/// Checks that a host has ended and left nothing behind.
fn left_nothing(host: &Host, worker: u32, file: &std::path::Path) {
    until("the worker ends", || !lives(worker));
    assert!(opens(file));
    // Ports, locks and the folders made for them are gone.
    let left: Vec<_> = fs::read_dir(&host.ports).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_end_of_the_lifeline_and_a_signal_end_everything() {
    for signal in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let Some(place) = Place::new() else { return };
        let file = place.file("file");
        let mut host = Host::start(&place, &["--strict", "--deadline-ms", "60000"]);
        let (worker, _stalled) = (host.worker(), host.connect());
        let opener = start_opener(&file);
        until("it waits", || host.count("pending") == 1);
        match signal {
            None => host.cut_lifeline(),
            Some(signal) => kill(host.supervisor(), signal),
        }
        assert!(host.ended().success());
        // Nobody has found it clean: the end of a strict host is no way through it.
        outcome(opener).unwrap_err();
        left_nothing(&host, worker, &file);
    }
}

#[test]
fn a_worker_goes_on_without_its_supervisor_until_it_is_told_to_end() {
    for signal in [None, Some(Signal::TERM)] {
        let Some(place) = Place::new() else { return };
        let (file, bad) = (place.file("file"), place.file("bad"));
        let mut host = Host::start(&place, &["--strict"]);
        let worker = host.worker();
        let service = host.serve(|_, question| judge(question));
        kill(host.supervisor(), Signal::KILL);
        assert!(!host.ended().success());
        host.says("goes on without it");
        assert!(opens(&file) && !opens(&bad));
        assert!(lives(worker));
        match signal {
            None => host.cut_lifeline(),
            Some(signal) => kill(worker, signal),
        }
        left_nothing(&host, worker, &bad);
        drop(service);
    }
}

#[test]
fn nobody_reads_what_a_host_says_and_it_goes_on() {
    // Its standard error is a pipe whose reader is gone, or one that is full.
    let broken = "{ exec \"$@\" 2>&3; } 3>&1 | true";
    let full = "{ head -c 65536 /dev/zero; exec \"$@\" 2>&3; } 3>&1 | sleep 4";
    for script in [broken, full] {
        let Some(place) = Place::new() else { return };
        let file = place.file("file");
        let ports = place.outside("ports");
        let mut inner = command(&ports);
        inner.args(["--strict", "--no-scanner", "--guard", text(&place.root)]);
        let mut outer = std::process::Command::new("sh");
        outer.args(["-c", script, "sh"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        let host = Host::run(&mut outer, ports);
        let worker = host.worker();
        let start = Instant::now();
        host.kill_worker();
        until("the next worker comes", || {
            host.connect_to("control").is_some() && host.worker() != worker
        });
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(!opens(&file)); // still guarded
    }
}

#[test]
fn a_port_directory_on_the_guarded_filesystem_does_not_lock_the_next_worker_out() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let ports = place.dir("ports");
    let mut command = command(&ports);
    command.args(["--strict", "--no-scanner", "--guard", text(&place.root)]);
    let host = Host::run(&mut command, ports);
    let worker = host.worker();
    host.kill_worker();
    until("the next worker comes", || {
        host.connect_to("control").is_some() && host.worker() != worker
    });
    let _service = host.serve(|_, question| allow(question));
    assert!(opens(&file));
}

#[test]
fn a_restarted_worker_that_cannot_start_is_no_reason_to_stop_guarding() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--strict"]);
    // Its ports' folder is no folder any more.
    fs::rename(host.ports.join("fltport"), host.ports.join("away")).unwrap();
    fs::write(host.ports.join("fltport"), "").unwrap();
    let worker = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.supervisor()));
    kill(worker.unwrap().trim().parse().unwrap(), Signal::KILL);
    host.says("from now on");
    let (result, took) = try_open(&file);
    assert!(result.is_err() && took < SOON, "{result:?}");
}

#[test]
fn a_killed_scanner_is_started_again_and_questions_wait_for_it() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    if common::host::scanner().is_none() {
        println!("skipped: no fltscand beside flthostd");
        return;
    }
    let file = place.file("file");
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args([
        "--strict",
        "--deadline-ms",
        "5000",
        "--guard",
        text(&place.root),
    ]);
    let host = Host::run(&mut command, ports);
    let scanners = |worker: u32| -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
        children
            .flat_map(|text| {
                text.split_whitespace()
                    .map(|pid| pid.parse().unwrap())
                    .collect::<Vec<u32>>()
            })
            .collect()
    };
    for _ in 0..3 {
        assert!(opens(&file));
        let worker = host.worker();
        scanners(worker)
            .into_iter()
            .for_each(|pid| kill(pid, Signal::KILL));
        let (result, took) = try_open(&file);
        result.unwrap();
        println!("an open right after the scanner's death took {took:?}");
    }
    // With the worker its scanner goes too, and the next one's questions wait for the next scanner.
    let worker = host.worker();
    let orphans = scanners(worker);
    assert!(!orphans.is_empty());
    kill(worker, Signal::KILL);
    until("the old scanner ends", || {
        orphans.iter().all(|pid| !lives(*pid))
    });
    let (result, took) = try_open(&file);
    result.unwrap();
    println!("an open right after the worker's death took {took:?}");
}

//! Many operations that wait at once: what they cost the host, and what happens beyond its room. Needs root.

mod common;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::crowd::{self, Crowd};
use common::host::{Host, allow, command, refused, start_opener, until};
use common::{Place, outcome, takes_errnos, text};

#[test]
fn crowd() {
    crowd::run();
}

#[test]
fn a_thousand_pending_questions_cost_descriptors_and_no_threads() {
    const PENDING: usize = 1_000;
    let Some(place) = Place::lasting(90) else {
        return;
    };
    let (file, files) = (place.file("file"), many(&place, PENDING));
    let host = Host::start(&place, &["--deadline-ms", "60000", "--strict"]);
    let service = host.connect();
    let worker = host.worker();
    let threads = || count(worker, "task");
    let descriptors = || count(worker, "fd");

    // Once before, so that what is made at the first use is there.
    let one = Crowd::once(&file, 1);
    allow(service.next_message().unwrap());
    assert_eq!(one.finish().opened(), 1);
    settle(descriptors);
    let base = (threads(), descriptors());

    let openers = Crowd::once(&files, PENDING);
    let mut held: VecDeque<_> = (0..PENDING)
        .map(|_| service.next_message().unwrap())
        .collect();
    assert_eq!(host.count("pending"), 1_000);
    assert!(threads() <= base.0 + 2, "{} of {}", threads(), base.0);
    assert!(descriptors() >= base.1 + PENDING);
    while let Some(question) = held.pop_back() {
        allow(question);
    }
    let seen = openers.finish();
    assert_eq!((seen.opened(), seen.all_failed()), (1_000, 0));
    until("all descriptors are given back", || descriptors() <= base.1);
    until("all are counted", || host.count("pending") == 0);
}

#[test]
fn a_thousand_questions_that_nobody_answers_end_at_the_deadline() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let files = many(&place, 1_000);
    let host = Host::start(
        &place,
        &["--deadline-ms", "1500", "--policy", "timeout=EBUSY"],
    );
    let service = host.connect();
    let openers = Crowd::once(&files, 1_000);
    let held: Vec<_> = (0..500).map(|_| service.next_message().unwrap()).collect();
    let seen = openers.finish(); // some with the service, some that it has not got
    assert_eq!((seen.failed(busy()), seen.opened()), (1_000, 0));
    println!("longest wait {:?} of 1.5 s", seen.longest());
    assert!(seen.longest() >= Duration::from_millis(1_500));
    assert!(seen.longest() < Duration::from_millis(8_000)); // see below: the kernel wakes all for each
    drop(held);
    until("all are counted", || host.count("pending") == 0);
}

/// What an opener gets whose open is denied with `EBUSY`.
fn busy() -> i32 {
    if takes_errnos() {
        libc::EBUSY
    } else {
        libc::EPERM
    }
}

#[test]
fn whatever_waits_behind_a_suspect_ends_with_the_last_service() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (file, bad) = (place.file("file"), place.file("bad"));
    let host = Host::start(
        &place,
        &["--deadline-ms", "60000", "--policy", "no_service=EBUSY"],
    );
    let service = host.connect();
    let suspect = start_opener(&bad);
    let question = service.next_message().unwrap();
    service.close();
    drop(question);
    let service = host.connect();
    let question = service.next_message().unwrap(); // it is tried alone, so all others wait
    let openers = Crowd::once(&file, 1_000);
    until("they wait", || host.count("waiting") == 1_000);
    service.close();
    drop(question);
    let seen = openers.finish();
    assert_eq!((seen.failed(busy()), seen.opened()), (1_000, 0));
    assert!(seen.longest() < Duration::from_secs(15), "{seen:?}");
    outcome(suspect).unwrap_err();
}

#[test]
fn what_there_is_no_room_for_is_decided_by_policy_and_not_by_the_kernel() {
    let Some(place) = Place::lasting(90) else {
        return;
    };
    if !takes_errnos() {
        // Only by its error does an open that was turned away differ from one that waited.
        return println!("skipped: this kernel takes no errno");
    }
    let file = place.file("file");
    let ports = place.outside("ports");
    let mut inner = command(&ports);
    inner.args(["--no-scanner", "--guard", text(&place.root)]);
    inner.args(["--deadline-ms", "6000", "--policy", "timeout=EBUSY"]);
    inner.args(["--policy", "overload=EAGAIN"]);
    let host = Host::run(&mut limited(4_096, &inner), ports);
    let _stalled = host.connect();
    let openers = Crowd::once(&file, 3_000);
    let worker = host.worker();
    until("some are turned away", || host.count("by_policy") > 0);
    assert!(count(worker, "fd") < 4_096);
    let seen = openers.finish();
    let (busy, again) = (seen.failed(libc::EBUSY), seen.failed(libc::EAGAIN));
    println!(
        "{busy} waited, {again} were turned away, longest {:?}",
        seen.longest()
    );
    // EPERM would be the kernel's own word for a full descriptor table.
    assert_eq!((busy + again, seen.opened()), (3_000, 0));
    assert!(again > 0 && busy > 1_000);
    // The kernel wakes every opener that waits in a group for every answer in it, so thousands of them take a while.
    assert!(seen.longest() < Duration::from_secs(45), "{seen:?}");
    assert_eq!(host.worker(), worker); // it has come through this alive
    assert_eq!(host.count("unopenable"), 0);
}

#[test]
fn a_host_that_may_open_too_few_files_does_not_start() {
    let Some(place) = Place::new() else { return };
    let mut inner = command(&place.outside("ports"));
    inner.args(["--no-scanner", "--guard", text(&place.root)]);
    let (code, said) = refused(&mut limited(1_000, &inner));
    assert_eq!(code, Some(2));
    for word in ["1000", "4096", "ulimit -Hn"] {
        assert!(said.contains(word), "{said}");
    }
}

/// A directory with so many files: those who open one share its question.
fn many(place: &Place, count: usize) -> PathBuf {
    (0..count).for_each(|number| drop(place.file(&format!("many/{number}"))));
    place.root.join("many")
}

/// The same command with this limit of open files.
fn limited(files: usize, inner: &Command) -> Command {
    let mut outer = Command::new("sh");
    outer.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}

/// How many entries a directory of `/proc` has for this process.
fn count(process: u32, what: &str) -> usize {
    fs::read_dir(format!("/proc/{process}/{what}"))
        .unwrap()
        .count()
}

/// Waits until the host has written its log: that gives the descriptors back that it holds.
fn settle(descriptors: impl Fn() -> usize) {
    let mut before = usize::MAX;
    until("descriptors settle", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = descriptors();
        std::mem::replace(&mut before, now) == now
    });
}

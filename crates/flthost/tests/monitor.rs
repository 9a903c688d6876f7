//! A host that only watches: whatever would be denied goes on, and is shown. The test is the service. Needs root.
//!
//! Denials by services, without one, and by time are in `policies.rs`, those of filters in `filter.rs`, rules that leave
//! things unasked in `mutes.rs`.

mod common;

use std::fs;

use common::host::{Host, Listener, allow, answer, lives, opens, start_opener, try_open, until};
use common::{Place, outcome, runner, takes_errnos};
use fltport::protocol::file::Verdict;

/// The next decision about this file must have gone on, and say what it would have been.
fn spared(events: &Listener, name: &str, cause: &str, would_be: &str) {
    let decision = events.decision(name);
    assert_eq!(decision["cause"], cause, "{decision}");
    assert_eq!(decision["verdict"], "allow", "{decision}");
    assert_eq!(decision["would_be"], would_be, "{decision}");
}

fn denies_nothing(host: &Host, spared: u64) {
    until("all are counted", || host.count("pending") == 0);
    let counted = ["denied", "would_deny"].map(|counter| host.count(counter));
    assert_eq!(counted, [0, spared]);
}

/// What is told of a denial with this error.
fn told(errno: &str) -> &str {
    if takes_errnos() { errno } else { "deny" }
}

#[test]
fn what_cannot_be_scanned_goes_on() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--monitor", "--policy", "unscannable=EIO"]);
    let events = host.listen();
    let _service = host.serve(|_, question| answer(question, Verdict::Unscannable));
    assert!(opens(&file));
    spared(&events, "file", "unscannable", told("EIO"));
    denies_nothing(&host, 1);
}

#[test]
fn what_kills_services_goes_on() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--monitor", "--deadline-ms", "15000"]);
    let events = host.listen();
    let service = host.connect();
    let opener = start_opener(&file);
    for service in [service, host.connect()] {
        let question = service.next_message().unwrap();
        service.close();
        drop(question);
    }
    outcome(opener).unwrap();
    spared(&events, "file", "poison", "deny");
    denies_nothing(&host, 1);
}

#[test]
fn what_services_do_not_get_to_goes_on() {
    let Some(place) = Place::new() else { return };
    let (slow, file) = (place.file("slow"), place.file("file"));
    let host = Host::start(&place, &["--monitor", "--deadline-ms", "1000"]);
    let events = host.listen();
    let service = host.connect();
    let first = start_opener(&slow);
    let held = service.next_message().unwrap();
    let behind = start_opener(&file);
    until("both are asked", || host.count("with_services") == 2);
    allow(held);
    outcome(first).unwrap();
    outcome(behind).unwrap();
    spared(&events, "file", "overload", "deny");
    denies_nothing(&host, 1);
}

#[test]
fn an_execution_goes_on_whatever_its_policy_is() {
    let Some(place) = Place::new() else { return };
    let program = place.root.join("program");
    fs::copy("/bin/true", &program).unwrap();
    let policy = "exec:no_service=EAGAIN";
    let host = Host::start(&place, &["--monitor", "--policy", policy]);
    let events = host.listen();
    outcome(runner(&program)).unwrap();
    spared(&events, "program", "no_service", told("EAGAIN"));
    denies_nothing(&host, 1);
}

#[test]
fn nothing_is_denied_by_the_death_of_the_worker_or_without_one() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let arguments = [
        "--monitor",
        "--strict",
        "--restarts",
        "0",
        "--deadline-ms",
        "15000",
    ];
    let host = Host::start(&place, &arguments);
    let service = host.connect();
    let opener = start_opener(&file);
    let _held = service.next_message().unwrap();
    let worker = host.worker();
    host.kill_worker();
    outcome(opener).unwrap();
    until("the worker is gone", || !lives(worker));
    let (result, _) = try_open(&file);
    result.unwrap();
}

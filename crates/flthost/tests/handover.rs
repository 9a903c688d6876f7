//! One host takes over from another: nothing that waits is lost, nothing passes in between. Needs root.

mod common;

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use common::crowd::{self, Crowd};
use common::host::{
    Host, allow, command, judge, kill, lives, name, opens, refused, start_opener, until,
};
use common::{Place, outcome, text};
use rustix::process::Signal;

#[test]
fn crowd() {
    crowd::run();
}

/// The command line of a host that takes over from the test's host.
fn next(place: &Place, host: &Host, more: &[&str]) -> Command {
    let mut command = command(&host.ports);
    command.args(["--no-scanner", "--take-over", "--guard", text(&place.root)]);
    command.args(more);
    command
}

/// Takes over, and waits until that is done.
fn take_over(place: &Place, old: &mut Host, more: &[&str]) -> Host {
    let before = old.worker();
    let new = Host::spawn(&mut next(place, old, more), old.ports.clone());
    assert_eq!(old.ended().code(), Some(4), "{}", old.said());
    until("the old worker is gone", || !lives(before));
    until("the new one answers", || new.worker() != before);
    new
}

#[test]
fn nothing_bad_is_opened_and_nobody_waits_long_while_hosts_take_over() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let Some(place) = Place::lasting(90) else {
        return;
    };
    for number in 0..4 {
        place.file(&format!("files/bad{number}"));
        place.file(&format!("files/good{number}"));
    }
    let strict = ["--strict", "--deadline-ms", "5000"];
    let mut host = Host::start(&place, &strict);
    let mut service = host.serve(|_, question| judge(question));
    let openers = Crowd::looping(&place.root.join("files"), 16);
    for _ in 0..10 {
        let before = host.count("by_service");
        until("work goes on", || host.count("by_service") > before + 20);
        let new = take_over(&place, &mut host, &strict);
        service = new.serve(|_, question| judge(question));
        host = new;
    }
    let seen = openers.finish();
    println!("{seen:?}");
    assert_eq!(seen.bad(), 0, "{seen:?}");
    // Not even those whose questions a service had when it went were refused for that.
    assert!(seen.opened() > 100 && seen.failed(libc::EPERM) > 100);
    assert!(seen.longest() < DEADLINE, "{seen:?}");
    drop((service, host));
}

#[test]
fn operations_that_wait_go_over_and_are_asked_about_again() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let files: Vec<_> = (0..3).map(|n| place.file(&format!("file{n}"))).collect();
    let long = ["--strict", "--deadline-ms", "60000"];
    let mut host = Host::start(&place, &long);
    let service = host.connect();
    let openers: Vec<_> = files.iter().map(|file| start_opener(file)).collect();
    let held: Vec<_> = files
        .iter()
        .map(|_| service.next_message().unwrap())
        .collect();
    // They wait a moment for services to come back, whatever is done without any.
    let wait = ["--policy", "no_service=deny"];
    let arguments = [&long[..], &wait[..]].concat();
    let before = host.worker();
    let mut command = next(&place, &host, &arguments);
    let new = Host::spawn(&mut command, host.ports.clone());
    assert_eq!(host.ended().code(), Some(4));
    until("the new one answers", || new.worker() != before);
    assert_eq!(new.count("pending"), 3);
    let next_service = new.connect();
    let mut seen: Vec<_> = files
        .iter()
        .map(|_| {
            let question = next_service.next_message().unwrap();
            let name = name(&question);
            allow(question);
            name
        })
        .collect();
    seen.sort();
    assert_eq!(seen, ["file0", "file1", "file2"]);
    for opener in openers {
        outcome(opener).unwrap();
    }
    drop(held);
}

#[test]
fn a_worker_without_a_supervisor_hands_over_too() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (file, bad) = (place.file("file"), place.file("bad"));
    let mut host = Host::start(&place, &["--strict"]);
    let worker = host.worker();
    kill(host.supervisor(), Signal::KILL);
    assert!(!host.ended().success());
    host.says("goes on without it");
    let new = Host::spawn(&mut next(&place, &host, &["--strict"]), host.ports.clone());
    until("the old worker is gone", || !lives(worker));
    let _service = new.serve(|_, question| judge(question));
    assert!(opens(&file) && !opens(&bad));
    // It is a whole host: its worker may die.
    let worker = new.worker();
    new.kill_worker();
    until("the next worker comes", || {
        new.connect_to("control").is_some() && new.worker() != worker
    });
}

#[test]
fn a_host_that_would_guard_something_else_is_refused_and_the_old_one_goes_on() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (file, bad) = (place.file("file"), place.file("bad"));
    let other = place.outside("other");
    let host = Host::start(&place, &["--strict"]);
    let _service = host.serve(|_, question| judge(question));
    let worker = host.worker();
    let (code, said) = refused(&mut next(&place, &host, &["--guard", text(&other)]));
    assert_eq!(code, Some(2));
    assert!(
        said.contains(text(&other)) && said.contains(text(&place.root)),
        "{said}"
    );
    host.says("this host goes on");
    assert!(opens(&file) && !opens(&bad));
    assert_eq!(host.worker(), worker);
}

#[test]
fn a_next_host_that_dies_half_way_leaves_the_old_one_at_work() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (file, bad) = (place.file("file"), place.file("bad"));
    let host = Host::start(&place, &["--strict"]);
    let _service = host.serve(|_, question| judge(question));
    let door = host.ports.join("fltport/test/handover");
    until("it can be asked", || door.exists());
    for words in [&b""[..], b"flh1\x01", b"flh9\x01", b"flh1\x08"] {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            None,
        )
        .unwrap();
        let address = rustix::net::SocketAddrUnix::new(&door).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        if !words.is_empty() {
            rustix::net::send(&socket, words, rustix::net::SendFlags::empty()).unwrap();
        }
        drop(socket);
        assert!(opens(&file) && !opens(&bad), "{words:?}");
    }
    host.says("this host goes on");
}

#[test]
fn without_a_host_there_is_nothing_to_take_over() {
    let Some(place) = Place::new() else { return };
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--no-scanner", "--take-over", "--guard", text(&place.root)]);
    let (code, said) = refused(&mut command);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("cannot take over from the host that runs"),
        "{said}"
    );
    // Nor from somebody else who sits there.
    let folder = ports.join("fltport/test");
    std::fs::create_dir_all(&folder).unwrap();
    let _stranger = UnixListener::bind(folder.join("handover")).unwrap();
    assert_eq!(refused(&mut command).0, Some(2));
}

#[test]
fn a_next_host_whose_scanner_cannot_start_lets_nothing_through() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let Some(scanner) = common::host::scanner() else {
        println!("skipped: no fltscand beside flthostd");
        return;
    };
    let file = place.file("file");
    let rules = place.outside("rules").join("bad.yar");
    std::fs::write(&rules, "rule bad { condition: nonsense }").unwrap();
    let mut host = Host::start(&place, &["--strict"]);
    let worker = host.worker();
    let mut command = command(&host.ports);
    command.args(["--take-over", "--strict", "--guard", text(&place.root)]);
    command.args(["--scanner", text(&scanner), "--rules", text(&rules)]);
    let new = Host::spawn(&mut command, host.ports.clone());
    assert_eq!(host.ended().code(), Some(4));
    until("the new one answers", || {
        new.connect_to("control").is_some() && new.worker() != worker
    });
    assert!(!opens(&file));
}

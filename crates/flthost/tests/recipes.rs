//! Known recipes for a frozen machine: somebody whom the host needs waits for the host. Each ends by itself, and the host
//! goes on. Needs root; some need FUSE, python3 or gdb.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::fuse::Fuse;
use common::host::{Faithful, Host, allow, command, opens, start_opener, try_open, until};
use common::server::{self, Manner, Server};
use common::{Place, outcome, text};

#[test]
fn server() {
    server::run();
}

/// Checks that the host serves as if nothing had been.
fn serves(host: &Host, place: &Place) {
    let _server = Server::start(host, Manner::Judge);
    assert!(opens(&place.root.join("good")));
    assert!(!opens(&place.root.join("bad")));
}

fn place() -> Option<Place> {
    let place = Place::lasting(60)?;
    for name in ["good", "bad", "library"] {
        place.file(name);
    }
    Some(place)
}

#[test]
fn a_service_that_opens_what_it_is_asked_about_ends_at_the_deadline() {
    for manner in [Manner::Reopen, Manner::Load] {
        let Some(place) = place() else { return };
        let host = Host::start(&place, &["--strict", "--deadline-ms", "500"]);
        let worker = host.worker();
        let server = Server::start(&host, manner);
        // It asks itself, and does not answer while it waits for its own answer.
        for _ in 0..2 {
            let (result, took) = try_open(&place.root.join("good"));
            println!("{manner:?}: an open ended after {took:?}");
            assert!(result.is_err() && took < Duration::from_secs(4), "{took:?}");
        }
        drop(server);
        until("it is gone", || host.status()["services"] == 0);
        serves(&host, &place);
        assert_eq!(host.worker(), worker, "{}", host.said());
    }
}

#[test]
fn whoever_reads_what_the_host_says_may_wait_for_the_host() {
    let Some(place) = place() else { return };
    let good = place.root.join("good");
    let ports = place.outside("ports");
    let mut inner = command(&ports);
    inner.args(["--strict", "--no-scanner", "--deadline-ms", "60000"]);
    inner.args(["--guard", text(&place.root)]);
    // The pipe is full, and its reader comes to read only when it has opened a guarded file.
    let script = "{ head -c 65536 /dev/zero; exec \"$@\" 2>&3; } 3>&1 | { \
         until [ -e \"$PORTS/go\" ]; do sleep 0.01; done; cat \"$GOOD\"; cat; } > /dev/null";
    let mut outer = Command::new("sh");
    outer.args(["-c", script, "sh"]);
    outer.env("GOOD", &good).env("PORTS", &ports);
    outer.arg(inner.get_program()).args(inner.get_args());
    let host = Host::run(&mut outer, ports);
    let service = host.connect();
    fs::write(host.ports.join("go"), "").unwrap();
    let question = service.next_message().unwrap();
    let worker = host.worker();
    let start = Instant::now();
    host.kill_worker();
    host.next_worker(worker);
    let took = start.elapsed();
    println!("a host whose words nobody reads had its next worker after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop((question, service));
    serves(&host, &place);
}

#[test]
fn the_host_itself_and_its_ports_may_be_on_the_guarded_filesystem() {
    let Some(place) = place() else { return };
    let (program, ports) = (place.root.join("flthostd"), place.dir("ports"));
    fs::copy(env!("CARGO_BIN_EXE_flthostd"), &program).unwrap();
    let inner = command(&ports);
    let mut command = Command::new(&program);
    command.args(inner.get_args());
    command.args(["--strict", "--no-scanner", "--guard", text(&place.root)]);
    let host = Host::run(&mut command, ports);
    for _ in 0..3 {
        let (worker, start) = (host.worker(), Instant::now());
        host.kill_worker();
        host.next_worker(worker);
        let took = start.elapsed();
        println!("its next worker came after {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let _service = host.serve(|_, question| allow(question));
        assert!(opens(&place.root.join("good")));
    }
}

/// Opens a file of a filesystem whose daemon opens a guarded file first, as an automounter does. Where that filesystem is
/// guarded too, the worker itself opens its files, and the daemon waits for the worker.
fn opens_what_needs_another(guarded_too: bool) {
    let Some(place) = place() else { return };
    let Some(fuse) = Fuse::mount(&place, &place.root.join("good")) else {
        return;
    };
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--strict", "--no-scanner", "--guard", text(&place.root)]);
    if guarded_too {
        // Without a service, which would have to close the file: its own lane is not built.
        command.args(["--guard", text(&fuse.root), "--exclude", text(&fuse.root)]);
    }
    let host = Host::run(&mut command, ports);
    let faithful = Faithful::new(&host);
    until("a service judges", || opens(&place.root.join("good")));
    let worker = host.worker();
    for number in 0..5 {
        let (result, took) = try_open(&fuse.file(&format!("{number}.needs")));
        result.unwrap();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    assert_eq!(host.worker(), worker, "{}", host.said());
    drop((host, faithful));
}

#[test]
fn an_open_may_wait_for_somebody_who_opens_a_guarded_file() {
    opens_what_needs_another(false);
}

#[test]
fn a_daemon_whose_filesystem_is_guarded_may_open_guarded_files() {
    opens_what_needs_another(true);
}

#[test]
fn a_worker_that_is_held_by_a_debugger_is_replaced() {
    let Some(place) = place() else { return };
    let host = Host::start(&place, &["--strict", "--deadline-ms", "60000"]);
    let server = Server::start(&host, Manner::Hold);
    let worker = host.worker();
    if !common::run("gdb", ["-q", "-nx", "-batch"]) {
        println!("skipped: no gdb");
        return;
    }
    let opener = start_opener(&place.root.join("good"));
    until("the service has it", || host.count("with_services") == 1);
    let start = Instant::now();
    let mut debugger = Command::new("gdb")
        .args(["-q", "-nx", "-p", &worker.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    outcome(opener).unwrap_err();
    let took = start.elapsed();
    println!("what waited for a worker in a debugger ended after {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}"); // the debugger takes a while itself
    drop(server);
    host.next_worker(worker);
    serves(&host, &place);
    assert!(Path::new(&format!("/proc/{}", debugger.id())).exists());
    debugger.kill().ok();
    debugger.wait().unwrap();
}

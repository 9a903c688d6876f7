//! What the host promises while its processes, and services, are killed, stopped, or told to release everything. Needs
//! root.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::crowd::{self, Crowd, Seen};
use common::host::{Faithful, Host, kill, lives, opens, start_opener, try_open, until};
use common::server::{self, Manner, Server};
use common::{Place, outcome, text};
use rustix::process::Signal;

#[test]
fn crowd() {
    crowd::run();
}

#[test]
fn server() {
    server::run();
}

/// Kills so many workers, in different moments of their lives, while many openers loop over good and bad files.
fn massacre(place: &Place, kills: u32, arguments: &[&str]) -> Seen {
    let excluded = place.dir("excluded");
    for number in 0..4 {
        let bad = place.file(&format!("files/bad{number}"));
        place.file(&format!("files/good{number}"));
        std::fs::hard_link(bad, excluded.join(format!("link{number}"))).unwrap();
    }
    let usual = ["--restarts", "100000", "--exclude", text(&excluded)];
    let host = Host::start(place, &[&usual, arguments].concat());
    let faithful = Faithful::new(&host);
    let openers = Crowd::looping(&place.root.join("files"), 64);
    // Their opens are allowed by triage, and keep the files out of the other group, ever and again.
    let others = Crowd::looping(&excluded, 4);
    let mut worker = host.child().unwrap();
    for number in 0..kills {
        // At once; when it reads; when it asks; when it has got an answer.
        match number % 4 {
            0 => {}
            1 => until("it is there", || host.connect_to("control").is_some()),
            2 => until("it asks", || host.count("with_services") > 0),
            _ => until("it decides", || host.count("by_service") > 5),
        }
        kill(worker, Signal::KILL);
        let old = worker;
        until("the next worker comes", || {
            host.child().is_some_and(|child| {
                worker = child;
                child != old
            })
        });
    }
    let seen = openers.finish();
    assert!(others.finish().longest() < DEADLINE);
    drop((host, faithful));
    seen
}

#[test]
fn not_one_bad_file_is_opened_while_two_hundred_workers_are_killed() {
    let Some(place) = Place::lasting(100) else {
        return;
    };
    let seen = massacre(&place, 200, &["--strict"]);
    println!("strict: {seen:?}");
    assert_eq!(seen.bad(), 0, "{seen:?}");
    assert!(seen.opened() > 100 && seen.failed(libc::EPERM) > 100);
    assert!(seen.longest() < DEADLINE, "{seen:?}");
}

#[test]
fn nobody_waits_past_the_deadline_while_two_hundred_workers_are_killed() {
    let Some(place) = Place::lasting(100) else {
        return;
    };
    let seen = massacre(&place, 200, &["--policy", "crash=allow"]);
    println!("lenient: {seen:?}");
    assert!(seen.opened() > 100 && seen.failed(libc::EPERM) > 100);
    assert!(seen.longest() < DEADLINE, "{seen:?}");
}

/// The host's usual one.
const DEADLINE: Duration = Duration::from_secs(2);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Worker,
    Service,
}

use Victim::{Service, Supervisor, Worker};

/// Who is killed in which order, whether what waited meanwhile is opened, and whether the files are guarded afterwards:
/// by a strict host.
const STORIES: [(&[Victim], bool, bool); 12] = [
    (&[Worker], false, true),
    (&[Supervisor], false, true),
    (&[Service], false, true),
    (&[Worker, Supervisor], false, true),
    (&[Worker, Service], false, true),
    (&[Service, Worker], false, true),
    (&[Supervisor, Service], false, true),
    (&[Service, Supervisor], false, true),
    (&[Worker, Worker, Supervisor, Service], false, true),
    // Nobody is left: the kernel closes the groups, and allows. That takes root.
    (&[Supervisor, Worker], true, false),
    (&[Service, Supervisor, Worker], true, false),
    (&[Supervisor, Service, Worker], true, false),
];

#[test]
fn whoever_is_killed_in_whatever_order_the_promises_hold() {
    for story in STORIES {
        let Some(place) = Place::lasting(40) else {
            return;
        };
        tell(&place, story);
    }
}

fn tell(place: &Place, (victims, opened, guarded): (&[Victim], bool, bool)) {
    let (file, bad) = (place.file("file"), place.file("bad"));
    let host = Host::start(place, &["--strict", "--deadline-ms", "3000"]);
    let server = Server::start(&host, Manner::Hold);
    let mut worker = host.worker();
    let start = Instant::now();
    let opener = start_opener(&file);
    until("the service has it", || host.count("with_services") == 1);
    for victim in victims {
        match victim {
            Service => kill(server.id(), Signal::KILL),
            Supervisor => {
                kill(host.supervisor(), Signal::KILL);
                host.says("goes on without it");
            }
            Worker => {
                kill(worker, Signal::KILL);
                let alone = !lives(host.supervisor());
                if alone {
                    until("the worker ends", || !lives(worker));
                } else {
                    worker = host.next_worker(worker);
                }
            }
        }
    }
    assert_eq!(outcome(opener).is_ok(), opened, "{victims:?}");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{victims:?}: {took:?}");
    drop(server);
    if !guarded {
        assert!(opens(&bad), "{victims:?}");
        return;
    }
    let _judge = Server::start(&host, Manner::Judge);
    assert!(opens(&file) && !opens(&bad), "{victims:?}");
    if !lives(host.supervisor()) {
        // Nobody else is left to watch it.
        kill(worker, Signal::TERM);
        until("the worker ends", || !lives(worker));
    }
}

#[test]
fn a_stopped_worker_is_killed_and_the_next_one_answers() {
    for (policy, fine) in [("crash=allow", true), ("crash=deny", false)] {
        let Some(place) = Place::lasting(40) else {
            return;
        };
        let (file, held) = (place.file("file"), place.file("held"));
        let host = Host::start(&place, &["--deadline-ms", "60000", "--policy", policy]);
        let server = Server::start(&host, Manner::Hold);
        let read = start_opener(&held);
        until("the service has it", || host.count("with_services") == 1);
        let worker = host.worker();
        drop(server);
        let start = Instant::now();
        kill(worker, Signal::STOP);
        let unread = start_opener(&file);
        assert_eq!(outcome(read).is_ok(), fine);
        let took = start.elapsed();
        println!("{policy}: what a stopped worker had read took {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        host.says("is stuck");
        host.next_worker(worker);
        // It waited for the next worker, which has no service: allowed.
        outcome(unread).unwrap();
        let took = start.elapsed();
        println!("{policy}: what nobody had read took {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

/// Checks that everything is released: what waits, and what comes.
fn releases(mut host: Host, worker: Option<u32>, waiting: Vec<std::process::Child>, file: &Path) {
    let start = Instant::now();
    kill(host.supervisor(), Signal::USR1);
    for opener in waiting {
        outcome(opener).unwrap();
    }
    println!("what waited was released after {:?}", start.elapsed());
    assert!(host.ended().success());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    until("the worker is gone", || !worker.is_some_and(lives));
    assert!(opens(file));
}

#[test]
fn break_glass_releases_everything_that_waits() {
    for stopped in [false, true] {
        let Some(place) = Place::lasting(40) else {
            return;
        };
        let (file, bad) = (place.file("file"), place.file("bad"));
        let host = Host::start(&place, &["--strict", "--deadline-ms", "60000"]);
        let _server = Server::start(&host, Manner::Hold);
        let mut waiting: Vec<_> = (0..5).map(|_| start_opener(&file)).collect();
        until("they wait", || host.count("pending") == 5);
        let worker = host.worker();
        if stopped {
            kill(worker, Signal::STOP);
            // Nobody reads these.
            waiting.extend((0..5).map(|_| start_opener(&bad)));
            let asks = |opener: &std::process::Child| {
                let stack = std::fs::read_to_string(format!("/proc/{}/wchan", opener.id()));
                let last = children(opener.id());
                let inner = last.map(|id| std::fs::read_to_string(format!("/proc/{id}/wchan")));
                let waits = |text: std::io::Result<String>| {
                    text.is_ok_and(|text| text.contains("fanotify"))
                };
                waits(stack) || inner.is_some_and(waits)
            };
            until("they wait unread", || waiting.iter().skip(5).all(asks));
        }
        releases(host, Some(worker), waiting, &bad);
    }
}

/// The only child of a process.
fn children(process: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    children.ok()?.split_whitespace().next()?.parse().ok()
}

#[test]
fn break_glass_ends_a_supervisor_that_answers_alone() {
    let Some(place) = Place::lasting(40) else {
        return;
    };
    let bad = place.file("bad");
    let host = Host::start(&place, &["--strict", "--restarts", "0"]);
    host.kill_worker();
    host.says("by policy from now on");
    let (result, took) = try_open(&bad);
    assert!(result.is_err() && took < DEADLINE, "{took:?}");
    releases(host, None, Vec::new(), &bad);
}

#[test]
fn break_glass_works_while_workers_die_one_after_the_other() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let bad = place.file("files/bad");
    let host = Host::start(&place, &["--strict", "--restarts", "100000"]);
    let openers = Crowd::looping(&place.root.join("files"), 16);
    for _ in 0..20 {
        let worker = host.child();
        if let Some(worker) = worker {
            kill(worker, Signal::KILL);
        }
        until("the next worker comes", || {
            host.child().is_some_and(|child| Some(child) != worker)
        });
    }
    let worker = host.child();
    releases(host, worker, Vec::new(), &bad);
    let seen = openers.finish();
    assert!(seen.longest() < DEADLINE, "{seen:?}");
}

//! Ways in which a file or its opener might buy a permission, and ways out of the scanner. Needs root.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::channel;
use std::thread;

use common::crowd::{self, Crowd};
use common::host::{
    Host, allow, command, judge, kill, lives, opens, start_opener, try_open, until,
};
use common::{Place, outcome, text};
use fltport::protocol::control::Request;
use rustix::fs::inotify;
use rustix::process::Signal;

#[test]
fn a_crowd_that_keeps_the_service_busy_gets_nothing_through_behind_it() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (slow, bad) = (place.file("slow"), place.file("bad"));
    // The lenient policies: what a crowd brings about is denied even by them.
    let host = Host::start(&place, &["--deadline-ms", "3000"]);
    let events = host.listen();
    let service = host.connect();
    let first = start_opener(&slow);
    let held = service.next_message().unwrap();
    let behind = start_opener(&bad);
    until("both are asked", || host.count("with_services") == 2);
    allow(held); // the service answers, only not everything
    outcome(first).unwrap();
    outcome(behind).unwrap_err();
    assert_eq!(events.decision("bad")["cause"], "overload");
}

#[test]
fn files_that_kill_every_service_do_not_open_the_door_for_others() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let deadly = ["one", "two"].map(|name| place.file(name));
    let other = place.file("other");
    let host = Host::start(&place, &["--deadline-ms", "5000"]);
    for deadly in deadly {
        let service = host.connect();
        let opener = start_opener(&deadly);
        let question = service.next_message().unwrap();
        service.close();
        drop(question);
        let service = host.connect();
        let question = service.next_message().unwrap(); // tried alone
        service.close();
        drop(question);
        outcome(opener).unwrap_err();
    }
    until("the services are gone", || host.count("with_services") == 0);
    assert!(!opens(&other), "no service is left, and files are why");
}

#[test]
fn the_scanner_has_no_terminal_and_only_what_it_was_given() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let Some(built) = common::host::scanner() else {
        println!("skipped: fltscand is not built; `cargo test --workspace` builds it");
        return;
    };
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--guard", text(&place.root), "--scanner", text(&built)]);
    let host = Host::run(&mut command, ports);
    let pid = scanner_pid(&host);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // state, parent, group, session, terminal
    assert_eq!(
        fields[3],
        pid.to_string(),
        "the leader of a session of its own: {stat}"
    );
    assert_eq!(fields[4], "0", "no terminal: {stat}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field("Groups"), field("NoNewPrivs")),
        (String::new(), "1".to_owned())
    );
    assert!(fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty());
    let open: BTreeSet<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    // Its socket, and with memory for its questions what notices that the host has died; nothing else.
    let expected = BTreeSet::from([0, 1, 2, 3]);
    let targets: Vec<_> = open
        .difference(&expected)
        .map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap())
        .collect();
    assert!(open.is_superset(&expected), "{open:?}");
    assert!(
        targets.len() <= 1 && targets.iter().all(|t| text(t) == "anon_inode:[eventpoll]"),
        "{targets:?}"
    );
    // Not dumpable: its files under /proc are root's, and no process of the same user can look into it.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/fd")).unwrap());
    assert_eq!(owner, 0);
    kill(pid, Signal::KILL);
    until("the scanner dies", || !lives(pid));
    assert!(
        try_open(&place.file("after")).0.is_ok(),
        "the next one answers"
    );
}

fn scanner_pid(host: &Host) -> u32 {
    let control = host.connect_to("control").unwrap();
    let list: serde_json::Value =
        serde_json::from_str(&Request::Connections.send(&control).unwrap()).unwrap();
    let ours = |entry: &&serde_json::Value| entry["port"].as_str().unwrap().ends_with("scan");
    let pid = list.as_array().unwrap().iter().find(ours).unwrap()["pid"].as_u64();
    u32::try_from(pid.unwrap()).unwrap()
}

#[test]
fn a_file_whose_opens_triage_allows_is_asked_about_on_any_other_way_to_it() {
    let Some(place) = Place::new() else { return };
    let (excluded, other) = (place.file("cache/bad"), place.root.join("bad"));
    fs::hard_link(&excluded, &other).unwrap();
    let cache = place.root.join("cache");
    let host = Host::start(&place, &["--strict", "--exclude", text(&cache)]);
    let _service = host.serve(|_, question| judge(question));
    for round in 0..50 {
        // From the second on, the group of questions does not see them.
        for _ in 0..round % 3 + 1 {
            fs::read(&excluded).unwrap();
        }
        assert!(fs::read(&other).is_err(), "round {round}: unasked");
    }
    assert_eq!(host.count("by_service"), 50);
}

#[test]
fn an_open_that_triage_allows_is_decided_once_whether_the_other_group_sees_it_or_not() {
    let Some(place) = Place::new() else { return };
    let files: Vec<_> = (0..20).map(|n| place.file(&format!("cache/{n}"))).collect();
    let cache = place.root.join("cache");
    let host = Host::start(&place, &["--strict", "--exclude", text(&cache)]);
    let allowed = || host.count("allowed");
    // The first open comes to both groups, though its file is kept out of the second meanwhile: the kernel has looked for
    // marks before. Were it taken for kept out, it would be counted twice; were it not seen there, not at all.
    for opens in 1..=3 {
        for (number, file) in (1..).zip(&files) {
            fs::read(file).unwrap();
            let expected = (opens - 1) * 20 + number;
            until("it is counted", || allowed() >= expected);
            assert_eq!(allowed(), expected);
        }
    }
    assert_eq!((host.count("pending"), host.count("unanswered")), (0, 0));
}

#[test]
fn an_open_on_its_way_to_a_service_is_not_lost_to_one_that_is_excluded() {
    const ROUNDS: usize = 4_000;
    let Some(place) = Place::lasting(60) else {
        return;
    };
    // Opened one way it is asked about, the other way not: both at once, again and again.
    let excluded = place.file("cache/link");
    for number in 0..4 {
        let other = place.root.join(format!("asked/bad{number}"));
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::hard_link(&excluded, other).unwrap();
    }
    let cache = place.root.join("cache");
    let host = Host::start(&place, &["--strict", "--exclude", text(&cache)]);
    let _service = host.serve(|_, question| judge(question));
    let (askers, others) = (
        Crowd::looping(&place.root.join("asked"), 16),
        Crowd::looping(&cache, 8),
    );
    let rounds = u64::try_from(ROUNDS).unwrap();
    until("enough have been asked about", || {
        host.count("by_service") > rounds
    });
    let (asked, other) = (askers.finish(), others.finish());
    println!("asked {asked:?}, excluded {other:?}");
    assert_eq!(asked.opened(), 0, "opened unasked");
    assert_eq!(other.all_failed(), 0);
    assert_eq!(host.count("by_service"), asked.all_failed());
}

#[test]
fn crowd() {
    crowd::run();
}

/// Between its two groups the kernel looks at everybody's marks of the file again.
#[test]
fn a_watch_that_ends_while_the_host_thinks_lets_nobody_past() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let bad = place.file("bad");
    let host = Host::start(&place, &["--strict", "--cache", "off"]);
    let _service = host.serve(|_, question| judge(question));
    until("a service judges", || {
        opens(&place.root.join("bad")) || host.count("by_service") > 0
    });
    let watches = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let watch = inotify::add_watch(&watches, &bad, inotify::WatchFlags::MODIFY).unwrap();
    let worker = host.worker();
    // For less than what would have it replaced.
    kill(worker, Signal::STOP);
    let (tell, told) = channel();
    let opener = thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        fs::File::open(bad).is_ok()
    });
    let stat = format!(
        "/proc/self/task/{}/stat",
        told.recv().unwrap().as_raw_nonzero()
    );
    until("it waits in the kernel", || {
        fs::read_to_string(&stat).unwrap().contains(") D ")
    });
    inotify::remove_watch(&watches, watch).unwrap();
    kill(worker, Signal::CONT);
    assert!(!opener.join().unwrap());
    assert_eq!(host.worker(), worker, "{}", host.said());
}

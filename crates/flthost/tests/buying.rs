//! Files and services that try to bring a permission about: by slowness, by killing services, by coming second. The test is
//! all services. Needs root.

mod common;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::fuse::Fuse;
use common::host::{
    Host, SOON, Service, allow, answer, command, judge, name, opens, start_opener, try_open, until,
};
use common::{Place, outcome, text};
use fltport::Message;
use fltport::protocol::file::{Question, Request, Verdict};
use fltport::protocol::read;
use zerocopy::IntoBytes;

/// A service that keeps every question until it is received.
fn keeper(host: &Host, port: &str) -> (Service, Receiver<Message>) {
    let (keep, kept) = channel();
    let keep = move |_: &_, question| keep.send(question).unwrap_or(());
    (host.serve_at(port, keep), kept)
}

/// Asks for so much more time for a question, and gets some.
fn more(service: &Service, question: &Message, millis: u32) {
    let id = read::<Question>(question.payload()).unwrap().id;
    let request = Request::more_time(id, millis);
    service.client.send(request.as_bytes(), 8).unwrap();
}

/// A service gets this file, and ends with it. The opener waits on.
fn kill_a_service(host: &Host, place: &Place, file: &str) -> Child {
    let (service, asked) = keeper(host, "scan");
    let opener = start_opener(&place.root.join(file));
    let question = asked.recv_timeout(SOON).unwrap();
    service.client.close();
    drop(question);
    drop(service);
    until("it is gone", || host.status()["services"] == 0);
    opener
}

fn start(place: &Place, arguments: &[&str]) -> Host {
    for name in ["good", "bad", "kill"] {
        // Anybody's.
        let mode = Permissions::from_mode(0o666);
        std::fs::set_permissions(place.file(name), mode).unwrap();
    }
    Host::start(place, arguments)
}

#[test]
fn a_file_that_is_slow_above_is_asked_about_below_all_the_same() {
    let Some(place) = Place::new() else { return };
    let ports = ["--service", "dlp@400000", "--service", "av@300000"];
    let host = start(&place, &[&ports[..], &["--deadline-ms", "1000"]].concat());
    let (dlp, above) = keeper(&host, "dlp");
    let _av = host.serve_at("av", |_, question| judge(question));
    let events = host.listen();
    let began = Instant::now();
    let opener = start_opener(&place.root.join("bad"));
    let question = above.recv_timeout(SOON).unwrap();
    more(&dlp, &question, 4_000);
    // Past the deadline that the operation had at first.
    until("it takes long", || {
        began.elapsed() > Duration::from_millis(1_200)
    });
    allow(question);
    outcome(opener).unwrap_err();
    assert_eq!(events.decision("bad")["cause"], "service");
}

#[test]
fn a_file_that_kills_a_service_buys_no_release() {
    let Some(place) = Place::new() else { return };
    let policies = ["--policy", "no_service=deny", "--policy", "timeout=deny"];
    let host = start(&place, &[&policies[..], &["--deadline-ms", "500"]].concat());
    let opener = kill_a_service(&host, &place, "kill");
    outcome(opener).unwrap_err();
    // As many denials, for as long, as release what is denied where services are simply away: see policies.rs.
    let end = Instant::now() + Duration::from_secs(6);
    let mut denied = 0;
    while Instant::now() < end {
        assert!(File::open(place.root.join("bad")).is_err());
        denied += 1;
    }
    assert!(denied > 200, "{denied}");
    assert!(!opens(&place.root.join("kill")));
    assert_eq!(host.status()["service_ports"][0]["released"], false);
}

#[test]
fn a_file_that_has_killed_a_service_waits_in_vain_until_none_is_there() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, &["--deadline-ms", "500"]);
    let events = host.listen();
    let opener = kill_a_service(&host, &place, "kill");
    outcome(opener).unwrap_err();
    assert_eq!(events.decision("kill")["cause"], "poison");
    // Others have the policy of that, and this one, opened again, does not.
    let opens_it = || try_open(&place.root.join("kill")).0;
    assert!(opens(&place.root.join("good")));
    opens_it().unwrap_err();
    assert_eq!(events.decision("kill")["cause"], "poison");
    // Until one has answered about it.
    let service = host.serve(|_, question| judge(question));
    opens_it().unwrap();
    drop(service);
    until("it is gone", || host.status()["services"] == 0);
    opens_it().unwrap();
    assert_eq!(events.decision("kill")["cause"], "service");
    assert_eq!(events.decision("kill")["cause"], "no_service");
}

#[test]
fn a_file_that_has_killed_two_services_is_not_given_to_a_third_until_it_changes() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, &["--deadline-ms", "30000"]);
    let events = host.listen();
    let opener = kill_a_service(&host, &place, "kill");
    let (second, asked) = keeper(&host, "scan");
    let question = asked.recv_timeout(SOON).unwrap();
    second.client.close();
    drop((question, second));
    outcome(opener).unwrap_err();
    let (_third, asked) = keeper(&host, "scan");
    try_open(&place.root.join("kill")).0.unwrap_err();
    for reason in ["twice", "lately"] {
        let decision = events.decision("kill");
        assert_eq!(decision["cause"], "poison");
        assert!(decision["reason"].as_str().unwrap().contains(reason));
    }
    assert!(asked.try_recv().is_err(), "it was asked");
    // Whoever may change a file may have mended it.
    let mode = Permissions::from_mode(0o606);
    std::fs::set_permissions(place.root.join("kill"), mode).unwrap();
    let opener = start_opener(&place.root.join("kill"));
    allow(asked.recv_timeout(SOON).unwrap());
    outcome(opener).unwrap();
}

/// What a service may say of a file before it dies of it.
#[test]
fn a_file_that_kills_a_service_after_its_answer_has_killed_it() {
    let unscannable = |question| answer(question, Verdict::Unscannable);
    // Just in time, as a scanner's watchdog says it, while the scan goes on; and as one panics.
    let in_time = |question: Message| {
        let asked: Question = read(question.payload()).unwrap();
        let enough = Duration::from_millis(600);
        until("its time is nearly over", || asked.remaining() < enough);
        unscannable(question);
    };
    let ways: [(&dyn Fn(Message), &str); 3] = [
        (&in_time, "poison"),
        (&drop, "poison"),
        // It has looked, and is done with it: its end is another matter.
        (&unscannable, "no_service"),
    ];
    for (says, next) in ways {
        let Some(place) = Place::new() else { return };
        let host = start(&place, &["--deadline-ms", "3000"]);
        let events = host.listen();
        let (service, asked) = keeper(&host, "scan");
        let opener = start_opener(&place.root.join("kill"));
        says(asked.recv_timeout(SOON).unwrap());
        outcome(opener).unwrap_err();
        assert_eq!(events.decision("kill")["cause"], "unscannable");
        service.client.close();
        drop(service);
        until("it is gone", || host.status()["services"] == 0);
        let result = try_open(&place.root.join("kill")).0;
        assert_eq!(events.decision("kill")["cause"], next);
        assert_eq!(result.is_ok(), next == "no_service");
    }
}

#[test]
fn a_file_of_root_that_was_beside_a_deadly_one_locks_nobody_out() {
    let Some(place) = Place::new() else { return };
    let library = place.file("library");
    let host = start(&place, &["--deadline-ms", "500"]);
    let events = host.listen();
    let (service, asked) = keeper(&host, "scan");
    let openers = ["library", "kill"].map(|name| start_opener(&place.root.join(name)));
    let questions = [0; 2].map(|_| asked.recv_timeout(SOON).unwrap());
    service.client.close();
    drop((questions, service));
    // Which of the two it died of nobody knows.
    for opener in openers {
        outcome(opener).unwrap_err();
    }
    assert_eq!(events.decision("library")["cause"], "poison");
    try_open(&library).0.unwrap();
    assert_eq!(events.decision("library")["cause"], "no_service");
    assert!(!opens(&place.root.join("kill")));
}

#[test]
fn while_a_file_is_on_trial_others_are_not_let_past() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, &["--deadline-ms", "1000"]);
    let killer = kill_a_service(&host, &place, "kill");
    // One of two gets the suspect, and takes its time; the other has nothing to do.
    let services = [keeper(&host, "scan"), keeper(&host, "scan")];
    let mut trial = None;
    until("it is tried again", || {
        for (service, asked) in &services {
            trial = trial
                .take()
                .or_else(|| Some((service, asked.try_recv().ok()?)));
        }
        trial.is_some()
    });
    let (service, question) = trial.unwrap();
    more(service, &question, 8_000);
    let events = host.listen();
    try_open(&place.root.join("bad")).0.unwrap_err();
    assert_eq!(events.decision("bad")["cause"], "overload");
    drop(question);
    outcome(killer).unwrap_err();
}

#[test]
fn whoever_waits_for_the_answer_about_a_suspect_is_no_better_than_that() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, &["--deadline-ms", "1000"]);
    let (service, asked) = keeper(&host, "scan");
    let events = host.listen();
    let first = start_opener(&place.root.join("kill"));
    let question = asked.recv_timeout(SOON).unwrap();
    more(&service, &question, 8_000);
    // His time is over before that of the one whose answer he waits for.
    let second = start_opener(&place.root.join("kill"));
    until("both wait", || host.count("pending") == 2);
    service.client.close();
    drop(question);
    drop(service);
    outcome(second).unwrap_err();
    assert_eq!(events.decision("kill")["cause"], "poison");
    // With somebody to ask, the first one's end comes sooner.
    let _next = host.serve(|_, question| judge(question));
    outcome(first).unwrap();
}

#[test]
fn a_question_about_a_remote_file_finds_who_is_there() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let Some(fuse) = Fuse::mount(&place, Path::new("/dev/null")) else {
        return;
    };
    place.file("good");
    let ports = place.outside("ports");
    let start = |more: &[&str]| {
        let mut command = command(&ports);
        command.args(["--no-scanner", "--deadline-ms", "30000"]);
        command.args(["--guard", text(&place.root), "--guard", text(&fuse.root)]);
        Host::run(command.args(more), ports.clone())
    };
    let mut old = start(&[]);
    // Who was to get it leaves before he has: whoever is at the other port is asked.
    let remote = host_that_reads_nothing(&old);
    let opener = start_opener(&fuse.file("bad"));
    until("it waits there", || old.count("pending") == 1);
    let local = old.serve(|_, question| judge(question));
    remote.close();
    drop(remote);
    outcome(opener).unwrap_err();
    // After a handover, too.
    let host = start(&["--take-over"]);
    old.ended();
    drop((local, old));
    let (_service, asked) = keeper(&host, "scan");
    let opener = start_opener(&fuse.file("bad"));
    let question = asked.recv_timeout(SOON).unwrap();
    assert_eq!(name(&question), "bad");
    judge(question);
    outcome(opener).unwrap_err();
    drop(host);
}

/// A service of remote files that gets nothing.
fn host_that_reads_nothing(host: &Host) -> fltport::Client {
    let mut client = None;
    until("the port is there", || {
        client = host.connect_to("scan-remote");
        client.is_some()
    });
    client.unwrap()
}

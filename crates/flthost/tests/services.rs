//! Services at several ports: one after the other, side by side, and those of network and FUSE filesystems apart. The test
//! is all services. Needs root.

mod common;

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::fuse::Fuse;
use common::host::{
    Host, SOON, Service, allow, answer, command, judge, kill, name, opens, refused, scanner,
    start_opener, try_open, until,
};
use common::{Place, outcome, text};
use fltport::Message;
use fltport::protocol::file::{Question, Verdict};
use fltport::protocol::read;
use rustix::process::Signal;

/// Two ports, one above the other.
const ONE_AFTER_THE_OTHER: [&str; 4] = ["--service", "av@400000", "--service", "dlp@300000"];

/// Two ports at one altitude.
const SIDE_BY_SIDE: [&str; 4] = ["--service", "av@400000", "--service", "dlp@400000"];

fn start(place: &Place, ports: [&str; 4], more: &[&str]) -> Host {
    for name in ["good", "bad", "other"] {
        place.file(name);
    }
    Host::start(place, &[&ports[..], more].concat())
}

/// A service that keeps every question until it is received.
fn keeper(host: &Host, port: &str) -> (Service, Receiver<Message>) {
    let (keep, kept) = channel();
    (
        host.serve_at(port, move |_, question| keep.send(question).unwrap_or(())),
        kept,
    )
}

/// Answers by name, and tells of what it was asked.
fn teller(host: &Host, port: &str) -> (Service, Receiver<String>) {
    let (tell, told) = channel();
    let service = host.serve_at(port, move |_, question| {
        tell.send(name(&question)).ok(); // or nobody wants to know
        judge(question);
    });
    (service, told)
}

#[test]
fn the_higher_port_is_asked_first_and_the_lower_only_about_what_it_allows() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, ONE_AFTER_THE_OTHER, &["--strict"]);
    let (_av, above) = teller(&host, "av");
    let (dlp, below) = keeper(&host, "dlp");
    let opener = start_opener(&place.root.join("good"));
    let question = below.recv_timeout(SOON).unwrap();
    assert_eq!(
        above.try_recv().as_deref(),
        Ok("good"),
        "it was asked before"
    );
    answer(question, Verdict::Deny);
    assert!(outcome(opener).is_err(), "the lower one counts too");
    assert!(!opens(&place.root.join("bad")));
    assert!(
        below.try_recv().is_err(),
        "nobody below is asked about what is denied"
    );
    drop(dlp);
    let filters: Vec<_> = host.filters();
    assert_eq!(filters, ["trace", "mute", "cached", "av", "dlp"]);
}

#[test]
fn a_port_without_services_does_not_speak_for_those_below() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, ONE_AFTER_THE_OTHER, &[]);
    let (_dlp, below) = teller(&host, "dlp");
    let events = host.listen();
    assert!(!opens(&place.root.join("bad")), "denied below");
    assert_eq!(events.decision("bad")["cause"], "service");
    // What policy has let go on somewhere was not found clean: it is said so, and nothing is kept.
    for _ in 0..2 {
        assert!(opens(&place.root.join("good")));
        assert_eq!(events.decision("good")["cause"], "no_service");
    }
    let asked: Vec<_> = below.try_iter().collect();
    assert_eq!(asked, ["bad", "good", "good"]);
}

#[test]
fn a_port_that_is_silent_leaves_those_below_their_time() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, ONE_AFTER_THE_OTHER, &["--deadline-ms", "1000"]);
    let (_av, above) = keeper(&host, "av");
    let (_dlp, _) = teller(&host, "dlp");
    let opener = start_opener(&place.root.join("bad"));
    let question = above.recv_timeout(SOON).unwrap();
    let left = read::<Question>(question.payload()).unwrap().remaining();
    assert!(left <= Duration::from_millis(500), "{left:?}");
    assert!(outcome(opener).is_err(), "denied below, in what was left");
}

#[test]
fn each_port_may_have_policies_of_its_own() {
    let Some(place) = Place::new() else { return };
    let of_av = [
        "--policy",
        "av/no_service=deny",
        "--policy",
        "no_service=allow",
    ];
    let host = start(&place, ONE_AFTER_THE_OTHER, &of_av);
    let (_dlp, below) = teller(&host, "dlp");
    assert!(!opens(&place.root.join("good")));
    assert!(below.try_recv().is_err());
    let (av, _) = teller(&host, "av");
    drop(_dlp);
    until("it is gone", || host.status()["services"] == 1);
    assert!(opens(&place.root.join("good")));
    drop(av);
}

#[test]
fn side_by_side_all_are_asked_at_once_and_all_have_to_allow() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, SIDE_BY_SIDE, &["--strict"]);
    let together = Arc::new(Barrier::new(2));
    let meet = |port| {
        let together = Arc::clone(&together);
        host.serve_at(port, move |_, question| {
            // Neither answers before both are asked.
            together.wait();
            let bad = port == "dlp" && name(&question) == "bad";
            answer(question, if bad { Verdict::Deny } else { Verdict::Allow });
        })
    };
    let _services = [meet("av"), meet("dlp")];
    assert!(opens(&place.root.join("good")));
    assert!(!opens(&place.root.join("bad")));
    assert_eq!(host.filters().last().map(String::as_str), Some("av+dlp"));
}

#[test]
fn side_by_side_one_denial_decides_and_nobody_else_is_waited_for() {
    let Some(place) = Place::new() else { return };
    let host = start(
        &place,
        SIDE_BY_SIDE,
        &["--strict", "--deadline-ms", "60000"],
    );
    let (keep, above) = channel();
    let has_it = Arc::new(Barrier::new(2));
    let denies = Arc::clone(&has_it);
    let _av = host.serve_at("av", move |_, question| {
        keep.send(question).unwrap_or(());
        has_it.wait();
    });
    let _dlp = host.serve_at("dlp", move |_, question| {
        // Before that, the other's question would only be taken back.
        denies.wait();
        judge(question);
    });
    let (result, took) = try_open(&place.root.join("bad"));
    assert!(result.is_err());
    assert!(took < SOON, "{took:?}");
    let question = above.recv_timeout(SOON).unwrap();
    until("its question is withdrawn", || {
        host.count("with_services") == 0
    });
    // Too late, and no harm.
    answer(question, Verdict::Allow);
    assert!(!opens(&place.root.join("bad")));
}

#[test]
fn side_by_side_a_port_without_services_is_decided_by_policy() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, SIDE_BY_SIDE, &["--policy", "dlp/no_service=deny"]);
    let (_av, _) = teller(&host, "av");
    assert!(!opens(&place.root.join("good")));
    drop(host);
    let host = start(&place, SIDE_BY_SIDE, &["--strict", "--agree", "first"]);
    let (_av, _) = teller(&host, "av");
    assert!(opens(&place.root.join("good")), "the only verdict there is");
    assert!(!opens(&place.root.join("bad")));
}

#[test]
fn side_by_side_the_first_verdict_may_decide() {
    let Some(place) = Place::new() else { return };
    let more = ["--strict", "--agree", "first", "--deadline-ms", "60000"];
    let host = start(&place, SIDE_BY_SIDE, &more);
    let (_av, above) = keeper(&host, "av");
    let _dlp = host.serve_at("dlp", |_, question| match name(&question).as_str() {
        "other" => answer(question, Verdict::Unscannable),
        _ => judge(question),
    });
    assert!(opens(&place.root.join("good")));
    assert!(!opens(&place.root.join("bad")));
    drop(above.try_iter().collect::<Vec<_>>());
    // Who cannot tell has given no verdict.
    let opener = start_opener(&place.root.join("other"));
    let question = above
        .iter()
        .find(|question| name(question) == "other")
        .unwrap();
    allow(question);
    outcome(opener).unwrap();
}

#[test]
fn side_by_side_many_openers_of_one_file_share_the_answers() {
    let Some(place) = Place::new() else { return };
    let host = start(&place, SIDE_BY_SIDE, &["--strict"]);
    let (_av, above) = keeper(&host, "av");
    let (_dlp, below) = keeper(&host, "dlp");
    let openers: Vec<_> = (0..8)
        .map(|_| start_opener(&place.root.join("good")))
        .collect();
    until("all wait", || host.count("pending") == 8);
    // Each port is asked by one of them, and perhaps by one for all that came later.
    let mut asked = 0;
    let end = Instant::now() + SOON;
    while host.count("pending") > 0 {
        assert!(Instant::now() < end);
        for question in above.try_iter().chain(below.try_iter()) {
            asked += 1;
            allow_content(question);
        }
    }
    for opener in openers {
        outcome(opener).unwrap();
    }
    assert!((2..=8).contains(&asked), "{asked} questions");
}

/// Allows whoever opens this file while it is the same.
fn allow_content(question: Message) {
    use fltport::protocol::file::Answer;
    use zerocopy::IntoBytes;
    let verdict = Answer::new(Verdict::Allow, "").of_content_only();
    question.reply(verdict.as_bytes()).ok();
}

#[test]
fn mistakes_about_ports_say_what_is_right() {
    let Some(place) = Place::new() else { return };
    for (arguments, words) in [
        (&["--service", "control"][..], "itself"),
        (&["--service", "av@low"], "number"),
        (&["--service", "av", "--service", "av@1"], "one such port"),
        (
            &["--service", "av", "--policy", "dlp/timeout=deny"],
            "there are av",
        ),
        (
            &["--service", "av", "--policy", "av/slow=deny"],
            "no such cause",
        ),
        (
            &["--service", "av", "--grant-mutes", "scan"],
            "there are av",
        ),
        (
            &["--service", "av", "--policy", "av/crash=deny"],
            "one policy for all ports",
        ),
        (&["--agree", "most"], "all, first"),
    ] {
        let mut command = command(&place.outside("ports"));
        command.args(["--no-scanner", "--guard", text(&place.root)]);
        let (code, said) = refused(command.args(arguments));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// A host that guards a tmpfs and a FUSE filesystem. Put away from first to last.
struct Remote {
    host: Host,
    fuse: Fuse,
    place: Place,
}

impl Remote {
    fn start(arguments: &[&str]) -> Option<Self> {
        let place = Place::lasting(60)?;
        for name in ["good", "bad"] {
            place.file(name);
        }
        let fuse = Fuse::mount(&place, Path::new("/dev/null"))?;
        let ports = place.outside("ports");
        let mut command = command(&ports);
        command.args(["--strict", "--guard", text(&place.root)]);
        command.args(["--guard", text(&fuse.root)]).args(arguments);
        let host = Host::run(&mut command, ports);
        Some(Self { host, fuse, place })
    }
}

#[test]
fn services_of_network_and_fuse_filesystems_have_a_port_of_their_own_if_they_want() {
    let Some(scene) = Remote::start(&["--no-scanner"]) else {
        return;
    };
    let (_local, local) = teller(&scene.host, "scan");
    assert!(
        opens(&scene.fuse.file("fine")),
        "nobody is there for it alone"
    );
    assert_eq!(local.try_recv().as_deref(), Ok("fine"));
    let (_remote, remote) = keeper(&scene.host, "scan-remote");
    let opener = start_opener(&scene.fuse.file("fine"));
    let question = remote.recv_timeout(SOON).unwrap();
    // It keeps its question; others are asked elsewhere.
    assert!(opens(&scene.place.root.join("good")));
    assert!(!opens(&scene.place.root.join("bad")));
    allow(question);
    outcome(opener).unwrap();
    assert_eq!(local.try_iter().collect::<Vec<_>>(), ["good", "bad"]);
}

#[test]
fn a_scanner_that_hangs_with_a_remote_file_holds_up_no_other() {
    let Some(program) = scanner() else {
        println!("skipped: fltscand is not built");
        return;
    };
    let Some(scene) = Remote::start(&["--deadline-ms", "60000", "--scanner", text(&program)])
    else {
        return;
    };
    until("both scanners are there", || {
        scene.host.status()["services"] == 2
    });
    let hung = scene.host.connected_to("scan-remote");
    assert_eq!(hung.len(), 1);
    kill(hung[0], Signal::STOP);
    let mut opener = start_opener(&scene.fuse.file("fine"));
    until("it is asked about", || {
        scene.host.count("with_services") == 1
    });
    for _ in 0..20 {
        let (result, took) = try_open(&scene.place.root.join("good"));
        result.unwrap();
        assert!(took < SOON, "{took:?}");
    }
    assert!(opener.try_wait().unwrap().is_none());
    kill(hung[0], Signal::CONT);
    outcome(opener).unwrap();
}

//! What happens to an operation by cause and policy, through a whole host. The test is the service. Needs root.

mod common;

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::host::{
    Host, SOON, allow, answer, command, judge, kill, lives, name, opens, start_opener, try_open,
    until,
};
use common::{Place, outcome, takes_errnos, text, words_of_eio};
use fltport::protocol::file::{Answer, Verdict};
use fltport::{CallError, NtStatus};
use rustix::process::Signal;
use zerocopy::IntoBytes;

/// An action, and the words that an opener gets for it.
type Expected = (&'static str, Option<&'static str>);

/// Each kind of action, and what `cat` complains of.
const ACTIONS: [Expected; 3] = [
    ("allow", None),
    ("deny", Some("Operation not permitted")),
    ("EIO", Some("Input/output error")),
];

/// What becomes of an action on this kernel: without errnos in answers it is a plain denial, and told as one.
fn given(action: Expected) -> Expected {
    match action {
        ("EIO", _) if !takes_errnos() => ACTIONS[1],
        other => other,
    }
}

/// Opens a file: it must end by this cause and action. Gives how long that took.
fn decided(host: &Host, place: &Place, cause: &str, action: Expected) -> Duration {
    let file = place.root.join("file");
    let events = host.listen();
    assert_eq!(events.next()["event"], "started");
    let action = given(action);
    let (result, took) = try_open(&file);
    match (&result, action.1) {
        (Ok(content), None) => assert_eq!(content, "content"),
        (Err(error), Some(expected)) => assert!(error.contains(expected), "{error}"),
        _ => panic!("{cause}={}: {result:?}", action.0),
    }
    let decision = events.decision("file");
    assert_eq!(decision["cause"], cause, "{decision}");
    assert_eq!(decision["verdict"], action.0, "{decision}");
    took
}

/// For each action: a host with this policy.
fn with_each_action(cause: &str, arguments: &[&str], test: impl Fn(&Host, &Place, Expected)) {
    for action in ACTIONS {
        let Some(place) = Place::new() else { return };
        for name in ["file", "bad", "good1", "good2", "good3"] {
            place.file(name); // now, because later the policy would be asked
        }
        let policy = format!("{cause}={}", action.0);
        let mut all = vec!["--policy", &policy];
        all.extend(arguments);
        let host = Host::start(&place, &all);
        test(&host, &place, given(action));
    }
}

#[test]
fn without_a_service_policy_decides_at_once() {
    with_each_action("no_service", &[], |host, place, action| {
        assert!(decided(host, place, "no_service", action) < Duration::from_secs(1));
    });
}

#[test]
fn a_service_that_stalls_costs_the_deadline_and_no_more() {
    with_each_action(
        "timeout",
        &["--deadline-ms", "300"],
        |host, place, action| {
            let (keep, _kept) = channel();
            let _service = host.serve(move |_, question| keep.send(question).unwrap());
            let took = decided(host, place, "timeout", action);
            assert!(took >= Duration::from_millis(300), "{took:?}");
            assert!(took < Duration::from_millis(1_300), "{took:?}");
        },
    );
}

#[test]
fn a_service_that_never_gets_a_message_is_a_slow_one() {
    let Some(place) = Place::new() else { return };
    place.file("file");
    let host = Host::start(
        &place,
        &["--policy", "timeout=deny", "--deadline-ms", "300"],
    );
    let _service = host.connect();
    decided(&host, &place, "timeout", ACTIONS[1]);
}

#[test]
fn what_a_service_cannot_tell_is_for_policy() {
    with_each_action("unscannable", &[], |host, place, action| {
        let mut turn = 0;
        let _service = host.serve(move |_, question| {
            turn += 1;
            let mut unknown = Answer::new(Verdict::Allow, "");
            unknown.verdict = 77;
            let result = match turn {
                1 => return answer(question, Verdict::Unscannable),
                2 => question.reply(unknown.as_bytes()),
                3 => question.reply(b"short"),
                4 => question.reply(&[1; 500]),
                5 => question.reply_with(NtStatus::UNSUCCESSFUL, b""),
                6 => return drop(question),
                _ => return allow(question),
            };
            let too_long = matches!(result, Err(CallError::ReplyTooLong));
            assert!(
                result.is_ok() || (turn == 4 && too_long),
                "{turn}: {result:?}"
            );
        });
        for _ in 1..=6 {
            decided(host, place, "unscannable", action);
        }
        assert!(opens(&place.root.join("file"))); // nothing of it has broken the service's connection
    });
}

#[test]
fn a_reply_that_comes_too_late_finds_nobody_and_hurts_nobody() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--policy", "timeout=EIO", "--deadline-ms", "200"]);
    let service = host.connect();
    let opener = start_opener(&file);
    let question = service.next_message().unwrap();
    assert!(outcome(opener).unwrap_err().contains(words_of_eio()));
    let late = question.reply(Answer::new(Verdict::Allow, "").as_bytes());
    assert!(matches!(late, Err(CallError::NoWaiter)), "{late:?}");
    let opener = start_opener(&file);
    allow(service.next_message().unwrap());
    outcome(opener).unwrap();
}

#[test]
fn a_file_that_kills_services_is_tried_alone_and_then_poison_and_innocent_ones_lose_nothing() {
    with_each_action(
        "poison",
        &["--policy", "no_service=deny", "--deadline-ms", "15000"],
        |host, place, action| {
            let events = host.listen();
            let names = ["good1", "bad", "good2", "good3"];
            let service = host.connect();
            let openers = names.map(|name| start_opener(&place.root.join(name)));
            let held: Vec<_> = openers
                .iter()
                .map(|_| service.next_message().unwrap())
                .collect();
            service.close();
            drop(held);
            // What comes while the suspects are tried has to wait: each of them is alone.
            let mut tried = Vec::new();
            while tried.len() < 4 {
                let service = host.connect();
                while let Ok(question) = service.next_message_within(SOON) {
                    let other = service.next_message_within(Duration::from_millis(30));
                    assert!(matches!(other, Err(CallError::TimedOut)), "{other:?}");
                    tried.push(name(&question));
                    if name(&question) == "bad" {
                        service.close();
                        break;
                    }
                    allow(question);
                    if tried.len() == 4 {
                        break;
                    }
                }
            }
            for (opener, name) in openers.into_iter().zip(names) {
                let result = outcome(opener);
                let fine = name != "bad" || action.1.is_none();
                assert_eq!(result.is_ok(), fine, "{name}: {result:?}");
            }
            let decision = events.decision("bad");
            assert_eq!(
                (&decision["cause"], &decision["verdict"]),
                (&"poison".into(), &action.0.into())
            );
        },
    );
}

#[test]
fn a_suspect_that_nobody_can_try_again_is_poison_at_its_deadline() {
    let Some(place) = Place::new() else { return };
    let (file, other) = (place.file("a/file"), place.file("b/file"));
    let host = Host::start(&place, &["--deadline-ms", "500"]);
    let events = host.listen();
    let service = host.connect();
    let start = Instant::now();
    let opener = start_opener(&file);
    let question = service.next_message().unwrap();
    service.close();
    drop(question);
    assert!(opens(&other)); // others are decided at once: no service
    outcome(opener).unwrap_err(); // a file that kills the only service does not buy its permission
    assert!(start.elapsed() < Duration::from_millis(1_500));
    let causes = [(); 2].map(|()| events.decision("file")["cause"].clone());
    assert_eq!(causes, ["no_service", "poison"]);
}

#[test]
fn a_service_that_ends_without_questions_leaves_no_service() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--policy", "no_service=EIO"]);
    let events = host.listen();
    let service = host.serve(|_, question| allow(question));
    assert!(opens(&file));
    assert_eq!(events.decision("file")["cause"], "service");
    drop(service);
    until("the service is gone", || host.status()["services"] == 0);
    decided(&host, &place, "no_service", ACTIONS[2]);
}

#[test]
fn monitor_mode_denies_nothing_and_says_what_it_would() {
    let Some(place) = Place::new() else { return };
    let (file, bad) = (place.file("file"), place.file("bad"));
    let host = Host::start(&place, &["--monitor", "--strict", "--deadline-ms", "200"]);
    let events = host.listen();
    let told = |name: &str, cause: &str| {
        let decision = events.decision(name);
        assert_eq!(
            (&decision["cause"], &decision["verdict"]),
            (&cause.into(), &"allow".into())
        );
        assert_eq!(decision["would_be"], "deny", "{decision}");
    };
    assert!(opens(&file));
    told("file", "no_service");
    let service = host.serve(|_, question| judge(question));
    assert!(opens(&bad) && opens(&file));
    told("bad", "service");
    assert!(events.decision("file")["would_be"].is_null());
    drop(service);
    let _stalled = host.connect();
    assert!(opens(&file));
    told("file", "timeout");
}

#[test]
fn strict_denies_whatever_was_not_found_clean() {
    let Some(place) = Place::new() else { return };
    place.file("file");
    let host = Host::start(&place, &["--strict", "--deadline-ms", "200"]);
    decided(&host, &place, "no_service", ACTIONS[1]);
    let service = host.serve(|_, question| answer(question, Verdict::Unscannable));
    decided(&host, &place, "unscannable", ACTIONS[1]);
    drop(service);
    let _stalled = host.connect();
    decided(&host, &place, "timeout", ACTIONS[1]);
}

#[test]
fn connecting_grants_nothing() {
    let Some(place) = Place::new() else { return };
    let (outer, inner) = (place.file("outer"), place.file("inner"));
    let host = Host::start(&place, &["--deadline-ms", "400"]);
    let events = host.listen();
    let path = inner.clone();
    let _service = host.serve(move |_, question| {
        if name(&question) == "outer" {
            std::fs::File::open(&path).unwrap(); // asks this very thread, and so must run into the deadline
        }
        allow(question);
    });
    let (result, took) = try_open(&outer);
    result.unwrap();
    assert!(took < Duration::from_millis(1_400), "{took:?}");
    let decision = events.decision("inner");
    assert_eq!(decision["cause"], "timeout");
    assert_eq!(decision["pid"], std::process::id());
}

#[test]
fn a_service_with_a_second_thread_answers_its_own_question() {
    let Some(place) = Place::new() else { return };
    let (outer, inner) = (place.file("outer"), place.file("inner"));
    let host = Host::start(&place, &["--deadline-ms", "15000"]);
    let events = host.listen();
    let path = inner.clone();
    let _service = host.serve(move |_, question| {
        let path = path.clone();
        thread::spawn(move || {
            if name(&question) == "outer" {
                std::fs::File::open(&path).unwrap();
            }
            allow(question);
        });
    });
    assert!(opens(&outer));
    assert_eq!(events.decision("inner")["cause"], "service");
}

#[test]
fn the_hosts_own_scanner_is_not_asked_about() {
    let Some(place) = Place::new() else { return };
    let Some(built) = common::host::scanner() else {
        println!("skipped: no fltscand beside flthostd");
        return;
    };
    let (scanner, file) = (place.root.join("scanner"), place.file("file"));
    std::fs::copy(built, &scanner).unwrap();
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args([
        "--strict",
        "--guard",
        text(&place.root),
        "--scanner",
        text(&scanner),
    ]);
    let host = Host::run(&mut command, ports);
    assert!(opens(&file));
    // The next scanner is executed from the guarded filesystem: asked about, it would wait for itself.
    let connections = host.connect_to("control").unwrap();
    let list = fltport::protocol::control::Request::Connections;
    let list: serde_json::Value = serde_json::from_str(&list.send(&connections).unwrap()).unwrap();
    let ours = |entry: &&serde_json::Value| entry["port"].as_str().unwrap().ends_with("scan");
    let pid = list.as_array().unwrap().iter().find(ours).unwrap()["pid"]
        .as_u64()
        .unwrap();
    let pid = u32::try_from(pid).unwrap();
    kill(pid, Signal::KILL);
    until("the scanner dies", || !lives(pid));
    let (result, took) = try_open(&file);
    result.unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(host.count("exempt") > 0);
}

#[test]
fn a_surge_of_denials_releases_by_itself_and_only_until_a_service_answers() {
    let Some(place) = Place::new() else { return };
    for name in ["good", "bad"] {
        place.file(name);
    }
    let host = Host::start(&place, &["--policy", "no_service=deny"]);
    let tries = |most: Duration| {
        let end = Instant::now() + most;
        while std::fs::File::open(place.root.join("good")).is_err() {
            assert!(Instant::now() < end, "{}", host.status());
        }
    };
    let start = Instant::now();
    tries(2 * SOON);
    assert!(start.elapsed() > Duration::from_secs(4), "not at once");
    host.says("no service has answered for");
    assert_eq!(host.status()["service_ports"][0]["released"], true);
    let service = host.serve(|_, question| judge(question));
    assert!(!opens(&place.root.join("bad")), "there is one to ask");
    host.says("policies count again");
    drop(service);
    until("it is gone", || host.status()["services"] == 0);
    assert!(!opens(&place.root.join("good")), "it counts from the start");
}

#[test]
fn a_strict_host_releases_nothing_by_itself_unless_it_is_told_to() {
    for (arguments, surge) in [
        (&["--strict"][..], "never"),
        (&["--strict", "--surge", "absent"], "absent"),
        (&["--surge", "silent"], "silent"),
        (&[], "absent"),
    ] {
        let Some(place) = Place::new() else { return };
        let host = Host::start(&place, arguments);
        assert_eq!(host.status()["surge"], surge, "{arguments:?}");
    }
}

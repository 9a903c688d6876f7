//! What is asked about and what is told of it, through a whole host. The test is the service. Needs root.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::crowd::{self, Crowd};
use common::host::{Host, allow, answer, command, judge, name, opens, start_opener, until};
use common::{Place, outcome, run, runner, text};
use fltport::protocol::control::Request;
use fltport::protocol::file::{Operation, Question, Verdict};
use fltport::protocol::read;

#[test]
fn crowd() {
    crowd::run();
}

/// A host that guards these, denying what begins with `bad`.
fn guard(place: &Place, guards: &[&Path], arguments: &[&str]) -> Host {
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--no-scanner", "--policy", "no_service=EIO"]);
    for path in guards {
        command.args(["--guard", text(path)]);
    }
    Host::run(command.args(arguments), ports)
}

#[test]
fn a_mount_point_is_guarded_as_a_whole_and_by_whatever_mount_it_is_reached() {
    let Some(place) = Place::new() else { return };
    let bad = place.file("a/b/bad");
    let bound = place.outside("bound");
    assert!(run(
        "mount",
        ["--bind", text(bad.parent().unwrap()), text(&bound)]
    ));
    let host = guard(&place, &[&place.root], &[]);
    let started = host.listen().next();
    assert_eq!(started["guards"][0]["kind"], "filesystem", "{started}");
    assert_eq!(started["guards"][0]["path"], text(&place.root));
    assert_eq!(started["worker"], host.worker());
    let _service = host.serve(|_, question| judge(question));
    assert!(!opens(&bad) && !opens(&bound.join("bad")));
    assert!(opens(&place.file("a/b/good")));
    drop(host);
    assert!(run("umount", [text(&bound)]));
}

#[test]
fn a_plain_directory_is_guarded_with_what_is_below_and_what_comes_later() {
    let Some(place) = Place::new() else { return };
    let (bad, outside) = (place.file("tree/a/bad"), place.file("bad"));
    let host = guard(&place, &[&place.root.join("tree")], &[]);
    let started = host.listen().next();
    assert_eq!(started["guards"][0]["kind"], "directory", "{started}");
    assert_eq!(started["guards"][0]["directories"], 2);
    let _service = host.serve(|_, question| judge(question));
    assert!(!opens(&bad) && opens(&outside));
    fs::create_dir_all(place.root.join("tree/new/deep/er")).unwrap();
    place.file("elsewhere/moved/bad");
    fs::rename(
        place.root.join("elsewhere/moved"),
        place.root.join("tree/moved"),
    )
    .unwrap();
    let late = place.root.join("tree/new/deep/er/bad");
    fs::write(place.root.join("bad-content"), "content").unwrap();
    fs::rename(place.root.join("bad-content"), &late).unwrap();
    until("new directories are guarded", || !opens(&late));
    until("moved directories are guarded", || {
        !opens(&place.root.join("tree/moved/bad"))
    });
}

#[test]
fn directories_of_one_filesystem_and_of_another_are_guarded_by_one_host() {
    let Some(place) = Place::new() else { return };
    let other = place.outside("other");
    assert!(run("mount", ["-t", "tmpfs", "none", text(&other)]));
    fs::write(other.join("bad"), "").unwrap();
    let (one, two) = (place.file("one/bad"), place.file("two/bad"));
    let guards = [&place.root.join("one"), &place.root.join("two"), &other];
    let host = guard(&place, &guards.map(|path| path.as_path()), &[]);
    let _service = host.serve(|_, question| judge(question));
    for path in [&one, &two, &other.join("bad")] {
        assert!(!opens(path), "{}", path.display());
    }
    drop(host);
    assert!(run("umount", [text(&other)]));
}

#[test]
fn an_execution_is_asked_about_as_such() {
    let Some(place) = Place::new() else { return };
    let program = place.root.join("program");
    fs::copy("/bin/true", &program).unwrap();
    let host = guard(&place, &[&place.root], &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| {
        let asked: Question = read(question.payload()).unwrap();
        let exec = Operation::parse(asked.operation) == Some(Operation::Exec);
        answer(question, if exec { Verdict::Deny } else { Verdict::Allow });
    });
    assert!(opens(&program)); // reading it is another matter
    assert_eq!(events.decision("program")["operation"], "open");
    outcome(runner(&program)).unwrap_err();
    let decision = events.decision("program");
    assert_eq!(
        (&decision["operation"], &decision["verdict"]),
        (&"exec".into(), &"deny".into())
    );
}

#[test]
fn what_is_excluded_is_not_asked_about_however_the_path_was_written() {
    let Some(place) = Place::new() else { return };
    let (inside, beside) = (place.file("cache/bad"), place.file("cache2/bad"));
    std::os::unix::fs::symlink(place.root.join("cache"), place.outside("x").join("link")).unwrap();
    let link = place.outside("x").join("link");
    let host = guard(&place, &[&place.root], &["--exclude", text(&link)]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    assert!(opens(&inside) && !opens(&beside));
    assert_eq!(events.decision("bad")["cause"], "excluded");
    assert_eq!(events.decision("bad")["cause"], "service");
    // A way around through the excluded directory leads to the real path.
    assert!(!opens(&place.root.join("cache/../cache2/bad")));
}

#[test]
fn sixty_four_openers_at_a_time_are_all_answered() {
    let Some(place) = Place::new() else { return };
    (0..8).for_each(|number| drop(place.file(&format!("files/{number}"))));
    let host = guard(&place, &[&place.root], &["--deadline-ms", "20000"]);
    let _services = [(); 4].map(|()| host.serve(|_, question| allow(question)));
    let openers = Crowd::looping(&place.root.join("files"), 64);
    until("they open", || host.count("by_service") > 2_000);
    let seen = openers.finish();
    println!("{seen:?}");
    assert_eq!(seen.all_failed(), 0, "{seen:?}");
    assert!(seen.opened() > 2_000);
    // An opener may go on before its answer is counted.
    until("all are counted", || host.count("pending") == 0);
    assert_eq!(host.count("unanswered"), 0);
}

#[test]
fn a_decision_is_told_with_everything_about_it() {
    let Some(place) = Place::new() else { return };
    let file = place.file("some where/a \"file\"");
    let host = guard(&place, &[&place.root], &[]);
    let events = host.listen();
    assert_eq!(events.next()["event"], "started");
    let _service = host.serve(|_, question| {
        std::thread::sleep(Duration::from_millis(20));
        answer(question, Verdict::Deny);
    });
    // By this process, because names are looked up after the answer, when an opener may have ended.
    fs::File::open(&file).unwrap_err();
    let decision = events.decision("a \"file\"");
    let told = |field: &str, value: &str| assert_eq!(decision[field], value, "{decision}");
    told("operation", "open");
    told("path", text(&file));
    told(
        "process",
        fs::read_to_string("/proc/self/comm").unwrap().trim(),
    );
    told("verdict", "deny");
    told("cause", "service");
    told("reason", "a reason");
    assert_eq!(decision["pid"], std::process::id());
    assert!(decision["micros"].as_u64().unwrap() >= 20_000);
    assert!(decision["would_be"].is_null());
}

#[test]
fn the_control_port_tells_what_there_is() {
    let Some(place) = Place::new() else { return };
    let host = guard(&place, &[&place.root], &["--strict"]);
    let _service = host.serve(|_, question| allow(question));
    let control = host.connect_to("control").unwrap();
    let ask = |request: Request| -> serde_json::Value {
        serde_json::from_str(&request.send(&control).unwrap()).unwrap()
    };
    assert_eq!(ask(Request::Status)["policies"]["timeout"], "deny");
    assert_eq!(ask(Request::Ports).as_array().unwrap().len(), 3);
    assert_eq!(ask(Request::Connections).as_array().unwrap().len(), 2);
    let filters: Vec<_> = ask(Request::Filters)
        .as_array()
        .unwrap()
        .iter()
        .map(|filter| filter["name"].clone())
        .collect();
    assert_eq!(filters, ["trace", "mute", "cached", "scan"]);
    assert_eq!(ask(Request::Instances).as_array().unwrap().len(), 4);
    // A question that it does not know, or that is none, is refused, and it goes on.
    for bytes in [&b""[..], b"x", &[99, 0, 0, 0], &[0; 1_000]] {
        control.send(bytes, 100).unwrap_err();
    }
    control.send(&Request::Status.to_bytes(), 3).unwrap_err(); // no room for the response
    assert_eq!(ask(Request::Status)["instance"], "test");
}

#[test]
fn a_listener_that_does_not_listen_slows_nobody_and_is_told_of_its_gap() {
    const OPENS: u64 = 3_000;
    let Some(place) = Place::lasting(60) else {
        return;
    };
    (0..8).for_each(|number| drop(place.file(&format!("files/{number}"))));
    let host = guard(&place, &[&place.root], &["--deadline-ms", "20000"]);
    let _service = host.serve(|_, question| allow(question));
    let deaf = host.connect_to("events").unwrap(); // connected, and gets nothing
    let start = Instant::now();
    let openers = Crowd::looping(&place.root.join("files"), 8);
    until("they open", || host.count("by_service") > OPENS);
    let seen = openers.finish();
    println!(
        "{} opens in {:?}, longest {:?}",
        seen.opened(),
        start.elapsed(),
        seen.longest()
    );
    assert_eq!(seen.all_failed(), 0);
    assert!(seen.longest() < Duration::from_secs(2), "{seen:?}");
    let next = || -> serde_json::Value {
        let message = deaf.next_message_within(Duration::from_secs(5)).unwrap();
        serde_json::from_slice(message.payload()).unwrap()
    };
    assert_eq!(next()["event"], "started"); // first, however late it is taken
    // It listens from now on: the next decision that it is told comes after the gap.
    let file = place.root.join("files/0");
    let openers = Crowd::looping(&place.root.join("files"), 1);
    let gap = next();
    assert_eq!(gap["event"], "gap", "{gap}");
    assert!(gap["lost"].as_u64().unwrap() >= OPENS - 1_024, "{gap}");
    loop {
        let event = next();
        if event["event"] == "decision" {
            break;
        }
        assert_eq!(event["event"], "gap");
    }
    openers.finish();
    assert!(opens(&file));
}

#[test]
fn a_question_carries_the_file_and_facts_about_it() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let known = fs::metadata(&file).unwrap();
    let host = guard(&place, &[&place.root], &[]);
    let service = host.connect();
    let opener = start_opener(&file);
    let mut message = service.next_message().unwrap();
    assert_eq!(name(&message), "file");
    let question: Question = read(message.payload()).unwrap();
    assert_eq!(
        (question.inode, question.device),
        (known.ino(), known.dev())
    );
    assert_eq!(question.size, 7);
    let mut bytes = [0; 7];
    let attached = fs::File::from(message.take_attachment().unwrap());
    attached.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"content");
    allow(message);
    outcome(opener).unwrap();
}

//! Filesystems that appear and vanish below a guarded directory, through a whole host. The test is the service. Needs root.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::{mount_answering, mount_hung};
use common::host::{
    Host, Listener, allow, command, judge, kill, opens, start_opener, try_open, until,
};
use common::{Place, outcome, run, text, words_of_eio};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn what_is_mounted_below_is_guarded_from_the_start_or_later_and_can_be_unmounted() {
    let Some(place) = Place::new() else { return };
    let (early, late) = (place.dir("tree/early"), place.dir("tree/a late one"));
    mount(&early);
    let host = guard(&place, &place.root.join("tree"), &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    assert!(!opens(&bad(&early)));
    mount(&late);
    told(&events, "guarded", &late);
    assert!(!opens(&bad(&late)) && opens(&good(&late)));
    assert_eq!(row(&host, &late)["mark"], "filesystem");
    for path in [&early, &late] {
        unmount(path);
        told(&events, "vanished", path);
    }
    assert_eq!(host.status()["volumes"], Value::Array(Vec::new()));
    // The place is as it was, and what comes next is guarded again.
    mount(&late);
    told(&events, "guarded", &late);
    assert!(!opens(&bad(&late)));
    unmount(&late);
}

#[test]
fn a_part_of_another_filesystem_is_guarded_there_and_nowhere_else() {
    let Some(place) = Place::new() else { return };
    let (other, part, all) = (
        place.dir("other"),
        place.dir("tree/part"),
        place.dir("tree/all"),
    );
    mount(&other);
    let inside = other.join("sub/bad");
    fs::create_dir(other.join("sub")).unwrap();
    fs::write(&inside, "").unwrap();
    fs::write(other.join("bad"), "").unwrap();
    let host = guard(&place, &place.root.join("tree"), &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    for (from, to) in [(other.join("sub"), &part), (other.clone(), &all)] {
        assert!(run("mount", ["--bind", text(&from), text(to)]));
        told(&events, "guarded", to);
        assert_eq!(row(&host, to)["mark"], "mount");
        assert!(!opens(&to.join("bad")) && opens(&from.join("bad")));
    }
    unmount(&part);
    told(&events, "vanished", &part);
    assert!(!opens(&all.join("bad")) && opens(&inside));
    unmount(&all);
    unmount(&other);
}

#[test]
fn a_file_that_is_mounted_is_guarded_too() {
    let Some(place) = Place::new() else { return };
    let (other, point) = (place.dir("other"), place.file("tree/bad"));
    mount(&other);
    let source = other.join("fine");
    fs::write(&source, "").unwrap();
    let host = guard(&place, &place.root.join("tree"), &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    assert!(run("mount", ["--bind", text(&source), text(&point)]));
    told(&events, "guarded", &point);
    assert!(!opens(&point) && opens(&source));
    unmount(&point);
    unmount(&other);
}

#[test]
fn a_second_mount_of_a_new_filesystem_shares_its_guard_and_inherits_it() {
    let Some(place) = Place::new() else { return };
    let (first, second) = (place.dir("tree/first"), place.dir("tree/second"));
    let host = guard(&place, &place.root.join("tree"), &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&first);
    told(&events, "guarded", &first);
    assert!(!opens(&bad(&first)));
    assert!(run("mount", ["--bind", text(&first), text(&second)]));
    told(&events, "guarded", &second);
    assert_eq!(row(&host, &second)["mark"], "shared");
    unmount(&first);
    told(&events, "vanished", &first);
    assert!(!opens(&second.join("bad")));
    assert_eq!(row(&host, &second)["mark"], "filesystem");
    unmount(&second);
}

#[test]
fn a_mount_that_is_moved_goes_on_being_guarded_where_it_is() {
    let Some(place) = Place::new() else { return };
    let (from, to) = (place.dir("tree/from"), place.dir("tree/to"));
    // Only what is on a mount of one's own can be moved.
    assert!(run("mount", ["--make-private", text(&place.root)]));
    let host = guard(&place, &place.root.join("tree"), &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&from);
    told(&events, "guarded", &from);
    assert!(!opens(&bad(&from)));
    assert!(run("mount", ["--move", text(&from), text(&to)]));
    told(&events, "vanished", &from);
    told(&events, "guarded", &to);
    assert!(!opens(&to.join("bad")));
    let outside = place.dir("outside");
    assert!(run("mount", ["--move", text(&to), text(&outside)]));
    told(&events, "vanished", &to);
    assert!(opens(&outside.join("bad")));
    unmount(&outside);
}

#[test]
fn what_comes_unseen_to_the_place_of_another_is_guarded_too() {
    let Some(place) = Place::new() else { return };
    let point = place.dir("point");
    let host = guard(&place, &place.root, &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&point);
    told(&events, "guarded", &point);
    let worker = host.worker();
    kill(worker, Signal::STOP);
    unmount(&point);
    mount(&point); // as a rule with the same numbers
    kill(worker, Signal::CONT);
    let file = bad_beforehand(&point);
    until("it is guarded", || !opens(&file));
    assert_eq!(host.worker(), worker);
    unmount(&point);
}

#[test]
fn what_covers_the_guarded_directory_itself_is_guarded() {
    let Some(place) = Place::new() else { return };
    let tree = place.dir("tree");
    let host = guard(&place, &tree, &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&tree);
    told(&events, "guarded", &tree);
    assert!(!opens(&bad(&tree)));
    unmount(&tree);
    told(&events, "vanished", &tree);
    assert!(!opens(&bad(&tree))); // the one below
}

#[test]
fn without_room_a_filesystem_is_named_once_and_guarded_when_there_is_room() {
    let Some(place) = Place::new() else { return };
    let host = guard(&place, &place.root, &[]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    // How many there is room for depends on the limit of open files.
    let mut others = Vec::new();
    let (last, reason) = loop {
        let point = place.dir(&others.len().to_string());
        mount(&point);
        let word = heard(&events, &point);
        match word["state"].as_str() {
            Some("guarded") => others.push(point),
            _ => break (point, word["reason"].as_str().unwrap().to_owned()),
        }
    };
    assert!(others.len() >= 4, "{others:?}");
    assert!(
        reason.contains(&format!("room for {}", others.len())),
        "{reason}"
    );
    assert_eq!(row(&host, &last)["state"], "refused");
    assert!(opens(&bad(&last)));
    unmount(&others.remove(3));
    told(&events, "guarded", &last);
    assert!(!opens(&bad(&last)));
    assert_eq!(
        host.said().matches("NOT guarded").count(),
        1,
        "{}",
        host.said()
    );
    others.iter().for_each(|point| unmount(point));
    unmount(&last);
}

#[test]
fn what_cannot_be_guarded_is_named_once() {
    let Some(place) = Place::new() else { return };
    let (proc, other) = (place.dir("proc"), place.dir("other"));
    assert!(run("mount", ["-t", "proc", "none", text(&proc)]));
    let host = guard(&place, &place.root, &[]);
    host.says("NOT guarded: proc");
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&other);
    told(&events, "guarded", &other);
    unmount(&other);
    told(&events, "vanished", &other);
    assert_eq!(
        host.said().matches("NOT guarded").count(),
        1,
        "{}",
        host.said()
    );
    assert_eq!(row(&host, &proc)["state"], "refused");
    unmount(&proc);
}

#[test]
fn what_is_excluded_or_not_wished_for_is_left_alone() {
    let Some(place) = Place::new() else { return };
    let (point, excluded) = (place.dir("point"), place.dir("excluded"));
    mount(&point);
    let host = guard(&place, &place.root, &["--no-mounts"]);
    let service = host.serve(|_, question| judge(question));
    assert!(opens(&bad(&point)));
    assert_eq!(host.status()["volumes"], Value::Array(Vec::new()));
    drop((service, host));
    let host = guard(&place, &place.root, &["--exclude", text(&excluded)]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    mount(&excluded);
    let later = place.dir("later");
    mount(&later);
    told(&events, "guarded", &later);
    assert!(opens(&bad(&excluded)) && !opens(&bad(&later)) && !opens(&bad(&point)));
    for point in [&point, &excluded, &later] {
        unmount(point);
    }
}

#[test]
fn the_next_worker_goes_on_guarding_and_notices_what_has_vanished_meanwhile() {
    let Some(place) = Place::new() else { return };
    let points = ["stays", "goes"].map(|name| place.dir(name));
    let host = guard(&place, &place.root, &["--policy", "crash=EIO"]);
    let first = host.listen();
    for point in &points {
        mount(point);
        told(&first, "guarded", point);
    }
    let [stays, goes] = &points;
    let client = host.connect();
    let (stuck, worker) = (start_opener(&bad_beforehand(stays)), host.worker());
    let held = client.next_message().unwrap();
    kill(worker, Signal::STOP);
    unmount(goes);
    kill(worker, Signal::KILL);
    assert!(outcome(stuck).unwrap_err().contains(words_of_eio()));
    until("the next worker comes", || {
        host.connect_to("control").is_some() && host.worker() != worker
    });
    drop((held, client)); // it has the file, too
    let _service = host.serve(|_, question| judge(question));
    until("its list is right", || {
        let volumes = host.status()["volumes"].clone();
        volumes
            .as_array()
            .is_some_and(|rows| rows.len() == 1 && rows[0]["path"] == text(stays))
    });
    assert!(!opens(&bad(stays)));
    mount(goes);
    until("a later one is guarded", || {
        row(&host, goes)["state"] == "guarded"
    });
    assert!(!opens(&bad(goes)));
    points.iter().for_each(|point| unmount(point));
}

#[test]
fn what_waits_on_a_filesystem_that_vanishes_is_still_decided() {
    let Some(place) = Place::new() else { return };
    let point = place.dir("point");
    let host = guard(
        &place,
        &place.root,
        &["--deadline-ms", "20000", "--policy", "crash=EIO"],
    );
    let events = host.listen();
    mount(&point);
    told(&events, "guarded", &point);
    // Those who open one file share a question.
    let (one, other) = (bad_beforehand(&point), point.join("other"));
    fs::rename(&one, &other).unwrap();
    let one = bad_beforehand(&point);
    let client = host.connect();
    let (answered, undecided) = (start_opener(&one), start_opener(&other));
    let question = client.next_message().unwrap();
    let _held = client.next_message().unwrap();
    assert!(run("umount", ["-l", text(&point)]));
    told(&events, "vanished", &point);
    allow(question);
    until("one is answered", || host.count("by_service") == 1);
    // The other is in a pair that guards nothing any more.
    host.kill_worker();
    let outcomes = [outcome(answered), outcome(undecided)];
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        1,
        "{outcomes:?}"
    );
}

#[test]
fn a_supervisor_that_is_alone_guards_what_appears() {
    let Some(place) = Place::new() else { return };
    let point = place.dir("point");
    let host = guard(
        &place,
        &place.root,
        &["--restarts", "0", "--policy", "crash=EIO"],
    );
    host.kill_worker();
    host.says("decided by policy from now on");
    mount(&point);
    let file = point.join("file");
    fs::write(&file, "").ok();
    until("it is guarded", || {
        try_open(&file)
            .0
            .is_err_and(|why| why.contains(words_of_eio()))
    });
    unmount(&point);
}

#[test]
fn a_daemons_filesystem_is_named_and_not_touched_unless_it_is_wished_for() {
    let Some(place) = Place::new() else { return };
    let (hung, other) = (place.dir("hung"), place.dir("other"));
    for arguments in [&[][..], &["--remote"]] {
        let host = guard(&place, &place.root, arguments);
        let events = host.listen();
        let _service = host.serve(|_, question| judge(question));
        let Some(daemon) = mount_hung(&hung) else {
            return println!("skipped: no FUSE");
        };
        if arguments.is_empty() {
            let refused = told(&events, "refused", &hung);
            assert!(refused["reason"].as_str().unwrap().contains("--remote"));
        } else {
            until("it is tried", || row(&host, &hung)["state"] == "opening");
        }
        // It is in nobody's way.
        mount(&other);
        told(&events, "guarded", &other);
        assert!(!opens(&bad(&other)));
        unmount(&other);
        drop(daemon);
        assert!(run("umount", ["-l", text(&hung)]));
        until("nothing is left", || {
            host.status()["volumes"] == Value::Array(Vec::new())
        });
    }
}

#[test]
fn a_daemons_filesystem_is_guarded_where_it_is_wished_for() {
    let Some(place) = Place::new() else { return };
    let point = place.dir("point");
    let host = guard(&place, &place.root, &["--remote"]);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    if mount_answering(&point).is_none() {
        return println!("skipped: no FUSE");
    }
    told(&events, "guarded", &point);
    assert_eq!(row(&host, &point)["mark"], "filesystem");
    assert!(!opens(&point.join("bad")));
    unmount(&point);
    told(&events, "vanished", &point);
}

#[test]
fn what_the_next_host_is_not_to_guard_is_given_up() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let (point, remote) = (place.dir("point"), place.dir("remote"));
    mount(&point);
    if mount_answering(&remote).is_none() {
        return println!("skipped: no FUSE");
    }
    let bad = [bad(&point), remote.join("bad")];
    let guarded = || bad.each_ref().map(|file| !opens(file));
    let mut old = guard(&place, &place.root, &["--remote"]);
    let service = old.serve(|_, question| judge(question));
    until("both are guarded", || guarded() == [true, true]);
    drop(service);
    for (arguments, is_guarded) in [
        (&[][..], [true, false]),
        (&["--no-mounts"][..], [false, false]),
    ] {
        let before = old.worker();
        let arguments = [&["--take-over"], arguments].concat();
        let mut command = guarding(&old.ports, &place.root, &arguments);
        let new = Host::spawn(&mut command, old.ports.clone());
        assert_eq!(old.ended().code(), Some(4), "{}", old.said());
        until("the new one answers", || {
            new.connect_to("control").is_some() && new.worker() != before
        });
        let _service = new.serve(|_, question| judge(question));
        until("it has looked", || guarded() == is_guarded);
        old = new;
    }
    assert_eq!(old.status()["volumes"], Value::Array(Vec::new()));
    drop(old);
    unmount(&remote);
    unmount(&point);
}

fn guard(place: &Place, path: &Path, arguments: &[&str]) -> Host {
    let ports = place.outside("ports");
    Host::run(&mut guarding(&ports, path, arguments), ports)
}

fn guarding(ports: &Path, path: &Path, arguments: &[&str]) -> Command {
    let mut command = command(ports);
    command.args(["--no-scanner", "--policy", "no_service=allow", "--guard"]);
    command.arg(path).args(arguments);
    command
}

fn mount(point: &Path) {
    assert!(run("mount", ["-t", "tmpfs", "none", text(point)]));
}

/// Waits until nobody has anything open there; the log holds files for a moment.
fn unmount(point: &Path) {
    until("it can be unmounted", || run("umount", [text(point)]));
}

/// A file that is denied. Making it may be denied, too; then it is there, and empty.
fn bad(dir: &Path) -> PathBuf {
    fs::write(dir.join("bad"), "").ok();
    dir.join("bad")
}

/// As [`bad`], where nobody decides: it is made by another name, which raises no question.
fn bad_beforehand(dir: &Path) -> PathBuf {
    let file = dir.join("bad");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::RegularFile,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    file
}

fn good(dir: &Path) -> PathBuf {
    fs::write(dir.join("good"), "").unwrap();
    dir.join("good")
}

/// The next word of this kind about a volume.
fn told(events: &Listener, state: &str, path: &Path) -> Value {
    loop {
        let event = heard(events, path);
        if event["state"] == state {
            return event;
        }
    }
}

/// The next word about a volume.
fn heard(events: &Listener, path: &Path) -> Value {
    loop {
        let event = events.next();
        if event["event"] == "volume" && event["path"] == text(path) {
            return event;
        }
    }
}

/// What the status says about a volume.
fn row(host: &Host, path: &Path) -> Value {
    let volumes = host.status()["volumes"].clone();
    let rows = volumes.as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["path"] == text(path));
    row.unwrap_or_default()
}

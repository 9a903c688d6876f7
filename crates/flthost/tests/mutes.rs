//! What is not asked about, by rules from the start, through a whole host. Those of services are in `grants.rs`. The test
//! is the service. Needs root.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::host::{Host, answer, command, judge, opens, refused, start_opener, until};
use common::strict::{Strict, cat, list, opens_with, quiet};
use common::{Place, outcome, overlay, run, runner, text};
use fltport::protocol::explain::Explain;
use fltport::protocol::file::{Operation, PathValidity, Question, Verdict};
use fltport::protocol::read;
use serde_json::Value;

/// Whether a process of this user may.
fn opens_as(user: u32, file: &Path) -> bool {
    outcome(quiet(Command::new("cat").arg(file).uid(user).gid(user))).is_ok()
}

/// Starts the host with a rule that is wrong; gives what it said.
fn mistake(place: &Place, arguments: &[&str]) -> String {
    let ports = place.outside("ports");
    let mut command = command(&ports);
    command.args(["--no-scanner", "--guard", text(&place.root)]);
    let (code, said) = refused(command.args(arguments));
    assert_eq!(code, Some(2), "{said}");
    said
}

/// Runs a shell script in a mount namespace of its own, with `$1` and `$2`.
fn elsewhere(script: &str, one: &Path, two: &Path) -> Result<String, String> {
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
    outcome(quiet(command.args([one, two])))
}

#[test]
fn a_file_and_a_tree_are_muted_and_what_begins_alike_is_not() {
    let Some(place) = Place::new() else { return };
    let files = ["one", "one2", "tree/a/b", "tree2/a", "linked/x"].map(|name| place.file(name));
    std::os::unix::fs::symlink("linked", place.root.join("link")).unwrap();
    let path = format!("path={}", text(&files[0]));
    let tree = format!("tree={}/tree", text(&place.root));
    let linked = format!("{}/link", text(&place.root));
    let strict = Strict::start(
        &place,
        &["--mute", &path, "--mute", &tree, "--exclude", &linked],
    );
    let opened = files.each_ref().map(|file| opens(file));
    assert_eq!(opened, [true, false, true, false, true]);
    let decision = strict.events.decision("one");
    assert_eq!(decision["cause"], "excluded");
    assert_eq!(decision["reason"], format!("muted by {path}"));
    let rules = strict.list();
    assert_eq!(rules[0]["rule"], path);
    assert_eq!(
        rules[2]["rule"],
        format!("tree={}", text(&place.root.join("linked")))
    );
    let hits: Vec<_> = (0..3).map(|rule| rules[rule]["hits"].clone()).collect();
    assert_eq!(hits, [1, 1, 1]);
}

#[test]
fn a_file_that_is_muted_for_one_process_is_asked_about_for_another_each_time() {
    let Some(place) = Place::new() else { return };
    let (file, program) = (place.file("file"), cat(&place, "mycat"));
    let rule = format!("process={}", text(&program));
    let _strict = Strict::start(&place, &["--mute", &rule]);
    for _ in 0..5 {
        assert!(opens_with(&program, &file));
        assert!(!opens_with(Path::new("/bin/cat"), &file));
    }
}

#[test]
fn a_program_that_is_replaced_is_found_again_and_its_namesake_elsewhere_is_not_it() {
    let Some(place) = Place::new() else { return };
    let (file, program) = (place.file("file"), cat(&place, "mycat"));
    let rule = format!("process={}", text(&program));
    let strict = Strict::start(&place, &["--mute", &rule]);
    assert!(opens_with(&program, &file));
    let next = cat(&place, "next");
    fs::rename(next, &program).unwrap();
    until("the new program is known", || opens_with(&program, &file));
    // The same path in a container is another file.
    let other = cat(&place, "other");
    let script = r#"mount --bind "$1" "$0" && exec "$0" "$2""#;
    let mut container = Command::new("unshare");
    container.args(["-m", "--propagation", "private", "sh", "-c", script]);
    container.args([&program, &other, &file]);
    assert!(outcome(quiet(&mut container)).is_err());
    assert!(opens_with(&program, &file));
    assert_eq!(strict.list()[0]["found"], true);
}

#[test]
fn a_user_is_muted_only_where_the_process_is_nobody_else() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let _strict = Strict::start(&place, &["--mute", "user=61001"]);
    assert!(opens_as(61_001, &file));
    assert!(!opens_as(61_002, &file) && !opens(&file));
}

#[test]
fn a_kind_of_filesystem_and_of_operation_are_muted() {
    let Some(place) = Place::new() else { return };
    let program = place.root.join("program");
    fs::copy("/bin/true", &program).unwrap();
    // An execution is asked about as such, and then once more as an open.
    let start = |rule: &str| {
        let host = Host::start(&place, &["--mute", rule]);
        let service = host.serve(|_, question| {
            let asked: Question = read(question.payload()).unwrap();
            let exec = Operation::parse(asked.operation) == Some(Operation::Exec);
            answer(question, if exec { Verdict::Deny } else { Verdict::Allow });
        });
        (host, service)
    };
    let (host, service) = start("exec:fstype=tmpfs");
    outcome(runner(&program)).unwrap();
    assert_eq!(list(&host)[0]["hits"], 1);
    drop((service, host));
    for other in ["open:fstype=tmpfs", "exec:fstype=ext4"] {
        let (_host, _service) = start(other);
        outcome(runner(&program)).unwrap_err();
    }
}

#[test]
fn a_group_of_processes_is_muted_with_the_groups_below_it() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let root = roots
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists());
    let (Some(own), Some(root)) = (own, root) else {
        println!("skipped: no unified hierarchy of cgroups");
        return;
    };
    let at = root.join(own.trim_start_matches('/'));
    let name = format!("flthost-test-{}", std::process::id());
    let group = at.join(&name).join("below");
    if fs::create_dir_all(&group).is_err() {
        println!("skipped: cannot make a cgroup");
        return;
    }
    let rule = format!("cgroup={}", text(&at.join(&name)));
    let strict = Strict::start(&place, &["--mute", &rule]);
    assert!(!opens(&file));
    let script = r#"echo $$ > "$0/cgroup.procs" && exec cat "$1""#;
    let inside = outcome(quiet(
        Command::new("sh")
            .args(["-c", script])
            .args([&group, &file]),
    ));
    drop(strict);
    until("the group is empty", || fs::remove_dir(&group).is_ok());
    fs::remove_dir(at.join(&name)).unwrap();
    inside.unwrap();
}

#[test]
fn only_what_is_listed_is_asked_about() {
    let Some(place) = Place::new() else { return };
    let [listed, other] = ["upload/a", "other"].map(|name| place.file(name));
    let rule = format!("tree={}/upload", text(&place.root));
    let strict = Strict::start(&place, &["--only", &rule, "--mute", "user=61001"]);
    assert!(!opens(&listed) && opens(&other));
    assert!(opens_as(61_001, &listed));
    let decision = strict.events.decision("other");
    assert_eq!(decision["cause"], "excluded");
    assert_eq!(decision["reason"], "not among what is asked about only");
    let rules = strict.list();
    let only = rules
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["sort"] == "only");
    assert_eq!(only.unwrap()["hits"], 1);
}

#[test]
fn a_path_of_a_container_that_looks_like_a_muted_one_is_asked_about() {
    let Some(place) = Place::new() else { return };
    let (bad, muted) = (place.file("upload/bad"), place.file("cache/bad"));
    let cache = place.root.join("cache");
    let rules = [
        format!("tree={}", text(&cache)),
        format!("path={}", text(&muted)),
    ];
    let strict = Strict::start(&place, &["--mute", &rules[0], "--mute", &rules[1]]);
    assert!(opens(&muted));
    assert!(strict.events.decision("bad")["path_validity"].is_null());
    // What would be the muted file on the host is another one here.
    let bound = r#"mount --bind "$1" "$2" && exec cat "$2/bad""#;
    elsewhere(bound, bad.parent().unwrap(), &cache).unwrap_err();
    let decision = strict.events.decision("bad");
    assert_eq!(decision["cause"], "service", "{decision}");
    assert_eq!(decision["path_validity"], "other_namespace", "{decision}");
    let file = r#"mount --bind "$1" "$2" && exec cat "$2""#;
    elsewhere(file, &bad, &muted).unwrap_err();
    // The host's own mount counts, not where the process lives.
    let handed = r#"mount --bind "$1" "$1" && exec cat /dev/fd/3 3< "$1""#;
    elsewhere(handed, &bad, &cache).unwrap_err();
    assert!(opens(&muted) && !opens(&bad));
}

#[test]
fn a_thread_that_leaves_the_namespace_of_its_process_gets_nothing_by_that() {
    let Some(place) = Place::new() else { return };
    let (bad, cache) = (place.file("upload/bad"), place.dir("cache"));
    let rule = format!("tree={}", text(&cache));
    let strict = Strict::start(&place, &["--mute", &rule]);
    let (upload, bound) = (bad.parent().unwrap().to_path_buf(), cache.clone());
    let opened = std::thread::spawn(move || {
        // This thread alone: the process, as others see it, stays where it is.
        #[expect(deprecated, reason = "it takes no memory of others, only namespaces")]
        let left = rustix::thread::unshare(
            rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS,
        );
        left.unwrap();
        let slave = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave).unwrap();
        rustix::mount::mount_bind(&upload, &bound).unwrap();
        fs::File::open(bound.join("bad")).is_ok()
    });
    assert!(!opened.join().unwrap());
    assert_ne!(strict.events.decision("bad")["path_validity"], Value::Null);
}

#[test]
fn only_rules_by_path_let_nothing_of_a_container_pass_unasked() {
    let Some(place) = Place::new() else { return };
    let bad = place.file("upload/bad");
    let other = place.dir("other");
    let rule = format!("tree={}/upload", text(&place.root));
    let _strict = Strict::start(&place, &["--only", &rule]);
    let bound = r#"mount --bind "$1" "$2" && exec cat "$2/bad""#;
    elsewhere(bound, bad.parent().unwrap(), &other).unwrap_err();
}

#[test]
fn mounts_that_come_and_go_on_the_host_are_told_apart_at_once() {
    let Some(place) = Place::new() else { return };
    let file = place.file("tree/file");
    let bound = place.outside("bound");
    let rule = format!("tree={}", text(&bound));
    let strict = Strict::start(&place, &["--mute", &rule]);
    for _ in 0..10 {
        let tree = file.parent().unwrap();
        assert!(run("mount", ["--bind", text(tree), text(&bound)]));
        assert!(opens(&bound.join("file")), "by a mount of the host's own");
        assert!(!opens(&file));
        // The host has the file open until it has told of the decision.
        until("it is unmounted", || run("umount", [text(&bound)]));
        let script = r#"mount --bind "$1" "$2" && exec cat "$2/file""#;
        elsewhere(script, tree, &bound).unwrap_err();
    }
    assert_eq!(strict.list()[0]["hits"], 10);
}

#[test]
fn a_service_is_told_what_the_path_of_its_question_is_worth() {
    let Some(place) = Place::new() else { return };
    let file = place.file("upload/file");
    let host = Host::start(&place, &[]);
    let (sender, told) = std::sync::mpsc::channel();
    let _service = host.serve(move |_, question| {
        let asked: Question = read(question.payload()).unwrap();
        sender
            .send(PathValidity::parse(asked.path).unwrap())
            .unwrap();
        answer(question, Verdict::Allow);
    });
    assert!(opens(&file));
    assert_eq!(told.recv().unwrap(), PathValidity::Plain);
    let script = r#"mount --bind "$1" "$2" && exec cat "$2/file""#;
    elsewhere(script, file.parent().unwrap(), &place.dir("other")).unwrap();
    assert_eq!(told.recv().unwrap(), PathValidity::OtherNamespace);
}

#[test]
fn layers_and_overlays_are_told_apart() {
    let Some(place) = Place::new() else { return };
    let lower = place.file("lower/file");
    let (upper, work) = (place.dir("upper"), place.dir("work"));
    let merged = place.outside("merged");
    if !overlay(lower.parent().unwrap(), &upper, &work, &merged) {
        return;
    }
    let strict = Strict::start(&place, &["--guard", text(&merged), "--monitor"]);
    assert!(opens(&merged.join("file")));
    let seen = [(); 2].map(|()| strict.events.decision("file")["path_validity"].clone());
    let mut seen = seen.map(|seen| seen.as_str().unwrap_or_default().to_owned());
    seen.sort();
    assert_eq!(seen, ["layer", "overlay"]);
    drop(strict);
    assert!(run("umount", [text(&merged)]));
}

#[test]
fn a_rule_with_a_time_ends_and_that_is_told() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let strict = Strict::start(&place, &["--mute", "1s:user=0"]);
    until("it ends", || !opens(&file));
    let ended = loop {
        let event = strict.events.next();
        if event["event"] == "mute" {
            break event;
        }
    };
    assert_eq!(
        (&ended["state"], &ended["rule"]),
        (&"ended".into(), &"user=0".into())
    );
    assert_eq!(strict.list(), serde_json::json!([]));
}

#[test]
fn mistakes_in_rules_end_the_start_and_say_what_is_right() {
    let Some(place) = Place::new() else { return };
    for (arguments, words) in [
        (
            ["--mute", "tree=/does/not/exist"],
            "--mute tree=/does/not/exist",
        ),
        (["--only", "path=/does/not/exist"], "exists"),
        (
            ["--exclude", "/does/not/exist"],
            "--exclude /does/not/exist",
        ),
        (
            ["--mute", "directory=/usr"],
            "path, tree, process, user, cgroup, fstype",
        ),
        (["--grant-mutes", "events"], "scan"),
    ] {
        let said = mistake(&place, &arguments);
        assert!(said.contains(words), "{said}");
    }
    let many = vec!["--mute=user=7"; 257];
    assert!(mistake(&place, &many).contains("256"));
}

fn explained(host: &Host, path: &Path, process: Option<&Path>, user: Option<&str>) -> Value {
    let control = host.connect_to("control").unwrap();
    let question = Explain {
        path,
        process,
        user,
    };
    serde_json::from_str(&question.send(&control).unwrap()).unwrap()
}

#[test]
fn the_host_explains_what_is_asked_about_and_why() {
    let Some(place) = Place::new() else { return };
    let names = ["tree/cache/a", "tree/upload/b", "outside"];
    let [cached, uploaded, outside] = names.map(|name| place.file(name));
    let program = cat(&place, "mycat");
    let ports = place.outside("ports");
    let tree = format!("tree={}/tree/cache", text(&place.root));
    let process = format!("exec:process={}", text(&program));
    let mut command = command(&ports);
    command.args(["--no-scanner", "--guard", text(&place.root.join("tree"))]);
    command.args([
        "--mute",
        &tree,
        "--mute",
        &process,
        "--mute",
        "open:user=61001",
    ]);
    let host = Host::run(&mut command, ports);
    let events = host.listen();
    assert_eq!(events.next()["event"], "started");

    let of = |path: &Path, process, user| explained(&host, path, process, user);
    assert_eq!(of(&outside, None, None)["guarded"], false);
    let cached = of(&cached, None, None);
    assert_eq!(
        (&cached["mark"], &cached["asked_open"]),
        (&"directory".into(), &false.into())
    );
    assert!(
        cached["words"][1].as_str().unwrap().contains(&tree),
        "{cached}"
    );
    let unsure = of(&uploaded, None, None);
    assert!(
        unsure["asked_open"].is_null() && unsure["asked_exec"].is_null(),
        "{unsure}"
    );
    assert!(
        unsure["words"][1]
            .as_str()
            .unwrap()
            .contains("depends on who")
    );
    let sure = of(&uploaded, Some(&program), Some("root"));
    assert_eq!(
        (&sure["asked_open"], &sure["asked_exec"]),
        (&true.into(), &false.into())
    );
    let other = of(&uploaded, Some(Path::new("/bin/cat")), Some("61001"));
    assert_eq!(
        (&other["asked_open"], &other["asked_exec"]),
        (&false.into(), &true.into())
    );
    let missing = of(Path::new("/does/not/exist"), None, None);
    assert!(missing["error"].as_str().unwrap().contains("No such file"));
    let relative = of(Path::new("tree"), None, None);
    assert!(relative["error"].as_str().unwrap().contains("absolute"));
    // Nothing of it was opened.
    assert_eq!(host.count("opens"), 0);
}

#[test]
fn monitor_mode_mutes_as_it_would_and_says_what_rules_leave_to_services() {
    let Some(place) = Place::new() else { return };
    let [cached, listed, other] = ["in/cache/a", "in/b", "other"].map(|name| place.file(name));
    let only = format!("tree={}/in", text(&place.root));
    let mute = format!("tree={}/in/cache", text(&place.root));
    let arguments = ["--monitor", "--strict", "--only", &only, "--mute", &mute];
    let host = Host::start(&place, &arguments);
    let events = host.listen();
    let _service = host.serve(|_, question| judge(question));
    let bad = place.root.join("in/bad");
    fs::rename(&listed, &bad).unwrap();
    for (file, would_be) in [(&cached, None), (&bad, Some("deny")), (&other, None)] {
        assert!(opens(file));
        let name = file.file_name().and_then(OsStr::to_str).unwrap();
        let decision = events.decision(name);
        assert_eq!(decision["verdict"], "allow");
        assert_eq!(decision["would_be"].as_str(), would_be, "{decision}");
    }
    assert_eq!(host.count("denied"), 0);
    // A process that ends while it is asked about, and an opener that waits, are no denials either.
    let opener = start_opener(&bad);
    outcome(opener).unwrap();
}

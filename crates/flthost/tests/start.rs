//! Hosts that cannot start, and what they say about it. Needs root.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::host::{Host, command, opens, refused, until};
use common::{Place, overlay, run, takes_errnos, text};

/// A host that would start with these arguments.
fn ready(place: &Place) -> Command {
    let mut command = command(&place.outside("ports"));
    command.args(["--no-scanner", "--guard", text(&place.root)]);
    command
}

/// It does not start, guards nothing, and says this.
fn says(place: &Place, command: &mut Command, words: &[&str]) {
    let (code, said) = refused(command);
    assert_eq!(code, Some(2), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
    // What the kernel lacks is said as well.
    let of_kernel = |line: &&str| line.starts_with("flthostd: this kernel ");
    let own: usize = said
        .lines()
        .filter(|line| !of_kernel(line))
        .map(str::len)
        .sum();
    assert!(own < 600 && !said.contains("panicked"), "{said}");
    let probe = place.file("probe");
    assert!(opens(&probe));
    fs::remove_file(probe).unwrap();
}

#[test]
fn a_user_without_the_capability_is_told_which_one_and_what_to_do() {
    let Some(place) = Place::new() else { return };
    let ports = place.outside("ports");
    chown(&ports, Some(61_000), Some(61_000)).unwrap();
    fs::set_permissions(ports.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    // Where the build lives, this user may be unable to look.
    let own = place.outside("bin").join("flthostd");
    fs::copy(env!("CARGO_BIN_EXE_flthostd"), &own).unwrap();
    let mut other = Command::new(own);
    other.args(ready(&place).get_args()).uid(61_000).gid(61_000);
    says(&place, &mut other, &["CAP_SYS_ADMIN", "sudo"]);
}

#[test]
fn a_directory_that_cannot_be_guarded_is_named() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let missing = place.root.join("missing");
    for (path, word) in [(&missing, "does not exist"), (&file, "not a directory")] {
        let mut command = ready(&place);
        says(
            &place,
            command.args(["--guard", text(path)]),
            &[text(path), word],
        );
    }
    says(
        &place,
        ready(&place).args(["--guard", "/proc"]),
        &["/proc", "refuses"],
    );
}

#[test]
fn nothing_to_guard_is_an_error_of_the_command_line() {
    let Some(place) = Place::new() else { return };
    let mut command = command(&place.outside("ports"));
    says(&place, command.arg("--no-scanner"), &["--guard <DIR>"]);
}

#[test]
fn mistakes_in_options_say_what_is_right() {
    let Some(place) = Place::new() else { return };
    for (option, value, word) in [
        ("--policy", "timeout", "CAUSE=ACTION"),
        ("--policy", "slow=deny", "no_service"),
        ("--policy", "timeout=EACCES", "EBUSY"),
        ("--deadline-ms", "1", "10..="),
    ] {
        says(&place, ready(&place).args([option, value]), &[word]);
    }
}

#[test]
fn an_instance_name_leads_nowhere_else() {
    let Some(place) = Place::new() else { return };
    for name in ["a/b", "..", "../../etc", r"..\..", "", "."] {
        let mut command = ready(&place);
        command.args(["--instance", name]);
        // The last one counts for clap only if it may be repeated, so the first is taken out.
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let rest = arguments.iter().skip(2);
        let mut command = Command::new(env!("CARGO_BIN_EXE_flthostd"));
        says(&place, command.args(rest), &["port"]);
    }
    let made: Vec<_> = fs::read_dir(place.outside("ports")).unwrap().collect();
    assert!(made.len() <= 1, "{made:?}");
}

#[test]
fn a_name_that_a_living_host_has_is_not_taken_from_it() {
    let Some(place) = Place::new() else { return };
    let file = place.file("file");
    let host = Host::start(&place, &["--strict"]);
    let (code, said) = refused(&mut ready(&place));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("taken by a running host"), "{said}");
    assert!(!opens(&file)); // the first one is there as before
    drop(host);
    drop(Host::start(&place, &[]));
}

#[test]
fn a_port_directory_that_cannot_be_written_is_named() {
    let Some(place) = Place::new() else { return };
    let read_only = place.outside("read-only");
    assert!(run(
        "mount",
        ["-t", "tmpfs", "-o", "ro", "none", text(&read_only)]
    ));
    let file = place.outside("x").join("file");
    fs::write(&file, "").unwrap();
    let missing = place.outside("x").join("no/such/folder");
    for path in [&read_only, &file, &missing] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flthostd"));
        command.args(["--lifeline", "--no-scanner", "--guard", text(&place.root)]);
        says(
            &place,
            command.arg("--port-directory").arg(path),
            &[text(path)],
        );
    }
    assert!(run("umount", [text(&read_only)]));
}

#[test]
fn a_start_that_fails_late_gives_its_names_back() {
    let Some(place) = Place::new() else { return };
    let mut command = ready(&place);
    says(&place, command.args(["--guard", "/proc"]), &["/proc"]);
    let left: Vec<_> = fs::read_dir(place.outside("ports")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_its_scanner_or_its_rules_a_host_says_so_and_guards_by_policy() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let file = place.file("file");
    let ports = place.outside("ports");
    let empty = place.outside("empty");
    let missing = place.outside("x").join("missing");
    let script = place.outside("x").join("no-program");
    fs::write(&script, "no program").unwrap();
    let program = std::path::PathBuf::from("/bin/true");
    let none = None::<&std::path::PathBuf>;
    for (scanner, rules, words) in [
        (&missing, none, "No such file"),
        (&script, none, "cannot start"),
        (&program, Some(&missing), "No such file"),
        (&program, Some(&empty), "0 rules files"),
    ] {
        let mut command = command(&ports);
        command.args(["--guard", text(&place.root), "--policy", "no_service=deny"]);
        command.args(["--scanner", text(scanner)]);
        if let Some(rules) = rules {
            command.args(["--rules", text(rules)]);
        }
        let start = std::time::Instant::now();
        let host = Host::run(&mut command, ports.clone());
        assert!(
            start.elapsed().as_secs() < 4,
            "it waits for a scanner that will not come"
        );
        host.says(words);
        let descriptors = || {
            let worker = host.worker();
            fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count()
        };
        assert!(!opens(&file));
        let before = descriptors();
        std::thread::sleep(std::time::Duration::from_millis(2_500)); // some more attempts
        assert_eq!(host.said().matches(words).count(), 1, "{}", host.said());
        until("attempts leave no descriptors", || descriptors() <= before);
    }
}

#[test]
fn a_tree_of_very_many_directories_is_guarded_only_if_that_is_wanted() {
    let Some(place) = Place::lasting(60) else {
        return;
    };
    let top = place.dir("tree");
    (0..10_001).for_each(|number| fs::create_dir(top.join(number.to_string())).unwrap());
    let file = place.file("tree/77/file");
    let ports = place.outside("ports");
    let guard = |more: &[&str]| {
        let mut command = command(&ports);
        command.args(["--no-scanner", "--strict", "--guard", text(&top)]);
        command.args(more);
        command
    };
    let (code, said) = refused(&mut guard(&[]));
    assert_eq!(code, Some(2));
    for word in ["10002 directories", "mount point", "--many-directories"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(opens(&file));
    let _host = Host::run(&mut guard(&["--many-directories"]), ports.clone());
    assert!(!opens(&file));
}

#[test]
fn what_the_kernel_cannot_do_is_said_with_what_follows() {
    let Some(place) = Place::new() else { return };
    let sentence = "this kernel cannot deny with EAGAIN, EBUSY: opens fail with EPERM instead";
    let policies = ["--policy", "timeout=EAGAIN", "--policy", "exec:crash=EBUSY"];
    for (arguments, used) in [(&policies[..], true), (&[], false)] {
        let host = Host::start(&place, arguments);
        let expected = used && !takes_errnos();
        let missing = &host.status()["missing"];
        let missing = missing.as_array().unwrap();
        // What does not depend on the configuration has a test of its own; nothing on tmpfs can hang.
        let of_errnos = |text: &&serde_json::Value| text.as_str().unwrap().contains("deny with");
        let of_errnos: Vec<_> = missing.iter().filter(of_errnos).collect();
        let expected_list = if expected { vec![sentence] } else { vec![] };
        assert_eq!(of_errnos, expected_list);
        if expected {
            host.says(sentence);
        } else {
            assert!(!host.said().contains("cannot deny"), "{}", host.said());
        }
    }
}

#[test]
fn what_is_opened_through_an_overlay_is_asked_about_or_the_host_says_that_it_is_not() {
    let Some(place) = Place::new() else { return };
    let file = place.file("lower/file");
    let (upper, work) = (place.dir("upper"), place.dir("work"));
    let merged = place.outside("merged");
    let host = Host::start(&place, &["--strict"]);
    assert!(!opens(&file));
    if !overlay(file.parent().unwrap(), &upper, &work, &merged) {
        return;
    }
    let asked = !opens(&merged.join("file"));
    let missing = host.status()["missing"].to_string();
    let said = host.said();
    drop(host);
    assert!(run("umount", [text(&merged)]));
    println!("asked about: {asked}; missing: {missing}");
    for text in [missing, said] {
        assert_eq!(text.contains("through an overlay"), !asked, "{text}");
        // Nor does such a kernel tell of writes, so it keeps nothing.
        assert_eq!(text.contains("keeps no verdicts"), !asked, "{text}");
    }
}

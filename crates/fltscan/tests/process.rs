//! `fltscand` as a process: what it takes from its parent, what it says, and how it ends.

mod host;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use fltport::ServerPort;
use fltport::protocol::file::Verdict;
use rustix::io::FdFlags;
use tempfile::TempDir;

use host::{Host, ask, file_with, judge, patient, settle};

#[test]
fn a_scanner_with_an_inherited_socket_answers_until_it_is_killed() {
    let host = Host::new();
    let started = Instant::now();
    let socket = host.port.offer().unwrap();
    let mut scanner = spawn(&["--threads", "2"], [("--connect-fd", socket, "")]);
    let service = host.service();
    println!("connected {:?} after the spawn", started.elapsed());
    let denied = (Verdict::Deny, "EICAR_Test_File".to_owned());
    assert_eq!(judge(&service, &fltscan::test_file()), denied);
    assert_eq!(judge(&service, b"clean").0, Verdict::Allow);
    scanner.0.kill().unwrap();
    host.end();
}

#[test]
fn a_scanner_whose_host_goes_away_ends_without_an_error() {
    let host = Host::new();
    let socket = host.port.offer().unwrap();
    let scanner = spawn(&["--threads", "2"], [("--connect-fd", socket, "")]);
    let service = host.service();
    judge(&service, b"clean");
    settle(&service);
    drop(host);
    let (code, said) = scanner.end();
    let expected =
        "fltscand: connection over: 1 answers heard, 0 unheard, 0 given before the scan was done\n";
    assert_eq!((code, said.as_str()), (Some(0), expected));
}

#[test]
fn rules_of_inherited_descriptors_are_used_instead_of_the_built_in_one() {
    let host = Host::new();
    let socket = host.port.offer().unwrap();
    let (one, two) = (
        "rule one { condition: filesize == 1 }",
        "rule two { condition: filesize < 3 }",
    );
    let _scanner = spawn(
        &[],
        [
            ("--rules-fd", file_with(one.as_bytes()).into(), "=one.yar"),
            ("--connect-fd", socket, ""),
            ("--rules-fd", file_with(two.as_bytes()).into(), "=two.yar"),
        ],
    );
    let service = host.service();
    let both = (Verdict::Deny, "one, two".to_owned());
    assert_eq!(judge(&service, b"x"), both);
    assert_eq!(judge(&service, &fltscan::test_file()).0, Verdict::Allow);
}

#[test]
fn a_scanner_holds_no_file_when_its_answer_comes() {
    let host = Host::new();
    let socket = host.port.offer().unwrap();
    let scanner = spawn(&[], [("--connect-fd", socket, "")]);
    let service = host.service();
    let directory = TempDir::new().unwrap();
    for i in 0..20 {
        let path = directory.path().join(i.to_string());
        fs::write(&path, b"clean").unwrap();
        let asked = ask(&service, Some(File::open(&path).unwrap()), patient());
        assert_eq!(asked.answer().unwrap().0, Verdict::Allow);
        assert!(!scanner.has_open(&path), "question {i}");
    }
}

#[test]
fn a_scanner_finds_a_named_port_and_reads_rules_from_a_folder() {
    let directory = TempDir::new().unwrap();
    let builder = ServerPort::builder(r"\Scan").directory(directory.path());
    let host = Host::listen(builder);
    let rules = rule_folder(&[("a.yar", "rule a { condition: filesize == 1 }")]);
    let (place, rules) = (
        directory.path().to_str().unwrap(),
        rules.path().to_str().unwrap(),
    );
    let _scanner = spawn(
        &[
            "--port",
            r"\Scan",
            "--port-directory",
            place,
            "--rules",
            rules,
        ],
        [],
    );
    assert_eq!(
        judge(&host.service(), b"x"),
        (Verdict::Deny, "a".to_owned())
    );
}

#[test]
fn what_stops_a_start_is_said_and_nobody_was_connected() {
    let bad = || OwnedFd::from(file_with(b"rule bad { condition: nowhere }"));
    let host = Host::new();
    let gifts = [
        ("--connect-fd", host.port.offer().unwrap(), ""),
        ("--rules-fd", bad(), "=bad.yar"),
    ];
    let (code, said) = spawn(&[], gifts).end();
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("fltscand: bad.yar:1:23: unknown identifier"),
        "{said}"
    );
    assert!(host.port.connections().is_empty());

    let (code, said) = spawn(&[], [("--connect-fd", bad(), "")]).end();
    assert_eq!(code, Some(1));
    assert_eq!(said, "fltscand: the inherited descriptor is not a port\n");

    let (code, said) = spawn(&["--connect-fd", "77"], []).end();
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("fltscand: --connect-fd: descriptor 77 was not handed over"),
        "{said}"
    );

    let (code, said) = spawn(
        &["--port", r"\nowhere", "--port-directory", "/nonexistent"],
        [],
    )
    .end();
    assert_eq!(code, Some(1));
    assert!(said.starts_with("fltscand: no port"), "{said}");

    let (code, _) = spawn(&[], []).end();
    assert_eq!(code, Some(2), "a usage error");
}

#[test]
fn check_counts_good_rules() {
    let folder = rule_folder(&[
        ("a.yar", "rule a { condition: filesize > 0 }"),
        (
            "b.yara",
            "rule b { condition: filesize > 1 } rule c { condition: filesize > 2 }",
        ),
    ]);
    let checked = check(folder.path());
    assert_eq!(
        text(&checked),
        (Some(0), "3 rules, ok\n".to_owned(), String::new())
    );
    assert_eq!(text(&check(&folder.path().join("a.yar"))).1, "1 rule, ok\n");
}

#[test]
fn check_shows_every_error_with_its_place() {
    let bad = "rule one { condition: first }\nrule two { condition: second }\n";
    let folder = rule_folder(&[("a.yar", bad), ("b.yar", bad)]);
    let (code, out, said) = text(&check(folder.path()));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let places: Vec<_> = said
        .lines()
        .map(|line| line.split(" unknown identifier").next().unwrap())
        .collect();
    let at = |name, place| format!("{}:{place}:", folder.path().join(name).display());
    let expected = [
        at("a.yar", "1:23"),
        at("a.yar", "2:23"),
        at("b.yar", "1:23"),
        at("b.yar", "2:23"),
    ];
    assert_eq!(places, expected);
}

#[test]
fn check_shows_a_warning_and_is_content() {
    let folder = rule_folder(&[("odd.yar", "rule odd { condition: true or false }")]);
    let (code, out, said) = text(&check(folder.path()));
    assert_eq!((code, out.as_str()), (Some(0), "1 rule, ok\n"));
    assert!(said.contains("odd.yar:1:23: warning: "), "{said}");
}

#[test]
fn check_fails_without_rules_and_without_a_path() {
    let (code, _, said) = text(&check(Path::new("/nonexistent")));
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "/nonexistent: no such file or directory\n")
    );
    let (code, _, said) = text(&check(rule_folder(&[]).path()));
    assert_eq!(code, Some(1));
    assert!(
        said.ends_with("no *.yar or *.yara file in this directory\n"),
        "{said}"
    );
    let output = program().arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// A running `fltscand`, killed when the test is over.
struct Scanner(Child);

impl Scanner {
    /// Waits for its end by itself; returns its exit code and what it wrote to standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (self.0.wait().unwrap().code(), said)
    }

    fn has_open(&self, path: &Path) -> bool {
        let folder = format!("/proc/{}/fd", self.0.id());
        let mut links = fs::read_dir(folder)
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()));
        // One that was closed while we looked is not open.
        links.any(|link| link.is_ok_and(|link| link == path))
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the program; each gift is an option, the descriptor for it, and what follows the number.
fn spawn<const N: usize>(arguments: &[&str], gifts: [(&str, OwnedFd, &str); N]) -> Scanner {
    // While a gift can be inherited, no other test may start a process: a second heir would keep the connection open.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = program();
    command.args(arguments).stderr(Stdio::piped());
    for (option, descriptor, more) in &gifts {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
        command
            .arg(option)
            .arg(format!("{}{more}", descriptor.as_raw_fd()));
    }
    let child = command.spawn().unwrap();
    // Ours are closed: the child is the only one to have them.
    drop((gifts, turn));
    Scanner(child)
}

fn check(rules: &Path) -> Output {
    program()
        .args(["check", "--rules"])
        .arg(rules)
        .output()
        .unwrap()
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fltscand"))
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn rule_folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

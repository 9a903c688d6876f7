//! The whole product on real files: the command line, the host, the scanner, openers in other processes.
//!
//! Marks go on directories below a temporary folder of this test only. Everything that could hang has a time limit, and
//! ending `fltctl` ends the guard, whatever else has happened.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Files of the test, in four parts.
const FILES: usize = 20_000;
const PARTS: usize = 4;

/// Every one of these has what the rule looks for.
const BAD_EVERY: usize = 199;

/// What an opener may wait: the deadline, and what a loaded machine adds to it.
const DEADLINE: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(2);

const RULE: &str = r#"rule Needle { strings: $needle = "needle-7431" condition: $needle }"#;

/// Longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn twenty_thousand_files_are_guarded_and_the_deaths_of_scanner_and_worker_leave_no_hole() {
    if let Some(why) = cannot_run() {
        println!("skipped: {why}");
        return;
    }
    let stage = Stage::new();
    let mut guard = Guard::start(&stage);

    let start = Instant::now();
    let refused = stage.grep_all();
    println!(
        "{FILES} files, grep -r from {PARTS} processes: {} ms",
        start.elapsed().as_millis()
    );
    assert_eq!(refused, stage.bad, "exactly the matching files are refused");

    let (worker, scanner) = (guard.worker, guard.scanner_pid());
    let openers: Vec<_> = (0..PARTS).map(|part| stage.open_part(part)).collect();
    guard.wait_for_decisions(2_000);
    kill(scanner);
    guard.wait_for_decisions(2_000);
    kill(worker);
    let mut longest = Duration::ZERO;
    let mut refused_clean = 0;
    for (opener, (paths, attempts)) in openers.into_iter().map(Opener::finish).enumerate() {
        assert_eq!(paths.len(), attempts.len(), "opener {opener} ended early");
        for (path, (ok, took)) in paths.iter().zip(attempts) {
            longest = longest.max(took);
            assert!(
                !(ok && stage.bad.contains(path)),
                "{} was opened",
                path.display()
            );
            refused_clean += usize::from(!ok && !stage.bad.contains(path));
        }
    }
    println!(
        "with both killed: longest open {} ms, {refused_clean} clean files refused by policy",
        longest.as_millis()
    );
    assert!(longest < DEADLINE + SLACK, "an opener waited {longest:?}");
    // Policy decides what was with the dead; everything else is asked as before.
    assert!(
        refused_clean < FILES / 100,
        "{refused_clean} clean files were refused"
    );

    guard.wait_restarted();
    assert_ne!(
        (guard.worker, guard.scanner_pid()),
        (worker, scanner),
        "both were restarted"
    );
    assert_eq!(stage.grep_all(), stage.bad, "guarded as before");

    assert_eq!(guard.end(), Some(0));
    assert!(stage.grep_all().is_empty(), "nothing is guarded any more");
}

#[test]
fn rules_that_do_not_compile_are_shown_with_their_place_and_nothing_is_guarded() {
    if let Some(why) = cannot_run() {
        println!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("bad.yar");
    std::fs::write(
        &rules,
        "rule fine { condition: true }\nrule bad {\n  condition: nonsense\n}\n",
    )
    .unwrap();
    let mut guard = limited(env!("CARGO_BIN_EXE_fltctl"));
    guard
        .arg("guard")
        .arg(folder.path())
        .arg("--rules")
        .arg(&rules);
    guard
        .arg("--port-directory")
        .arg(folder.path().join("ports"));
    let output = guard.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("bad.yar:3:14: "), "{said}");
    assert!(said.contains("the scanner cannot start"), "{said}");
    assert!(output.stdout.is_empty());
}

/// A folder of files, some of which match the rule.
struct Stage {
    folder: tempfile::TempDir,
    bad: BTreeSet<PathBuf>,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut bad = BTreeSet::new();
        for index in 0..FILES {
            let directory =
                folder
                    .path()
                    .join(format!("files/{}/{}", index % PARTS, index / PARTS % 25));
            if index < PARTS * 25 {
                std::fs::create_dir_all(&directory).unwrap();
            }
            let path = directory.join(index.to_string());
            let mut text = format!("file {index}\n").repeat(1 + index % 200);
            if index % BAD_EVERY == 0 {
                text.push_str("needle-");
                text.push_str("7431");
                bad.insert(path.clone());
            }
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(folder.path().join("rules.yar"), RULE).unwrap();
        Self { folder, bad }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reads everything with `grep -r`, a process for each part; gives the files that it was refused.
    fn grep_all(&self) -> BTreeSet<PathBuf> {
        let greps: Vec<_> = (0..PARTS)
            .map(|part| {
                let mut grep = limited("grep");
                grep.args(["-r", "-c", "no such words"])
                    .arg(self.path(&format!("files/{part}")));
                grep.env("LC_ALL", "C")
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let errors = greps
            .into_iter()
            .map(|grep| grep.wait_with_output().unwrap().stderr);
        let text = errors
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect::<String>();
        let refused = text.lines().filter_map(|line| {
            line.strip_prefix("grep: ")?
                .strip_suffix(": Operation not permitted")
                .map(PathBuf::from)
        });
        refused.collect()
    }

    /// Opens the files of one part, in another process that times each.
    fn open_part(&self, part: usize) -> Opener {
        let mut paths = Vec::new();
        for directory in std::fs::read_dir(self.path(&format!("files/{part}"))).unwrap() {
            let entries = std::fs::read_dir(directory.unwrap().path()).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let mut command = limited(env!("CARGO_BIN_EXE_fltctl"));
        let child = command
            .arg("open")
            .args(&paths)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Opener { child, paths }
    }
}

struct Opener {
    child: Child,
    paths: Vec<PathBuf>,
}

impl Opener {
    /// The files, and for each whether it could be opened and how long that took.
    fn finish(self) -> (Vec<PathBuf>, Vec<(bool, Duration)>) {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let attempts = text.lines().map(|line| {
            let micros = line.rsplit(' ').next().unwrap().parse().unwrap();
            (line.starts_with("ok "), Duration::from_micros(micros))
        });
        (self.paths, attempts.collect())
    }
}

/// A running `fltctl guard --strict`.
struct Guard {
    child: Child,
    events: Receiver<Value>,
    ports: PathBuf,
    worker: u64,
}

impl Guard {
    fn start(stage: &Stage) -> Self {
        let ports = stage.path("ports");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fltctl"));
        command
            .arg("guard")
            .arg(stage.path("files"))
            .arg("--strict")
            .arg("--rules")
            .arg(stage.path("rules.yar"));
        command
            .arg("--port-directory")
            .arg(&ports)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, events) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if send.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut guard = Self {
            child,
            events,
            ports,
            worker: 0,
        };
        guard.wait_restarted();
        guard
    }

    fn next(&self) -> Value {
        self.events.recv_timeout(LIMIT).expect("no event came")
    }

    /// Waits for the next worker's `started`.
    fn wait_restarted(&mut self) {
        loop {
            let event = self.next();
            if event["event"] == "started" {
                self.worker = event["worker"].as_u64().unwrap();
                return;
            }
        }
    }

    /// Waits until this many decisions have been seen, or lost.
    fn wait_for_decisions(&self, mut count: u64) {
        while count > 0 {
            let event = self.next();
            let seen = if event["event"] == "gap" {
                event["lost"].as_u64().unwrap()
            } else {
                1
            };
            count = count.saturating_sub(seen);
        }
    }

    /// The process at the scan port.
    fn scanner_pid(&self) -> u64 {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let mut list = Command::new(env!("CARGO_BIN_EXE_fltctl"));
            let output = list
                .args(["connections", "--json", "--port-directory"])
                .arg(&self.ports)
                .output()
                .unwrap();
            let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let scan = |row: &&Value| {
                row["port"]
                    .as_str()
                    .is_some_and(|port| port.ends_with("\\scan"))
            };
            if let Some(row) = rows.as_array().into_iter().flatten().find(scan) {
                return row["pid"].as_u64().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no scanner is connected");
    }

    fn end(mut self) -> Option<i32> {
        kill_with(u64::from(self.child.id()), Signal::TERM);
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Its death ends the guard; it has ended already where the test went well.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg("-s")
        .arg("KILL")
        .arg(LIMIT.as_secs().to_string())
        .arg(program);
    command
}

fn kill(pid: u64) {
    kill_with(pid, Signal::KILL);
}

fn kill_with(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn cannot_run() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("guarding files needs root".to_owned());
    }
    let beside = Path::new(env!("CARGO_BIN_EXE_fltctl"));
    let missing = ["flthostd", "fltscand"]
        .into_iter()
        .find(|name| !beside.with_file_name(name).is_file());
    if let Some(name) = missing {
        return Some(format!(
            "{name} is not built; `cargo test --workspace` builds it"
        ));
    }
    let mut demo = limited(beside.to_str()?);
    let output = demo.arg("demo").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code() == Some(2)).then(|| format!("this machine cannot guard: {}", text.trim()))
}

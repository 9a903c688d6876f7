//! The groups of guarded opens; `guard.rs` runs them, `goals/guarded.rs` says what they are to reach.

use fltbench_common::Spec;

use super::{Group, Measure, Role, Waits};

/// Rows that goals name.
pub const NONE: &str = "no guard";
pub const BARE: &str = "bare loop that allows all";
pub const SERVICE: &str = "host and a service that allows all";
pub const SCANNER: &str = "host and fltscand";
pub const IN_WORKER: &str = "host, verdict kept by the worker";
pub const IN_KERNEL: &str = "host, verdict kept in the kernel";

/// Who answers for a file at once, where others wait, and the name of the case.
const AT_ONCE: [(&str, &str, &str); 4] = [
    ("that a rule lets go on", SAME, "rule"),
    ("whose verdict the worker keeps", SAME, "kept"),
    ("that a service allows", SAME, "service"),
    ("that a service allows", "another filesystem", "elsewhere"),
];

const SAME: &str = "the same filesystem";

/// Slow verdicts that wait beside a fast one.
const PENDING: usize = 1_000;

/// Operations that wait while memory is looked at.
const MANY_PENDING: usize = 10_000;

/// Files that are read; in a quick run a fifth of them.
const FILES: usize = 20_000;

/// All of them.
pub fn all(quick: bool, long: bool) -> Vec<Group> {
    let files = if quick { FILES / 5 } else { FILES };
    let mut groups: Vec<Group> = [1, 4, 64].map(opens).into();
    groups.extend(AT_ONCE.map(beside));
    groups.extend([1, 4].map(|readers| reads(readers, files, quick)));
    let programs = [
        ("grep", "grep -r over the tree"),
        ("git", "git status of a repository in it"),
        ("compile", "cc -c of its C sources, one after the other"),
    ];
    groups.extend(programs.map(|(what, title)| everyday(what, title, files)));
    groups.extend(promises(quick, long));
    groups
}

fn opens(openers: usize) -> Group {
    let many = if openers == 1 { "" } else { "s" };
    let title = format!("Open and close, {openers} opener{many}, any core");
    let id = format!("guard/{openers}");
    // By rate: where many openers share few cores, half of those that nobody guards find a core and take no time at all.
    let mut group = Group::new(&id, &title, Measure::Rate, openers != 4);
    group.base = Some(BARE);
    group.longer = 2;
    for (role, label, kind) in [
        (Role::Limit, NONE, "open-unguarded"),
        (Role::Limit, BARE, "open-bare"),
        (Role::Ours, SERVICE, "open-service"),
        (Role::Ours, SCANNER, "open-scanner"),
        (Role::Ours, IN_WORKER, "open-kept-worker"),
        (Role::Ours, IN_KERNEL, "open-kept-kernel"),
    ] {
        let spec = Spec {
            senders: openers,
            ..Spec::new(kind)
        };
        group.add(role, Waits::Parks, label, spec);
    }
    group
}

/// The label of the row with so many slow verdicts pending.
pub const fn beside_label(pending: bool) -> &'static str {
    if pending {
        "1,000 slow verdicts pending"
    } else {
        "none pending"
    }
}

fn beside((label, place, what): (&str, &str, &str)) -> Group {
    let title = format!("Open and close of a file {label}, beside slow ones on {place}");
    let mut group = Group::new(&format!("guard/beside-{what}"), &title, Measure::Time, true);
    group.base = Some(beside_label(false));
    group.longer = 2;
    // Once in a quick run, as what follows: each takes a second or two.
    group.most = 9;
    for pending in [0, PENDING] {
        let spec = Spec {
            window: pending,
            ..Spec::new(&format!("beside-{what}"))
        };
        group.add(Role::Ours, Waits::Parks, beside_label(pending > 0), spec);
    }
    group
}

fn reads(readers: usize, files: usize, quick: bool) -> Group {
    let by = if readers == 1 {
        "1 process".to_owned()
    } else {
        format!("{readers} processes that share them")
    };
    let title = format!("Open, read 4 KiB and close {files} files on ext4, twice, by {by}");
    let id = format!("guard/read-{readers}");
    let mut group = passes(&id, &title, "read", readers, files, readers == 4);
    // They take longer than all other rows together.
    if quick && readers > 1 {
        return group;
    }
    for (label, guard) in [
        ("clamonacc and clamd", "clamonacc"),
        ("fapolicyd", "fapolicyd"),
    ] {
        let spec = pass("read", guard, readers, files);
        group.add(Role::Peer, Waits::Parks, label, spec);
    }
    group
}

fn everyday(what: &str, title: &str, files: usize) -> Group {
    let title = format!("Twice: {title}");
    passes(&format!("guard/{what}"), &title, what, 1, files, true)
}

fn passes(id: &str, title: &str, what: &str, readers: usize, files: usize, quick: bool) -> Group {
    let mut group = Group::new(id, title, Measure::Passes, quick);
    group.base = Some(BARE);
    group.fixed = true;
    group.most = 9;
    for (role, label, guard) in [
        (Role::Limit, NONE, "unguarded"),
        (Role::Limit, BARE, "bare"),
        (Role::Ours, SCANNER, "kernel"),
        (
            Role::Ours,
            "host and fltscand, verdicts kept by the worker alone",
            "worker",
        ),
    ] {
        group.add(role, Waits::Parks, label, pass(what, guard, readers, files));
    }
    group
}

fn pass(what: &str, guard: &str, readers: usize, files: usize) -> Spec {
    Spec {
        senders: readers,
        window: files,
        warm: 0,
        // Nothing is timed by it; it says how long a slow guard may take.
        measure: 120_000_000,
        ..Spec::new(&format!("pass-{what}-{guard}"))
    }
}

/// What the host promises; each is a row of its own.
fn promises(quick: bool, long: bool) -> Vec<Group> {
    let one = |id: &str, title: &str, measure, rows: &[(&str, Spec)]| {
        let mut group = Group::new(&format!("guard/{id}"), title, measure, true);
        group.fixed = true;
        group.most = 9;
        for (label, spec) in rows {
            group.add(Role::Ours, Waits::Parks, label, spec.clone());
        }
        group
    };
    let memory = Spec {
        window: MANY_PENDING,
        ..Spec::new("host-memory")
    };
    // Each open takes as long as the deadline.
    let stopped = Spec {
        senders: 8,
        warm: 0,
        measure: 900_000,
        ..Spec::new("host-stopped")
    };
    let seconds = match (long, quick) {
        (true, _) => 600,
        (false, true) => 2,
        (false, false) => 10,
    };
    let steady = Spec {
        senders: 24,
        measure: seconds * 1_000_000,
        ..Spec::new("host-steady")
    };
    let steady_title = format!("24 openers through host and fltscand for {seconds} s");
    let start = [NOBODY, SCANNER]
        .into_iter()
        .zip(["host-start", "host-start-scanner"]);
    let start: Vec<(&str, Spec)> = start
        .map(|(label, kind)| (label, Spec::new(kind)))
        .collect();
    let mut groups = vec![
        one(
            "memory",
            "Memory of the worker while 10,000 operations are pending",
            Measure::Mebibytes,
            &[(SERVICE, memory)],
        ),
        one(
            "start",
            "From the start of the host to the first open that it denies",
            Measure::Millis,
            &start,
        ),
        one(
            "stopped",
            "8 openers while the scanner is stopped: how much longer than its deadline the longest open takes",
            Measure::Beyond,
            &[(SCANNER, stopped)],
        ),
        one("steady", &steady_title, Measure::Late, &[(SCANNER, steady)]),
    ];
    if let (Some(last), true) = (groups.last_mut(), long) {
        last.most = 1;
    }
    groups
}

/// A host that nobody answers.
pub const NOBODY: &str = "host without services";

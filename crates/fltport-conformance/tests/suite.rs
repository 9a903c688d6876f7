//! The whole suite on every backend, and that it is whole: no number is missing, no reason is idle, and the published table
//! says what is so.

use std::collections::BTreeSet;
use std::path::Path;

use fltport_conformance::backend::Need;
use fltport_conformance::backends::{Kind, use_agent};
use fltport_conformance::case::CHAPTERS;
use fltport_conformance::cases;
use fltport_conformance::report;
use fltport_conformance::run::{Outcome, run_all};

#[test]
fn every_number_is_there_once_and_in_order() {
    let expected: Vec<_> = CHAPTERS
        .iter()
        .flat_map(|(letter, count, _)| (1..=*count).map(move |number| format!("{letter}{number}")))
        .collect();
    let told: Vec<_> = cases::all().iter().map(|case| case.id).collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|id| !told.contains(&id.as_str()))
        .collect();
    assert!(missing.is_empty(), "no case has these numbers: {missing:?}");
    let wrong = told
        .iter()
        .zip(&expected)
        .find(|(told, expected)| told != expected);
    assert_eq!(wrong, None, "the first that is twice or out of order");
    assert_eq!(told.len(), expected.len());
}

#[test]
fn there_are_261_cases_besides_our_own() {
    let told = cases::all();
    assert_eq!(
        told.iter().filter(|case| case.chapter() != 'X').count(),
        261
    );
    for case in told {
        assert_eq!(
            case.tags == "ours",
            case.chapter() == 'X',
            "the tags of {}",
            case.id
        );
    }
}

#[test]
fn every_row_says_in_one_line_what_it_is_about() {
    let mut titles = BTreeSet::new();
    // Within its chapter.
    for case in cases::all() {
        assert!(
            !case.title.is_empty() && !case.title.contains(['|', '\n']),
            "{}",
            case.id
        );
        assert!(
            titles.insert((case.chapter(), case.title)),
            "{} says what another says: {}",
            case.id,
            case.title
        );
        let tags = [
            "D", "D-ish", "S", "S-SI", "S-ROS", "KMT", "3P", "WIN32", "X", "I", "O-6", "open",
            "ours",
        ];
        for tag in case.tags.split(',') {
            assert!(tags.contains(&tag), "{} has the unknown tag {tag}", case.id);
        }
    }
}

#[test]
fn no_reason_is_idle() {
    let told = cases::all();
    let mut idle = Vec::new();
    for need in Need::ALL {
        let used = told.iter().any(|case| case.needs.contains(need));
        let reasons: Vec<_> = Kind::ALL
            .into_iter()
            .filter_map(|kind| kind.lacks(*need))
            .collect();
        if !used && !reasons.is_empty() {
            idle.push((need, reasons));
        }
    }
    assert!(
        idle.is_empty(),
        "backends lack what no case needs: {idle:#?}"
    );
}

#[test]
fn what_is_needed_is_lacking_somewhere() {
    for case in cases::all() {
        for need in case.needs {
            let lacking = Kind::ALL
                .into_iter()
                .any(|kind| kind.lacks(*need).is_some());
            assert!(
                lacking,
                "{} needs {need:?}, which every backend has",
                case.id
            );
        }
    }
}

#[test]
fn the_published_table_is_true() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: the table is that of root, who can run clients as other users");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    let published = std::fs::read_to_string(path).unwrap_or_default();
    let expected = report::expected(&cases::all());
    let differs = expected
        .lines()
        .zip(published.lines().chain(std::iter::repeat("")))
        .find(|(expected, published)| expected != published);
    assert!(
        expected == published,
        "docs/conformance.md is not what the suite says; run `cargo xtask conformance`. First line: {differs:?}"
    );
}

#[test]
fn the_simulator_conforms() {
    conforms(Kind::Simulator);
}

#[test]
fn a_pair_in_memory_conforms() {
    conforms(Kind::Memory);
}

#[test]
fn linux_conforms_in_one_process() {
    conforms(Kind::Linux);
}

#[test]
fn linux_conforms_across_processes() {
    conforms(Kind::Processes);
}

#[test]
fn linux_conforms_in_one_process_by_packets() {
    conforms(Kind::Packets);
}

#[test]
fn linux_conforms_across_processes_by_packets() {
    conforms(Kind::PacketProcesses);
}

/// Tells every case on one backend. A story that hangs is ended as a failure by its own time limit.
fn conforms(kind: Kind) {
    use_agent(Path::new(env!("CARGO_BIN_EXE_fltport-conformance")));
    let told = cases::all();
    let results = run_all(&told, &[kind], |_, _, _| {});
    assert_eq!(results.len(), told.len());
    let mut failures = Vec::new();
    for (case, _, outcome) in results {
        match outcome {
            Outcome::Fail(said) => failures.push(format!("{} {}: {said}", case.id, case.title)),
            Outcome::NotApplicable(why) if is_for_lack_of_root(kind, case.needs) => {
                println!("skipped: {}, {why}", case.id);
            }
            Outcome::NotApplicable(_) | Outcome::Pass => {}
        }
    }
    let (count, list) = (failures.len(), failures.join("\n"));
    assert!(
        failures.is_empty(),
        "{count} cases failed: {}\n{list}",
        kind.name()
    );
}

/// Whether this machine's user, and not the backend, is why a case was not told.
fn is_for_lack_of_root(kind: Kind, needs: &[Need]) -> bool {
    let root = rustix::process::geteuid().is_root();
    kind.with_memory() == Kind::Processes && needs.contains(&Need::Users) && !root
}

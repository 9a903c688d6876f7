//! The table of cases and backends, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::backends::Kind;
use crate::case::{CHAPTERS, Case};
use crate::run::{Outcome, lacks};

/// What the table says when every story goes as it is told: what is not `n/a` passes.
#[must_use]
pub fn expected(cases: &[Case]) -> String {
    let mut outcomes = BTreeMap::new();
    for case in cases {
        for kind in Kind::ALL {
            let outcome = lacks(case, kind).map_or(Outcome::Pass, Outcome::NotApplicable);
            outcomes.insert((case.id, kind), outcome);
        }
    }
    table(cases, &outcomes)
}

/// The whole page, from what was run; `-` where nothing was.
#[must_use]
pub fn table(cases: &[Case], outcomes: &BTreeMap<(&str, Kind), Outcome>) -> String {
    let mut page = String::from(HEAD);
    let count = |wanted: &dyn Fn(&Outcome) -> bool, kind: Kind| {
        let of_kind = outcomes.iter().filter(|((_, of), _)| *of == kind);
        of_kind.filter(|(_, outcome)| wanted(outcome)).count()
    };
    page.push_str("| backend | pass | fail | n/a |\n| --- | --- | --- | --- |\n");
    for kind in Kind::ALL {
        let pass = count(&|outcome| *outcome == Outcome::Pass, kind);
        let fail = count(&|outcome| matches!(outcome, Outcome::Fail(_)), kind);
        let absent = count(
            &|outcome| matches!(outcome, Outcome::NotApplicable(_)),
            kind,
        );
        writeln!(page, "| {} | {pass} | {fail} | {absent} |", kind.name()).ok();
    }
    let nowhere = |case: &&Case| Kind::ALL.iter().all(|kind| lacks(case, *kind).is_some());
    let (all, waiting) = (cases.len(), cases.iter().filter(nowhere).count());
    writeln!(page, "\nOf {all} cases {waiting} can be told on none of these backends; nearly all of them wait for the C interface or a Windows backend.").ok();
    for (letter, _, title) in CHAPTERS {
        if cases.iter().all(|case| case.chapter() != letter) {
            continue;
        }
        write!(page, "\n## {letter}. {title}\n\n| case |").ok();
        for kind in Kind::ALL {
            write!(page, " {} |", kind.name()).ok();
        }
        let columns = " --- |".repeat(Kind::ALL.len() + 3);
        write!(page, " source | what |\n|{columns}\n").ok();
        for case in cases.iter().filter(|case| case.chapter() == letter) {
            write!(page, "| {} |", case.id).ok();
            for kind in Kind::ALL {
                let word = match outcomes.get(&(case.id, kind)) {
                    Some(Outcome::Pass) => "pass",
                    Some(Outcome::Fail(_)) => "**fail**",
                    Some(Outcome::NotApplicable(_)) => "n/a",
                    None => "-",
                };
                write!(page, " {word} |").ok();
            }
            writeln!(page, " {} | {} |", case.tags, case.title).ok();
        }
    }
    reasons(&mut page, outcomes);
    page
}

/// Why cases are not applicable, one row for each reason and backend.
fn reasons(page: &mut String, outcomes: &BTreeMap<(&str, Kind), Outcome>) {
    let mut rows: BTreeMap<(Kind, &str), Vec<&str>> = BTreeMap::new();
    for ((case, kind), outcome) in outcomes {
        if let Outcome::NotApplicable(reason) = outcome {
            rows.entry((*kind, reason)).or_default().push(case);
        }
    }
    page.push_str("\n## Not applicable\n\n| backend | reason | cases |\n| --- | --- | --- |\n");
    for ((kind, reason), mut cases) in rows {
        cases.sort_by_key(|case| {
            let (letter, number) = case.split_at(1);
            (letter, number.parse::<u32>().unwrap_or(0))
        });
        writeln!(page, "| {} | {reason} | {} |", kind.name(), cases.join(" ")).ok();
    }
}

const HEAD: &str = "\
# Conformance

Written by `cargo xtask conformance`, which tells every case on every backend. Each case is a story in
`crates/fltport-conformance/src/cases`, told once. Source: D documented by Microsoft, S relied on by a sample (S-SI System
Informer, S-ROS ReactOS), KMT from ReactOS' kernel tests, 3P a third party, WIN32 general Windows behaviour, X seen in
binaries, I inferred. **Cases with X or I are not called Windows behaviour before they are confirmed on Windows.** Cases of
chapter X are this implementation's own.

Things may come later than a case says by 2 s, because the machine does much else; never earlier. Where a case says thousands of
rounds, a tenth of them is told across processes, where the tests of races have all; where it says many seconds of load, a tenth of
them in real time, where the soak has more.

";

//! A small run that was made up, and what is said of it.

use super::page;
use crate::cases::{Measure, Role, Waits};
use crate::machine::Machine;
use crate::record::{Record, Row, Table};
use crate::sample::{Run, Sample};

/// Seven repetitions of three rows; the last row is measured nowhere.
pub fn record() -> Record {
    let runs = |factor: f64| (1u8..=7).map(move |number| done(f64::from(number) * factor));
    let row = |label: &str, role, waits, runs| Row {
        label: label.to_owned(),
        role,
        waits,
        command: label.to_owned(),
        runs,
    };
    let skipped = vec![Run::Skipped("not here".to_owned()); 7];
    Record {
        machine: Machine::look(),
        seed: 1,
        quick: false,
        repetitions: 7,
        run_again: 0,
        tables: vec![Table {
            id: "one-core/64".to_owned(),
            title: "T".to_owned(),
            measure: Measure::Time,
            base: None,
            rows: vec![
                row("futex", Role::Limit, Waits::Parks, runs(0.5).collect()),
                row("fltport", Role::Ours, Waits::Parks, runs(1.0).collect()),
                row("slow", Role::Peer, Waits::Parks, runs(2.0).collect()),
                row("awake", Role::Peer, Waits::Spins, runs(1.0).collect()),
                row("absent", Role::Peer, Waits::Parks, skipped),
            ],
        }],
    }
}

fn done(p50_us: f64) -> Run {
    Run::Done(Sample {
        p50_us,
        p99_us: 2.0 * p50_us,
        p999_us: f64::NAN,
        per_second: 1e6 / p50_us,
        asking_cpu_us: 1.0,
        answering_cpu_us: 1.5,
        extra: [].into(),
        topology_ns: None,
        foreign_cores: 0.0,
    })
}

#[test]
fn only_what_waits_alike_is_compared_and_by_pairs() {
    let text = page(&record());
    // The values of the repetitions differ sevenfold, their pairs not at all.
    for line in [
        "| futex | parks | 2.00 | 4.00 | - | 500 k | 1.00 + 1.50 | takes 2.00 [2.00..2.00] times as long |",
        "| slow | parks | 8.00 | 16.0 | - | 125 k | 1.00 + 1.50 | 2.00 [2.00..2.00] times faster |",
        "| awake | spins | 4.00 | 8.00 | - | 250 k | 1.00 + 1.50 |  |",
        "| absent | parks | skipped: not here | | | | | |",
        "| slow | parks | 2.00 [2.00..2.00] |",
        "| awake | spins |  |",
        "| futex (bare) | parks | 0.50 [0.50..0.50] |",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_disturbed_pair_does_not_count() {
    let mut record = record();
    if let Some(Run::Done(sample)) = record.tables[0].rows[2].runs.first_mut() {
        sample.foreign_cores = 1.0;
        sample.p50_us = 100.0;
    }
    let text = page(&record);
    assert!(
        text.contains("2.00 [2.00..2.00] times faster (6 of 7 pairs)"),
        "{text}"
    );
    assert!(text.contains("Of 28 runs, 1 were disturbed"), "{text}");
}

//! What fltport is to reach, each goal as a ratio within the same run, and whether it did.

mod guarded;

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cases::{Measure, Role};
use crate::ratio::{SURE, Spread, count, interval, paired, short};
use crate::record::{Record, Row, Table};
use crate::report::ratio;
use crate::sample::{Run, Sample, rounded};

/// A goal, and what was measured of it.
#[derive(Debug)]
pub struct Reached {
    what: String,
    bound: Bound,
    value: Option<Spread>,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most, _) => value <= most,
            Self::AtLeast(least, _) => value >= least,
        }
    }
}

impl Reached {
    fn word(&self) -> &'static str {
        let Some(spread) = self.value else {
            return "not measured";
        };
        // Where the bound lies within the interval, or that is of few values, another run may say otherwise.
        let [low, high] = [spread.low, spread.high].map(|value| self.bound.holds(value));
        let sure = low == high && interval(spread.count).1 >= SURE;
        match (self.bound.holds(spread.median), sure) {
            (true, true) => "met",
            (true, false) => "met, not surely",
            (false, true) => "not met",
            (false, false) => "not met, not surely",
        }
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let (kind, limit) = match self.bound {
            Bound::AtMost(limit, _) => ("at most", limit),
            Bound::AtLeast(limit, _) => ("at least", limit),
        };
        let value = self
            .value
            .map(|one| json!([one.median, one.low, one.high].map(rounded)));
        json!({ "what": self.what, "bound": kind, "limit": limit, "measured": value, "result": self.word() })
    }
}

const FLTPORT: &str = "fltport";

/// Goals that compare two rows of one group: the group, fltport's row, the other row, the bound of fltport's time over
/// the other's, or of the other's over fltport's where more is better.
const COMPARED: [(&str, &str, &str, Bound); 13] = [
    ("hot/64", FLTPORT, "spin", Bound::AtMost(1.1, "x")),
    (
        "hot/64",
        FLTPORT,
        "iceoryx2 polling",
        Bound::AtLeast(7.0, "x"),
    ),
    ("hot/65536", FLTPORT, "copy", Bound::AtMost(1.2, "x")),
    (
        "hot/65536",
        FLTPORT,
        "iceoryx2 polling",
        Bound::AtLeast(1.0, "x"),
    ),
    ("one-core/64", FLTPORT, "eventfd", Bound::AtMost(1.1, "x")),
    (
        "one-core/64",
        FLTPORT,
        "seqpacket",
        Bound::AtLeast(1.5, "x"),
    ),
    (
        "one-core/64",
        FLTPORT,
        "iceoryx2 event",
        Bound::AtLeast(3.0, "x"),
    ),
    ("one-core/64", FLTPORT, "zbus", Bound::AtLeast(3.5, "x")),
    ("one-core/64", FLTPORT, "tonic", Bound::AtLeast(7.0, "x")),
    ("one-core/64", FLTPORT, "zmq", Bound::AtLeast(8.0, "x")),
    ("two-cores/64", FLTPORT, "futex", Bound::AtMost(1.1, "x")),
    (
        "threads/4x4",
        FLTPORT,
        "seqpacket with a demultiplexer",
        Bound::AtLeast(50.0, "x"),
    ),
    (
        "cold",
        "fltport, adaptive",
        FLTPORT,
        Bound::AtMost(1.05, "x"),
    ),
];

/// All goals of what the run was about, as far as they were measured.
pub fn reached(record: &Record) -> Vec<Reached> {
    let is_about = |id| record.table(id).is_some();
    let mut goals: Vec<Reached> = COMPARED
        .iter()
        .filter(|(id, ..)| is_about(id))
        .map(|(id, ours, other, bound)| Reached {
            what: format!("{id}: {ours} against {other}"),
            bound: *bound,
            value: record
                .table(id)
                .and_then(|table| compared(table, ours, other, *bound)),
        })
        .collect();
    if let Some(table) = record.table("window/16") {
        goals.push(Reached {
            what: "window/16: fltport against the best of all others".to_owned(),
            bound: Bound::AtLeast(25.0, "x"),
            value: best_peer(table),
        });
    }
    for (id, what, bound) in OWN.into_iter().filter(|(id, ..)| is_about(id)) {
        let table = record.table(id);
        let row = table.and_then(|table| Some((table.measure, table.row(FLTPORT)?)));
        goals.push(Reached {
            what: format!("{id}: {what}"),
            bound,
            value: row.and_then(|(measure, row)| Spread::over(&row.runs, |one| measure.of(one))),
        });
    }
    goals.extend(guarded::reached(record));
    goals
}

/// Goals of fltport's own row, by what its table is compared by.
const OWN: [(&str, &str, Bound); 4] = [
    (
        "threads/4x4",
        "questions a second",
        Bound::AtLeast(4e6, "/s"),
    ),
    (
        "connect",
        "a connection with its memory",
        Bound::AtMost(180.0, " us"),
    ),
    (
        "idle",
        "memory of a connection",
        Bound::AtMost(32.0, " KiB"),
    ),
    (
        "crowd",
        "round trip beside 10,000 idle connections over alone",
        Bound::AtMost(1.05, "x"),
    ),
];

fn compared(table: &Table, ours: &str, other: &str, bound: Bound) -> Option<Spread> {
    let ratio = ratio(table.measure, table.row(ours)?, table.row(other)?)?;
    // Of times less is better: how many times faster is the other way round.
    Some(match (bound, table.measure) {
        (Bound::AtLeast(..), Measure::Time) => ratio.inverse(),
        _ => ratio,
    })
}

/// Against whoever of the others was best in each repetition, however they wait.
fn best_peer(table: &Table) -> Option<Spread> {
    let ours = &table.row(FLTPORT)?.runs;
    let rate = |run: &Run| run.sample().map_or(0.0, |one| one.per_second);
    let peers = || table.rows.iter().filter(|row| row.role == Role::Peer);
    let best = (0..ours.len()).map(|repetition| {
        let runs = peers().filter_map(|row: &Row| row.runs.get(repetition));
        let best = runs.max_by(|one, other| rate(one).total_cmp(&rate(other)));
        let none = || Run::Skipped("nobody else was measured".to_owned());
        best.cloned().unwrap_or_else(none)
    });
    let best: Vec<Run> = best.collect();
    paired(false, ours, &best, |one: &Sample| one.per_second)
}

/// As a table.
pub fn table(goals: &[Reached]) -> String {
    let mut out = String::from(
        "\n## Goals\n\n| goal | wanted | measured | result |\n| --- | --- | --- | --- |\n",
    );
    for goal in goals {
        let (word, limit, unit) = match goal.bound {
            Bound::AtMost(limit, unit) => ("at most", limit, unit),
            Bound::AtLeast(limit, unit) => ("at least", limit, unit),
        };
        let number = |value: f64| {
            if value >= 1e3 {
                count(value)
            } else {
                short(value)
            }
        };
        let measured = goal.value.map_or_else(
            || "-".to_owned(),
            |one| {
                let star = if one.doubtful { "*" } else { "" };
                let [median, low, high] = [one.median, one.low, one.high].map(number);
                format!("{median}{unit} [{low}..{high}]{star}")
            },
        );
        let limit = number(limit);
        let (what, result) = (&goal.what, goal.word());
        writeln!(
            out,
            "| {what} | {word} {limit}{unit} | {measured} | {result} |"
        )
        .ok();
    }
    out
}

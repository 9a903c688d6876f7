//! What fltport is to reach, each goal as a ratio within the same run, and whether it did.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cases::{Measure, Role};
use crate::plan::Results;
use crate::ratio::{Spread, count, paired, short};
use crate::report::ratio;
use crate::runner::Run;

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
        match self.value {
            None => "not measured",
            Some(spread) if self.bound.holds(spread.median) => "met",
            Some(_) => "not met",
        }
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let (kind, limit) = match self.bound {
            Bound::AtMost(limit, _) => ("at most", limit),
            Bound::AtLeast(limit, _) => ("at least", limit),
        };
        let value = self.value.map(|one| json!([one.median, one.low, one.high]));
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

/// All goals, as far as they were measured.
pub fn reached(results: &Results) -> Vec<Reached> {
    let mut goals: Vec<Reached> = COMPARED
        .iter()
        .map(|(group, ours, other, bound)| Reached {
            what: format!("{group}: {ours} against {other}"),
            bound: *bound,
            value: compared(results, group, ours, other, *bound),
        })
        .collect();
    goals.push(Reached {
        what: "window/16: fltport against the best of all others".to_owned(),
        bound: Bound::AtLeast(25.0, "x"),
        value: best_peer(results, "window/16"),
    });
    let own = |group: &str, what: &str, bound: Bound, value: fn(&Run) -> Option<f64>| Reached {
        what: format!("{group}: {what}"),
        bound,
        value: results
            .case(group, FLTPORT)
            .and_then(|(_, runs)| Spread::of(runs.iter().filter_map(value).collect())),
    };
    goals.push(own(
        "threads/4x4",
        "questions a second",
        Bound::AtLeast(4e6, "/s"),
        |run| Some(run.outcome()?.figures.per_second()),
    ));
    goals.push(own(
        "connect",
        "a connection with its memory",
        Bound::AtMost(180.0, " us"),
        |run| Some(run.outcome()?.figures.micros(0.5)),
    ));
    goals.push(own(
        "idle",
        "memory of a connection",
        Bound::AtMost(32.0, " KiB"),
        |run| Some(run.outcome()?.figures.extra("kib_per_connection")),
    ));
    goals.push(own(
        "crowd",
        "round trip beside 10,000 idle connections over alone",
        Bound::AtMost(1.05, "x"),
        |run| Some(run.outcome()?.figures.extra("ratio_to_alone")),
    ));
    goals
}

fn compared(
    results: &Results,
    group: &str,
    ours: &str,
    other: &str,
    bound: Bound,
) -> Option<Spread> {
    let measure = results.group(group)?.group.measure;
    let ratio = ratio(
        measure,
        results.case(group, ours)?,
        results.case(group, other)?,
    )?;
    // Of times less is better: how many times faster is the other way round.
    Some(match (bound, measure) {
        (Bound::AtLeast(..), Measure::Time) => ratio.inverse(),
        _ => ratio,
    })
}

/// Against whoever of the others was best in each repetition, however they wait.
fn best_peer(results: &Results, group: &str) -> Option<Spread> {
    let (_, ours) = results.case(group, FLTPORT)?;
    let rate = |run: &Run| run.outcome().map(|one| one.figures.per_second());
    let peers = || results.group(group).into_iter().flat_map(|one| one.cases());
    let best: Vec<Run> = (0..ours.len())
        .map(|repetition| {
            let best = peers()
                .filter(|(case, _)| case.role == Role::Peer)
                .filter_map(|(_, runs)| runs.get(repetition))
                .max_by(|one, other| {
                    let [one, other] = [one, other].map(|run| rate(run).unwrap_or(0.0));
                    one.total_cmp(&other)
                });
            let none = || Run::Skipped("nobody else was measured".to_owned());
            best.cloned().unwrap_or_else(none)
        })
        .collect();
    paired(false, ours, &best, |one| one.figures.per_second())
}

/// As a table.
pub fn table(goals: &[Reached]) -> String {
    let mut out = String::from(
        "### Goals\n\n| goal | wanted | measured | result |\n| --- | --- | --- | --- |\n",
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

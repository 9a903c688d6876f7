//! Goals of the guard: by which figure of a group's row, over which other row of it if over any.

use super::{Bound, Reached};
use crate::cases::guarded::{BARE, IN_KERNEL, NOBODY, NONE, SCANNER, SERVICE, beside_label};
use crate::ratio::{Spread, paired};
use crate::record::Record;
use crate::sample::Sample;

struct Goal {
    id: &'static str,
    what: &'static str,
    ours: &'static str,
    over: Option<&'static str>,
    figure: &'static str,
    bound: Bound,
}

const fn ratio(
    id: &'static str,
    what: &'static str,
    [ours, over]: [&'static str; 2],
    figure: &'static str,
    bound: Bound,
) -> Goal {
    Goal {
        id,
        what,
        ours,
        over: Some(over),
        figure,
        bound,
    }
}

const fn own(
    id: &'static str,
    what: &'static str,
    ours: &'static str,
    figure: &'static str,
    bound: Bound,
) -> Goal {
    Goal {
        id,
        what,
        ours,
        over: None,
        figure,
        bound,
    }
}

const BESIDE: [&str; 2] = [beside_label(true), beside_label(false)];

const GOALS: [Goal; 14] = [
    ratio(
        "guard/64",
        "opens a second through a service over those of the bare loop",
        [SERVICE, BARE],
        "per_second",
        Bound::AtLeast(0.7, "x"),
    ),
    ratio(
        "guard/1",
        "time of an open whose verdict the kernel keeps over an unguarded one's",
        [IN_KERNEL, NONE],
        "p50_us",
        Bound::AtMost(1.12, "x"),
    ),
    ratio(
        "guard/read-4",
        "first pass through the scanner over the bare loop's",
        [SCANNER, BARE],
        "first_ms",
        Bound::AtMost(2.5, "x"),
    ),
    ratio(
        "guard/read-4",
        "second pass over an unguarded one",
        [SCANNER, NONE],
        "second_ms",
        Bound::AtMost(1.12, "x"),
    ),
    ratio(
        "guard/beside-rule",
        "open of a file that a rule lets go on beside 1,000 that wait, over one beside none",
        BESIDE,
        "p50_us",
        Bound::AtMost(1.5, "x"),
    ),
    ratio(
        "guard/beside-kept",
        "open of a file whose verdict the worker keeps beside 1,000 that wait, over one beside none",
        BESIDE,
        "p50_us",
        Bound::AtMost(1.5, "x"),
    ),
    ratio(
        "guard/beside-service",
        "open of a file that a service allows beside 1,000 that wait, over one beside none",
        BESIDE,
        "p50_us",
        Bound::AtMost(1.5, "x"),
    ),
    ratio(
        "guard/beside-elsewhere",
        "open of a file that a service allows beside 1,000 that wait on another filesystem, over one beside none",
        BESIDE,
        "p50_us",
        Bound::AtMost(1.5, "x"),
    ),
    own(
        "guard/memory",
        "the worker with 10,000 operations pending",
        SERVICE,
        "mib",
        Bound::AtMost(64.0, " MiB"),
    ),
    own(
        "guard/start",
        "until the first denied open, without a scanner",
        NOBODY,
        "ms",
        Bound::AtMost(300.0, " ms"),
    ),
    own(
        "guard/start",
        "until the first open that a scanner denies",
        SCANNER,
        "ms",
        Bound::AtMost(300.0, " ms"),
    ),
    own(
        "guard/stopped",
        "longest open beyond its deadline",
        SCANNER,
        "beyond_ms",
        Bound::AtMost(50.0, " ms"),
    ),
    own(
        "guard/steady",
        "opens that took longer than their deadline",
        SCANNER,
        "late",
        Bound::AtMost(0.0, ""),
    ),
    own(
        "guard/steady",
        "opens that were denied because nobody decided them in time",
        SCANNER,
        "denied",
        Bound::AtMost(0.0, ""),
    ),
];

/// All of what the run was about, as far as they were measured.
pub fn reached(record: &Record) -> impl Iterator<Item = Reached> {
    let of_run = |goal: &&Goal| record.table(goal.id).is_some();
    GOALS.iter().filter(of_run).map(|goal| Reached {
        what: format!("{}: {}", goal.id, goal.what),
        bound: goal.bound,
        value: goal.value(record),
    })
}

impl Goal {
    fn value(&self, record: &Record) -> Option<Spread> {
        let table = record.table(self.id)?;
        let ours = table.row(self.ours)?;
        let figure = |one: &Sample| match self.figure {
            "p50_us" => one.p50_us,
            "per_second" => one.per_second,
            name => one.extra(name),
        };
        match self.over {
            Some(over) => paired(false, &ours.runs, &table.row(over)?.runs, figure),
            None => Spread::over(&ours.runs, figure),
        }
    }
}

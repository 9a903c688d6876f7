//! The tables of the guard that are like no others: two passes over the same files, and what the host promises.

use std::fmt::Write;

use crate::cases::guarded::NONE;
use crate::ratio::{Spread, paired, short};
use crate::record::{Row, Table};
use crate::sample::{Run, Sample};

/// Whether a table stands in the guard's section.
pub fn is(table: &Table) -> bool {
    table.id.starts_with("guard/")
}

/// Two passes: against the base, and against nobody.
pub fn passes(out: &mut String, table: &Table) {
    let base = table.base.as_deref().unwrap_or_default();
    let each = table
        .rows
        .iter()
        .any(|row| value(row, "first_p50_us").is_some());
    let times = if each { " p50 us | p99 us |" } else { "" };
    let lines = if each { " ---: | ---: |" } else { "" };
    writeln!(
        out,
        "| case | first ms |{times} times {base} | times {NONE} | second ms |{times} times {base} | times {NONE} |\n\
         | --- | ---: |{lines} ---: | ---: | ---: |{lines} ---: | ---: |"
    )
    .ok();
    for row in &table.rows {
        write!(out, "| {} |", row.label).ok();
        let columns = 2 * (3 + if each { 2 } else { 0 });
        if row.runs.iter().all(|run| run.sample().is_none()) {
            let reason = row.runs.last().and_then(Run::reason).unwrap_or_default();
            writeln!(out, " {reason} |{}", " |".repeat(columns - 1)).ok();
            continue;
        }
        for pass in ["first", "second"] {
            let median = |name: &str| {
                let spread = value(row, &format!("{pass}_{name}"));
                short(spread.map_or(f64::NAN, |one| one.median))
            };
            write!(out, " {} |", median("ms")).ok();
            if each {
                write!(out, " {} | {} |", median("p50_us"), median("p99_us")).ok();
            }
            for other in [base, NONE] {
                let other = table.row(other).filter(|other| other.label != row.label);
                let name = format!("{pass}_ms");
                let ratio = other.and_then(|other| {
                    paired(false, &row.runs, &other.runs, |one: &Sample| {
                        one.extra(&name)
                    })
                });
                let text = ratio.map(|ratio| ratio.to_string()).unwrap_or_default();
                write!(out, " {text} |").ok();
            }
        }
        out.push('\n');
    }
    if let Some(size) = table.rows.iter().find_map(|row| value(row, "tree_mib")) {
        let size = short(size.median);
        writeln!(
            out,
            "\nThe tree's files have {size} MiB; their sizes are drawn by the run's seed."
        )
        .ok();
    }
}

/// A value for each row, and what else was seen.
pub fn promises(out: &mut String, table: &Table) {
    out.push_str("| case | value | also |\n| --- | --- | --- |\n");
    for row in &table.rows {
        let reason = || row.runs.last().and_then(Run::reason).unwrap_or_default();
        let spread = Spread::over(&row.runs, |one| table.measure.of(one));
        let text = spread.map_or_else(reason, |one| format!("{one}{}", table.measure.unit()));
        let also = ALSO.iter().filter_map(|(name, words)| {
            Some(format!("{words} {}", short(value(row, name)?.median)))
        });
        let also = also.collect::<Vec<_>>().join(", ");
        writeln!(out, "| {} | {text} | {also} |", row.label).ok();
    }
}

/// What else such a case measures.
const ALSO: [(&str, &str); 5] = [
    ("idle_mib", "MiB while nothing is pending:"),
    ("locked_mib", "MiB of it locked:"),
    ("opens", "opens:"),
    ("longest_ms", "longest, ms:"),
    ("denied", "denied, because they were not decided in time:"),
];

fn value(row: &Row, name: &str) -> Option<Spread> {
    Spread::over(&row.runs, |one| one.extra(name))
}

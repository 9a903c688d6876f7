//! The page that a run ends in, `results.md`, and what is computed for other programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cases::{Measure, Role, Waits};
use crate::goals;
use crate::ratio::{Spread, count, interval, paired, short};
use crate::record::{Record, Row, Table};
use crate::sample::{Run, Sample, rounded};

mod guarded;
#[cfg(test)]
pub mod tests;

/// The whole page.
pub fn page(record: &Record) -> String {
    let mut out = format!(
        "# Results\n\nMade by `cargo xtask bench` of the numbers in results.json; not to be edited. What is measured and how: \
         [performance](../performance.md).\n\n{}; {}.\n",
        record.machine.line(),
        record.machine.date()
    );
    conditions(&mut out, record);
    overview(&mut out, record);
    out.push_str(&goals::table(&goals::reached(record)));
    let (guarded, others): (Vec<_>, Vec<_>) = record.tables.iter().partition(|t| guarded::is(t));
    for table in others {
        write!(out, "\n## {}\n\n", table.title).ok();
        shown(&mut out, table);
    }
    if !guarded.is_empty() {
        out.push_str("\n## Guard\n");
    }
    for table in guarded {
        write!(out, "\n### {}\n\n", table.title).ok();
        shown(&mut out, table);
    }
    out
}

fn shown(out: &mut String, table: &Table) {
    match table.measure {
        Measure::Time | Measure::Rate => times(out, table),
        Measure::Memory | Measure::Crowding => values(out, table),
        Measure::Passes => guarded::passes(out, table),
        Measure::Mebibytes | Measure::Millis | Measure::Beyond | Measure::Late => {
            guarded::promises(out, table);
        }
    }
}

/// How far the run is to be trusted, and what its numbers mean.
fn conditions(out: &mut String, record: &Record) {
    let (machine, quick) = (&record.machine, if record.quick { ", quick" } else { "" });
    writeln!(
        out,
        "Governor: {}. Idle: {}. Seed {}, {} repetitions{quick}.",
        machine.governor, machine.idle, record.seed, record.repetitions,
    )
    .ok();
    let disturbed = record.samples().filter(|one| !one.is_quiet()).count();
    let all = record.samples().count();
    writeln!(
        out,
        "Of {all} runs, {disturbed} were disturbed by other processes."
    )
    .ok();
    let looks: Vec<f64> = record
        .samples()
        .filter_map(|one| one.topology_ns)
        .flatten()
        .collect();
    let close = looks.iter().filter(|nanos| **nanos < 200.0).count();
    let share = 100.0 * close as f64 / looks.len() as f64;
    if let Some(Spread { median, .. }) = Spread::of(looks) {
        writeln!(
            out,
            "Two spinning threads on cores 0 and 1, before and after each run: {median:.0} ns (median); below 200 ns, as threads of one \
             core are: {share:.0} %. Spinning cases were run again {} times because the cores had moved.",
            record.run_again
        )
        .ok();
    }
    let (cut, sure) = interval(record.repetitions);
    let ends = match cut {
        0 => "the least and the most".to_owned(),
        _ => format!("all but the {cut} least and the {cut} most"),
    };
    writeln!(
        out,
        "\nA ratio is the median of the ratios of paired repetitions. In brackets: {ends} of them, which hold the true median with a \
         probability of {:.0} % if repetitions are independent. A star marks pairs that were not measured under the same conditions. \
         Where pairs are missing, brackets are less sure. Only what waits alike is compared: \"spins\" holds its core, \
         \"parks\" sleeps in the kernel, \"adapts\" spins where that pays off and is compared with what spins.",
        100.0 * sure
    )
    .ok();
}

/// A column of the overview: the table, and its heading.
const OVERVIEW: [(&str, &str); 8] = [
    ("hot/64", "two cores, spinning"),
    ("one-core/64", "one core"),
    ("two-cores/64", "two cores, parking"),
    ("cold", "one per ms"),
    ("window/1", "1 in flight"),
    ("window/16", "16 in flight"),
    ("one-way", "one way"),
    ("connect-ask", "connect and ask"),
];

/// How many times faster fltport is than everybody else, in one table.
fn overview(out: &mut String, record: &Record) {
    let columns: Vec<(&Table, &str)> = OVERVIEW
        .iter()
        .filter_map(|(id, heading)| Some((record.table(id)?, *heading)))
        .collect();
    let mut names: Vec<(Role, &str, Waits)> = Vec::new();
    for row in columns.iter().flat_map(|(table, _)| &table.rows) {
        let name = (row.role, short_name(&row.label), row.waits);
        if row.role != Role::Ours && !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return;
    }
    out.push_str("\n## How many times faster fltport is, at 64 B\n\n| | waits |");
    columns.iter().for_each(|(_, heading)| {
        write!(out, " {heading} |").ok();
    });
    out.push_str("\n| --- | --- |");
    out.push_str(&" ---: |".repeat(columns.len()));
    out.push('\n');
    names.sort_by_key(|(role, _, waits)| (*role != Role::Limit, *waits == Waits::Parks));
    for (role, name, waits) in names {
        let bare = if role == Role::Limit { " (bare)" } else { "" };
        write!(out, "| {name}{bare} | {} |", waits.word()).ok();
        for (table, _) in &columns {
            let row = table
                .rows
                .iter()
                .find(|row| (row.role, short_name(&row.label), row.waits) == (role, name, waits));
            let ratio = row.and_then(|row| against(table, row).zip(Some(row)));
            let ratio = ratio.and_then(|(ours, row)| {
                let ratio = faster(table.measure, ours, row)?;
                Some(ratio.to_string() + &of_pairs(&ratio, row))
            });
            let text = ratio.unwrap_or_default();
            write!(out, " {text} |").ok();
        }
        out.push('\n');
    }
}

/// Without what a label says of its group's circumstances.
fn short_name(label: &str) -> &str {
    label.split(',').next().unwrap_or(label)
}

/// How many times better the first is, whatever better means.
fn faster(measure: Measure, one: &Row, other: &Row) -> Option<Spread> {
    let ratio = ratio(measure, one, other)?;
    Some(match measure {
        Measure::Rate => ratio,
        _ => ratio.inverse(),
    })
}

fn times(out: &mut String, table: &Table) {
    // Of guarded opens only the openers' own time is known.
    let (cpu, last) = match table.base {
        Some(_) => ("openers' CPU us each", "against the base"),
        None => ("CPU us each, asking + answering", "fltport against it"),
    };
    writeln!(
        out,
        "| case | waits | p50 us | p99 us | p99.9 us | per second | {cpu} | {last} |"
    )
    .ok();
    out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n");
    for row in &table.rows {
        let (label, waits, runs) = (&row.label, row.waits.word(), &row.runs);
        if runs.iter().all(|run| run.sample().is_none()) {
            let reason = runs.last().and_then(Run::reason).unwrap_or_default();
            writeln!(out, "| {label} | {waits} | {reason} | | | | | |").ok();
            continue;
        }
        let over = |value: &dyn Fn(&Sample) -> f64| {
            Spread::over(runs, value).map_or(f64::NAN, |spread| spread.median)
        };
        let [p50, p99, p999] = [
            over(&|one| one.p50_us),
            over(&|one| one.p99_us),
            over(&|one| one.p999_us),
        ]
        .map(short);
        let rate = count(over(&|one| one.per_second));
        let [asking, answering] = [
            over(&|one| one.asking_cpu_us),
            over(&|one| one.answering_cpu_us),
        ]
        .map(short);
        let cpu = match table.base {
            Some(_) => asking,
            None => format!("{asking} + {answering}"),
        };
        let failed = runs.iter().filter(|run| run.sample().is_none()).count();
        let mut note = comparison(table, row).unwrap_or_default();
        if failed > 0 {
            write!(note, " ({failed} of {} failed)", runs.len()).ok();
        }
        writeln!(
            out,
            "| {label} | {waits} | {p50} | {p99} | {p999} | {rate} | {cpu} | {note} |"
        )
        .ok();
    }
}

fn values(out: &mut String, table: &Table) {
    out.push_str("| case | value | fltport against it |\n| --- | --- | --- |\n");
    for row in &table.rows {
        let reason = || row.runs.last().and_then(Run::reason).unwrap_or_default();
        let unit = table.measure.unit();
        let value = Spread::over(&row.runs, |one| table.measure.of(one));
        let value = value.map_or_else(reason, |spread| format!("{spread}{unit}"));
        let note = comparison(table, row).unwrap_or_default();
        writeln!(out, "| {} | {value} | {note} |", row.label).ok();
    }
}

/// fltport against a row of the same table that waits as it does, in words.
fn comparison(table: &Table, row: &Row) -> Option<String> {
    let ours = against(table, row)?;
    let ratio = ratio(table.measure, ours, row)?;
    let times = match (row.role, table.measure) {
        _ if table.base.is_some() => {
            let ratio = ratio.inverse();
            let word = match table.measure {
                Measure::Rate => "many",
                _ => "long",
            };
            format!("{ratio} times as {word} as {}", ours.label)
        }
        (Role::Limit, _) => format!("takes {ratio} times as long"),
        (_, Measure::Rate) if ratio.median >= 1.0 => format!("{ratio} times as many"),
        (_, Measure::Rate) => format!("{} times fewer", ratio.inverse()),
        (_, Measure::Memory) => format!("takes {ratio} times as much"),
        _ if ratio.median <= 1.0 => format!("{} times faster", ratio.inverse()),
        _ => format!("{ratio} times slower"),
    };
    Some(times + &of_pairs(&ratio, row))
}

/// How many pairs a ratio is of, where some were disturbed or failed.
fn of_pairs(ratio: &Spread, row: &Row) -> String {
    if ratio.count == row.runs.len() {
        return String::new();
    }
    format!(" ({} of {} pairs)", ratio.count, row.runs.len())
}

/// The row that another one is compared with: the base, or fltport's of those that wait alike. fltport's own rows are
/// compared with a base alone.
fn against<'a>(table: &'a Table, row: &Row) -> Option<&'a Row> {
    // Where nobody else uses the cores, one that adapts spins, as one does that is told to.
    let spins = |row: &Row| row.waits != Waits::Parks;
    let found = match &table.base {
        Some(base) => table.row(base),
        None if row.role == Role::Ours => None,
        None => table.rows.iter().find(|ours| {
            ours.role == Role::Ours && (ours.waits == row.waits || spins(ours) && spins(row))
        }),
    };
    found.filter(|ours| ours.label != row.label)
}

/// The value of the first over that of the second, by what the table is compared by.
pub fn ratio(measure: Measure, one: &Row, other: &Row) -> Option<Spread> {
    let spinning = one.waits != Waits::Parks && other.waits != Waits::Parks;
    paired(spinning, &one.runs, &other.runs, |sample| {
        measure.of(sample)
    })
}

/// What is computed of the numbers, for other programs: medians with their intervals, ratios and goals.
pub fn derived(record: &Record) -> Value {
    let rows = record.tables.iter().flat_map(|table| {
        table.rows.iter().map(move |row| {
            let ratio = against(table, row).and_then(|ours| ratio(table.measure, ours, row));
            let value = Spread::over(&row.runs, |one| table.measure.of(one));
            json!({
                "case": format!("{}/{}", table.id, row.label),
                "measure": table.measure,
                "value": spread(value),
                "against": against(table, row).map(|ours| &ours.label),
                "that_over_this": spread(ratio),
            })
        })
    });
    let goals = goals::reached(record);
    json!({
        "rows": rows.collect::<Value>(),
        "goals": goals.iter().map(goals::Reached::to_json).collect::<Value>(),
    })
}

fn spread(value: Option<Spread>) -> Value {
    value.map_or(Value::Null, |one| {
        let [median, low, high] = [one.median, one.low, one.high].map(rounded);
        json!({ "median": median, "low": low, "high": high, "count": one.count, "doubtful": one.doubtful })
    })
}

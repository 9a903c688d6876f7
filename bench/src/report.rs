//! The tables that a run ends in, and the same for machines.

use std::fmt::Write;

use fltbench_common::Outcome;
use serde_json::{Value, json};

use crate::cases::{Case, Measure, Role, Waits};
use crate::goals::Reached;
use crate::machine::Machine;
use crate::plan::{Measured, Plan, Results};
use crate::ratio::{Spread, count, is_quiet, paired, short};
use crate::runner::Run;

/// All tables.
pub fn markdown(machine: &Machine, plan: &Plan, results: &Results, guarded: &Results) -> String {
    let mut out = format!("{}; {}.\n", machine.line(), machine.date());
    writeln!(
        out,
        "Governor: {}. Idle: {}. Seed {}, {} repetitions{}.",
        machine.governor,
        machine.idle,
        plan.seed,
        plan.repetitions,
        if plan.quick { ", quick" } else { "" }
    )
    .ok();
    conditions(&mut out, results);
    for measured in results.groups.iter().chain(&guarded.groups) {
        write!(out, "\n### {}\n\n", measured.group.title).ok();
        match measured.group.measure {
            Measure::Value(name) => values(&mut out, measured, name),
            _ => times(&mut out, measured),
        }
    }
    out.push('\n');
    out
}

/// How far the run is to be trusted.
fn conditions(out: &mut String, results: &Results) {
    let outcomes: Vec<&Outcome> = results.runs().filter_map(Run::outcome).collect();
    let disturbed = outcomes.iter().filter(|one| !is_quiet(one)).count();
    let looks: Vec<f64> = outcomes
        .iter()
        .filter_map(|outcome| outcome.topology)
        .flatten()
        .collect();
    let close = looks.iter().filter(|nanos| **nanos < 200.0).count();
    writeln!(
        out,
        "Of {} runs, {disturbed} were disturbed by other processes.",
        outcomes.len()
    )
    .ok();
    if let Some(spread) = Spread::of(looks.clone()) {
        writeln!(
            out,
            "Two spinning threads on cores 0 and 1, before and after each run: {spread} ns; below 200 ns, as threads of one core are: {:.0} %. Spinning cases were run again {} times because the cores had moved.",
            100.0 * close as f64 / looks.len() as f64,
            results.moved
        )
        .ok();
    }
    out.push_str("Ratios are medians of paired repetitions, with their least and most; a star marks pairs that were not measured under the same conditions.\n");
}

fn times(out: &mut String, measured: &Measured) {
    let last = match measured.group.base {
        Some(_) => "against the base",
        None => "fltport against it",
    };
    writeln!(
        out,
        "| case | waits | p50 us | p99 us | p99.9 us | per second | CPU us each | {last} |"
    )
    .ok();
    out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n");
    for (case, runs) in measured.cases() {
        let (label, waits) = (&case.label, case.waits.word());
        if runs.iter().all(|run| run.outcome().is_none()) {
            let reason = runs.last().and_then(Run::reason).unwrap_or_default();
            writeln!(out, "| {label} | {waits} | {reason} | | | | | |").ok();
            continue;
        }
        let over = |value: &dyn Fn(&Outcome) -> f64| {
            Spread::over(runs, value).map_or(f64::NAN, |spread| spread.median)
        };
        let [p50, p99, p999] =
            [0.5, 0.99, 0.999].map(|share| short(over(&|one| one.figures.micros(share))));
        let rate = count(over(&|one| one.figures.per_second()));
        // Of guarded opens only the openers' own time is known.
        let cpu = match measured.group.base {
            Some(_) => "-".to_owned(),
            None => short(over(&|one| one.figures.cpu_micros())),
        };
        let failed = runs.iter().filter(|run| run.outcome().is_none()).count();
        let mut note = comparison(measured, case, runs).unwrap_or_default();
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

fn values(out: &mut String, measured: &Measured, name: &str) {
    out.push_str("| case | value | fltport against it |\n| --- | --- | --- |\n");
    for (case, runs) in measured.cases() {
        let reason = || runs.last().and_then(Run::reason).unwrap_or_default();
        let value = Spread::over(runs, |one| one.figures.extra(name));
        let value = value.map_or_else(reason, |spread| spread.to_string());
        let note = comparison(measured, case, runs).unwrap_or_default();
        writeln!(out, "| {} | {value} | {note} |", case.label).ok();
    }
}

/// fltport against a case of the same group that waits as it does, in words.
fn comparison(measured: &Measured, case: &Case, runs: &[Run]) -> Option<String> {
    let (ours, our_runs) = against(measured, case)?;
    if std::ptr::eq(ours, case) {
        return None;
    }
    let ratio = ratio(measured.group.measure, (ours, our_runs), (case, runs))?;
    let times = match (case.role, measured.group.measure) {
        _ if measured.group.base.is_some() => format!("{} times {}", ratio.inverse(), ours.label),
        (Role::Ours, _) => return None,
        (Role::Limit, _) => format!("takes {ratio} times as long"),
        (_, Measure::Rate) if ratio.median >= 1.0 => format!("{ratio} times as many"),
        (_, Measure::Rate) => format!("{} times fewer", ratio.inverse()),
        (_, Measure::Value(_)) => format!("takes {ratio} times as much"),
        _ if ratio.median <= 1.0 => format!("{} times faster", ratio.inverse()),
        _ => format!("{ratio} times slower"),
    };
    Some(times)
}

/// The row that a case is compared with: fltport's, of those that wait alike.
pub fn against<'a>(measured: &'a Measured, case: &Case) -> Option<(&'a Case, &'a [Run])> {
    // Where nobody else uses the cores, one that adapts spins, as one does that is told to.
    let spins = |case: &Case| case.waits != Waits::Parks;
    if let Some(base) = measured.group.base {
        return measured.cases().find(|(other, _)| other.label == base);
    }
    measured.cases().find(|(ours, _)| {
        ours.role == Role::Ours && (ours.waits == case.waits || spins(ours) && spins(case))
    })
}

/// The value of the first over that of the second, by what the group is compared by.
pub fn ratio(measure: Measure, one: (&Case, &[Run]), other: (&Case, &[Run])) -> Option<Spread> {
    let spinning = one.0.waits != Waits::Parks && other.0.waits != Waits::Parks;
    let paired = |value: &dyn Fn(&Outcome) -> f64| paired(spinning, one.1, other.1, value);
    match measure {
        Measure::Time => paired(&|one| one.figures.micros(0.5)),
        Measure::Rate => paired(&|one| one.figures.per_second()),
        Measure::Value(name) => paired(&|one| one.figures.extra(name)),
    }
}

/// Everything, histograms of all repetitions included.
pub fn json(
    machine: &Machine,
    plan: &Plan,
    results: &Results,
    guarded: &Results,
    goals: &[Reached],
) -> Value {
    let groups = results.groups.iter().chain(&guarded.groups);
    json!({
        "machine": machine.to_json(),
        "seed": plan.seed,
        "quick": plan.quick,
        "repetitions": plan.repetitions,
        "run_again": results.moved,
        "groups": groups.map(group_json).collect::<Value>(),
        "goals": goals.iter().map(Reached::to_json).collect::<Value>(),
    })
}

fn group_json(measured: &Measured) -> Value {
    let cases = measured.cases().map(|(case, runs)| {
        let spread =
            |value: Option<Spread>| value.map(|one| json!([one.median, one.low, one.high]));
        let over = |value: &dyn Fn(&Outcome) -> f64| spread(Spread::over(runs, value));
        let ours = against(measured, case).filter(|(ours, _)| !std::ptr::eq(*ours, case));
        let ratio = ours.and_then(|ours| ratio(measured.group.measure, ours, (case, runs)));
        let all = runs.iter().map(|run| match run {
            Run::Done(outcome) => outcome.to_json(),
            Run::Skipped(reason) => json!({ "skipped": reason }),
            Run::Failed(reason) => json!({ "failed": reason }),
        });
        json!({
            "name": measured.group.name(case),
            "waits": case.waits.word(),
            "command": case.spec.to_words(),
            "p50_us": over(&|one| one.figures.micros(0.5)),
            "p99_us": over(&|one| one.figures.micros(0.99)),
            "p999_us": over(&|one| one.figures.micros(0.999)),
            "per_second": over(&|one| one.figures.per_second()),
            "cpu_us": over(&|one| one.figures.cpu_micros()),
            "fltport_over_this": spread(ratio),
            "runs": all.collect::<Value>(),
        })
    });
    json!({
        "group": measured.group.id,
        "title": measured.group.title,
        "cases": cases.collect::<Value>(),
    })
}

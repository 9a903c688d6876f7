//! The pictures of a run.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cases::{Case, Measure, Role, Waits};
use crate::machine::Machine;
use crate::plan::Results;
use crate::ratio::{Spread, count, short};
use crate::svg::{Bar, Chart, Kind, draw};

/// Draws all that were measured, each into a file of its own.
pub fn draw_all(directory: &Path, machine: &Machine, results: &Results) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, title, logarithmic, groups) in PICTURES {
        let panels: Vec<_> = groups
            .iter()
            .filter_map(|(id, heading)| Some(((*heading).to_owned(), bars(results, id)?)))
            .filter(|(_, bars)| !bars.is_empty())
            .collect();
        if panels.is_empty() {
            continue;
        }
        let is_rate = groups.first().is_some_and(|(id, _)| {
            let group = results.group(id);
            group.is_some_and(|group| group.group.measure == Measure::Rate)
        });
        let scale = if logarithmic { ", logarithmic" } else { "" };
        let (axis, better) = match is_rate {
            true => ("questions answered per second", "more is better"),
            false => (
                "microseconds for a question and its answer",
                "less is better",
            ),
        };
        let chart = Chart {
            title: title.to_owned(),
            notes: vec![
                format!("{}; {}", machine.line(), machine.date()),
                format!(
                    "Two processes. Medians of repetitions, with their least and most; {better}."
                ),
            ],
            axis: format!("{axis}{scale}"),
            logarithmic,
            panels,
        };
        let path = directory.join(name);
        std::fs::write(&path, draw(&chart))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// File, title, whether the scale is logarithmic, and the groups with their headings.
type Picture = (
    &'static str,
    &'static str,
    bool,
    &'static [(&'static str, &'static str)],
);

const PICTURES: [Picture; 5] = [
    (
        "latency-hot.svg",
        "Round trip between two cores, both sides spinning",
        true,
        &[
            ("hot/64", "64 B each way"),
            ("hot/4096", "4 KiB each way"),
            ("hot/65536", "64 KiB each way"),
        ],
    ),
    (
        "latency-parked.svg",
        "Round trip on one core, both sides parking",
        false,
        &[("one-core/64", "64 B each way")],
    ),
    (
        "latency-parked-two-cores.svg",
        "Round trip between two cores, both sides parking",
        false,
        &[("two-cores/64", "64 B each way")],
    ),
    (
        "throughput.svg",
        "Throughput by questions in flight, spinning, adaptive or parking: 64 B, any core",
        true,
        &[
            ("window/1", "1 in flight"),
            ("window/4", "4 in flight"),
            ("window/16", "16 in flight"),
            ("window/64", "64 in flight"),
        ],
    ),
    (
        "latency-cold.svg",
        "Round trip of one 64 B question in each millisecond, any core; parking or adaptive",
        false,
        &[("cold", "64 B each way")],
    ),
];

fn bars(results: &Results, id: &str) -> Option<Vec<Bar>> {
    let measured = results.group(id)?;
    let is_rate = measured.group.measure == Measure::Rate;
    let bars = measured.cases().filter_map(|(case, runs)| {
        let spread = Spread::over(runs, |one| match is_rate {
            true => one.figures.per_second(),
            false => one.figures.micros(0.5),
        })?;
        let number = if is_rate { count } else { short };
        let [median, low, high] = [spread.median, spread.low, spread.high].map(number);
        let unit = if is_rate { "" } else { " us" };
        Some(Bar {
            label: label(case),
            value: spread.median,
            text: format!("{median}{unit} [{low}..{high}]"),
            kind: kind(case),
        })
    });
    let mut bars: Vec<Bar> = bars.collect();
    bars.sort_by(|one, other| {
        let order = one.value.total_cmp(&other.value);
        if is_rate { order.reverse() } else { order }
    });
    Some(bars)
}

fn label(case: &Case) -> String {
    match case.role {
        Role::Limit => format!("{} (bare)", case.label),
        _ => case.label.clone(),
    }
}

fn kind(case: &Case) -> Kind {
    match (case.role, case.waits) {
        (Role::Limit, _) => Kind::Limit,
        (Role::Ours, _) => Kind::Ours,
        (Role::Peer, Waits::Parks) => Kind::Parks,
        (Role::Peer, _) => Kind::Spins,
    }
}

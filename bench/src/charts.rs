//! The pictures of a run: a few, each of which answers one question.

use crate::cases::{Measure, Role, Waits};
use crate::ratio::{Spread, count, short};
use crate::record::{Record, Row, Table};
use crate::svg::{Bar, Body, Chart, Kind, Line, Mark, Panel, Plot, draw};

/// All that the run has figures for, each with the name of its file.
pub fn all(record: &Record) -> Vec<(String, String)> {
    let drawn = PICTURES.iter().filter_map(|picture| {
        let chart = picture.chart(record)?;
        Some((picture.file.to_owned(), draw(&chart)))
    });
    drawn.collect()
}

/// A picture, and where its figures come from.
struct Picture {
    file: &'static str,
    title: &'static str,
    about: &'static str,
    axis: &'static str,
    form: Form,
}

/// Tables under their headings.
type Tables = &'static [(&'static str, &'static str)];

enum Form {
    /// A bar for each row.
    Bars(Tables),
    /// A point for each row, on a logarithmic axis.
    Points(Tables),
    /// A line for each row, over tables: the heading, what the tables differ in, and the tables with that.
    Lines(&'static [(&'static str, &'static str, Tables)]),
}

const LATENCY: &str = "µs for a question and its answer, median (less is better)";

const PICTURES: [Picture; 6] = [
    Picture {
        file: "latency-hot.svg",
        title: "Round trip between two cores, both sides spinning",
        about: "Two processes pinned to cores 0 and 1. Bare: a word of memory to and fro (spin), and 64 B beside it (copy).",
        axis: LATENCY,
        form: Form::Bars(&[("hot/64", "64 B each way")]),
    },
    Picture {
        file: "latency-parked.svg",
        title: "Round trip, both sides sleeping in the kernel while they wait",
        about: "64 B each way, two processes. On one core a round trip is two context switches, on two it is two wake-ups.",
        axis: LATENCY,
        form: Form::Bars(&[
            ("one-core/64", "Both pinned to core 0"),
            ("two-cores/64", "Pinned to cores 0 and 1"),
        ]),
    },
    Picture {
        file: "throughput.svg",
        title: "Questions answered per second, by how many are in flight",
        about: "64 B each way, two processes, one sender and one receiver, on any core.",
        axis: "answers per second (more is better, logarithmic)",
        form: Form::Lines(&[(
            "",
            "questions in flight",
            &[
                ("window/1", "1"),
                ("window/4", "4"),
                ("window/16", "16"),
                ("window/64", "64"),
            ],
        )]),
    },
    Picture {
        file: "sizes.svg",
        title: "Round trip by size",
        about: "Two processes, the same bytes in and out at both ends.",
        axis: "µs, median (less is better, logarithmic)",
        form: Form::Lines(&[
            (
                "On two cores, both sides spinning",
                "size of the question, and of its answer",
                &[
                    ("hot/64", "64 B"),
                    ("hot/4096", "4 KiB"),
                    ("hot/65536", "64 KiB"),
                ],
            ),
            (
                "On one core, both sides parking",
                "size of the question, and of its answer",
                &[
                    ("one-core/64", "64 B"),
                    ("one-core/4096", "4 KiB"),
                    ("one-core/65536", "64 KiB"),
                ],
            ),
        ]),
    },
    Picture {
        file: "opens.svg",
        title: "Opening and closing a file that is guarded",
        about: "Files of 4 KiB on a tmpfs; each opener is a thread with a file of its own, on any core.",
        axis: "opens and closes per second, all openers together (more is better, logarithmic)",
        form: Form::Points(&[
            ("guard/1", "1 opener"),
            ("guard/4", "4 openers"),
            ("guard/64", "64 openers"),
        ]),
    },
    Picture {
        file: "reads.svg",
        title: "Reading a guarded tree for the first time",
        about: "Open, read 4 KiB, close: small and large files on ext4, all in the page cache, each once.",
        axis: "ms for all files (less is better, logarithmic)",
        form: Form::Points(&[
            ("guard/read-1", "1 process"),
            ("guard/read-4", "4 processes that share the files"),
        ]),
    },
];

impl Picture {
    fn chart(&self, record: &Record) -> Option<Chart> {
        let body = match &self.form {
            Form::Bars(tables) => bars(record, tables, false)?,
            Form::Points(tables) => bars(record, tables, true)?,
            Form::Lines(plots) => {
                let plots = plots
                    .iter()
                    .filter_map(|(heading, across, tables)| plot(record, heading, across, tables));
                Body::Lines(Some(plots.collect()).filter(|plots: &Vec<_>| !plots.is_empty())?)
            }
        };
        let machine = &record.machine;
        Some(Chart {
            title: self.title.to_owned(),
            notes: vec![
                self.about.to_owned(),
                format!(
                    "{}; {}. {} repetitions{}.",
                    machine.line(),
                    machine.date(),
                    record.repetitions,
                    if record.quick { ", a quick run" } else { "" }
                ),
            ],
            axis: self.axis.to_owned(),
            body,
        })
    }
}

fn bars(record: &Record, tables: Tables, logarithmic: bool) -> Option<Body> {
    let panel = |(id, heading): &(&str, &str)| {
        let table = record.table(id)?;
        let mut bars: Vec<Bar> = table
            .rows
            .iter()
            .filter_map(|row| bar(table, row))
            .collect();
        bars.sort_by(|one, other| {
            let order = one.mark.value.total_cmp(&other.mark.value);
            match table.measure {
                Measure::Rate => order.reverse(),
                _ => order,
            }
        });
        Some(Panel {
            heading: (*heading).to_owned(),
            bars,
        })
    };
    let panels: Vec<Panel> = tables
        .iter()
        .filter_map(panel)
        .filter(|panel| !panel.bars.is_empty())
        .collect();
    (!panels.is_empty()).then_some(Body::Bars {
        panels,
        logarithmic,
    })
}

fn bar(table: &Table, row: &Row) -> Option<Bar> {
    let mark = mark(table, row)?;
    Some(Bar {
        label: label(table, row),
        text: match table.measure {
            Measure::Rate => count(mark.value),
            Measure::Passes => format!("{} ms", short(mark.value)),
            _ if mark.value >= 1e3 => format!("{} ms", short(mark.value / 1e3)),
            _ => format!("{} µs", short(mark.value)),
        },
        mark,
        kind: kind(row),
    })
}

/// A line for each label, over the tables that were measured; nothing where those are fewer than two.
fn plot(record: &Record, heading: &str, across: &str, tables: Tables) -> Option<Plot> {
    let found = tables
        .iter()
        .filter_map(|(id, place)| Some((record.table(id)?, (*place).to_owned())));
    let (tables, places): (Vec<&Table>, Vec<String>) = found.unzip();
    if tables.len() < 2 {
        return None;
    }
    let mut lines: Vec<Line> = Vec::new();
    let rows = tables
        .iter()
        .flat_map(|table| table.rows.iter().map(move |row| (table, row)));
    for (table, row) in rows {
        let name = label(table, row);
        // More receivers, and the runtimes, stand in the tables.
        let variant = row.label.contains("receivers") || row.label.contains("tokio");
        if variant || lines.iter().any(|line| line.label == name) {
            continue;
        }
        let over = |table: &&Table| mark(table, table.row(&row.label)?);
        lines.push(Line {
            label: name,
            kind: kind(row),
            dashed: row.role == Role::Ours && row.label.contains(','),
            marks: tables.iter().map(over).collect(),
        });
    }
    lines.retain(|line| line.marks.iter().flatten().count() > 1);
    Some(Plot {
        heading: heading.to_owned(),
        across: across.to_owned(),
        places,
        lines,
    })
}

fn mark(table: &Table, row: &Row) -> Option<Mark> {
    let spread = Spread::over(&row.runs, |one| table.measure.of(one))?;
    Some(Mark {
        value: spread.median,
        low: spread.low,
        high: spread.high,
    })
}

fn label(table: &Table, row: &Row) -> String {
    match (row.role, row.waits) {
        _ if table.base.is_some() => row.label.clone(),
        (Role::Limit, _) => format!("{} (bare)", row.label),
        (Role::Ours, Waits::Adapts) => format!("{}, adapts", row.label),
        _ => row.label.clone(),
    }
}

fn kind(row: &Row) -> Kind {
    match (row.role, row.waits) {
        (Role::Limit, _) => Kind::Limit,
        (Role::Ours, _) => Kind::Ours,
        (Role::Peer, Waits::Parks) => Kind::Parks,
        (Role::Peer, _) => Kind::Spins,
    }
}

//! `cargo xtask bench`: what a message and a guarded open cost, against what the machine itself takes, and against
//! other libraries on the same machine in the same run.
//!
//! This process only plans and counts. Every case is a process of its own that starts a second one; cases are
//! interleaved and repeated in shuffled order, and a ratio is the median over repetitions of ratios within one
//! repetition, because a shared machine is never the same twice. Placement and the way of waiting are always stated.

mod cases;
mod charts;
mod connections;
mod goals;
mod guard;
mod limits;
mod machine;
mod plan;
mod port;
mod random;
mod ratio;
mod record;
mod report;
mod runner;
mod sample;
mod svg;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use fltbench_common::{Answer, Figures, Spec};

/// Measures fltport against the machine's limits and other libraries.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

/// What to measure, and where the results go.
#[derive(Debug, clap::Args)]
struct Options {
    /// Fewer cases, fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this, and what they are compared with
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// How often each case is repeated
    #[arg(long, value_name = "COUNT")]
    repetitions: Option<usize>,
    /// The case that is to go on for long does so for ten minutes
    #[arg(long)]
    long: bool,
    /// Orders the cases and draws the files of the tree: the same seed gives the same again
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Show the names of all cases and measure none
    #[arg(long)]
    list: bool,
    /// Also keep the run in this folder: results.json, and the tables and charts that are made of it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make the tables and charts of a folder's results.json again, and measure nothing
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    render: Option<PathBuf>,
    /// The program with the other libraries; without it they are skipped
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// Without guarded opens
    #[arg(long)]
    no_guard: bool,
    /// The folder of flthostd and fltscand
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
}

/// Another process of a case: this program starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Asks and measures
    #[command(hide = true)]
    Case(Spec),
    /// Answers
    #[command(hide = true)]
    Answer(Answer),
    /// Guards, opens, or answers for a guard
    #[command(hide = true, subcommand)]
    Guard(guard::Part),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Case(spec)) => {
            fltbench_common::run_case(spec, measure);
            Ok(())
        }
        Some(Role::Answer(answer)) => {
            answer.begin()?;
            respond(&answer)
        }
        Some(Role::Guard(part)) => part.run(),
        None => everything(arguments.options),
    }
}

fn measure(context: &fltbench_common::Context) -> Result<Figures> {
    match context.spec.kind.as_str() {
        kind if kind.starts_with("limit-") => limits::measure(context),
        "port-connect" | "port-connect-ask" | "port-idle" | "port-crowd" => {
            connections::measure(context)
        }
        kind if kind.starts_with("port") => port::measure(context),
        other => bail!("no case is called {other}"),
    }
}

fn respond(answer: &Answer) -> Result<()> {
    match answer.spec.kind.as_str() {
        kind if kind.starts_with("limit-") => limits::answer(answer),
        "port-connect" | "port-connect-ask" | "port-idle" | "port-crowd" => {
            connections::answer(answer)
        }
        _ => port::answer(answer),
    }
}

fn everything(options: Options) -> Result<()> {
    if let Some(folder) = &options.render {
        return record::Record::read(folder)?.show(folder);
    }
    let machine = machine::Machine::look();
    let plan = plan::Plan::new(&options, machine.cores);
    if options.list {
        plan.list();
        return Ok(());
    }
    if plan.guards() {
        guard::enter_namespace();
    }
    let runner = runner::Runner::new(options.peers, options.programs, plan.seed());
    let record = plan.run(machine, &runner);
    print!("{}", report::page(&record));
    match options.out {
        Some(folder) => record.keep(&folder),
        None => Ok(()),
    }
}

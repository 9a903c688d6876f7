//! Runs the conformance suite, and plays the client processes of its stories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use fltport_conformance::backends::{Kind, inherit, inventory, serve};
use fltport_conformance::case::Case;
use fltport_conformance::cases;
use fltport_conformance::report;
use fltport_conformance::run::{Outcome, run_all};

/// Tells the numbered cases of filter communication ports on the backends that exist
#[derive(Debug, Parser)]
#[command(name = "fltport-conformance", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only these cases: numbers such as F12, or chapters such as F
    cases: Vec<String>,
    /// Only this backend: simulator, memory, linux, processes, packets or packet-processes
    #[arg(long)]
    backend: Option<String>,
    /// Write the table to this file
    #[arg(long)]
    table: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a client process
    #[command(hide = true)]
    Agent {
        directory: PathBuf,
        #[arg(long)]
        user: Option<u32>,
    },
    /// Uses the connection that is its standard input
    #[command(hide = true)]
    Heir {
        #[arg(long)]
        user: Option<u32>,
    },
    /// Names the sockets that it was started with
    #[command(hide = true)]
    Inventory,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Agent { directory, user }) => {
            serve(directory, *user).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Heir { user }) => inherit(*user).map(|()| ExitCode::SUCCESS),
        Some(Command::Inventory) => inventory().map(|()| ExitCode::SUCCESS),
        None => run(&cli),
    };
    result.unwrap_or_else(|error| {
        eprintln!("fltport-conformance: {error:#}");
        ExitCode::from(2)
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let kinds = match cli.backend.as_deref() {
        None => Kind::ALL.to_vec(),
        Some("simulator") => vec![Kind::Simulator],
        Some("memory") => vec![Kind::Memory],
        Some("linux") => vec![Kind::Linux],
        Some("processes") => vec![Kind::Processes],
        Some("packets") => vec![Kind::Packets],
        Some("packet-processes") => vec![Kind::PacketProcesses],
        Some(other) => {
            anyhow::bail!(
                "no backend {other}; there are simulator, memory, linux, processes, packets and packet-processes"
            )
        }
    };
    let wanted = |case: &Case| {
        let chapter = case.chapter().to_string();
        cli.cases.is_empty()
            || cli
                .cases
                .iter()
                .any(|want| *want == case.id || *want == chapter)
    };
    let all: Vec<_> = cases::all().into_iter().filter(wanted).collect();
    anyhow::ensure!(
        !all.is_empty(),
        "no such case; they are A1 to P10 and X1 onwards"
    );
    let whole = cli.cases.is_empty() && cli.backend.is_none();
    anyhow::ensure!(
        !(whole && cli.table.is_some()) || rustix::process::geteuid().is_root(),
        "the whole table is root's, who can run clients as other users; name cases, or run this as root"
    );
    let results = run_all(&all, &kinds, say);
    let failed = results
        .iter()
        .filter(|(.., outcome)| matches!(outcome, Outcome::Fail(_)))
        .count();
    if let Some(path) = &cli.table {
        let outcomes: BTreeMap<_, _> = results
            .iter()
            .map(|(case, kind, outcome)| ((case.id, *kind), outcome.clone()))
            .collect();
        std::fs::write(path, report::table(&all, &outcomes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("conformance: {} results, {failed} failed", results.len());
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn say(case: &Case, kind: Kind, outcome: &Outcome) {
    let (id, tags) = (case.id, case.tags);
    let confirmed = if case.is_unconfirmed() {
        ", not confirmed on Windows"
    } else {
        ""
    };
    match outcome {
        Outcome::Pass => println!(
            "{id:>4}  pass  {:<20} [{tags}{confirmed}] {}",
            kind.name(),
            case.title
        ),
        Outcome::NotApplicable(why) => {
            println!("{id:>4}  n/a   {:<20} [{tags}] {why}", kind.name())
        }
        Outcome::Fail(said) => println!(
            "{id:>4}  FAIL  {:<20} [{tags}] {}: {said}",
            kind.name(),
            case.title
        ),
    }
}

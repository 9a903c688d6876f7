//! Chores of this repository, run as `cargo xtask <command>`.
//!
//! A command is one file: it exports `Args` (its command line) and `run`, and gets one variant and one arm here.
//! Nothing a user of the product needs lives in this crate.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

mod bench;
mod check;
mod conformance;
mod deep;
mod fuzz;
mod house;
mod mutants;
mod old_kernel;
mod readme;
mod soak;
mod source;

/// Checks and chores of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Bench(bench::Args),
    Conformance(conformance::Args),
    Fuzz(fuzz::Args),
    Mutants(mutants::Args),
    OldKernel(old_kernel::Args),
    Soak(soak::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = workspace_root().and_then(|root| match cli.command {
        Command::Check(args) => check::run(&root, &args),
        Command::Bench(args) => bench::run(&root, &args),
        Command::Conformance(args) => conformance::run(&root, &args),
        Command::Fuzz(args) => fuzz::run(&root, &args),
        Command::Mutants(args) => mutants::run(&root, &args),
        Command::OldKernel(args) => old_kernel::run(&root, &args),
        Command::Soak(args) => soak::run(&root, &args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<old_kernel::Skipped>() => {
            println!("{error}");
            ExitCode::from(old_kernel::EXIT_SKIPPED)
        }
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the root `Cargo.toml`: the parent of this crate's, which cargo names to what it runs.
fn workspace_root() -> anyhow::Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("start it as `cargo xtask`, inside the repository")?;
    let root = PathBuf::from(here).parent().map(PathBuf::from);
    root.context("xtask has no folder above it")
}

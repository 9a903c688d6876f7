//! The soak: one host, many client processes, a random mix of every operation, and random deaths.
//!
//! `cargo xtask soak` builds and runs it. This process is the host; clients are the same program with a hidden
//! subcommand. `run` is the order of events, `host` the callbacks, `sender` what the filter sends, `client` and `getter`
//! the other process, `crew` the births and deaths, `life` the books that are checked, `quiet` the moments at which
//! everything has to be back where it began.

mod bytes;
mod client;
mod crew;
mod getter;
mod host;
mod life;
mod process;
mod quiet;
mod random;
mod record;
mod request;
mod run;
mod sample;
mod sender;
mod soak;
mod svg;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "fltport-soak", about = "Soaks ports of fltport")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the host and its clients
    Run(run::Args),
    /// One client process; started by `run`
    #[command(hide = true)]
    Client(client::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Client(args) => client::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fltport-soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

//! `fltctl`, the command line of fltport: guard a directory, watch decisions, list what hosts have.
//!
//! A command goes through four rooms: typed (`args.rs`), resolved (`request.rs`), done (`commands/`), rendered
//! (`render.rs` for lines, `table.rs` for listings). Nothing here decides about a file: `flthostd` does.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod commands;
mod eicar;
mod event;
mod follow;
mod host;
mod outlet;
mod privilege;
mod programs;
mod render;
mod request;
mod signals;
mod table;
mod terminal;

/// How a command went that ran to its end: exit status 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Yes,
    No,
}

/// Exit status 0: it is so. 1: it is not. 2: a usage or environment error, explained on standard error.
fn main() -> ExitCode {
    match run(args::Args::parse()) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If this fails there is nobody left to tell.
            writeln!(io::stderr(), "fltctl: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn run(args: args::Args) -> anyhow::Result<Outcome> {
    let here = request::Surroundings::look()?;
    commands::run(&request::Request::resolve(args, &here)?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

//! The scanning service of a filter host: YARA-X rules over the files that the host asks about.
//!
//! Arguments are in `args.rs`; what is done with them is in `start.rs`.

mod args;
mod panics;
mod peer_fds;
mod start;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Action, Typed};

fn main() -> ExitCode {
    panics::report_briefly();
    let done = match Typed::parse().resolve() {
        Action::Check { rules } => start::check(&rules),
        Action::Serve(serve) => start::serve(serve),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // Without a log there is still the exit code.
            writeln!(std::io::stderr(), "fltscand: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

//! `cargo xtask soak`: builds the soak in release mode, and runs it.
//!
//! What it does and what has to hold is in `crates/fltport-soak`; docs/testing.md has the picture of an hour of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Run a host and many clients, kill some, and look at all that has to hold
///
/// Real processes over the real transport: a random mix of every operation, in which clients die and are stopped at random.
/// Prints a line every ten seconds and a summary that ends with `soak: PASS`, or with what was broken and the seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long; fractions are fine
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    minutes: f64,
    /// Draw the operations of an earlier soak again
    #[arg(long)]
    seed: Option<u64>,
    /// Client processes at a time
    #[arg(long, default_value_t = 32)]
    clients: u32,
    /// Messages that the host sends in a second; what is usual takes about half a processor
    #[arg(long)]
    pace: Option<u32>,
    /// Where the picture goes, instead of `soak.svg` in the target folder
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
}

/// Builds and runs.
///
/// # Errors
///
/// When something does not build, or what has to hold does not.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = std::path::absolute(target)?;
    let mut build =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    build
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--release", "-p", "fltport-soak"]);
    let status = build.status().context("cannot start cargo")?;
    ensure!(status.success(), "{build:?} failed: {status}");
    let svg = match &args.svg {
        Some(path) => std::path::absolute(path)?,
        None => target.join("soak.svg"),
    };
    // Not by `cargo run`: that would hold cargo's lock for as long as the soak goes on.
    let mut soak = Command::new(target.join("release/fltport-soak"));
    soak.arg("run")
        .args(["--minutes", &args.minutes.to_string()])
        .args(["--clients", &args.clients.to_string()])
        .arg("--svg")
        .arg(&svg);
    if let Some(seed) = args.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    if let Some(pace) = args.pace {
        soak.args(["--pace", &pace.to_string()]);
    }
    let status = soak.status().context("cannot start the soak")?;
    println!("soak: the picture is {}", svg.display());
    ensure!(
        status.success(),
        "the soak ended with {status}: what is broken stands above"
    );
    Ok(())
}

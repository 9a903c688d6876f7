//! `cargo xtask bench`: builds the programs and the benchmark in release mode, and runs the benchmark.
//!
//! The benchmark is a workspace of its own (`bench/`), so that nobody builds it who does not measure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Measure round trips and guarded opens against bare loops
///
/// Prints a table in which every ratio was taken within one run on this machine. Guarded opens need root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds and runs.
///
/// # Errors
///
/// When something does not build, or the benchmark fails.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = std::path::absolute(target)?;
    let build = ["build", "--release", "-p", "flthost", "-p", "fltscan"];
    cargo(root, &target, build.map(OsString::from))?;
    let manifest = root.join("bench/Cargo.toml");
    let mut words: Vec<OsString> = ["run", "--release", "--locked", "--manifest-path"]
        .map(OsString::from)
        .into();
    words.push(manifest.into());
    words.extend(["--", "--programs"].map(OsString::from));
    words.push(target.join("release").into());
    if args.quick {
        words.push("--quick".into());
    }
    if let Some(json) = &args.json {
        words.push("--json".into());
        words.push(std::path::absolute(json)?.into());
    }
    cargo(root, &target, words)
}

fn cargo(
    root: &Path,
    target: &Path,
    words: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .env("CARGO_TARGET_DIR", target)
        .args(words);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

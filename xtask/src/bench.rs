//! `cargo xtask bench`: builds the programs and the benchmark in release mode, and runs the benchmark.
//!
//! The benchmark is two workspaces of their own, so that nobody builds them who does not measure: `bench/` with the
//! harness, and `bench/peers/` with the libraries that are measured against.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// Measure messages and guarded opens against the machine's limits and other libraries
///
/// Prints tables in which every ratio was taken within one run on this machine. Guarded opens need root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer cases, fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this, and what they are compared with
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Without the other libraries, which take long to build
    #[arg(long)]
    no_peers: bool,
    /// Without guarded opens, and without building the programs for them
    #[arg(long)]
    no_guard: bool,
    /// Show the names of all cases and measure none
    #[arg(long)]
    list: bool,
    /// How often each case is repeated
    #[arg(long, value_name = "COUNT")]
    repetitions: Option<usize>,
    /// The case that is to go on for long does so for ten minutes
    #[arg(long)]
    long: bool,
    /// Orders the cases and draws the files of the tree: the same seed gives the same again
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Also keep the run in this folder: results.json, and the tables and charts that are made of it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make the tables and charts of a folder's results.json again, and measure nothing
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    render: Option<PathBuf>,
}

/// The workspace of the harness.
pub(crate) const BENCH: &str = "bench/Cargo.toml";

/// That of the libraries that are measured against.
pub(crate) const PEERS: &str = "bench/peers/Cargo.toml";

/// Builds and runs.
///
/// # Errors
///
/// When something does not build, or the benchmark fails.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = std::path::absolute(target)?;
    // Names and pictures need no programs.
    let measures = !args.list && args.render.is_none();
    if measures && !args.no_guard {
        let build = ["build", "--release", "-p", "flthost", "-p", "fltscan"];
        cargo(root, &target, build.map(OsString::from))?;
    }
    build_apart(root, &target, BENCH, &[])?;
    if measures && !args.no_peers {
        build_apart(root, &target, PEERS, peer_features())?;
    }
    let programs = target.join("release");
    let mut command = Command::new(programs.join("fltbench"));
    command.current_dir(root).arg("--programs").arg(&programs);
    if !args.no_peers {
        command.arg("--peers").arg(programs.join("fltbench-peers"));
    }
    for (flag, given) in [
        ("--quick", args.quick),
        ("--list", args.list),
        ("--long", args.long),
        ("--no-guard", args.no_guard),
    ] {
        if given {
            command.arg(flag);
        }
    }
    if let Some(pattern) = &args.only {
        command.arg("--only").arg(pattern);
    }
    if let Some(count) = args.repetitions {
        command.arg("--repetitions").arg(count.to_string());
    }
    if let Some(seed) = args.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    for (flag, path) in [("--out", &args.out), ("--render", &args.render)] {
        if let Some(path) = path {
            command.arg(flag).arg(std::path::absolute(path)?);
        }
    }
    succeed(&mut command)
}

/// Builds a workspace of its own.
fn build_apart(
    root: &Path,
    target: &Path,
    manifest: &str,
    features: &[&str],
) -> anyhow::Result<()> {
    let words = ["build", "--release", "--locked", "--manifest-path"].map(OsString::from);
    let mut words = Vec::from(words);
    words.push(root.join(manifest).into());
    words.extend(features.iter().map(OsString::from));
    cargo(root, target, words)
}

/// What cargo is told of the peers: zmq where libzmq and what is needed to link it are installed.
pub(crate) fn peer_features() -> &'static [&'static str] {
    let mut command = Command::new("pkg-config");
    command.args(["--exists", "libzmq"]).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return &["--features", "zmq"];
    }
    println!("skipped: zmq, because libzmq is not installed");
    &[]
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
    succeed(&mut command)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

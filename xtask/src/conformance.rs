//! `cargo xtask conformance`: builds the conformance suite and tells its cases on every backend.
//!
//! What the cases are is in `crates/fltport-conformance`. The table of all of them is docs/conformance.md, which a test
//! compares with what the suite says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Tell the numbered cases of ports on every backend, and print the table
///
/// Without a filter the table goes to docs/conformance.md, as root, who can run clients as other users.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these: numbers such as F12, or chapters such as F
    cases: Vec<String>,
}

/// Builds and runs.
///
/// # Errors
///
/// When something does not build, or a case fails.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = std::path::absolute(target)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(cargo);
    build
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "-p", "fltport-conformance"]);
    let status = build.status().context("cannot start cargo")?;
    ensure!(status.success(), "{build:?} failed: {status}");
    let table = if args.cases.is_empty() {
        root.join("docs/conformance.md")
    } else {
        target.join("conformance.md")
    };
    // Not by `cargo run`: that would hold cargo's lock for as long as the stories take.
    let mut suite = Command::new(target.join("debug/fltport-conformance"));
    suite.args(&args.cases).arg("--table").arg(&table);
    let status = suite.status().context("cannot start the suite")?;
    if let Ok(text) = std::fs::read_to_string(&table) {
        println!("\n{text}");
    }
    ensure!(
        status.success(),
        "the suite ended with {status}: what failed stands above"
    );
    println!("conformance: the table is {}", table.display());
    Ok(())
}

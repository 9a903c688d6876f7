//! `cargo xtask check`: everything that must hold before a change is merged, cheapest first.
//!
//! A step is a row of [`STEPS`]; the first that fails ends the run and says what to do. This does not run tests
//! (`cargo test --workspace`) and asks no server: advisories, which need a network, are left to `cargo deny check`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::{bench, deep, house, readme};

/// Run all checks a change has to pass, cheapest first
///
/// Formatting, house rules, dependencies (licences, bans, sources), the engine without an operating system, the ports on
/// other processors, clippy and the documentation. Stops at the first failure. Tests are apart: cargo test --workspace
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Instead of these, the checks that take minutes: models in all or many orders of their threads, Miri, and the
    /// libraries that the benchmark measures against
    ///
    /// Loom and shuttle are built for it, and those libraries; Miri needs a nightly toolchain with the components miri
    /// and rust-src.
    #[arg(long)]
    deep: bool,
}

/// Runs every step of one kind.
///
/// # Errors
///
/// With the first step that failed and what to do about it.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let steps: &[Step] = if args.deep { &deep::STEPS } else { &STEPS };
    for Step { name, run } in steps {
        let step = Instant::now();
        println!("check: {name} ...");
        let result = run(root);
        let seconds = step.elapsed().as_secs_f32();
        result.with_context(|| format!("{name} failed after {seconds:.1} s"))?;
        println!("check: {name} ok, {seconds:.1} s");
    }
    println!(
        "check: all {} steps ok, {:.1} s",
        steps.len(),
        start.elapsed().as_secs_f32()
    );
    Ok(())
}

pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Its error says what to do.
    pub(crate) run: fn(&Path) -> anyhow::Result<()>,
}

static STEPS: [Step; 10] = [
    Step {
        name: "format",
        run: format,
    },
    Step {
        name: "house rules",
        run: house::inspect_repository,
    },
    Step {
        name: "README",
        run: readme::inspect,
    },
    Step {
        name: "dependencies",
        run: dependencies,
    },
    Step {
        name: "engine without an OS",
        run: engine_without_os,
    },
    Step {
        name: "ports on other processors",
        run: ports_elsewhere,
    },
    Step {
        name: "clippy",
        run: clippy,
    },
    Step {
        name: "benchmark",
        run: benchmark,
    },
    Step {
        name: "fuzz targets",
        run: fuzz_targets,
    },
    Step {
        name: "documentation",
        run: documentation,
    },
];

/// The cargo-deny that the repository is checked with; `.ci/run` installs the same one.
const CARGO_DENY: &str = "0.20.2";

/// The target whose standard library is `core` and `alloc` alone.
const BARE_TARGET: &str = "x86_64-unknown-none";

fn format(root: &Path) -> anyhow::Result<()> {
    run_to_end(
        cargo(root).args(["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )
}

fn dependencies(root: &Path) -> anyhow::Result<()> {
    let version = cargo(root)
        .args(["deny", "--version"])
        .stderr(Stdio::null())
        .output();
    let present = version.is_ok_and(|output| output.status.success());
    ensure!(
        present,
        "cargo-deny is missing: run `cargo install cargo-deny --locked --version {CARGO_DENY} --debug`"
    );
    let remedy =
        "deny.toml has the policy and its reasons; docs/dependencies.md lists what is used and why";
    run_to_end(
        cargo(root).args(["deny", "check", "bans", "licenses", "sources"]),
        remedy,
    )
}

fn engine_without_os(root: &Path) -> anyhow::Result<()> {
    let installed = is_installed(root, BARE_TARGET)?;
    ensure!(
        installed,
        "the target is missing: run `rustup target add {BARE_TARGET}`"
    );
    let remedy =
        "mend the errors above; fltport-engine is no_std: nothing of std, no threads, no clock";
    run_to_end(
        cargo(root).args(["check", "-p", "fltport-engine", "--target", BARE_TARGET]),
        remedy,
    )
}

/// Processors with another memory order and with another size of a pointer: a client of either may talk to a host here.
const OTHER_TARGETS: [&str; 2] = ["aarch64-unknown-linux-gnu", "i686-unknown-linux-gnu"];

/// Builds the ports for other processors, as far as their targets are there.
fn ports_elsewhere(root: &Path) -> anyhow::Result<()> {
    for target in OTHER_TARGETS {
        if !is_installed(root, target)? {
            println!("skipped: the target {target}, which `rustup target add {target}` installs");
            continue;
        }
        run_to_end(
            cargo(root).args(["check", "-p", "fltport", "--target", target]),
            "mend the errors above; cfg for a processor belongs to the files that have its instructions",
        )?;
    }
    Ok(())
}

/// Whether the standard library for a target is there.
fn is_installed(root: &Path, target: &str) -> anyhow::Result<bool> {
    let mut rustc =
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")));
    rustc
        .current_dir(root)
        .args(["--print", "target-libdir", "--target", target]);
    let libraries = rustc.output().context("cannot start rustc")?.stdout;
    Ok(std::str::from_utf8(&libraries).is_ok_and(|folder| Path::new(folder.trim_end()).is_dir()))
}

fn clippy(root: &Path) -> anyhow::Result<()> {
    let what = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    run_to_end(
        cargo(root).args(what),
        "mend what is shown above, or `#[expect]` it with its reason",
    )
}

/// The peers are formatted only: to look closer takes minutes, so `--deep` does that.
fn benchmark(root: &Path) -> anyhow::Result<()> {
    format_apart(root, bench::BENCH)?;
    format_apart(root, bench::PEERS)?;
    clippy_apart(root, bench::BENCH, &[])
}

fn fuzz_targets(root: &Path) -> anyhow::Result<()> {
    format_apart(root, "fuzz/Cargo.toml")?;
    clippy_apart(root, "fuzz/Cargo.toml", &[])
}

/// Format of a workspace of its own, which the steps before do not reach.
fn format_apart(root: &Path, manifest: &str) -> anyhow::Result<()> {
    run_to_end(
        cargo(root).args(["fmt", "--all", "--check", "--manifest-path", manifest]),
        &format!("run `cargo fmt --all --manifest-path {manifest}`"),
    )
}

/// Clippy of a workspace of its own.
pub(crate) fn clippy_apart(root: &Path, manifest: &str, features: &[&str]) -> anyhow::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target").into());
    run_to_end(
        cargo(root)
            .env("CARGO_TARGET_DIR", target)
            .args(["clippy", "--locked", "--workspace", "--all-targets"])
            .args(["--manifest-path", manifest])
            .args(features)
            .args(["--", "-D", "warnings"]),
        "mend what is shown above",
    )
}

fn documentation(root: &Path) -> anyhow::Result<()> {
    let what = [
        "doc",
        "--workspace",
        "--no-deps",
        "--all-features",
        "--document-private-items",
    ];
    run_to_end(
        cargo(root).args(what).env("RUSTDOCFLAGS", "-D warnings"),
        "mend the comments and links shown above",
    )
}

/// The cargo that runs us.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root);
    command
}

/// Runs cargo with its output shown; if it fails, the error ends with `remedy`.
pub(crate) fn run_to_end(cargo: &mut Command, remedy: &str) -> anyhow::Result<()> {
    let status = cargo.status().context("cannot start cargo")?;
    let arguments: Vec<_> = cargo
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .collect();
    ensure!(
        status.success(),
        "`cargo {}`: {status}. What to do: {remedy}",
        arguments.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BARE_TARGET, CARGO_DENY};

    #[test]
    fn ci_installs_the_tools_that_are_checked_with() {
        let script = include_str!("../../.ci/run");
        assert!(
            script.contains(&format!("cargo_deny={CARGO_DENY}\n")),
            "pin cargo-deny {CARGO_DENY} in .ci/run"
        );
        assert!(
            script.contains(&format!("rustup target add {BARE_TARGET}")),
            "install {BARE_TARGET} in .ci/run"
        );
    }
}

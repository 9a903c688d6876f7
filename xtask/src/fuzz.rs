//! `cargo xtask fuzz`: builds the fuzz targets with a nightly compiler and runs them, one after the other.
//!
//! The targets are a workspace of their own (`fuzz/`). What `cargo fuzz` would do is a handful of compiler flags, and
//! they stand here, so nothing has to be installed but a nightly toolchain and a C++ compiler. Inputs that reach new
//! code are kept below the target folder; what is kept for good is in `fuzz/seeds` and `fuzz/regressions`.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

#[cfg(test)]
mod tests;

/// Run the fuzz targets, each for the same time
///
/// Prints executions, new coverage and crashes of each, and fails if one crashed. Needs a nightly toolchain
/// (rustup toolchain install nightly) and a C++ compiler.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "hours")]
    seconds: u64,
    /// How long each target runs, in hours
    #[arg(long, value_name = "N")]
    hours: Option<u64>,
    /// Only this target; all of them unless said
    #[arg(long, value_name = "NAME", value_parser = TARGETS)]
    target: Option<String>,
}

/// The targets: binaries of `fuzz/`, with their inputs in folders of the same name.
const TARGETS: [&str; 3] = ["wire", "engine", "transport"];

/// Coverage for libFuzzer as `cargo fuzz` asks for it, and the address sanitizer.
const RUSTFLAGS: [&str; 10] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "-Cforce-frame-pointers=yes",
];

/// The options of every run. The helper that names functions would hold pipes open, and looking for leaks takes a right
/// that containers often lack; what is left over is counted by the soak.
const OPTIONS: [&str; 6] = [
    "-max_len=4096",
    "-timeout=120",
    "-rss_limit_mb=4096",
    "-print_final_stats=1",
    "-print_funcs=0",
    "-detect_leaks=0",
];

/// Builds, runs, and says what was found.
///
/// # Errors
///
/// When the targets do not build or one of them crashed.
pub(crate) fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let seconds = args.hours.map_or(args.seconds, |hours| hours * 3600);
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = std::path::absolute(target)?.join("fuzz");
    let programs = build(root, &folder)?;
    let chosen = |name: &&str| args.target.as_deref().is_none_or(|only| only == *name);
    let mut crashed = Vec::new();
    for name in TARGETS.into_iter().filter(chosen) {
        println!("fuzz: {name} for {seconds} s ...");
        let session = Session {
            root,
            folder: &folder,
            name,
        };
        let found = session.run(&programs, seconds)?;
        println!("fuzz: {name}: {}", found.line());
        if found.crashed {
            session.explain(&programs, &found);
            crashed.push(name);
        }
    }
    ensure!(
        crashed.is_empty(),
        "crashed: {}. What to do: mend it, and keep the input in fuzz/regressions/ under a name that says what it was",
        crashed.join(", ")
    );
    Ok(())
}

/// Builds all targets; returns where they are.
fn build(root: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let version = nightly(root, "rustc").arg("-vV").output();
    let version = version.context("cannot start rustup, which has the nightly toolchain")?;
    ensure!(
        version.status.success(),
        "the nightly toolchain is missing: run `rustup toolchain install nightly --profile minimal`"
    );
    let version = String::from_utf8_lossy(&version.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it builds for")?;
    let mut cargo = nightly(root, "cargo");
    cargo
        .args(["build", "--release", "--locked", "--bins"])
        .args(["--features", "libfuzzer", "--target", host])
        .args(["--manifest-path", "fuzz/Cargo.toml"])
        // Naming the target keeps build scripts and macros free of these flags.
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env("CARGO_TARGET_DIR", folder);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the targets do not build: {status}. What to do: mend what is shown above; libFuzzer itself needs a C++ compiler"
    );
    Ok(folder.join(host).join("release"))
}

/// A program of the nightly toolchain, without what the cargo that runs us has told us.
fn nightly(root: &Path, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .current_dir(root)
        .args(["run", "nightly", program])
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// One target's run.
struct Session<'a> {
    root: &'a Path,
    folder: &'a Path,
    name: &'static str,
}

impl Session<'_> {
    fn run(&self, programs: &Path, seconds: u64) -> anyhow::Result<Found> {
        let corpus = self.folder.join("corpus").join(self.name);
        let artifacts = self.folder.join("artifacts").join(self.name);
        for folder in [&corpus, &artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        let log = self.log();
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        // The slash makes it a folder; without it, it is the beginning of a name.
        let mut prefix = OsString::from("-artifact_prefix=");
        prefix.push(artifacts.join(""));
        let kept = ["seeds", "regressions"].map(|kind| self.kept(kind));
        let mut program = Command::new(programs.join(self.name));
        program
            .current_dir(self.root)
            .env("RUST_BACKTRACE", "0")
            .args(OPTIONS)
            .arg(format!("-max_total_time={seconds}"))
            .arg(prefix)
            // The first folder is the one that new inputs go to.
            .arg(&corpus)
            .args(kept.iter().filter(|folder| folder.is_dir()))
            .stdout(output.try_clone()?)
            .stderr(output);
        let status = program.status();
        let status = status.with_context(|| format!("cannot start the target {}", self.name))?;
        let text = std::fs::read(&log).with_context(|| format!("{}", log.display()))?;
        let found = Found::read(&String::from_utf8_lossy(&text), !status.success());
        if !found.crashed && found.executions == 0 {
            bail!("{} ran nothing: see {}", self.name, log.display());
        }
        Ok(found)
    }

    fn explain(&self, programs: &Path, found: &Found) {
        let (name, log) = (self.name, self.log());
        for line in &found.why {
            println!("fuzz: {name}: {line}");
        }
        println!("fuzz: {name}: more in {}", log.display());
        let Some(input) = &found.input else {
            return println!("fuzz: {name}: the input is not known");
        };
        println!("fuzz: {name}: the input is {input}");
        println!(
            "fuzz: {name}: again: {} {input}",
            programs.join(name).display()
        );
        println!(
            "fuzz: {name}: step by step: FLTPORT_FUZZ_TELL=1 FLTPORT_FUZZ_INPUT={input} \
             cargo test --manifest-path fuzz/Cargo.toml kept_inputs_of_{name} -- --nocapture"
        );
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn kept(&self, kind: &str) -> PathBuf {
        self.root.join("fuzz").join(kind).join(self.name)
    }
}

/// What libFuzzer said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    executions: u64,
    /// Places in the code reached by the kept inputs, and by the end.
    coverage: Option<(u64, u64)>,
    new_inputs: u64,
    crashed: bool,
    /// The panic's words, or the sanitizer's.
    why: Vec<String>,
    /// The crashing input.
    input: Option<String>,
}

impl Found {
    fn read(log: &str, crashed: bool) -> Self {
        let mut found = Self {
            crashed,
            ..Self::default()
        };
        let number = |text: &str| text.trim().parse().unwrap_or(0);
        // Lines that may still belong to a panic's words.
        let mut words = 0;
        for line in log.lines() {
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                found.executions = number(count);
            } else if let Some(count) = line.strip_prefix("stat::new_units_added:") {
                found.new_inputs = number(count);
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                found.input = Some(path.trim().to_owned());
            } else if line.contains(" panicked at ") {
                found.why.push(line.to_owned());
                words = 3;
            } else if line.contains("ERROR: ") {
                found.why.push(line.to_owned());
                words = 0;
            } else if words > 0 {
                found.why.push(line.to_owned());
                words -= 1;
            } else if let Some(reached) = coverage(line) {
                let inited = line.contains("INITED");
                let first = found.coverage.filter(|_| !inited);
                found.coverage = Some((first.map_or(reached, |(first, _)| first), reached));
            }
        }
        found
    }

    fn line(&self) -> String {
        let (before, after) = self.coverage.unwrap_or_default();
        format!(
            "{} executions, coverage {before} -> {after} (+{}), {} new inputs, {}",
            self.executions,
            after.saturating_sub(before),
            self.new_inputs,
            if self.crashed { "CRASHED" } else { "no crash" }
        )
    }
}

/// The coverage in a line such as `#123  NEW  cov: 45 ft: 67 ...`.
fn coverage(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix('#')?.split_once(" cov: ")?;
    rest.split_whitespace().next()?.parse().ok()
}

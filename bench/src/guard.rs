//! What a guard costs: opens, trees of files and everyday programs below a guarded mount point, against nobody who guards
//! and against a bare loop that allows everything; and what the host promises when services are slow or silent.
//!
//! Whatever is guarded is made here: a tmpfs, and a filesystem in an image whose file is unlinked at once. Both are
//! mounted in a mount namespace of this process's own, and every guard ends with the process that started it, so a run
//! that dies leaves nothing behind that waits for an answer.

mod bare;
mod beside;
mod host;
mod namespace;
mod opens;
mod passes;
mod promises;
mod rivals;
mod scratch;
mod service;
mod tree;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use fltbench_common::Spec;
use flthost::fanotify::Group;

pub use namespace::enter as enter_namespace;

use crate::sample::{Run, Sample};
use scratch::Scratch;
use tree::Tree;

/// Whether a case is one of these.
pub fn is_one(spec: &Spec) -> bool {
    ["open-", "beside-", "pass-", "host-"]
        .iter()
        .any(|start| spec.kind.starts_with(start))
}

/// Why they cannot be measured here.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("guarded opens need root".to_owned());
    }
    if !namespace::is_own() {
        return Some("guarded opens need a mount namespace of their own".to_owned());
    }
    Group::probe().err().map(|error| error.to_string())
}

/// What is guarded, made when it is needed first and kept for all cases of a run.
#[derive(Debug)]
pub struct Grounds {
    /// The folder of the filter host and the scanner.
    programs: PathBuf,
    seed: u64,
    scratch: OnceCell<Scratch>,
    tree: OnceCell<Result<Tree, String>>,
}

impl Grounds {
    /// Nothing yet. The seed decides what the files of the tree are like.
    pub fn new(programs: PathBuf, seed: u64) -> Self {
        Self {
            programs,
            seed,
            scratch: OnceCell::new(),
            tree: OnceCell::new(),
        }
    }

    /// Runs a case once, with a guard of its own.
    pub fn run(&self, spec: &Spec) -> Result<Run> {
        let kind = spec.kind.as_str();
        let run = if kind.starts_with("pass-") {
            match self.tree(spec.window) {
                Ok(tree) => passes::run(&self.programs, tree, spec)?,
                Err(reason) => return Ok(Run::Skipped(reason.clone())),
            }
        } else {
            let scratch = self.scratch()?;
            if kind.starts_with("open-") {
                opens::run(&self.programs, scratch, spec)?
            } else if kind.starts_with("beside-") {
                beside::run(&self.programs, scratch, spec)?
            } else {
                promises::run(&self.programs, scratch, spec)?
            }
        };
        Ok(match run {
            // The guard's own processes are not the opener's children, so nobody can tell them from anybody else's.
            Run::Done(sample) => Run::Done(Sample {
                foreign_cores: f64::NAN,
                ..sample
            }),
            other => other,
        })
    }

    fn scratch(&self) -> Result<&Scratch> {
        if let Some(scratch) = self.scratch.get() {
            return Ok(scratch);
        }
        let scratch = Scratch::new()?;
        Ok(self.scratch.get_or_init(|| scratch))
    }

    fn tree(&self, files: usize) -> Result<&Tree, &String> {
        let tree = self
            .tree
            .get_or_init(|| Tree::new(files, self.seed).map_err(|error| format!("{error:#}")));
        tree.as_ref()
    }
}

/// The other processes of these cases: this program starts itself.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// Answers a filter host's questions
    Service {
        /// Where the host's ports are
        directory: PathBuf,
        /// What it says
        manner: service::Manner,
    },
    /// Allows every open below a directory
    AllowAll {
        /// The mount point
        path: PathBuf,
    },
    /// Opens files again and again
    Open(opens::Openers),
    /// Opens many files at once, which nobody answers
    Crowd(beside::Crowd),
    /// Goes through a tree twice
    Passes(passes::Passes),
    /// Reads its part of a tree whenever it is told to
    Reader(passes::Reader),
}

impl Part {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Service { directory, manner } => service::answer(&directory, manner),
            Self::AllowAll { path } => bare::allow_all(&path),
            Self::Open(openers) => {
                openers.run();
                Ok(())
            }
            Self::Crowd(crowd) => crowd.run(),
            Self::Passes(passes) => {
                passes.run();
                Ok(())
            }
            Self::Reader(reader) => reader.run(),
        }
    }
}

/// This program, in another part.
fn this_program(part: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["guard", part]);
    Ok(command)
}

/// A process that ends with this value.
#[derive(Debug)]
struct Ended(Child);

impl Ended {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        let name = || format!("cannot start {}", command.get_program().display());
        Ok(Self(child.with_context(name)?))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits until something is so, in small steps: whoever waits must not take the core from those he waits for.
fn until(what: &str, seconds: u64, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !so()? {
        if std::time::Instant::now() > end {
            return Err(anyhow!("waited {seconds} s in vain: {what}"));
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    Ok(())
}

/// Runs one of the measuring parts of this program to its end.
fn measured(command: &mut Command, spec: &Spec) -> Result<Run> {
    crate::runner::run_command(command, spec.warm_time() + spec.measured_time())
}

/// The words for a path, of which all are this program's own.
fn text(path: &Path) -> String {
    path.display().to_string()
}

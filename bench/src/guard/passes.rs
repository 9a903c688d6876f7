//! Goes through a tree twice, by several readers or by an everyday program: the first time nobody knows its files, the
//! second time whoever keeps verdicts does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fltbench_common::{Figures, Histogram, Spec, end_with_parent, run_case};

use super::bare::Bare;
use super::host::{Answers, Host};
use super::rivals::{Clam, Fapolicy};
use super::tree::{SOURCES, Tree, file, git, repository, run as run_program, source};
use super::{measured, this_program};
use crate::sample::Run;

/// What a case's kind says: what is done, and who guards.
fn parts(kind: &str) -> Result<(&str, &str)> {
    let rest = kind.strip_prefix("pass-").unwrap_or_default();
    rest.split_once('-').context("no such case")
}

/// Runs a case of this kind.
pub fn run(programs: &Path, tree: &Tree, spec: &Spec) -> Result<Run> {
    let (_, guard) = parts(&spec.kind)?;
    tree.settle();
    let host = |cache| {
        let options = ["--cache", cache];
        let probe = tree.probe();
        Host::start(programs, tree.path(), Answers::Scanner, &options, &probe)
    };
    match guard {
        "unguarded" => passes(tree, spec),
        "bare" => {
            let _bare = Bare::start(tree.path())?;
            passes(tree, spec)
        }
        "kernel" | "worker" | "off" => {
            let host = host(guard)?;
            let run = passes(tree, spec)?;
            host.end()?;
            Ok(run)
        }
        "clamonacc" => match Clam::missing() {
            Some(reason) => Ok(Run::Skipped(reason)),
            None => {
                let _clam = Clam::start(tree.path())?;
                passes(tree, spec)
            }
        },
        "fapolicyd" => match Fapolicy::missing() {
            Some(reason) => Ok(Run::Skipped(reason)),
            None => {
                let _fapolicyd = Fapolicy::start(tree)?;
                passes(tree, spec)
            }
        },
        other => bail!("no guard is called {other}"),
    }
}

fn passes(tree: &Tree, spec: &Spec) -> Result<Run> {
    let mut command = this_program("passes")?;
    command
        .args(spec.to_words())
        .arg("--root")
        .arg(tree.path())
        .arg("--bytes")
        .arg(tree.bytes.to_string());
    measured(&mut command, spec)
}

/// The process that goes through the tree, or has it done.
#[derive(Debug, clap::Args)]
pub struct Passes {
    #[command(flatten)]
    spec: Spec,
    /// The tree
    #[arg(long)]
    root: PathBuf,
    /// Its size, for the record
    #[arg(long)]
    bytes: u64,
}

impl Passes {
    /// Twice, and what each took.
    pub fn run(self) {
        let Self { spec, root, bytes } = self;
        run_case(spec, |context| {
            let spec = &context.spec;
            let (what, _) = parts(&spec.kind)?;
            let mut readers = match what {
                "read" => Readers::start(&root, spec)?,
                _ => Readers(Vec::new()),
            };
            let mut extra = vec![("tree_mib".to_owned(), bytes as f64 / f64::from(1 << 20))];
            for pass in ["first", "second"] {
                let begin = Instant::now();
                let times = match what {
                    "read" => Some(readers.pass()?),
                    _ => {
                        everyday(what, &root)?;
                        None
                    }
                };
                let took = begin.elapsed();
                extra.push((format!("{pass}_ms"), took.as_secs_f64() * 1e3));
                for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                    if let Some(times) = &times {
                        extra.push((format!("{pass}_{name}_us"), times.quantile(share) / 1e3));
                    }
                }
            }
            let mut figures = Figures::only("", 0.0);
            figures.extra = extra;
            Ok(figures)
        });
    }
}

/// A program that people run all day, once.
fn everyday(what: &str, root: &Path) -> Result<()> {
    match what {
        "grep" => {
            let mut command = Command::new("grep");
            command.args(["-r", "--exclude-dir=.git", "0123456789"]);
            let output = command.arg(root).stdin(Stdio::null()).output()?;
            // One says that nothing was found, and more that something could not be read.
            ensure!(output.status.code() == Some(1), "grep: {}", output.status);
            Ok(())
        }
        "git" => run_program(git(&repository(root)).args(["status", "--porcelain"])),
        "compile" => (0..SOURCES).try_for_each(|number| {
            let source = source(root, number);
            let object = source.with_extension("o");
            run_program(
                Command::new("cc")
                    .arg("-c")
                    .arg(source)
                    .arg("-o")
                    .arg(object),
            )
        }),
        other => bail!("nothing is called {other}"),
    }
}

/// Processes that each read a part of the tree when told to.
struct Readers(Vec<(Child, BufReader<ChildStdout>)>);

impl Readers {
    fn start(root: &Path, spec: &Spec) -> Result<Self> {
        let mut readers = Self(Vec::new());
        for part in 0..spec.senders {
            let mut command = this_program("reader")?;
            command
                .arg(root)
                .args([spec.window, part, spec.senders].map(|n| n.to_string()));
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a reader")?;
            let output = child.stdout.take().context("no output")?;
            readers.0.push((child, BufReader::new(output)));
        }
        // Each says that it is there.
        readers.answers()?;
        Ok(readers)
    }

    /// All of them read; the time of each file, in nanoseconds.
    fn pass(&mut self) -> Result<Histogram> {
        for (child, _) in &mut self.0 {
            let mut input = child.stdin.as_ref().context("no input")?;
            input.write_all(b"\n")?;
        }
        let mut all = Histogram::new();
        for line in self.answers()? {
            all.merge(&Histogram::from_json(&serde_json::from_str(&line)?)?);
        }
        Ok(all)
    }

    fn answers(&mut self) -> Result<Vec<String>> {
        let mut answers = Vec::new();
        for (_, output) in &mut self.0 {
            let mut line = String::new();
            ensure!(output.read_line(&mut line)? > 0, "a reader has failed");
            answers.push(line);
        }
        Ok(answers)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The process that reads a part of the tree.
#[derive(Debug, clap::Args)]
pub struct Reader {
    root: PathBuf,
    files: usize,
    part: usize,
    of: usize,
}

impl Reader {
    /// Opens each file, reads what many programs look at first, and closes it; whenever a line comes.
    pub fn run(self) -> Result<()> {
        end_with_parent()?;
        let numbers = (self.part..self.files).step_by(self.of.max(1));
        let paths: Vec<PathBuf> = numbers
            .map(|number| file(&self.root, self.files, number))
            .collect();
        let mut output = std::io::stdout();
        writeln!(output, "ready")?;
        for line in std::io::stdin().lines() {
            line?;
            let mut times = Histogram::new();
            let mut first = [0; 4096];
            for path in &paths {
                let begin = Instant::now();
                let length = File::open(path)?.read(&mut first)?;
                times.record(nanos(begin.elapsed()));
                ensure!(length > 0, "an empty file");
            }
            writeln!(output, "{}", times.to_json())?;
        }
        Ok(())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

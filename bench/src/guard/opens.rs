//! Opens and closes of a few files, again and again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use fltbench_common::{Meter, Spec, run_case};

use super::bare::Bare;
use super::host::{Answers, Host};
use super::scratch::Scratch;
use super::service::Manner;
use super::{measured, this_program};
use crate::sample::Run;

/// Runs a case of this kind.
pub fn run(programs: &Path, scratch: &Scratch, spec: &Spec) -> Result<Run> {
    let answers = Answers::Service(Manner::Content);
    let (answers, cache) = match spec.kind.as_str() {
        "open-unguarded" => return opens(scratch, spec, None),
        "open-bare" => {
            let _bare = Bare::start(scratch.path())?;
            return opens(scratch, spec, None);
        }
        "open-service" => (Answers::Service(Manner::Allow), "off"),
        "open-scanner" => (Answers::Scanner, "off"),
        "open-kept-worker" => (answers, "worker"),
        _ => (answers, "kernel"),
    };
    scratch.settle();
    let options = ["--cache", cache];
    let host = Host::start(
        programs,
        scratch.path(),
        answers,
        &options,
        &scratch.file(0),
    )?;
    let run = opens(scratch, spec, None)?;
    if let (Run::Done(sample), false) = (&run, cache == "off") {
        // Kept where the row says so, or it is another row. The first opens of a file still come.
        let time = spec.warm_time() + spec.measured_time();
        let all = sample.per_second * time.as_secs_f64();
        let counter = match cache {
            "kernel" => "opens",
            _ => "by_service",
        };
        let share = host.count(counter)? as f64 / all;
        ensure!(
            share < 0.2,
            "verdicts were not kept: {counter} were {share:.2} of all"
        );
    }
    host.end()?;
    Ok(run)
}

/// Opens and closes from several threads of a process of their own, which may hang without harm.
pub fn opens(scratch: &Scratch, spec: &Spec, deadline: Option<Duration>) -> Result<Run> {
    let mut command = this_program("open")?;
    command
        .args(spec.to_words())
        .arg("--directory")
        .arg(scratch.path());
    if let Some(deadline) = deadline {
        command
            .arg("--deadline")
            .arg(deadline.as_millis().to_string());
    }
    measured(&mut command, spec)
}

/// The process that opens.
#[derive(Debug, clap::Args)]
pub struct Openers {
    #[command(flatten)]
    spec: Spec,
    /// Where the files are
    #[arg(long)]
    directory: PathBuf,
    /// Also count the opens that took longer than so many milliseconds
    #[arg(long)]
    deadline: Option<u64>,
}

impl Openers {
    /// Each thread has a file of its own.
    pub fn run(self) {
        let (directory, deadline) = (self.directory, self.deadline);
        run_case(self.spec, |context| {
            // Policy denies what nobody could decide in time: with a deadline that is counted, else it is a failure.
            let denied = AtomicU64::new(0);
            let mut figures = Meter::threads(&context.spec, context.clock, None, |thread| {
                let file = directory.join(thread.to_string());
                let denied = &denied;
                Ok(move || match File::open(&file) {
                    Err(error) if deadline.is_none() => Err(error.into()),
                    Err(_) => {
                        denied.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                })
            })?;
            if let Some(deadline) = deadline {
                let most = context.clock.ticks(Duration::from_millis(deadline));
                figures.extra = [
                    ("late", figures.histogram.above(most) as f64),
                    ("denied", denied.into_inner() as f64),
                    ("longest_ms", figures.micros(1.0) / 1e3),
                    ("opens", figures.messages as f64),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
            }
            Ok(figures)
        });
    }
}

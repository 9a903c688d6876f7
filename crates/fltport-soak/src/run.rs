//! The order of events: a port, clients, and senders for half a minute; then a quiet point; and again.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};

use crate::crew::Crew;
use crate::host::{Host, LIMIT};
use crate::process::{self, Usage};
use crate::quiet::{self, Baseline};
use crate::random::{Random, mix};
use crate::sample::{self, Quiet, Samples};
use crate::soak::Soak;
use crate::{sender, svg};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, in minutes; fractions are fine
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Draws the same operations again (their timing is the machine's)
    #[arg(long)]
    seed: Option<u64>,
    /// Client processes at a time
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Messages that the host sends in a second, all in all
    #[arg(long, default_value_t = 3_000)]
    pace: u64,
    /// Where the picture goes
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Set: the allocator of glibc has one heap, not one for each thread. With many, what lies free in them goes on growing for
/// an hour without anything being kept, and would hide what is.
const ONE_HEAP: &str = "MALLOC_ARENA_MAX";

/// Between two quiet points.
const ACTIVE: Duration = Duration::from_secs(30);

/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Soaks. `false`: something that must hold did not.
///
/// # Errors
/// When the soak itself cannot go on.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    ensure!(args.minutes > 0.0 && args.minutes < 1e5, "so many minutes?");
    ensure!(
        args.clients > 0 && args.pace > 0,
        "nobody would do anything"
    );
    if std::env::var_os(ONE_HEAP).is_none() {
        let failed = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(ONE_HEAP, "1")
            .exec();
        return Err(failed).context("cannot start again with one heap");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = args
        .seed
        .unwrap_or_else(|| mix(u64::from(now.subsec_nanos()) ^ now.as_secs()) >> 32);
    println!(
        "soak: {} minutes, {} clients, {} messages a second, seed {seed}",
        args.minutes, args.clients, args.pace
    );
    let directory = tempfile::tempdir().context("cannot make a directory for the port")?;
    let soak = Arc::new(Soak::new(directory.path().to_path_buf()));
    let samples = Samples::default();
    let mut random = Random::new(seed);
    let files = sender::files(&soak)?;
    let gap = Duration::from_secs(1) * u32::try_from(sender::THREADS)? / u32::try_from(args.pace)?;
    let report = thread::scope(|scope| {
        for _ in 0..sender::THREADS {
            let (soak, files, random) = (&soak, &files, Random::new(random.next()));
            scope.spawn(move || sender::run(soak, files, gap, random));
        }
        scope.spawn(|| sample::run(&soak, &samples));
        let result = Run::new(args, &soak, &mut random).and_then(Run::go);
        soak.over.store(true, Ordering::SeqCst);
        result
    })?;
    quiet::look_at_memory(&soak, &report.quiet);
    let samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    let broken = soak.all_broken();
    let title = format!(
        "{} minutes, seed {seed}, {} operations, {} kills{}",
        args.minutes,
        svg::grouped(soak.operations()),
        report.kills,
        if broken.is_empty() { "" } else { ", BROKEN" }
    );
    if let Some(path) = &args.svg {
        let picture = svg::draw(&title, &samples, &report.quiet);
        std::fs::write(path, picture)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    summary(&soak, &report, &title);
    for what in &broken {
        println!("soak: broken: {what}");
    }
    if broken.is_empty() {
        println!("soak: PASS");
    } else {
        println!("soak: FAIL, again with --seed {seed}");
    }
    Ok(broken.is_empty())
}

fn summary(soak: &Soak, report: &Report, title: &str) {
    println!("soak: {title}");
    for (what, count) in soak.counts() {
        println!("{:>14}  {what}", svg::grouped(count));
    }
    let memory = |quiet: Option<&Quiet>| quiet.map_or(0, |quiet| quiet.memory >> 10);
    println!(
        "soak: {} quiet points; memory {} KiB at the first, {} KiB at most, {} KiB at the last",
        report.quiet.len(),
        memory(report.quiet.first()),
        memory(report.quiet.iter().max_by_key(|quiet| quiet.memory)),
        memory(report.quiet.last()),
    );
    let took = soak.started.elapsed().as_secs_f64();
    println!(
        "soak: {:.2} processors on average, clients included, in {took:.0} s",
        process::processor_seconds() / took
    );
}

struct Report {
    quiet: Vec<Quiet>,
    kills: u64,
}

struct Run<'a> {
    soak: &'a Arc<Soak>,
    crew: Crew,
    random: Random,
    end: Instant,
    active: Duration,
    baseline: Baseline,
    next_line: Instant,
}

impl<'a> Run<'a> {
    fn new(args: &Args, soak: &'a Arc<Soak>, random: &mut Random) -> anyhow::Result<Self> {
        let whole = Duration::from_secs_f64(args.minutes * 60.0);
        // A fifth of what the host sends.
        let gap = args.clients as u64 * 5_000_000 / args.pace;
        let crew = Crew::new(soak, args.clients, gap, Random::new(random.next()));
        // The threads of this soak are there by now; a port has not been.
        thread::sleep(Duration::from_millis(200));
        let without = Usage::now()?;
        let host = Host::new(soak)?;
        let with = Usage::now()?;
        host.shutdown(soak);
        Ok(Self {
            soak,
            crew,
            random: Random::new(random.next()),
            end: soak.started + whole,
            active: ACTIVE.min(whole / 3),
            baseline: Baseline { without, with },
            next_line: soak.started + PROGRESS,
        })
    }

    fn go(mut self) -> anyhow::Result<Report> {
        let mut quiet = Vec::new();
        while Instant::now() < self.end && !self.soak.is_broken() {
            let hosts = self.cycle()?;
            let point = quiet::point(self.soak, &mut self.crew, hosts, &self.baseline)?;
            quiet.extend(point);
        }
        Ok(Report {
            quiet,
            kills: self.crew.kills,
        })
    }

    /// Everything at once for a while. Gives the ports that are left, the open one last.
    fn cycle(&mut self) -> anyhow::Result<Vec<Host>> {
        let soak = self.soak;
        let mut hosts = vec![Host::new(soak)?];
        let mut anew = Instant::now() + self.random.millis(1_000, 10_000);
        let end = (Instant::now() + self.active).min(self.end);
        soak.paused.store(false, Ordering::SeqCst);
        while Instant::now() < end && !soak.is_broken() {
            soak.step("working");
            self.crew.work()?;
            if Instant::now() >= anew {
                self.replace(&mut hosts)?;
                anew = Instant::now() + self.random.millis(1_000, 12_000);
            }
            self.line();
            thread::sleep(Duration::from_millis(50));
        }
        Ok(hosts)
    }

    /// Closes the port and makes it anew; its connections go on, until the next time at most.
    fn replace(&mut self, hosts: &mut Vec<Host>) -> anyhow::Result<()> {
        self.soak.step("making the port anew");
        for host in hosts.iter() {
            host.port.close();
        }
        self.soak.count("filter: closed the port");
        let all = self.random.per_mille(300);
        let keep = usize::from(!all);
        while hosts.len() > keep {
            hosts.remove(0).shutdown(self.soak);
        }
        hosts.push(Host::new(self.soak)?);
        Ok(())
    }

    fn line(&mut self) {
        if Instant::now() < self.next_line {
            return;
        }
        self.next_line += PROGRESS;
        let usage = Usage::now().unwrap_or_default();
        println!(
            "soak: {:>5.1} min  {:>12} operations  {:>3} live connections (at most {LIMIT} a port)  {:>4} descriptors  {:>4} threads  {:>5.1} MiB  {} kills",
            self.soak.started.elapsed().as_secs_f64() / 60.0,
            svg::grouped(self.soak.operations()),
            self.soak.live.load(Ordering::SeqCst),
            usage.descriptors,
            usage.threads,
            svg::mebibytes(usage.memory),
            self.crew.kills,
        );
    }
}

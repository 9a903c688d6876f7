//! Which cases are run, how often and in which order.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::cases::{Case, Group, Role, Waits, catalogue};
use crate::guard;
use crate::machine::Machine;
use crate::random::Random;
use crate::ratio::SAME_PLACE;
use crate::record::{Record, Table};
use crate::runner::Runner;
use crate::sample::Run;

/// What is going to be measured.
#[derive(Debug)]
pub struct Plan {
    groups: Vec<Group>,
    repetitions: usize,
    seed: u64,
    quick: bool,
}

impl Plan {
    /// Chooses and times the cases.
    pub fn new(options: &Options, cores: usize) -> Self {
        let quick = options.quick;
        let mut groups = catalogue(cores, quick, options.long);
        if options.no_guard {
            groups.retain(|group| !group.cases.iter().any(|case| guard::is_one(&case.spec)));
        }
        match &options.only {
            Some(pattern) => groups.iter_mut().for_each(|group| choose(group, pattern)),
            None => groups.retain(|group| group.quick || !quick),
        }
        groups.retain(|group| !group.cases.is_empty());
        for group in &mut groups {
            if quick && group.most < usize::MAX {
                group.most = 1;
            }
            for case in &mut group.cases {
                let spec = &mut case.spec;
                if quick && !group.fixed {
                    (spec.warm, spec.measure) = (10_000, 40_000);
                }
                spec.warm *= group.longer;
                spec.measure *= group.longer;
            }
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = clock.map_or(1, |time| u64::from(time.subsec_nanos()));
        Self {
            groups,
            repetitions: options.repetitions.unwrap_or(if quick { 3 } else { 9 }),
            seed: options.seed.unwrap_or(seed),
            quick,
        }
    }

    /// Orders the cases, and whatever else is drawn.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether opens are guarded.
    pub fn guards(&self) -> bool {
        let mut cases = self.groups.iter().flat_map(|group| &group.cases);
        cases.any(|case| guard::is_one(&case.spec))
    }

    /// Prints the names.
    pub fn list(&self) {
        for group in &self.groups {
            for case in &group.cases {
                println!("{}", group.name(case));
            }
        }
    }

    /// Runs everything. In each repetition the groups come in another order, and so do the cases of a group; those that
    /// are compared are neighbours in time.
    pub fn run(&self, machine: Machine, runner: &Runner) -> Record {
        let mut random = Random(self.seed);
        let mut tables: Vec<Table> = self.groups.iter().map(Table::of).collect();
        let mut cores = Cores::default();
        for repetition in 0..self.repetitions {
            let mut order: Vec<_> = self.groups.iter().zip(&mut tables).collect();
            order.retain(|(group, _)| repetition < group.most);
            random.shuffle(&mut order);
            for (group, table) in order {
                let mut rows: Vec<_> = group.cases.iter().zip(&mut table.rows).collect();
                random.shuffle(&mut rows);
                for (case, row) in rows {
                    let run = one(runner, &mut cores, case, &row.runs, &group.name(case));
                    row.runs.push(run);
                }
            }
            eprintln!("repetition {} of {} done", repetition + 1, self.repetitions);
        }
        Record {
            machine,
            seed: self.seed,
            quick: self.quick,
            repetitions: self.repetitions,
            run_again: cores.moved,
            tables,
        }
    }
}

/// Where the two cores were, in the eyes of the cases. A virtual machine's cores move about below it, and what spins
/// takes several times longer on cores that are far apart: such a case is run again until the cores were, before and
/// after it, as near to each other as they mostly are. What it has measured plays no part in that.
#[derive(Debug, Default)]
struct Cores {
    looks: Vec<f64>,
    moved: usize,
}

impl Cores {
    /// How often a case is run at most.
    const TRIES: usize = 6;

    fn run(&mut self, runner: &Runner, case: &Case) -> Run {
        for _ in 1..Self::TRIES {
            let run = runner.run(case);
            let Some(looks) = run.sample().and_then(|one| one.topology_ns) else {
                return run;
            };
            self.looks.extend(looks);
            if case.waits == Waits::Parks || looks.map(|look| self.is_usual(look)) == [true; 2] {
                return run;
            }
            self.moved += 1;
        }
        runner.run(case)
    }

    /// Whether most looks were as near, or as far.
    fn is_usual(&self, look: f64) -> bool {
        let least = self.looks.iter().copied().fold(f64::INFINITY, f64::min);
        let near = |look: f64| look < least * SAME_PLACE;
        let same = self
            .looks
            .iter()
            .filter(|other| near(**other) == near(look));
        same.count() * 2 >= self.looks.len()
    }
}

/// Runs a case once more. What cannot be run is not tried again, and what hangs not for ever.
fn one(runner: &Runner, cores: &mut Cores, case: &Case, before: &[Run], name: &str) -> Run {
    let failures = before.iter().filter(|run| run.sample().is_none()).count();
    let run = match before.last() {
        Some(last @ Run::Skipped(_)) => last.clone(),
        Some(last @ Run::Failed(_)) if failures > 1 => last.clone(),
        _ => cores.run(runner, case),
    };
    if let (Run::Failed(reason), true) = (&run, failures < 2) {
        eprintln!("{name}: {reason}");
    }
    run
}

/// Leaves the cases whose name contains the pattern, and what they are compared with: fltport or the base, or all the
/// others.
fn choose(group: &mut Group, pattern: &str) {
    let base = group.base;
    let compared = |case: &Case| match base {
        Some(base) => case.label == base,
        None => case.role == Role::Ours,
    };
    let chosen: Vec<bool> = group
        .cases
        .iter()
        .map(|case| group.name(case).contains(pattern))
        .collect();
    let mut pairs = group.cases.iter().zip(&chosen);
    if pairs.any(|(case, chosen)| *chosen && compared(case)) {
        return;
    }
    let any = chosen.contains(&true);
    let mut chosen = chosen.into_iter();
    group
        .cases
        .retain(|case| chosen.next() == Some(true) || any && compared(case));
}

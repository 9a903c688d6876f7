//! Which cases are run, how often and in which order; and what came of them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::cases::{Case, Group, Role, Waits, catalogue, guarded};
use crate::ratio::SAME_PLACE;
use crate::runner::{Run, Runner};

/// What is going to be measured.
#[derive(Debug)]
pub struct Plan {
    /// The groups with the cases that were chosen.
    pub groups: Vec<Group>,
    /// How often each case is run.
    pub repetitions: usize,
    /// Orders the cases.
    pub seed: u64,
    /// A short run.
    pub quick: bool,
    /// The chosen part of the names of guarded opens.
    only: Option<String>,
    /// Guarded opens are measured at all.
    guard: bool,
}

/// What was measured.
#[derive(Debug)]
pub struct Results {
    /// As in the plan.
    pub groups: Vec<Measured>,
    /// How often a case was run again because the cores had moved.
    pub moved: usize,
}

/// A group, and for each of its cases the repetitions.
#[derive(Debug)]
pub struct Measured {
    /// What was to be measured.
    pub group: Group,
    /// In the order of its cases.
    pub runs: Vec<Vec<Run>>,
}

impl Results {
    /// The group of this name.
    pub fn group(&self, id: &str) -> Option<&Measured> {
        self.groups.iter().find(|measured| measured.group.id == id)
    }

    /// A case and its repetitions.
    pub fn case(&self, id: &str, label: &str) -> Option<(&Case, &[Run])> {
        self.group(id)?
            .cases()
            .find(|(case, _)| case.label == label)
    }

    /// All repetitions of all cases.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.groups
            .iter()
            .flat_map(|measured| measured.runs.iter().flatten())
    }
}

impl Measured {
    /// Its cases with their repetitions.
    pub fn cases(&self) -> impl Iterator<Item = (&Case, &[Run])> {
        let runs = self.runs.iter().map(Vec::as_slice);
        self.group.cases.iter().zip(runs)
    }
}

impl Plan {
    /// Chooses and times the cases.
    pub fn new(options: &Options, cores: usize) -> Self {
        let quick = options.quick;
        let mut groups = catalogue(cores);
        match &options.only {
            Some(pattern) => groups.iter_mut().for_each(|group| choose(group, pattern)),
            None => groups.retain(|group| group.quick || !quick),
        }
        groups.retain(|group| !group.cases.is_empty());
        for group in &mut groups {
            if quick {
                group.most = if group.most < usize::MAX { 1 } else { 3 };
            }
            for case in &mut group.cases {
                let spec = &mut case.spec;
                if quick {
                    (spec.warm, spec.measure) = (10_000, 40_000);
                }
                if spec.gap > 0 {
                    // A millisecond for each question: more time, or there is nothing to take a quantile of.
                    spec.measure *= 4;
                }
            }
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = clock.map_or(1, |time| u64::from(time.subsec_nanos()));
        Self {
            groups,
            repetitions: options.repetitions.unwrap_or(if quick { 3 } else { 5 }),
            seed: options.seed.unwrap_or(seed),
            quick,
            only: options.only.clone(),
            guard: !options.no_guard,
        }
    }

    /// Whether guarded opens of this name are measured.
    pub fn wants(&self, name: &str) -> bool {
        let chosen = |pattern: &String| name.contains(pattern.as_str());
        self.guard && self.only.as_ref().is_none_or(chosen)
    }

    /// Prints the names.
    pub fn list(&self) {
        let guarded = guarded(self.quick);
        let wanted = guarded.iter().filter(|group| self.wants(&group.id));
        for group in self.groups.iter().chain(wanted) {
            for case in &group.cases {
                println!("{}", group.name(case));
            }
        }
    }

    /// Runs everything. In each repetition the groups come in another order, and so do the cases of a group; those that
    /// are compared are neighbours in time.
    pub fn run(&self, peers: Option<PathBuf>) -> Results {
        let runner = Runner { peers };
        let mut random = Random(self.seed);
        let mut groups: Vec<Measured> = self.groups.iter().map(empty).collect();
        let mut cores = Cores::default();
        for repetition in 0..self.repetitions {
            let mut order: Vec<usize> = (0..groups.len()).collect();
            random.shuffle(&mut order);
            for place in order {
                let Some(measured) = groups.get_mut(place) else {
                    continue;
                };
                if repetition >= measured.group.most {
                    continue;
                }
                let mut cases: Vec<usize> = (0..measured.runs.len()).collect();
                random.shuffle(&mut cases);
                for case in cases {
                    one(&runner, &mut cores, measured, case);
                }
            }
            eprintln!("repetition {} of {} done", repetition + 1, self.repetitions);
        }
        Results {
            groups,
            moved: cores.moved,
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
            let Some(looks) = run.outcome().and_then(|one| one.topology) else {
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

fn one(runner: &Runner, cores: &mut Cores, measured: &mut Measured, place: usize) {
    let (Some(case), Some(runs)) = (
        measured.group.cases.get(place),
        measured.runs.get_mut(place),
    ) else {
        return;
    };
    // What cannot be run is not tried again, and what hangs not for ever.
    let failures = runs.iter().filter(|run| run.outcome().is_none()).count();
    let run = match runs.last() {
        Some(last @ Run::Skipped(_)) => last.clone(),
        Some(last @ Run::Failed(_)) if failures > 1 => last.clone(),
        _ => cores.run(runner, case),
    };
    if let (Run::Failed(reason), true) = (&run, failures < 2) {
        eprintln!("{}: {reason}", measured.group.name(case));
    }
    runs.push(run);
}

fn empty(group: &Group) -> Measured {
    Measured {
        group: group.clone(),
        runs: vec![Vec::new(); group.cases.len()],
    }
}

/// Leaves the cases whose name contains the pattern, and what they are compared with: fltport, or all the others.
fn choose(group: &mut Group, pattern: &str) {
    let chosen: Vec<bool> = group
        .cases
        .iter()
        .map(|case| group.name(case).contains(pattern))
        .collect();
    let mut pairs = group.cases.iter().zip(&chosen);
    if pairs.any(|(case, chosen)| *chosen && case.role == Role::Ours) {
        return;
    }
    let any = chosen.contains(&true);
    let mut chosen = chosen.into_iter();
    group
        .cases
        .retain(|case| chosen.next() == Some(true) || any && case.role == Role::Ours);
}

/// Good enough to shuffle with, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

//! What all threads of the host share: the counts, what was found broken, the connections to send to, the lives.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fltport::ClientPort;

use crate::host::Slot;
use crate::life::Life;

/// How long after its deadline a send may still end, and how long anything may take that has to happen.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Soak {
    pub(crate) directory: PathBuf,
    pub(crate) started: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    operations: AtomicU64,
    broken: Mutex<Vec<String>>,
    targets: Mutex<Vec<Target>>,
    lives: Mutex<BTreeMap<u64, Arc<Life>>>,
    next: AtomicU64,
    /// Connections whose connect callback has begun and whose disconnect callback has not returned.
    pub(crate) live: AtomicUsize,
    /// Nothing is sent for now.
    pub(crate) paused: AtomicBool,
    /// Senders that are in the middle of something.
    pub(crate) busy: AtomicUsize,
    pub(crate) over: AtomicBool,
    /// Where the order of events is, and since when.
    step: Mutex<(&'static str, Instant)>,
}

/// A connection to send to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) number: u64,
    pub(crate) port: ClientPort,
    pub(crate) life: Arc<Life>,
    pub(crate) slot: Arc<Slot>,
}

impl Soak {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            started: Instant::now(),
            counts: Mutex::default(),
            operations: AtomicU64::new(0),
            broken: Mutex::default(),
            targets: Mutex::default(),
            lives: Mutex::default(),
            next: AtomicU64::new(1),
            live: AtomicUsize::new(0),
            paused: AtomicBool::new(true),
            busy: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            step: Mutex::new(("start", Instant::now())),
        }
    }

    /// A number that nothing else in this soak has.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// A deed of a client, which is known only when it is gone: the host has counted its own share of it already.
    pub(crate) fn count_of_client(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// Everything that was counted at the host.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Something that must hold does not.
    pub(crate) fn broken(&self, what: String) {
        let mut broken = lock(&self.broken);
        if broken.len() < MOST_BROKEN {
            eprintln!("soak: BROKEN: {what}");
            broken.push(what);
        }
    }

    pub(crate) fn all_broken(&self) -> Vec<String> {
        lock(&self.broken).clone()
    }

    pub(crate) fn is_broken(&self) -> bool {
        !lock(&self.broken).is_empty()
    }

    pub(crate) fn add_target(&self, target: Target) {
        lock(&self.targets).push(target);
    }

    pub(crate) fn remove_target(&self, number: u64) {
        lock(&self.targets).retain(|target| target.number != number);
    }

    /// The target that a random number points at.
    pub(crate) fn target(&self, drawn: u64) -> Option<Target> {
        let targets = lock(&self.targets);
        let index = usize::try_from(drawn).unwrap_or(0) % targets.len().max(1);
        targets.get(index).cloned()
    }

    pub(crate) fn add_life(&self, life: &Arc<Life>) {
        lock(&self.lives).insert(life.number(), Arc::clone(life));
    }

    pub(crate) fn life(&self, number: u64) -> Option<Arc<Life>> {
        lock(&self.lives).get(&number).cloned()
    }

    pub(crate) fn remove_life(&self, number: u64) {
        lock(&self.lives).remove(&number);
    }

    pub(crate) fn lives(&self) -> Vec<Arc<Life>> {
        lock(&self.lives).values().cloned().collect()
    }

    /// The order of events has come to `what`.
    pub(crate) fn step(&self, what: &'static str) {
        *lock(&self.step) = (what, Instant::now());
    }

    /// Where it stands, if it has stood there for longer than anything may take.
    pub(crate) fn stands_still(&self) -> Option<&'static str> {
        let (what, since) = *lock(&self.step);
        (since.elapsed() > 6 * TOLERANCE).then_some(what)
    }
}

/// How many breaks are told: after the first the rest is seldom news.
const MOST_BROKEN: usize = 40;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

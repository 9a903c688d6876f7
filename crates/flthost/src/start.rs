//! What a host opens before it guards anything: limits, groups, spare groups, directories. After this the supervisor opens
//! nothing any more.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Dev;
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::closer::{self, may_wait};
use crate::config::Config;
use crate::decision::RING;
use crate::fanotify::{Group, GroupError, Notifier, Watch};
use crate::filesystem::Filesystem;
use crate::guarded::Guarded;
use crate::marks::{Target, TargetError};
use crate::neighbours;
use crate::pair::Pair;
use crate::say::say;
use crate::supervisor_memory::{GROUPS_MAX, Journal};
use crate::taking::{Handed, take_over};

/// Why a host cannot start. Nothing is guarded then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No directory to guard was named.
    #[error("nothing to guard: name at least one directory")]
    NothingToGuard,
    /// More filesystems than a host takes.
    #[error("too many filesystems: a host guards at most {}", GROUPS_MAX / 2 - SPARES)]
    TooManyFilesystems,
    /// A directory cannot be guarded.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The kernel gives no permission events.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The limit of open files is too low for a filter host.
    #[error(
        "only {0} files may be open; a filter host needs at least {DESCRIPTORS_MIN} (raise the hard limit: ulimit -Hn)"
    )]
    Descriptors(u64),
    /// The system refused.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
}

/// Everything that a host holds from its start to its end.
#[derive(Debug)]
pub(crate) struct Held {
    /// What is guarded.
    pub(crate) guarded: Vec<Guarded>,
    /// All pairs, those of `guarded` first, then the spare ones.
    pub(crate) pairs: Vec<Arc<Pair>>,
    /// The place of the first spare pair.
    pub(crate) first_spare: usize,
    /// Tells what has happened, if some filter wants to know. One for all: it is in nobody's way.
    pub(crate) notifier: Option<Arc<Notifier>>,
    /// What supervisor and workers share.
    pub(crate) journal: Journal,
    /// Descriptors that a process of the host may have.
    pub(crate) descriptors: u32,
}

/// Descriptors below which a host does not start: each pending operation holds one.
const DESCRIPTORS_MIN: u64 = 4_096;

/// More than this is not needed, and settling looks at every number.
const DESCRIPTORS_MAX: u64 = 65_536;

/// From this on there are enough for all spare pairs.
const DESCRIPTORS_AMPLE: u64 = 16_384;

/// Events that one read may install descriptors for.
pub(crate) const BATCH: usize = 64;

/// Descriptors for the log's ring, ports, services, a walk through a tree.
const RESERVED: usize = RING + 1_024;

/// Pairs for filesystems that appear while the host runs.
pub(crate) const SPARES: usize = 8;

/// The same, where descriptors are scarce.
const SPARES_SCARCE: usize = 4;

impl Held {
    /// Opens everything that guards, or takes it over from the host that does; marks nothing yet. One pair for each
    /// filesystem: a hung one blocks only its own. Forks, so the process must have one thread.
    pub(crate) fn open(config: &Config) -> Result<(Self, Handed), StartError> {
        let descriptors = raise_descriptors()?;
        if config.take_over {
            return take_over(config, descriptors);
        }
        if config.guards.is_empty() {
            return Err(StartError::NothingToGuard);
        }
        let targets = config
            .guards
            .iter()
            .map(Target::open)
            .collect::<Result<Vec<_>, _>>()?;
        Group::probe()?;
        // Before this host has a group of its own. One that takes over is told nothing new.
        let guards = targets
            .iter()
            .map(|target| (target.path(), target.device()));
        neighbours::warn(guards, |words| say(words));
        let journal = Journal::new(usize::try_from(descriptors).unwrap_or(0))
            .map_err(|error| StartError::System("no memory for the journal", error))?;
        let notifier = notifier(config)?;
        let mut held = Self {
            guarded: Vec::new(),
            pairs: Vec::new(),
            first_spare: 0,
            notifier,
            journal,
            descriptors,
        };
        for target in targets {
            let pair = match held.pair_of(target.device()) {
                Some(pair) => pair,
                None => held.add_pair(may_wait(target.as_fd()), false)?,
            };
            // Now, because asking a filesystem that hangs would hold up whoever asks.
            if let Some(filesystem) = Filesystem::of(&target) {
                pair.filesystem.get_or_init(|| filesystem);
            }
            let watch = Watch::new()?;
            held.guarded.push(Guarded {
                target,
                pair,
                watch,
                notifier: held.notifier.clone(),
            });
        }
        held.first_spare = held.pairs.len();
        // Each takes descriptors from what may be pending.
        let scarce = u64::from(descriptors) < DESCRIPTORS_AMPLE;
        let spares = if scarce { SPARES_SCARCE } else { SPARES };
        for _ in 0..spares {
            // One for a remote filesystem must not be held up by its closes.
            held.add_pair(config.remote, true)?;
        }
        Ok((held, Handed::default()))
    }

    /// All groups, in the order of their places.
    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        let groups = self.pairs.iter().flat_map(|pair| pair.groups());
        groups.map(|(_, group)| Arc::clone(group)).collect()
    }

    /// Whether the pair at this place guards something.
    pub(crate) fn is_used(&self, place: usize) -> bool {
        let used = |guarded: &Guarded| {
            self.pairs
                .get(place)
                .is_some_and(|pair| Arc::ptr_eq(pair, &guarded.pair))
        };
        self.guarded.iter().any(used) || self.journal.is_taken(place)
    }

    /// Descriptors that are not for pending operations.
    pub(crate) fn reserved(&self) -> u32 {
        let batches = BATCH * 2 * self.pairs.len();
        let closing = closer::ROOM * self.pairs.iter().filter(|pair| pair.slow).count();
        u32::try_from(RESERVED + batches + closing).unwrap_or(u32::MAX)
    }

    fn pair_of(&self, device: Dev) -> Option<Arc<Pair>> {
        let same = self
            .guarded
            .iter()
            .find(|other| other.target.device() == device);
        same.map(|other| Arc::clone(&other.pair))
    }

    fn add_pair(&mut self, slow: bool, spare: bool) -> Result<Arc<Pair>, StartError> {
        if 2 * self.pairs.len() + 2 > GROUPS_MAX {
            return Err(StartError::TooManyFilesystems);
        }
        let mut pair = Pair::new(self.pairs.len(), self.journal)?;
        (pair.slow, pair.spare) = (slow, spare);
        if spare {
            pair.set_unknown(slow);
        } else {
            pair.set_remote(slow);
        }
        let pair = Arc::new(pair);
        self.pairs.push(Arc::clone(&pair));
        Ok(pair)
    }
}

/// The group of notices, if some filter wants to know what has happened.
pub(crate) fn notifier(config: &Config) -> Result<Option<Arc<Notifier>>, GroupError> {
    if config.filters.iter().any(|filter| filter.wants_notices()) {
        return Ok(Some(Arc::new(Notifier::new()?)));
    }
    Ok(None)
}

/// Keeps this process in memory: a page that has to be fetched from a filesystem whose operations this process answers
/// may never come. What cannot be locked is said, once, and is no reason not to guard.
pub(crate) fn lock_memory() {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    // Before Linux 4.4 without the last flag, which would make a thread's whole stack of pages that it never uses.
    let locked = mlockall(all | MlockAllFlags::ONFAULT).or_else(|_| mlockall(all));
    if let Err(error) = locked {
        let why = match error {
            Errno::PERM | Errno::NOMEM => "the limit of locked memory is too low (ulimit -l)",
            _ => "the system refuses",
        };
        say(format_args!("memory is not locked: {why}"));
    }
}

/// Raises the limit of open files to what is allowed, and checks that it will do.
fn raise_descriptors() -> Result<u32, StartError> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit
        .maximum
        .unwrap_or(DESCRIPTORS_MAX)
        .min(DESCRIPTORS_MAX);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| StartError::System("cannot raise the limit of files", error.into()))?;
    if most < DESCRIPTORS_MIN {
        return Err(StartError::Descriptors(most));
    }
    Ok(u32::try_from(most).unwrap_or(u32::MAX))
}

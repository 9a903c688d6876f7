//! What services have died of.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::stamp::{FileId, Stamp};

/// Files that were with a service when it died, and that none has answered about since: each question about one is a
/// suspect from the beginning. Otherwise a deadly file could wait until nobody is there, and have the milder policy of that.
#[derive(Debug, Default)]
pub(super) struct Deadly {
    /// With the number of each, which rise.
    numbers: HashMap<FileId, u64>,
    files: BTreeMap<u64, FileId>,
    next: u64,
    /// As they were when a service died of them alone, and when that was.
    poison: HashMap<FileId, (Stamp, Instant)>,
}

/// More than can be with services at a time.
const DEADLY: usize = 65_536;

/// Far more services than can die within a minute.
const POISON: usize = 1_024;

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < KILLED
}

impl Deadly {
    pub(super) fn add(&mut self, file: FileId) {
        if self.numbers.contains_key(&file) {
            return;
        }
        if self.files.len() >= DEADLY
            && let Some((_, oldest)) = self.files.pop_first()
        {
            self.numbers.remove(&oldest);
        }
        self.numbers.insert(file, self.next);
        self.files.insert(self.next, file);
        self.next += 1;
    }

    /// A service has died of this file, and of nothing else.
    pub(super) fn condemn(&mut self, stamp: Stamp, now: Instant) {
        if self.poison.len() >= POISON {
            self.poison.retain(|_, (_, since)| is_fresh(*since, now));
        }
        // One that finds no room costs a service each time that it is opened, and no more than that.
        if self.poison.len() < POISON {
            self.poison.insert(stamp.id, (stamp, now));
        }
    }

    /// Whether a service has died of this file alone, as it is, within a minute.
    pub(super) fn is_poison(&self, stamp: &Stamp, now: Instant) -> bool {
        let poison = self.poison.get(&stamp.id);
        poison.is_some_and(|(then, since)| then == stamp && is_fresh(*since, now))
    }

    pub(super) fn remove(&mut self, file: FileId) {
        self.poison.remove(&file);
        if let Some(number) = self.numbers.remove(&file) {
            self.files.remove(&number);
        }
    }

    pub(super) fn contains(&self, file: FileId) -> bool {
        self.numbers.contains_key(&file)
    }
}

/// Services that died with files, lately: where that goes on, their absence is the files' doing.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// With their numbers: each dies once, whatever it had.
    last: VecDeque<(u64, Instant)>,
}

/// So many services that died with files, in so much time, make the absence of services the files' doing.
const DEATHS: usize = 4;
pub(super) const KILLED: Duration = Duration::from_secs(60);

impl Deaths {
    pub(super) fn count(&mut self, service: u64, now: Instant) {
        if self.last.iter().any(|(counted, _)| *counted == service) {
            return;
        }
        if self.last.len() >= DEATHS {
            self.last.pop_front();
        }
        self.last.push_back((service, now));
    }

    pub(super) fn are_many(&self) -> bool {
        let first = self.last.front().filter(|_| self.last.len() >= DEATHS);
        first.is_some_and(|(_, time)| time.elapsed() < KILLED)
    }
}

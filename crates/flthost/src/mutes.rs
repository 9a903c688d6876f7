//! Which operations are not asked about: those that a *mute* matches, and, where there are rules of the other sort
//! (`only`), those that none of them matches.
//!
//! A rule matches, does not match, or cannot tell: the opener is gone, the path is not one of the host's. Where it cannot
//! tell, the operation is asked about. Rules come from the start, or from a service that may make some
//! (`mutes/service.rs`). Judging takes one short lock and allocates nothing but what it looks up.

use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::fanotify::Operation as Kind;
use crate::filesystem::Filesystem;
use crate::opener::Ids;
use crate::rule::{Rule, Subject};
use crate::stamp::FileId;

mod keep;
mod service;

/// Rules from the start that there may be. Each operation is compared with all of them: a hundred cost some microseconds.
pub const RULES_MAX: usize = 256;

/// What rules are compared with.
pub(crate) trait Subjects {
    /// The kind of operation.
    fn kind(&self) -> Kind;
    /// The file's path, if that is the host's own.
    fn own_path(&self) -> Option<&Path>;
    /// The users that the process is.
    fn users(&self) -> Option<Ids>;
    /// The path of its program.
    fn program(&self) -> Option<&Path>;
    /// Which file that is.
    fn program_id(&self) -> Option<FileId>;
    /// Its group.
    fn cgroup(&self) -> Option<&Path>;
    /// The filesystem of the file.
    fn filesystem(&self) -> Option<Filesystem>;
}

/// What a rule says of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// It is about it.
    Yes,
    /// It is not.
    No,
    /// It cannot tell.
    Unknown,
}

/// Which way a rule works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// What it matches is not asked about.
    Mute,
    /// What no rule of this sort matches is not asked about.
    Only,
}

/// Who has made a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Whoever started the host.
    Start,
    /// A service.
    Service {
        /// Its connection.
        connection: u64,
        /// The process that asked for it.
        pid: u32,
    },
}

/// A rule that is in force.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) sort: Sort,
    pub(crate) rule: Rule,
    pub(crate) origin: Origin,
    hits: AtomicU64,
    /// Which file its program is now.
    program: Mutex<Option<FileId>>,
    /// Its program has to be looked at.
    stale: AtomicBool,
}

/// What becomes of an operation.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// It is asked about.
    Ask,
    /// This mute matches it.
    Muted(Arc<Entry>),
    /// None of the rules matches what is asked about only.
    NotListed,
}

/// The rules.
#[derive(Debug)]
pub struct Mutes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: Arc<Vec<Arc<Entry>>>,
    last: u64,
    /// What is still to be told of.
    news: std::collections::VecDeque<keep::News>,
    /// Some program has to be looked at.
    stale: bool,
}

impl Mutes {
    /// These rules, made at the start.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = (Sort, Rule)>) -> Self {
        let mut state = State::default();
        for (sort, rule) in rules {
            state.add(sort, rule, Origin::Start);
        }
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// What becomes of an operation. `first` is whether to count it: triage has counted what comes again.
    pub(crate) fn judge(&self, subjects: &impl Subjects, first: bool) -> Judgement {
        let entries = self.entries();
        let (now, kind) = (Instant::now(), subjects.kind());
        let about = |entry: &&Arc<Entry>| entry.rule.is_about(kind) && !entry.rule.is_over(now);
        let of = |sort| entries.iter().filter(move |entry| entry.sort == sort);
        for entry in of(Sort::Mute).filter(about) {
            if self.compare(entry, subjects) == Match::Yes {
                entry.count(first);
                return Judgement::Muted(Arc::clone(entry));
            }
        }
        let (mut listed, mut lists) = (false, false);
        for entry in of(Sort::Only).filter(about) {
            lists = true;
            if self.compare(entry, subjects) != Match::No {
                entry.count(first);
                listed = true;
                break;
            }
        }
        if lists && !listed {
            Judgement::NotListed
        } else {
            Judgement::Ask
        }
    }

    /// Everything in force, for listings.
    pub(crate) fn list(&self) -> Value {
        let now = Instant::now();
        let entries = self.entries();
        let live = entries.iter().filter(|entry| !entry.rule.is_over(now));
        live.map(|entry| entry.describe(now)).collect()
    }

    /// The rules as they are now.
    pub(crate) fn entries(&self) -> Arc<Vec<Arc<Entry>>> {
        Arc::clone(&self.lock().entries)
    }

    /// Takes the lock that judging needs, and gives it back.
    pub(crate) fn touch(&self) {
        drop(self.lock());
    }

    /// Compares, and has the rule's program looked at again if it seems to have been replaced.
    fn compare(&self, entry: &Entry, subjects: &impl Subjects) -> Match {
        let matched = entry.matches(subjects);
        if entry.stale.load(Ordering::Relaxed) {
            let mut state = self.lock();
            if !state.stale {
                state.stale = true;
                self.changed.notify_all();
            }
        }
        matched
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, sort: Sort, rule: Rule, origin: Origin) -> Arc<Entry> {
        self.last += 1;
        let program = match &rule.subject {
            Subject::Process(_, id) => *id,
            _ => None,
        };
        let unseen = matches!(&rule.subject, Subject::Process(_, None));
        self.stale |= unseen;
        let entry = Arc::new(Entry {
            id: self.last,
            sort,
            rule,
            origin,
            hits: AtomicU64::new(0),
            program: Mutex::new(program),
            stale: AtomicBool::new(unseen),
        });
        Arc::make_mut(&mut self.entries).push(Arc::clone(&entry));
        entry
    }
}

impl Entry {
    /// What the rule says.
    pub(crate) fn matches(&self, subjects: &impl Subjects) -> Match {
        match &self.rule.subject {
            Subject::Path(path) => known(subjects.own_path(), |own| own == path),
            Subject::Tree(path) => known(subjects.own_path(), |own| own.starts_with(path)),
            Subject::Filesystem(kind) => known(subjects.filesystem(), |own| own == *kind),
            Subject::User(user) => match subjects.users() {
                Some(users) if users.are_all(*user) => Match::Yes,
                Some(users) if !users.include(*user) => Match::No,
                // It is this user and another.
                _ => Match::Unknown,
            },
            Subject::Cgroup(path) => {
                let own = subjects.cgroup().filter(|own| is_certain(own));
                known(own, |own| own.starts_with(path))
            }
            Subject::Process(path, _) => self.matches_program(path, subjects),
        }
    }

    /// The path first: where it is another, the executable's filesystem is not asked.
    fn matches_program(&self, path: &Path, subjects: &impl Subjects) -> Match {
        let Some(program) = subjects.program() else {
            return Match::Unknown;
        };
        // What the kernel shows of a program that was replaced while it runs.
        let bytes = program.as_os_str().as_encoded_bytes();
        if bytes.strip_suffix(b" (deleted)") == Some(path.as_os_str().as_encoded_bytes()) {
            return Match::Unknown;
        }
        if program != path {
            return Match::No;
        }
        let current = *self.program.lock().unwrap_or_else(PoisonError::into_inner);
        match subjects.program_id() {
            Some(id) if current == Some(id) => Match::Yes,
            _ => {
                self.stale.store(true, Ordering::Relaxed);
                Match::Unknown
            }
        }
    }

    fn count(&self, first: bool) {
        self.hits.fetch_add(u64::from(first), Ordering::Relaxed);
    }

    fn describe(&self, now: Instant) -> Value {
        let left = self
            .rule
            .expires
            .map(|end| end.saturating_duration_since(now));
        let mut value = json!({
            "id": self.id, "rule": self.rule.to_string(), "sort": self.sort.name(), "origin": self.origin.name(),
            "pid": self.origin.pid(), "expires_s": left.map(|left| left.as_secs()),
            "hits": self.hits.load(Ordering::Relaxed),
        });
        if matches!(self.rule.subject, Subject::Process(..)) {
            let program = *self.program.lock().unwrap_or_else(PoisonError::into_inner);
            value["found"] = program.is_some().into();
        }
        value
    }
}

impl Sort {
    /// The sort in one word, as in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mute => "mute",
            Self::Only => "only",
        }
    }
}

impl Origin {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Service { .. } => "service",
        }
    }

    pub(crate) const fn pid(self) -> Option<u32> {
        match self {
            Self::Start => None,
            Self::Service { pid, .. } => Some(pid),
        }
    }
}

/// Whether a group is where its path says: not removed, and not outside of what this host sees.
fn is_certain(group: &Path) -> bool {
    let outside = group.components().any(|step| step == Component::ParentDir);
    !outside
        && !group
            .as_os_str()
            .as_encoded_bytes()
            .ends_with(b" (deleted)")
}

fn known<T>(fact: Option<T>, holds: impl FnOnce(T) -> bool) -> Match {
    match fact.map(holds) {
        Some(true) => Match::Yes,
        Some(false) => Match::No,
        None => Match::Unknown,
    }
}

#[cfg(test)]
mod tests;

//! Where every operation ends: answered first, or, where many wait, decided for good and about to be; counted and logged
//! after.
//!
//! The log is a bounded ring that may drop; an answer never waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;

use crate::cache::Cache;
use crate::facts::Facts;
use crate::fanotify::{Operation as Kind, Permission, Response};
use crate::names::NameSlot;
use crate::operation::{Operation, Verdict};
use crate::pair::Role;
use crate::policy::{Action, Cause, Policies};

/// Decides operations.
#[derive(Debug)]
pub struct Decider {
    policies: Policies,
    monitor: bool,
    /// The kernel denies with errors of the host's choice.
    errnos: bool,
    cache: Arc<Cache>,
    /// Somebody reads the log.
    heard: Arc<AtomicBool>,
    pending: AtomicUsize,
    counters: Counters,
    ring: Mutex<Ring>,
    filled: Condvar,
}

/// What has been decided so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Operations that went on.
    pub allowed: AtomicU64,
    /// Operations that failed.
    pub denied: AtomicU64,
    /// Operations that would have failed, and went on because the host only watches.
    pub would_deny: AtomicU64,
    /// Operations that a service decided.
    pub by_service: AtomicU64,
    /// Operations that policy decided.
    pub by_policy: AtomicU64,
    /// Operations of the host's own processes.
    pub exempt: AtomicU64,
    /// Answers that the kernel did not take: the opener was gone, or somebody else answered.
    pub unanswered: AtomicU64,
    /// Operations that the kernel has denied itself, because it could not open their file for this process.
    pub unopenable: AtomicU64,
    /// Decisions that the log did not keep.
    pub unlogged: AtomicU64,
}

/// A decision as the log has it. It holds the file, because its path is looked up later.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) id: u64,
    pub(crate) time: SystemTime,
    pub(crate) kind: Kind,
    pub(crate) pid: Option<Pid>,
    pub(crate) facts: Facts,
    pub(crate) name: NameSlot,
    pub(crate) action: Action,
    /// What monitor mode did not do.
    pub(crate) would_be: Option<Action>,
    pub(crate) cause: Cause,
    pub(crate) reason: String,
    pub(crate) took: Duration,
}

#[derive(Debug, Default)]
struct Ring {
    decisions: VecDeque<Decision>,
    lost: u64,
    closed: bool,
}

/// Decisions that wait for the log. Each holds a descriptor, so this is part of the descriptor budget.
pub(crate) const RING: usize = 1_024;

impl Decider {
    /// Decides by these policies; in `monitor` mode everything goes on, and without `errnos` denials are plain ones.
    #[must_use]
    pub(crate) fn new(
        policies: Policies,
        monitor: bool,
        errnos: bool,
        cache: Arc<Cache>,
        heard: Arc<AtomicBool>,
    ) -> Self {
        Self {
            policies,
            monitor,
            errnos,
            cache,
            heard,
            pending: AtomicUsize::new(0),
            counters: Counters::default(),
            ring: Mutex::default(),
            filled: Condvar::new(),
        }
    }

    /// Where verdicts are kept.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The policies.
    #[must_use]
    pub const fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What has been decided so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Operations read and not decided.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// An operation has been read.
    pub(crate) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// The kernel has denied an operation; there is nothing to answer.
    pub(crate) fn unopenable(&self) {
        self.counters.unopenable.fetch_add(1, Ordering::Relaxed);
    }

    /// An operation of the host's own processes: allowed, counted once for both groups, nothing else.
    pub(crate) fn exempt(&self, permission: Permission, role: Role) {
        let answered = permission.answer(Response::Allow);
        self.count_answer(answered.result.is_ok());
        if role == Role::Questions {
            self.counters.exempt.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An operation that is decided already, and counted.
    pub(crate) fn let_pass(&self, permission: Permission) {
        let answered = permission.answer(Response::Allow);
        self.count_answer(answered.result.is_ok());
    }

    /// Triage has nothing to say: the operation comes again where it may wait.
    pub(crate) fn pass_on(&self, permission: Permission) {
        let answered = permission.answer(Response::Allow);
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.count_answer(answered.result.is_ok());
    }

    /// Whether an operation with this verdict fails, as the host stands now.
    pub(crate) fn denies(&self, action: Action) -> bool {
        action.denies() && !self.monitor
    }

    /// Takes the locks that deciding needs, and gives them back.
    pub(crate) fn touch(&self) {
        drop(self.ring.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Answers an operation, then counts and logs it.
    pub(crate) fn decide(&self, operation: Operation, permission: Permission, verdict: Verdict) {
        let Verdict {
            action,
            cause,
            reason,
        } = verdict;
        // What is told has to be what the opener gets.
        let action = match action {
            Action::Errno(_) if !self.errnos => Action::Deny,
            other => other,
        };
        let spared = action.denies() && !self.denies(action);
        let done = if spared { Action::Allow } else { action };
        let answered = permission.answer(done.response());
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.count_answer(answered.result.is_ok());
        self.count(done, cause);
        self.counters
            .would_deny
            .fetch_add(u64::from(spared), Ordering::Relaxed);
        // To wake the log for nobody would cost more than all of the above.
        if !self.heard.load(Ordering::Relaxed) {
            return;
        }
        self.log(Decision {
            id: operation.id,
            time: SystemTime::now(),
            kind: operation.kind,
            pid: operation.pid,
            facts: operation.facts,
            name: operation.name,
            action: done,
            would_be: spared.then_some(action),
            cause,
            reason,
            took: Instant::now().saturating_duration_since(operation.started),
        });
    }

    /// Waits for the next decision; how many were lost before it. `None` when there will be no more.
    pub(crate) fn next(&self) -> Option<(Decision, u64)> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(decision) = ring.decisions.pop_front() {
                return Some((decision, std::mem::take(&mut ring.lost)));
            }
            if ring.closed {
                return None;
            }
            ring = self
                .filled
                .wait(ring)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more decisions will be logged.
    pub(crate) fn close_log(&self) {
        self.ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.filled.notify_all();
    }

    fn log(&self, decision: Decision) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.closed || ring.decisions.len() >= RING {
            ring.lost += 1;
            drop(ring);
            self.counters.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        ring.decisions.push_back(decision);
        drop(ring);
        self.filled.notify_one();
    }

    fn count(&self, action: Action, cause: Cause) {
        let done = if action.denies() {
            &self.counters.denied
        } else {
            &self.counters.allowed
        };
        done.fetch_add(1, Ordering::Relaxed);
        match cause {
            Cause::Service => self.counters.by_service.fetch_add(1, Ordering::Relaxed),
            Cause::Cached | Cause::Exempt | Cause::Excluded | Cause::Filter => 0,
            _ => self.counters.by_policy.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// So many answers were taken by nobody.
    pub(crate) fn count_unanswered(&self, count: u64) {
        self.counters.unanswered.fetch_add(count, Ordering::Relaxed);
    }

    fn count_answer(&self, taken: bool) {
        self.count_unanswered(u64::from(!taken));
    }
}

//! One operation on its way through the host: facts about it, and the obligation to decide it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::decision::Decider;
use crate::facts::{Facts, FilePath};
use crate::fanotify::{Operation as Kind, Permission};
use crate::filesystem::Filesystem;
use crate::names::{NameSlot, name_of};
use crate::opener::{Cgroup, Credentials, Executable};
use crate::pair::{Pair, Role};
use crate::policy::{Action, Cause};
use crate::stack::Stack;
use crate::stamp::Stamp;

/// Facts about an operation. What costs a system call is looked up when it is asked for.
#[derive(Debug)]
pub struct Operation {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) pid: Option<Pid>,
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) name: NameSlot,
    /// The group that it came from.
    pub(crate) role: Role,
    /// What the file looked like when the operation was read.
    pub(crate) stamp: Option<Stamp>,
    /// When that was, as the verdict cache counts time.
    pub(crate) read_at: u64,
    /// Somebody could write to the file then.
    pub(crate) written: bool,
    /// Its filesystem may go, and come back otherwise than it was.
    pub(crate) passing: bool,
    /// Its filesystem may keep whoever reads the file waiting: network, FUSE.
    pub(crate) remote: bool,
    /// What is looked up when it is asked for.
    pub(crate) facts: Facts,
}

/// What is decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub action: Action,
    /// Why.
    pub cause: Cause,
    /// In words, for the log: a rule's name, a filter's reason.
    pub reason: String,
}

/// An operation that a filter has taken out of the stack to decide later. Dropping it decides by the policy for crashes.
#[derive(Debug)]
#[must_use = "dropping it decides by policy"]
pub struct Pended {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    operation: Operation,
    permission: Permission,
    decider: Arc<Decider>,
    stack: Arc<Stack>,
    /// The filter that is asked next.
    next: usize,
    pair: Arc<Pair>,
    /// Services have allowed it, all of them by the file's content alone; nothing if none was asked.
    of_content_only: Option<bool>,
    /// Policy has let it go on at some altitude: it is allowed for that reason if nobody below objects.
    by_policy: Option<Verdict>,
    /// It could not be sent on once, and waits in triage to its end: its pair may guard another filesystem by then.
    stays: bool,
}

impl Operation {
    /// Names the operation in logs; unique for one worker.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// What is to be done with the file.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether filters have seen this operation before: triage has passed it on to where it may wait.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.role == Role::Questions
    }

    /// What the file looked like when the operation was read; nothing where its filesystem does not say.
    #[must_use]
    pub const fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    /// Whether reading the file may wait for a server or a daemon (network and FUSE filesystems).
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        self.remote
    }

    /// The process that wants to (thread group id); `None` outside this pid namespace.
    #[must_use]
    pub const fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// The file, open for reading. Its offset is shared with whoever else looks at it: read by position.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// When it is decided by policy at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time left until the deadline.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The file's path when it is first asked for, and what it is worth: by the time it is read the file may have another,
    /// and one of a container may look like one of the host's. Costs some system calls.
    #[must_use]
    pub fn path(&self) -> Option<&FilePath> {
        self.facts.path()
    }

    /// The user whose rights the process has (effective).
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.credentials().map(|known| known.users.effective)
    }

    /// The group whose rights the process has (effective).
    #[must_use]
    pub fn gid(&self) -> Option<u32> {
        self.credentials().map(|known| known.groups.effective)
    }

    /// All users and groups that the process is. Reads a file of `/proc`; nothing for a process that is gone.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.facts.credentials()
    }

    /// The program that the process executes; for an execution still the one that it executes now. Where that is on a
    /// network filesystem, this may wait for it.
    #[must_use]
    pub fn executable(&self) -> Option<&Executable> {
        self.facts.executable()
    }

    /// Where the process is accounted. Reads a file of `/proc`.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.facts.cgroup()
    }

    /// The kind of filesystem that the file is on; costs nothing.
    #[must_use]
    pub const fn filesystem(&self) -> Option<Filesystem> {
        self.facts.filesystem()
    }

    /// The name of the process that wants to, as it calls itself. Opens a file of `/proc`.
    #[must_use]
    pub fn process_name(&self) -> Option<String> {
        self.name.get().cloned().or_else(|| name_of(self.pid?))
    }
}

impl Verdict {
    /// The operation goes on.
    #[must_use]
    pub fn allow(cause: Cause) -> Self {
        Self {
            action: Action::Allow,
            cause,
            reason: String::new(),
        }
    }

    /// The operation fails with `EPERM`.
    #[must_use]
    pub fn deny(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            action: Action::Deny,
            cause,
            reason: reason.into(),
        }
    }
}

impl Pended {
    pub(crate) fn new(
        operation: Operation,
        permission: Permission,
        decider: Arc<Decider>,
        stack: Arc<Stack>,
        pair: Arc<Pair>,
    ) -> Self {
        Self {
            inner: Some(Inner {
                operation,
                permission,
                decider,
                stack,
                next: 0,
                pair,
                of_content_only: None,
                by_policy: None,
                stays: false,
            }),
        }
    }

    /// Whether the operation can wait in the other group. One whose file cannot be told from others waits in triage, where
    /// no other can take it past the group of questions.
    pub(crate) fn can_be_sent_on(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            let operation = &inner.operation;
            let is_new = operation.role == Role::Triage && !inner.stays;
            is_new && operation.stamp.is_some() && inner.pair.is_split()
        })
    }

    /// Lets the operation go on to the group of questions, which is to see it; gives it back where that may not.
    pub(crate) fn send_on(mut self) -> Option<Self> {
        let inner = self.inner.as_mut()?;
        let operation = &inner.operation;
        let seen = operation.stamp.as_ref().is_some_and(|stamp| {
            let file = operation.file.as_fd();
            inner.pair.send(file, stamp.id, operation.pid)
        });
        if !seen {
            inner.stays = true;
            return Some(self);
        }
        let inner = self.inner.take()?;
        inner.decider.pass_on(inner.permission);
        None
    }

    /// Facts about the operation.
    ///
    /// `None` never happens while the value can be reached; the obligation is taken out only by what consumes it.
    #[must_use]
    pub fn operation(&self) -> Option<&Operation> {
        self.inner.as_ref().map(|inner| &inner.operation)
    }

    /// Decides the operation; filters below are not asked.
    pub fn complete(mut self, verdict: Verdict) {
        if let Some(inner) = self.inner.take() {
            inner.decide(verdict);
        }
    }

    /// Decides the operation by policy.
    pub fn complete_by_policy(mut self, cause: Cause, reason: impl Into<String>) {
        if let Some(inner) = self.inner.take() {
            inner.decide_by_policy(cause, reason.into());
        }
    }

    /// Lets the filters below go on with the operation; without any it is allowed for `verdict`'s reason.
    pub fn resume(self, verdict: Verdict) {
        let stack = self.inner.as_ref().map(|inner| Arc::clone(&inner.stack));
        match stack {
            Some(stack) => stack.resume(self, verdict),
            None => drop(self),
        }
    }

    /// Services were granted more time: filters below have what they would have had.
    pub(crate) fn extend(&mut self, granted: Duration) {
        if let Some(inner) = &mut self.inner {
            inner.operation.deadline += granted;
        }
    }

    /// A policy has decided in the place of services: filters below are asked only about what goes on.
    pub(crate) fn go_by_policy(mut self, verdict: Verdict) {
        if verdict.action.denies() {
            return self.complete(verdict);
        }
        if let Some(inner) = &mut self.inner {
            // Nobody has found it clean.
            inner.of_content_only = Some(false);
            inner.by_policy.get_or_insert_with(|| verdict.clone());
        }
        self.resume(verdict);
    }

    /// No filter objects: allows the operation.
    pub(crate) fn finish(mut self, so_far: Verdict) {
        let by_policy = self.inner.as_mut().and_then(|inner| inner.by_policy.take());
        self.complete(by_policy.unwrap_or(so_far));
    }

    /// A service has allowed the operation, by the file's content alone or not.
    pub(crate) fn allowed_by_service(&mut self, of_content_only: bool) {
        if let Some(inner) = &mut self.inner {
            let so_far = inner.of_content_only.unwrap_or(true);
            inner.of_content_only = Some(so_far && of_content_only);
        }
    }

    /// The next filter's place, and a step past it.
    pub(crate) fn advance(&mut self) -> Option<usize> {
        let inner = self.inner.as_mut()?;
        let next = inner.next;
        inner.next += 1;
        Some(next)
    }
}

impl Drop for Pended {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.decide_by_policy(Cause::Crash, "dropped undecided".to_owned());
        }
    }
}

impl Inner {
    fn decide_by_policy(self, cause: Cause, reason: String) {
        let policies = self.decider.policies();
        let verdict = policies.verdict(self.operation.kind, cause, reason);
        self.decide(verdict);
    }

    /// Answers. What triage lets go on, and cannot keep out of the group of questions, is decided there.
    fn decide(self, verdict: Verdict) {
        let operation = &self.operation;
        let goes_on = !self.decider.denies(verdict.action);
        if goes_on && verdict.cause == Cause::Cached {
            self.decider.cache().offer_again(operation, &self.pair);
        }
        if operation.role == Role::Triage && goes_on && self.pair.is_split() {
            let stamp = operation.stamp.as_ref();
            let kept_out = stamp.is_some_and(|stamp| {
                let file = operation.file.as_fd();
                self.pair.keep_out(file, stamp.id, operation.pid)
            });
            if !kept_out {
                return self.decider.pass_on(self.permission);
            }
        }
        if self.of_content_only == Some(true) && verdict.cause == Cause::Service && goes_on {
            // Before the answer: the opener cannot have changed the file yet.
            self.decider.cache().keep(operation, &self.pair);
        }
        self.decider
            .decide(self.operation, self.permission, verdict);
    }
}

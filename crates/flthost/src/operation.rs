//! One operation on its way through the host: facts about it, and the obligation to decide it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::decision::Decider;
use crate::fanotify::{Operation as Kind, Permission};
use crate::names::{NameSlot, name_of};
use crate::policy::{Action, Cause};
use crate::stack::Stack;

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

    /// The file's path as this mount namespace shows it, for people: by the time it is read the file may have another,
    /// and inside containers it may be somebody else's. Costs a system call.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        path_of(self.file.as_fd())
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
    pub(crate) const fn new(
        operation: Operation,
        permission: Permission,
        decider: Arc<Decider>,
        stack: Arc<Stack>,
    ) -> Self {
        Self {
            inner: Some(Inner {
                operation,
                permission,
                decider,
                stack,
                next: 0,
            }),
        }
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
        if let Some(Inner {
            operation,
            permission,
            decider,
            ..
        }) = self.inner.take()
        {
            decider.decide(operation, permission, verdict);
        }
    }

    /// Decides the operation by policy.
    pub fn complete_by_policy(mut self, cause: Cause, reason: impl Into<String>) {
        if let Some(Inner {
            operation,
            permission,
            decider,
            ..
        }) = self.inner.take()
        {
            let action = decider.policies().action(cause);
            decider.decide(
                operation,
                permission,
                Verdict {
                    action,
                    cause,
                    reason: reason.into(),
                },
            );
        }
    }

    /// Lets the filters below go on with the operation; without any it is allowed for `verdict`'s reason.
    pub fn resume(self, verdict: Verdict) {
        let stack = self.inner.as_ref().map(|inner| Arc::clone(&inner.stack));
        match stack {
            Some(stack) => stack.run(self, verdict),
            None => drop(self),
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
        if let Some(Inner {
            operation,
            permission,
            decider,
            ..
        }) = self.inner.take()
        {
            let action = decider.policies().action(Cause::Crash);
            let reason = "dropped undecided".to_owned();
            decider.decide(
                operation,
                permission,
                Verdict {
                    action,
                    cause: Cause::Crash,
                    reason,
                },
            );
        }
    }
}

pub(crate) fn path_of(file: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

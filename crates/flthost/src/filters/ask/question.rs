//! One question: what it is about, whom its answer decides, and how it ended.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fltport::protocol::AskError;
use fltport::protocol::file::{self, Answer};
use fltport::{Pending, SendError};

use super::state::Situation;
use super::subject::Subject;
use crate::facts::Validity;
use crate::fanotify::Operation as Kind;
use crate::judge::Judge;
use crate::operation::Operation;
use crate::policy::Cause;
use crate::stamp::{FileId, Stamp};

/// A question that is not answered.
#[derive(Debug)]
pub(super) struct Question {
    /// Whom its answer is for.
    pub(super) subject: Subject,
    pub(super) facts: Facts,
    pub(super) place: Place,
    /// It was with a service when that died.
    pub(super) suspect: bool,
    /// The service has asked for more time.
    pub(super) extended: bool,
    /// How much it got.
    pub(super) granted: Duration,
    /// Nobody needs its answer any more.
    pub(super) withdrawn: bool,
    /// Others about the same file wait for this one.
    pub(super) leads: bool,
    /// Since when a service has it.
    pub(super) sent: Option<Instant>,
    /// How the send can be given up.
    pub(super) pending: Option<Pending>,
}

/// What questions are about that have one answer.
pub(super) type Key = (FileId, Kind);

/// Where a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No service has it.
    Waiting,
    /// This service has it.
    With(u64),
    /// Another about the same file is asked for it.
    Joined,
}

/// What a service is told, and what decides when it is not asked any more.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) file: Arc<OwnedFd>,
    pub(super) asked: Instant,
    pub(super) deadline: Instant,
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) key: Option<Key>,
    pub(super) stamp: Option<Stamp>,
    /// Nobody but root could have made the file what it is.
    pub(super) of_root: bool,
    pid: u32,
    size: u64,
    path: file::PathValidity,
}

/// How a question ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The service lets the operation go on.
    Allowed { of_content_only: bool },
    /// It does not.
    Denied {
        of_content_only: bool,
        reason: String,
    },
    /// Policy decides.
    Policy(Cause, String),
    /// Nobody waits for it, and it says nothing about the file.
    Withdrawn,
}

impl Facts {
    /// What is told about an operation that so many ports are to be asked about one after the other, this one first:
    /// each has its part of the time, so that one that is silent does not silence those below it.
    pub(super) fn of(operation: &Operation, turns: u32) -> Self {
        let stamp = operation.stamp();
        let asked = Instant::now();
        let left = operation.deadline.saturating_duration_since(asked);
        Self {
            file: Arc::clone(&operation.file),
            asked,
            deadline: match turns {
                0 | 1 => operation.deadline,
                _ => asked + left / turns,
            },
            id: operation.id,
            kind: operation.kind,
            key: stamp.map(|stamp| (stamp.id, operation.kind)),
            stamp: stamp.copied(),
            of_root: !operation.is_remote() && stamp.is_some_and(Stamp::is_of_root),
            pid: operation
                .pid
                .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
                .unwrap_or(0),
            size: stamp.map_or(0, |stamp| stamp.size),
            path: worth(operation.facts.validity()),
        }
    }

    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// For the service.
    pub(super) fn describe(&self) -> file::Question {
        let operation = match self.kind {
            Kind::Exec => file::Operation::Exec,
            Kind::Open => file::Operation::Open,
        };
        let id = self.key.map(|(id, _)| id);
        file::Question {
            id: self.id,
            operation: operation as u32,
            pid: self.pid,
            device: id.map_or(0, |id| id.device),
            inode: id.map_or(0, |id| id.inode),
            size: self.size,
            path: self.path as u32,
            reserved: 0,
            deadline: file::Question::deadline_in(self.remaining()),
        }
    }
}

/// What a path is worth, for services.
const fn worth(validity: Validity) -> file::PathValidity {
    match validity {
        Validity::Plain => file::PathValidity::Plain,
        Validity::OtherNamespace => file::PathValidity::OtherNamespace,
        Validity::Layer => file::PathValidity::Layer,
        Validity::Overlay => file::PathValidity::Overlay,
        Validity::Unlinked => file::PathValidity::Unlinked,
    }
}

impl Outcome {
    /// Whether it may be that of others who wait for the same file's, or says how they are to be asked.
    pub(super) const fn is_shared(&self) -> bool {
        match self {
            Self::Allowed { .. } | Self::Denied { .. } => true,
            Self::Policy(cause, _) => matches!(cause, Cause::Poison | Cause::Unscannable),
            Self::Withdrawn => false,
        }
    }
}

impl Question {
    pub(super) fn new(subject: Subject, turns: u32) -> Option<Self> {
        let facts = subject.look(|operation| Facts::of(operation, turns))?;
        Some(Self::with(subject, facts))
    }

    const fn with(subject: Subject, facts: Facts) -> Self {
        Self {
            subject,
            facts,
            place: Place::Waiting,
            suspect: false,
            extended: false,
            granted: Duration::ZERO,
            withdrawn: false,
            leads: false,
            sent: None,
            pending: None,
        }
    }

    /// About the open of a file of this inode, for nobody.
    #[cfg(test)]
    pub(super) fn about(inode: u64, of_root: bool) -> Self {
        let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        let id = FileId { device: 1, inode };
        let asked = Instant::now();
        let facts = Facts {
            file: Arc::new(file),
            asked,
            deadline: asked + Duration::from_secs(60),
            id: 0,
            kind: Kind::Open,
            key: Some((id, Kind::Open)),
            stamp: None,
            of_root,
            pid: 0,
            size: 0,
            path: file::PathValidity::Plain,
        };
        Self::with(Subject::of_nothing(), facts)
    }

    /// How it ends when no service has it.
    pub(super) fn without_service(&self, situation: Situation) -> Outcome {
        let (cause, reason) = match (self.suspect, situation) {
            (_, Situation::Ending) => (Cause::NoService, "the host ends"),
            (true, _) => (
                Cause::Poison,
                "a service died with this file, and it could not be tried again in time",
            ),
            (false, Situation::Absent) => (Cause::NoService, ""),
            (false, Situation::Killed) => (Cause::Poison, "the services have died of files"),
            (false, Situation::Silent) => (Cause::Timeout, "the services do not answer"),
            (false, Situation::Busy) => (Cause::Overload, "the services were busy"),
            (false, Situation::Trial) => (
                Cause::Overload,
                "the services were trying files again that one had died with",
            ),
        };
        Outcome::Policy(cause, reason.to_owned())
    }

    /// How it ends with what became of its message.
    pub(super) fn outcome(
        &self,
        result: Result<Answer, AskError>,
        situation: Situation,
    ) -> Outcome {
        let policy = |cause, reason: &str| Outcome::Policy(cause, reason.to_owned());
        match result {
            Ok(answer) => {
                let of_content_only = answer.is_of_content_only();
                match answer.verdict() {
                    Some(file::Verdict::Allow) => Outcome::Allowed { of_content_only },
                    Some(file::Verdict::Deny) => Outcome::Denied {
                        of_content_only,
                        reason: answer.reason(),
                    },
                    Some(file::Verdict::Unscannable) => {
                        Outcome::Policy(Cause::Unscannable, answer.reason())
                    }
                    _ => policy(Cause::Unscannable, "the service gave no verdict"),
                }
            }
            Err(_) if self.withdrawn => Outcome::Withdrawn,
            // Its time was over, whoever noticed first.
            Err(AskError::Send(
                SendError::TimedOut { delivered } | SendError::Cancelled { delivered },
            )) => match (self.suspect, delivered, situation) {
                (true, ..) => policy(
                    Cause::Poison,
                    "a service died with this file, and the next did not answer",
                ),
                // It answers others, or would if suspects did not wait: it is this file that takes so long.
                (false, true, Situation::Busy | Situation::Trial) if self.had_time() => policy(
                    Cause::Unscannable,
                    "the service took too long for this file",
                ),
                (_, _, Situation::Busy | Situation::Trial) => {
                    policy(Cause::Overload, "the services were busy")
                }
                _ => policy(Cause::Timeout, ""),
            },
            Err(AskError::Send(SendError::Refused(status))) => {
                policy(Cause::Overload, &status.to_string())
            }
            Err(error) => policy(Cause::Unscannable, &error.to_string()),
        }
    }

    /// Whether the service may be busy with the file still, or about to die of it, whatever it has said: a scanner says in
    /// time that there is no time left, and one that panics drops its question before it is gone.
    pub(super) fn may_go_on(&self, result: &Result<Answer, AskError>) -> bool {
        match result {
            Ok(answer) => match answer.verdict() {
                Some(file::Verdict::Allow | file::Verdict::Deny) => false,
                _ => self.had_time() || self.facts.remaining() < self.whole() / 4,
            },
            Err(AskError::Send(error)) => matches!(
                error,
                SendError::TimedOut { delivered: true } | SendError::Cancelled { delivered: true }
            ),
            Err(_) => true,
        }
    }

    /// What leads the others of its kind that wait for its answer, if it does.
    pub(super) fn flight(&self) -> Option<(Key, bool)> {
        let key = self.facts.key.filter(|_| self.leads);
        key.map(|key| (key, self.suspect))
    }

    /// Whether the service had it long enough to say that the file is what takes so long: half of its time.
    fn had_time(&self) -> bool {
        self.sent
            .is_some_and(|sent| sent.elapsed() >= self.whole() / 2)
    }

    /// All of its time.
    fn whole(&self) -> Duration {
        self.facts.deadline.duration_since(self.facts.asked)
    }

    /// It is over: decides its operation, or its part of that.
    pub(super) fn end(self, outcome: Outcome, judge: &Judge) {
        self.subject.end(outcome, judge, self.granted);
    }
}

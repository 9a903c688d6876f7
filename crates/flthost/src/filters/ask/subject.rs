//! Whom a question's answer is for: one operation alone, or a ballot in which several services have a voice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::question::Outcome;
use super::{Agree, Ask};
use crate::judge::Judge;
use crate::operation::{Operation, Pended, Verdict};
use crate::policy::Cause;

/// Whom a question's answer is for.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are whole operations; a box would cost each of them an allocation"
)]
pub(super) enum Subject {
    /// It decides this operation, as far as this altitude is concerned.
    Whole(Pended),
    /// It is one of several that do.
    Voice(Voice),
}

/// One service's part in a ballot. Dropped, it counts as a failure of the host.
#[derive(Debug)]
pub(super) struct Voice {
    ballot: Arc<Ballot>,
    is_cast: bool,
}

/// One operation that several ports are asked about side by side.
#[derive(Debug)]
pub(super) struct Ballot {
    agree: Agree,
    /// For voices that are lost.
    judge: Arc<Judge>,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    /// The operation, until it is decided.
    pended: Option<Pended>,
    /// Voices that are not cast.
    missing: usize,
    /// All verdicts so far are about the file's content alone.
    of_content_only: bool,
    /// Ports whose services have allowed it.
    allowed: usize,
    /// The most time that one of them was granted.
    granted: Duration,
    /// The strictest that policy had to decide for a port.
    by_policy: Option<Verdict>,
    /// The questions, to be withdrawn when their answers do not matter any more.
    questions: Vec<(Ask, u64)>,
}

/// How an operation goes on.
#[derive(Debug)]
enum Decided {
    Allowed { of_content_only: bool },
    Denied { reason: String },
    ByPolicy(Verdict),
}

impl Subject {
    /// Whatever becomes of it decides nothing.
    #[cfg(test)]
    pub(super) fn of_nothing() -> Self {
        let policies = crate::policy::Policies::lenient();
        let judge = Judge::new("test".to_owned(), policies, crate::judge::Surge::Never);
        let count = Count {
            pended: None,
            missing: 1,
            of_content_only: true,
            allowed: 0,
            granted: Duration::ZERO,
            by_policy: None,
            questions: Vec::new(),
        };
        let ballot = Arc::new(Ballot {
            agree: Agree::All,
            judge: Arc::new(judge),
            count: Mutex::new(count),
        });
        Self::Voice(ballot.voice())
    }

    /// The ballot, if it is one's voice.
    pub(super) const fn ballot(&self) -> Option<&Arc<Ballot>> {
        match self {
            Self::Whole(_) => None,
            Self::Voice(voice) => Some(&voice.ballot),
        }
    }

    /// Looks at the operation, if that is not decided.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Operation) -> T) -> Option<T> {
        match self {
            Self::Whole(pended) => pended.operation().map(look),
            Self::Voice(voice) => {
                let count = voice.ballot.lock();
                count.pended.as_ref()?.operation().map(look)
            }
        }
    }

    /// This is what became of the question, at a port where this decides in the place of services.
    /// whose service was granted so much more time: those below have theirs all the same.
    pub(super) fn end(self, outcome: Outcome, judge: &Judge, granted: Duration) {
        match self {
            Self::Voice(mut voice) => {
                voice.is_cast = true;
                voice.ballot.cast(outcome, judge, granted);
            }
            Self::Whole(mut pended) => {
                pended.extend(granted);
                let kind = pended.operation().map(Operation::kind);
                let decided = match outcome {
                    Outcome::Allowed { of_content_only } => Decided::Allowed { of_content_only },
                    Outcome::Denied { reason, .. } => Decided::Denied { reason },
                    Outcome::Policy(cause, reason) => {
                        let Some(kind) = kind else { return };
                        Decided::ByPolicy(judge.verdict(kind, cause, reason))
                    }
                    // Questions about whole operations are never withdrawn; dropped, it is decided as the host's failure.
                    Outcome::Withdrawn => return,
                };
                decided.settle(pended);
            }
        }
    }
}

impl Decided {
    /// Filters below are asked only about what goes on.
    fn settle(self, mut pended: Pended) {
        match self {
            Self::Allowed { of_content_only } => {
                pended.allowed_by_service(of_content_only);
                pended.resume(Verdict::allow(Cause::Service));
            }
            Self::Denied { reason } => pended.complete(Verdict::deny(Cause::Service, reason)),
            Self::ByPolicy(verdict) => pended.go_by_policy(verdict),
        }
    }
}

impl Ballot {
    /// Of so many voices.
    pub(super) fn new(pended: Pended, voices: usize, agree: Agree, judge: Arc<Judge>) -> Arc<Self> {
        let count = Count {
            pended: Some(pended),
            missing: voices,
            of_content_only: true,
            allowed: 0,
            granted: Duration::ZERO,
            by_policy: None,
            questions: Vec::with_capacity(voices),
        };
        Arc::new(Self {
            agree,
            judge,
            count: Mutex::new(count),
        })
    }

    /// One of its voices.
    pub(super) fn voice(self: &Arc<Self>) -> Voice {
        Voice {
            ballot: Arc::clone(self),
            is_cast: false,
        }
    }

    /// A voice's question is at this port, under this number.
    pub(super) fn asked(&self, ask: &Ask, token: u64) {
        let mut count = self.lock();
        if count.pended.is_some() {
            count.questions.push((ask.clone(), token));
            return;
        }
        drop(count);
        ask.withdraw(token);
    }

    fn cast(&self, outcome: Outcome, judge: &Judge, granted: Duration) {
        let mut count = self.lock();
        count.granted = count.granted.max(granted);
        count.missing = count.missing.saturating_sub(1);
        let Some(decided) = count.take_in(outcome, judge, self.agree) else {
            return;
        };
        let (pended, granted) = (count.pended.take(), count.granted);
        let questions = std::mem::take(&mut count.questions);
        drop(count);
        if let Some(mut pended) = pended {
            pended.extend(granted);
            decided.settle(pended);
        }
        for (ask, token) in questions {
            ask.withdraw(token);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// Counts a voice: how the operation goes on, if that is clear now.
    fn take_in(&mut self, outcome: Outcome, judge: &Judge, agree: Agree) -> Option<Decided> {
        let kind = self.pended.as_ref()?.operation()?.kind();
        match outcome {
            Outcome::Denied { reason, .. } => return Some(Decided::Denied { reason }),
            Outcome::Allowed { of_content_only } => {
                self.of_content_only &= of_content_only;
                self.allowed += 1;
                if agree == Agree::First {
                    return Some(Decided::Allowed { of_content_only });
                }
            }
            Outcome::Policy(cause, reason) => {
                let verdict = judge.verdict(kind, cause, reason);
                let stricter = |other: &Verdict| verdict.action.denies() && !other.action.denies();
                if self.by_policy.as_ref().is_none_or(stricter) {
                    self.by_policy = Some(verdict);
                }
                let denied = |verdict: &mut Verdict| verdict.action.denies();
                if agree == Agree::All
                    && let Some(verdict) = self.by_policy.take_if(denied)
                {
                    return Some(Decided::ByPolicy(verdict));
                }
            }
            Outcome::Withdrawn => {}
        }
        if self.missing > 0 {
            return None;
        }
        Some(match self.by_policy.take() {
            Some(verdict) => Decided::ByPolicy(verdict),
            None if self.allowed == 0 => {
                // Nobody has said anything, and nobody will.
                let reason = "no service was asked to the end".to_owned();
                Decided::ByPolicy(judge.verdict(kind, Cause::Crash, reason))
            }
            None => Decided::Allowed {
                of_content_only: self.of_content_only,
            },
        })
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if !self.is_cast {
            let outcome = Outcome::Policy(Cause::Crash, "dropped undecided".to_owned());
            self.ballot
                .cast(outcome, &self.ballot.judge, Duration::ZERO);
        }
    }
}

//! Asks the services of one port whether an operation may go on. Everything is asynchronous: a pending question costs
//! memory and a descriptor, never a thread.
//!
//! A file that was with a service when that died is a *suspect*: it is tried once more, alone, and if the service dies
//! again, or its time runs out meanwhile, the policy for poison decides. So a file cannot buy its permission by killing
//! the scanner, and the files that were merely beside it lose nothing.
//!
//! Many who want the same file at once share an answer: those who came before a service had the question always, those
//! who came later only if nobody has touched the file since; otherwise one of them asks for all of them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fltport::protocol::file::{Answer, FileProtocol, Request, Wish};
use fltport::protocol::{AskError, TypedPort, read};
use fltport::{Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal, SendError, Timeout};

use crate::cache::Cache;
use crate::judge::Judge;
use crate::mutes::Mutes;
use crate::operation::Pended;
use crate::policy::Cause;
use crate::pulse::{Pulse, gets_on};

mod question;
mod state;
mod subject;

use question::{Outcome, Place, Question};
use state::{Errand, Followers, State, Withdrawal};
use subject::{Ballot, Subject};

/// Where the services of one port are asked. Clones are the same; [`Ask::handler`] is its port's side.
#[derive(Clone, Debug)]
pub struct Ask {
    shared: Arc<Shared>,
}

/// What becomes of an operation that several ports are asked about side by side. A denial counts always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agree {
    /// All have to allow it.
    #[default]
    All,
    /// The first verdict decides. Policy does where none comes to one.
    First,
}

/// The callbacks of the port: services connect to it.
#[derive(Debug)]
pub struct AskHandler {
    shared: Arc<Shared>,
    /// The rules that services may add to, if they may.
    mutes: Option<Arc<Mutes>>,
}

#[derive(Debug)]
struct Shared {
    /// For what no service of this port decides.
    judge: Arc<Judge>,
    cache: Arc<Cache>,
    more_time: Duration,
    state: Mutex<State>,
    changed: Condvar,
    pulse: OnceLock<Arc<Pulse>>,
    /// Who is asked while no service is here, nor on its way.
    elsewhere: OnceLock<Ask>,
}

impl Ask {
    /// Without services, which may ask for so much more time. Its thread, which decides questions that wait too long for
    /// one, ends with [`Self::stop`].
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn new(judge: Judge, more_time: Duration, cache: Arc<Cache>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            judge: Arc::new(judge),
            cache,
            more_time,
            state: Mutex::default(),
            changed: Condvar::new(),
            pulse: OnceLock::new(),
            elsewhere: OnceLock::new(),
        });
        let janitor = Arc::clone(&shared);
        thread::Builder::new()
            .name("ask-deadline".into())
            .spawn(move || janitor.keep_deadlines())?;
        Ok(Self { shared })
    }

    /// While no service is here, nor on its way, the other is asked.
    pub(crate) fn ask_elsewhere(&self, other: &Self) {
        self.shared.elsewhere.set(other.clone()).ok();
    }

    /// A file that a service dies of is a suspect at the other, too: they are asked in turn. Before anything is.
    pub(crate) fn share_deadly(&self, other: &Self) {
        self.shared.lock().share_deadly(&other.shared.lock());
    }

    /// The callbacks for the port that services connect to. Services may ask for mutes if they are given some to add to.
    #[must_use]
    pub fn handler(&self, mutes: Option<Arc<Mutes>>) -> AskHandler {
        AskHandler {
            shared: Arc::clone(&self.shared),
            mutes,
        }
    }

    /// Says whether a service is on its way. While one is, questions wait for it until their deadline; otherwise they are
    /// decided by policy at once when none is connected.
    pub fn expect_service(&self, expected: bool) {
        self.shared.lock().expected = expected;
        self.shared.pump();
    }

    /// Whether a service is on its way, as [`Self::expect_service`] was told last.
    #[must_use]
    pub fn expects_service(&self) -> bool {
        self.shared.lock().expected
    }

    /// Whether a service is connected, or on its way.
    pub(crate) fn is_served(&self) -> bool {
        let state = self.shared.lock();
        state.expected || !state.services.is_empty()
    }

    /// Whether what policy would deny goes on, because no service has answered for long.
    pub(crate) fn is_released(&self) -> bool {
        self.shared.judge.is_released()
    }

    /// Services connected, questions with them, questions that wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize, usize) {
        self.shared.lock().load()
    }

    /// The keeper of deadlines is watched from now on: without it, operations could wait without an end.
    pub(crate) fn watch(&self, pulse: Arc<Pulse>) {
        self.shared.pulse.set(pulse).ok();
    }

    /// Takes the lock that questions need, and gives it back.
    pub(crate) fn touch(&self) {
        drop(self.shared.lock());
    }

    /// Asks about an operation, as the first of so many ports one after the other.
    pub(crate) fn decide(&self, pended: Pended, turns: u32) {
        if let Some(question) = Question::new(Subject::Whole(pended), turns) {
            self.shared.add(question, true);
            self.shared.pump();
        }
    }

    /// Asks several ports about an operation side by side.
    pub(crate) fn decide_together(asks: &[Self], pended: Pended, agree: Agree, turns: u32) {
        let Some(judge) = asks.first().map(|ask| Arc::clone(&ask.shared.judge)) else {
            return;
        };
        let ballot = Ballot::new(pended, asks.len(), agree, judge);
        for ask in asks {
            // Nothing where the others have decided already.
            let Some(question) = Question::new(Subject::Voice(ballot.voice()), turns) else {
                return;
            };
            ask.shared.add(question, true);
            ask.shared.pump();
        }
    }

    /// The answer to this question is not needed any more.
    fn withdraw(&self, token: u64) {
        let withdrawn = self.shared.lock().withdraw(token);
        match withdrawn {
            Some(Withdrawal::Cancel(pending)) => pending.cancel(),
            Some(Withdrawal::Drop(question)) => {
                question.end(Outcome::Withdrawn, &self.shared.judge);
                // Others may have waited for a suspect to be tried.
                self.shared.pump();
            }
            None => {}
        }
    }

    /// Decides what waits by policy, and ends the thread.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.expected = false;
        drop(state);
        self.shared.changed.notify_all();
        self.shared.pump();
    }
}

impl PortHandler for AskHandler {
    type Connection = u64;

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<u64, NtStatus> {
        let id = self.shared.lock().add_service(port);
        self.shared.pump();
        Ok(id)
    }

    fn disconnect(&self, service: u64, _: &Peer) {
        let died = self.shared.lock().bury(service, Instant::now());
        if died {
            self.shared.judge.service_died();
        }
        // The next one may have other rules, and this one may have died of what it called clean.
        self.shared.cache.forget();
        self.shared.pump();
        if let Some(mutes) = &self.mutes {
            mutes.disconnected(service);
        }
    }

    fn message(
        &self,
        service: &u64,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        // Before anything is done that the service could not be told of.
        let room: &mut [u8; 8] = output
            .split_first_chunk_mut()
            .ok_or(NtStatus::BUFFER_TOO_SMALL)?
            .0;
        let Ok(request) = read::<Request>(input) else {
            return self.message_about_mutes(*service, caller, input, room);
        };
        *room = match Wish::parse(request.wish) {
            Some(Wish::MoreTime) => self.shared.grant_time(*service, &request)?,
            Some(Wish::Forget) => {
                self.shared.cache.forget();
                [0; 8]
            }
            // As long as it, and something else.
            _ => return self.message_about_mutes(*service, caller, input, room),
        };
        Ok(room.len())
    }
}

impl AskHandler {
    fn message_about_mutes(
        &self,
        service: u64,
        caller: Caller,
        input: &[u8],
        room: &mut [u8; 8],
    ) -> Result<usize, Refusal> {
        let mutes = self.mutes.as_ref().ok_or(NtStatus::ACCESS_DENIED)?;
        *room = mutes.request(service, caller, input)?.to_le_bytes();
        Ok(room.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, question: Question, joins: bool) {
        let mut state = self.lock();
        if state.is_poison(&question, Instant::now()) {
            drop(state);
            let reason = "services have died of this file, the last one lately";
            let outcome = Outcome::Policy(Cause::Poison, reason.to_owned());
            return question.end(outcome, &self.judge);
        }
        let deadline = question.facts.deadline;
        let ballot = question.subject.ballot().map(Arc::clone);
        let token = state.add(question, joins);
        // As a rule the keeper of deadlines is up sooner, and need not be woken for each question.
        let sooner = state.looks_at.is_none_or(|looks| deadline < looks);
        if sooner {
            state.looks_at = Some(deadline);
        }
        drop(state);
        if sooner {
            self.changed.notify_all();
        }
        if let Some(ballot) = ballot {
            let shared = Arc::clone(self);
            ballot.asked(&Ask { shared }, token);
        }
    }

    /// Hands questions out as far as services allow. One thread at a time does so; it sees what others change.
    fn pump(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.pumping {
            return;
        }
        state.pumping = true;
        loop {
            // Others may bring more than one of them gets rid of.
            gets_on();
            if let Some(errand) = state.next_errand() {
                drop(state);
                self.send(errand);
                state = self.lock();
            } else if let Some(token) = state.next_forlorn() {
                let elsewhere = self.elsewhere.get().filter(|_| !state.stopped);
                drop(state);
                match elsewhere {
                    Some(other) => self.hand_on(token, other),
                    None => self.give_up(token),
                }
                state = self.lock();
            } else {
                state.pumping = false;
                return;
            }
        }
    }

    fn send(self: &Arc<Self>, errand: Errand) {
        let Errand {
            question: token,
            service,
            port,
        } = errand;
        let facts = self.lock().question(token).map(|question| {
            question.sent = Some(Instant::now());
            question.facts.clone()
        });
        let Some(facts) = facts else { return };
        // Its own deadline gives it up; the port's is for a service that may have asked for more time.
        let timeout = Timeout::after(facts.remaining() + self.more_time);
        let shared = Arc::clone(self);
        let pending = TypedPort::<FileProtocol>::new(port).ask_then(
            &facts.describe(),
            Some(Arc::clone(&facts.file)),
            timeout,
            move |result| shared.answered(token, service, result),
        );
        // It may have been answered by now, or be with another service.
        let mut state = self.lock();
        if let Some(question) = state
            .question(token)
            .filter(|q| q.place == Place::With(service))
        {
            if question.withdrawn {
                drop(state);
                return pending.cancel();
            }
            question.pending = Some(pending);
        }
    }

    fn answered(self: &Arc<Self>, token: u64, service: u64, result: Result<Answer, AskError>) {
        let mut state = self.lock();
        let Some(question) = state.question(token) else {
            return;
        };
        let (suspect, asked) = (question.suspect, question.facts.asked);
        let withdrawn = question.withdrawn;
        let poisoned = match result {
            Err(AskError::Send(SendError::Disconnected { delivered })) => {
                let now = Instant::now();
                let beside_given_up = state.bury(service, now);
                if delivered {
                    state.count_death(service, now);
                    state.accuse(token, beside_given_up);
                }
                if delivered || beside_given_up {
                    self.judge.service_died();
                }
                // It may have died of what it was too slow with.
                let alone = delivered && suspect && !beside_given_up;
                if !(alone || withdrawn) {
                    state.ask_again(token, service, delivered);
                    drop(state);
                    return self.pump();
                }
                if alone {
                    state.condemn(token, now);
                }
                !withdrawn
            }
            _ => false,
        };
        if result.is_ok() {
            state.answered = Some(Instant::now());
            state.acquit(token);
            self.judge.answered();
        }
        if state.question(token).is_some_and(|q| q.may_go_on(&result)) {
            state.leave_with(token, service, Instant::now());
        }
        let situation = state.situation(asked);
        let outcome = if poisoned {
            let reason = "the service died of this file twice";
            Some(Outcome::Policy(Cause::Poison, reason.to_owned()))
        } else {
            state.question(token).map(|q| q.outcome(result, situation))
        };
        let ended = outcome.and_then(|outcome| Some((state.end(token, &outcome)?, outcome)));
        drop(state);
        if let Some(((question, followers), outcome)) = ended {
            self.conclude(question, followers, outcome);
        }
        self.pump();
    }

    /// Asks somewhere else about a question that no service has here, and for those that wait for its answer.
    fn hand_on(&self, token: u64, other: &Ask) {
        let Some((question, followers)) = self.lock().take(token) else {
            return;
        };
        let Followers { early, late } = followers;
        for mut question in std::iter::once(question).chain(early).chain(late) {
            question.leads = false;
            other.shared.add(question, true);
        }
        other.shared.pump();
    }

    /// Ends a question that no service has.
    fn give_up(self: &Arc<Self>, token: u64) {
        let mut state = self.lock();
        let ended = state.end_unasked(token);
        drop(state);
        if let Some((question, followers, outcome)) = ended {
            self.conclude(question, followers, outcome);
        }
    }

    /// Ends a question, and those that waited for its answer as far as it is theirs; the others are asked.
    fn conclude(self: &Arc<Self>, question: Question, followers: Followers, outcome: Outcome) {
        let Followers { early, late } = followers;
        let (shares_early, shares_late) = match &outcome {
            Outcome::Allowed { of_content_only }
            | Outcome::Denied {
                of_content_only, ..
            } => {
                // Looked at before the answer lets anybody go on.
                let unchanged = *of_content_only
                    && !late.is_empty()
                    && question
                        .subject
                        .look(|operation| self.cache.is_unchanged(operation))
                        .unwrap_or(false);
                (*of_content_only, unchanged)
            }
            Outcome::Policy(Cause::Poison, _) => (true, true),
            Outcome::Policy(Cause::Unscannable, _) => (true, false),
            // It has none: see `Outcome::is_shared`.
            Outcome::Policy(..) | Outcome::Withdrawn => (false, false),
        };
        let by_asker = matches!(
            &outcome,
            Outcome::Allowed {
                of_content_only: false
            } | Outcome::Denied {
                of_content_only: false,
                ..
            }
        );
        // Whoever waits for the answer to another, and gets none, is as suspect as that.
        let suspect = question.suspect && matches!(outcome, Outcome::Policy(..));
        for (group, shares) in [(early, shares_early), (late, shares_late)] {
            for mut follower in group {
                follower.suspect |= suspect;
                if shares {
                    follower.end(outcome.clone(), &self.judge);
                } else {
                    // One asks for all, unless answers depend on who asks.
                    self.add(follower, !by_asker);
                }
            }
        }
        question.end(outcome, &self.judge);
    }

    /// Grants a service more time for a question, once; gives what is left, in milliseconds.
    fn grant_time(&self, service: u64, request: &Request) -> Result<[u8; 8], NtStatus> {
        let wanted = Duration::from_millis(request.millis.into());
        let by = wanted.min(self.more_time);
        let left = self.lock().extend(service, request.id, by);
        let left = left.ok_or(NtStatus::NOT_FOUND)?;
        self.changed.notify_all();
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Ok(millis.to_ne_bytes())
    }

    /// Ends questions whose time is over.
    fn keep_deadlines(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            let late = state.late(now);
            if late.is_empty() {
                state.looks_at = state.next_deadline();
                state = match state.looks_at {
                    None => self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                    Some(next) => {
                        let left = next.saturating_duration_since(now);
                        self.changed
                            .wait_timeout(state, left)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                };
                continue;
            }
            for token in late {
                state = self.expire(state, token);
            }
        }
    }

    /// Ends a question whose time is over: at its service, if one has it.
    fn expire<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        token: u64,
    ) -> MutexGuard<'a, State> {
        let Some(question) = state.question(token) else {
            return state;
        };
        let _at_work = self.pulse.get().map(|pulse| pulse.at_work());
        match (question.place, question.pending.take()) {
            // Its end comes by the cancelled send, which knows whether the service has had it.
            (Place::With(_), Some(pending)) => {
                drop(state);
                pending.cancel();
            }
            // It is being sent at this moment.
            (Place::With(_), None) => {
                drop(state);
                thread::yield_now();
            }
            (Place::Waiting | Place::Joined, _) => {
                drop(state);
                self.give_up(token);
                self.pump();
            }
        }
        self.lock()
    }
}

#[cfg(test)]
mod tests;

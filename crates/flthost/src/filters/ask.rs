//! Asks services, through a port, whether an operation may go on. Everything is asynchronous: a pending question costs
//! memory and a descriptor, never a thread.
//!
//! A file that was with a service when that died is a *suspect*: it is tried once more, alone, and if the service dies
//! again, or its time runs out meanwhile, the policy for poison decides. So a file cannot buy its permission by killing
//! the scanner, and the files that were merely beside it lose nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fltport::protocol::file::{self, Answer, FileProtocol};
use fltport::protocol::{AskError, TypedPort};
use fltport::{ClientPort, NtStatus, Peer, PortHandler, SendError, Timeout};

use crate::fanotify::Operation as Kind;
use crate::filter::{Altitude, Filter, Pre};
use crate::operation::{Operation, Pended, Verdict};
use crate::policy::Cause;

/// The filter. Clones are the same filter; [`Ask::handler`] is its port's side.
#[derive(Clone, Debug)]
pub struct Ask {
    shared: Arc<Shared>,
}

/// The callbacks of the filter's port: services connect to it.
#[derive(Debug)]
pub struct AskHandler {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<u64, Service>,
    next_service: u64,
    /// Questions that no service has.
    waiting: VecDeque<Question>,
    /// Questions to be tried alone.
    suspects: VecDeque<Question>,
    /// A suspect is with a service now.
    trial: bool,
    /// Questions with services, the trial's included.
    in_flight: usize,
    /// A service is on its way: questions wait for it.
    expected: bool,
    /// When a service answered last: while some do, a question that none took fell to the load.
    answered: Option<Instant>,
    /// When services died with files, lately: where that goes on, their absence is the files' doing.
    deaths: VecDeque<Instant>,
    /// Some thread hands questions out.
    pumping: bool,
    stopped: bool,
}

#[derive(Debug)]
struct Service {
    port: TypedPort<FileProtocol>,
    in_flight: usize,
}

#[derive(Debug)]
struct Question {
    pended: Pended,
    asked: Instant,
    deadline: Instant,
    /// It was with a service when that died.
    suspect: bool,
}

/// A question on its way to a service.
struct Errand {
    question: Question,
    service: u64,
    port: ClientPort,
}

impl Ask {
    /// A filter without services. Its thread, which decides questions that wait too long for one, ends with
    /// [`Self::stop`].
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn new() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let janitor = Arc::clone(&shared);
        thread::Builder::new()
            .name("ask-deadline".into())
            .spawn(move || janitor.keep_deadlines())?;
        Ok(Self { shared })
    }

    /// The callbacks for the port that services connect to.
    #[must_use]
    pub fn handler(&self) -> AskHandler {
        AskHandler {
            shared: Arc::clone(&self.shared),
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

    /// Services connected, questions with them, questions that wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize, usize) {
        let state = self.shared.lock();
        (
            state.services.len(),
            state.in_flight,
            state.waiting.len() + state.suspects.len(),
        )
    }

    /// Takes the lock that questions need, and gives it back.
    pub(crate) fn touch(&self) {
        drop(self.shared.lock());
    }

    /// Decides what waits by policy, and ends the filter's thread.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.expected = false;
        drop(state);
        self.shared.changed.notify_all();
        self.shared.pump();
    }
}

impl Filter for Ask {
    fn name(&self) -> &str {
        "ask"
    }

    fn altitude(&self) -> Altitude {
        Altitude(328_000)
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn pre_operation(&self, _: &Operation) -> Pre {
        let shared = Arc::clone(&self.shared);
        Pre::Pend(Box::new(move |pended| shared.offer(pended)))
    }
}

impl PortHandler for AskHandler {
    type Connection = u64;

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<u64, NtStatus> {
        let mut state = self.shared.lock();
        state.next_service += 1;
        let id = state.next_service;
        state.services.insert(
            id,
            Service {
                port: TypedPort::new(port),
                in_flight: 0,
            },
        );
        drop(state);
        self.shared.pump();
        Ok(id)
    }

    fn disconnect(&self, service: u64, _: &Peer) {
        self.shared.lock().services.remove(&service);
        self.shared.pump();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(self: &Arc<Self>, pended: Pended) {
        let times = pended
            .operation()
            .map(|operation| (operation.started, operation.deadline));
        let Some((asked, deadline)) = times else {
            return;
        };
        let mut state = self.lock();
        state.waiting.push_back(Question {
            pended,
            asked,
            deadline,
            suspect: false,
        });
        if state.waiting.len() == 1 {
            self.changed.notify_all();
        }
        drop(state);
        self.pump();
    }

    /// Hands questions out as far as services allow. One thread at a time does so; it sees what others change.
    fn pump(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.pumping {
            return;
        }
        state.pumping = true;
        loop {
            if let Some(errand) = state.next_errand() {
                drop(state);
                self.send(errand);
                state = self.lock();
            } else if let Some(question) = state.next_forlorn() {
                let situation = state.situation(&question);
                drop(state);
                question.give_up(situation);
                state = self.lock();
            } else {
                state.pumping = false;
                return;
            }
        }
    }

    fn send(self: &Arc<Self>, errand: Errand) {
        let Errand {
            question,
            service,
            port,
        } = errand;
        let Some(operation) = question.pended.operation() else {
            return;
        };
        let timeout = Timeout::after(operation.remaining());
        let asked = describe(operation);
        let file = Arc::clone(&operation.file);
        let shared = Arc::clone(self);
        // Given up only by its own deadline: the pending send is not kept.
        let _pending = TypedPort::<FileProtocol>::new(port).ask_then(
            &asked,
            Some(file),
            timeout,
            move |result| shared.answered(question, service, result),
        );
    }

    fn answered(
        self: &Arc<Self>,
        mut question: Question,
        service: u64,
        result: Result<Answer, AskError>,
    ) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        let tried_alone = question.suspect;
        if tried_alone {
            state.trial = false;
        }
        if let Some(service) = state.services.get_mut(&service) {
            service.in_flight = service.in_flight.saturating_sub(1);
        }
        match result {
            Err(AskError::Send(SendError::Disconnected { delivered })) => {
                state.services.remove(&service);
                if delivered {
                    state.count_death(Instant::now());
                }
                if delivered && tried_alone {
                    drop(state);
                    question
                        .pended
                        .complete_by_policy(Cause::Poison, "the service died of this file twice");
                } else {
                    question.suspect |= delivered;
                    state.take_back(question);
                    drop(state);
                    self.changed.notify_all();
                }
            }
            other => {
                if other.is_ok() {
                    state.answered = Some(Instant::now());
                }
                let situation = state.situation(&question);
                drop(state);
                question.conclude(other, situation);
            }
        }
        self.pump();
    }

    /// Decides questions whose deadline comes while no service has them.
    fn keep_deadlines(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            let late = state.take_late(now);
            let late: Vec<_> = late
                .into_iter()
                .map(|question| (state.situation(&question), question))
                .collect();
            if late.is_empty() {
                state = match state.next_deadline() {
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
            drop(state);
            late.into_iter()
                .for_each(|(situation, question)| question.give_up(situation));
            state = self.lock();
        }
    }
}

impl State {
    /// The next question and the service that gets it: suspects first, and alone.
    fn next_errand(&mut self) -> Option<Errand> {
        if self.trial || (!self.suspects.is_empty() && self.in_flight > 0) {
            return None;
        }
        let (&service, _) = self
            .services
            .iter()
            .min_by_key(|(_, service)| service.in_flight)?;
        let question = match self.suspects.pop_front() {
            Some(suspect) => {
                self.trial = true;
                suspect
            }
            None => self.waiting.pop_front()?,
        };
        self.in_flight += 1;
        let chosen = self.services.get_mut(&service)?;
        chosen.in_flight += 1;
        Some(Errand {
            question,
            service,
            port: chosen.port.port().clone(),
        })
    }

    /// A question that waits for a service that will not come. Suspects wait until their deadline all the same: the
    /// service that died with them may come back by itself, and most of them are innocent.
    fn next_forlorn(&mut self) -> Option<Question> {
        if self.expected || !self.services.is_empty() {
            return None;
        }
        match self.waiting.pop_front() {
            None if self.stopped => self.suspects.pop_front(),
            waiting => waiting,
        }
    }

    fn take_back(&mut self, question: Question) {
        if question.suspect {
            self.suspects.push_back(question);
        } else {
            self.waiting.push_front(question);
        }
    }

    fn take_late(&mut self, now: Instant) -> Vec<Question> {
        let mut late = Vec::new();
        for queue in [&mut self.waiting, &mut self.suspects] {
            if queue.iter().any(|question| question.deadline <= now) {
                for question in std::mem::take(queue) {
                    if question.deadline <= now {
                        late.push(question);
                    } else {
                        queue.push_back(question);
                    }
                }
            }
        }
        late
    }

    fn count_death(&mut self, now: Instant) {
        self.deaths.push_back(now);
        while self.deaths.len() > DEATHS {
            self.deaths.pop_front();
        }
    }

    /// What the services are like for a question that is to be decided without them.
    fn situation(&self, question: &Question) -> Situation {
        let killed = self.deaths.len() >= DEATHS
            && self
                .deaths
                .front()
                .is_some_and(|first| first.elapsed() < KILLED);
        match self.services.is_empty() {
            _ if self.stopped => Situation::Ending,
            true if killed => Situation::Killed,
            true => Situation::Absent,
            false if self.answered > Some(question.asked) => Situation::Busy,
            false => Situation::Silent,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .chain(&self.suspects)
            .map(|question| question.deadline)
            .min()
    }
}

/// What the services are like at one moment, for a question that none has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    /// The host ends.
    Ending,
    /// None is connected.
    Absent,
    /// None is connected, and the last died of files.
    Killed,
    /// Some are connected, and none has answered anything since the question was asked.
    Silent,
    /// Some are connected, and have answered others meanwhile.
    Busy,
}

impl Question {
    /// Decides by policy a question that no service has.
    fn give_up(self, situation: Situation) {
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
        };
        self.pended.complete_by_policy(cause, reason);
    }

    fn conclude(self, result: Result<Answer, AskError>, situation: Situation) {
        let (cause, reason) = match result {
            Ok(answer) => match answer.verdict() {
                Some(file::Verdict::Allow) => {
                    return self.pended.resume(Verdict::allow(Cause::Service));
                }
                Some(file::Verdict::Deny) => {
                    return self
                        .pended
                        .complete(Verdict::deny(Cause::Service, answer.reason()));
                }
                Some(file::Verdict::Unscannable) => (Cause::Unscannable, answer.reason()),
                _ => (Cause::Unscannable, "the service gave no verdict".to_owned()),
            },
            Err(AskError::Send(SendError::TimedOut { .. })) if self.suspect => {
                let reason = "a service died with this file, and the next did not answer";
                (Cause::Poison, reason.to_owned())
            }
            Err(AskError::Send(SendError::TimedOut { delivered: false }))
                if situation == Situation::Busy =>
            {
                (Cause::Overload, "the services were busy".to_owned())
            }
            Err(AskError::Send(SendError::TimedOut { .. })) => (Cause::Timeout, String::new()),
            Err(AskError::Send(SendError::Refused(status))) => {
                (Cause::Overload, status.to_string())
            }
            Err(error) => (Cause::Unscannable, error.to_string()),
        };
        self.pended.complete_by_policy(cause, reason);
    }
}

/// So many services that died with files, in so much time, make the absence of services the files' doing.
const DEATHS: usize = 4;
const KILLED: Duration = Duration::from_secs(60);

/// Facts for the service.
fn describe(operation: &Operation) -> file::Question {
    let stamp = operation.stamp();
    let kind = match operation.kind() {
        Kind::Exec => file::Operation::Exec,
        Kind::Open => file::Operation::Open,
    };
    file::Question {
        id: operation.id(),
        operation: kind as u32,
        pid: operation
            .pid()
            .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
            .unwrap_or(0),
        device: stamp.map_or(0, |stamp| stamp.id.device),
        inode: stamp.map_or(0, |stamp| stamp.id.inode),
        size: stamp.map_or(0, |stamp| stamp.size),
    }
}

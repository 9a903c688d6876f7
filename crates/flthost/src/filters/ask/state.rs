//! Which questions there are, where each is, and which service gets which: no system call, no clock of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fltport::protocol::TypedPort;
use fltport::protocol::file::FileProtocol;
use fltport::{ClientPort, Pending};

use super::question::{Key, Outcome, Place, Question};
use crate::stamp::FileId;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) services: BTreeMap<u64, Service>,
    questions: HashMap<u64, Question>,
    next_question: u64,
    /// Questions that no service has, in the order in which they are asked. Some may have ended meanwhile.
    waiting: VecDeque<u64>,
    /// Questions to be tried alone.
    suspects: VecDeque<u64>,
    deadly: Arc<Mutex<Deadly>>,
    /// When the keeper of deadlines looks again: nothing if only when it is told to.
    pub(super) looks_at: Option<Instant>,
    /// When each question's time is over.
    times: BTreeSet<(Instant, u64)>,
    /// Files that are being asked about, with everybody who waits for that.
    flights: HashMap<Key, Flight>,
    /// A suspect is with a service now.
    trial: bool,
    /// Questions with services, the trial's included.
    pub(super) in_flight: usize,
    /// A service is on its way: questions wait for it.
    pub(super) expected: bool,
    /// When a service answered last: while some do, a question that none took fell to the load.
    pub(super) answered: Option<Instant>,
    /// When services died with files, lately: where that goes on, their absence is the files' doing.
    deaths: VecDeque<Instant>,
    /// Some thread hands questions out.
    pub(super) pumping: bool,
    pub(super) stopped: bool,
}

#[derive(Debug)]
pub(super) struct Service {
    port: TypedPort<FileProtocol>,
    in_flight: usize,
}

/// Everybody who waits for the answer to one question.
#[derive(Debug, Default)]
struct Flight {
    leader: u64,
    /// Those who came before a service had the question: its answer is theirs.
    early: VecDeque<u64>,
    /// Those who came later: the file may have changed since it was read.
    late: VecDeque<u64>,
}

/// Everybody who waited for the answer to a question that has ended.
#[derive(Debug, Default)]
pub(super) struct Followers {
    pub(super) early: Vec<Question>,
    pub(super) late: Vec<Question>,
}

/// Files that were with a service when it died, and that none has answered about since: each question about one is a
/// suspect from the beginning. Otherwise a deadly file could wait until nobody is there, and have the milder policy of that.
#[derive(Debug, Default)]
struct Deadly {
    /// With the number of each, which rise.
    numbers: HashMap<FileId, u64>,
    files: BTreeMap<u64, FileId>,
    next: u64,
}

/// More than can be with services at a time.
const DEADLY: usize = 65_536;

impl Deadly {
    fn add(&mut self, file: FileId) {
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

    fn remove(&mut self, file: FileId) {
        if let Some(number) = self.numbers.remove(&file) {
            self.files.remove(&number);
        }
    }

    fn contains(&self, file: FileId) -> bool {
        self.numbers.contains_key(&file)
    }
}

/// What is to be sent to a service.
pub(super) struct Errand {
    pub(super) question: u64,
    pub(super) service: u64,
    pub(super) port: ClientPort,
}

/// What ends a question that nobody needs the answer of.
pub(super) enum Withdrawal {
    /// Its service is told so.
    Cancel(Pending),
    /// It is nowhere any more, and is to be dropped where no lock is held.
    Drop(Box<Question>),
}

/// What the services are like at one moment, for a question that none has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
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
    /// Some are connected, and none is given anything but files that one has died with.
    Trial,
}

/// Services have numbers of their own among those of all ports: rules of theirs are known by them.
static NEXT_SERVICE: AtomicU64 = AtomicU64::new(1);

/// So many services that died with files, in so much time, make the absence of services the files' doing.
const DEATHS: usize = 4;
const KILLED: Duration = Duration::from_secs(60);

/// A queue below this length is not looked through for what has ended.
const QUEUE_MIN: usize = 64;

impl State {
    pub(super) fn add_service(&mut self, port: ClientPort) -> u64 {
        let number = NEXT_SERVICE.fetch_add(1, Ordering::Relaxed);
        let service = Service {
            port: TypedPort::new(port),
            in_flight: 0,
        };
        self.services.insert(number, service);
        number
    }

    /// Takes a question in. `joins`: it may share the answer of another about the same file.
    pub(super) fn add(&mut self, mut question: Question, joins: bool) -> u64 {
        let token = self.next_question;
        self.next_question += 1;
        self.times.insert((question.facts.deadline, token));
        question.suspect |= self.is_deadly(&question);
        let mut key = question.facts.key.filter(|_| joins);
        let leads = |flight: &Flight| self.questions.get(&flight.leader);
        let leader = key.and_then(|key| self.flights.get(&key)).and_then(leads);
        if question.suspect && leader.is_some_and(|leader| !leader.suspect) {
            // It is tried alone, and the other one is not.
            key = None;
        }
        let flight = key.and_then(|key| self.flights.get_mut(&key));
        if let Some(flight) = flight {
            let leader = self.questions.get(&flight.leader);
            let is_early = leader.is_some_and(|leader| leader.place == Place::Waiting);
            question.place = Place::Joined;
            if is_early {
                flight.early.push_back(token);
            } else {
                flight.late.push_back(token);
            }
        } else {
            if let Some(key) = key {
                let flight = Flight {
                    leader: token,
                    ..Flight::default()
                };
                self.flights.insert(key, flight);
            }
            question.leads = key.is_some();
            question.place = Place::Waiting;
            self.queue(question.suspect).push_back(token);
        }
        self.questions.insert(token, question);
        token
    }

    /// Where questions wait for a service.
    const fn queue(&mut self, suspect: bool) -> &mut VecDeque<u64> {
        if suspect {
            &mut self.suspects
        } else {
            &mut self.waiting
        }
    }

    /// Whether a service has died with the file of this question.
    fn is_deadly(&self, question: &Question) -> bool {
        let file = question.facts.key.map(|(file, _)| file);
        file.is_some_and(|file| self.deadly().contains(file))
    }

    fn deadly(&self) -> MutexGuard<'_, Deadly> {
        self.deadly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what a service of the other has died with is known here, too, and the other way round.
    pub(super) fn share_deadly(&mut self, other: &Self) {
        self.deadly = Arc::clone(&other.deadly);
    }

    pub(super) fn question(&mut self, token: u64) -> Option<&mut Question> {
        self.questions.get_mut(&token)
    }

    /// Takes a question out, because it ends like this, with those whom that concerns of those that wait for its answer.
    /// Where it concerns none of them, the next one waits for an answer in its place: a crowd costs no more than its parts.
    pub(super) fn end(&mut self, token: u64, outcome: &Outcome) -> Option<(Question, Followers)> {
        if outcome.is_shared() {
            return self.take(token);
        }
        let question = self.remove(token)?;
        let flight = question.facts.key.filter(|_| question.leads);
        if let Some(key) = flight {
            self.pass_on(key, question.suspect);
        }
        Some((question, Followers::default()))
    }

    /// Whoever waited for the answer of a suspect is one.
    fn pass_on(&mut self, key: Key, suspect: bool) {
        let Some(mut flight) = self.flights.remove(&key) else {
            return;
        };
        // No service has the question now, so all of them come before that.
        flight.early.append(&mut flight.late);
        while let Some(token) = flight.early.pop_front() {
            // Some have ended meanwhile.
            if let Some(next) = self.questions.get_mut(&token) {
                next.suspect |= suspect;
                next.leads = true;
                next.place = Place::Waiting;
                let suspect = next.suspect;
                self.queue(suspect).push_back(token);
                flight.leader = token;
                self.flights.insert(key, flight);
                return;
            }
        }
    }

    /// Takes a question out, because it ends, with those that wait for its answer.
    pub(super) fn take(&mut self, token: u64) -> Option<(Question, Followers)> {
        let question = self.remove(token)?;
        let mut followers = Followers::default();
        let flight = question.facts.key.filter(|_| question.leads);
        if let Some(flight) = flight.and_then(|key| self.flights.remove(&key)) {
            let mut all = |tokens: VecDeque<u64>| -> Vec<Question> {
                tokens
                    .into_iter()
                    .filter_map(|token| self.remove(token))
                    .collect()
            };
            followers = Followers {
                early: all(flight.early),
                late: all(flight.late),
            };
        }
        Some((question, followers))
    }

    fn remove(&mut self, token: u64) -> Option<Question> {
        let question = self.questions.remove(&token)?;
        self.times.remove(&(question.facts.deadline, token));
        if let Place::With(service) = question.place {
            self.leave(service, question.suspect);
        }
        // While no service is there, nobody takes them out.
        let room = 2 * self.questions.len() + QUEUE_MIN;
        for suspect in [true, false] {
            if self.queue(suspect).len() > room {
                let mut queue = std::mem::take(self.queue(suspect));
                queue.retain(|token| self.is_waiting(*token));
                *self.queue(suspect) = queue;
            }
        }
        Some(question)
    }

    fn is_waiting(&self, token: u64) -> bool {
        let question = self.questions.get(&token);
        question.is_some_and(|question| question.place == Place::Waiting)
    }

    /// A service has a question no more.
    fn leave(&mut self, service: u64, suspect: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if suspect {
            self.trial = false;
        }
        if let Some(service) = self.services.get_mut(&service) {
            service.in_flight = service.in_flight.saturating_sub(1);
        }
    }

    /// The next question and the service that gets it: suspects first, and alone.
    pub(super) fn next_errand(&mut self) -> Option<Errand> {
        if self.trial || (!self.suspects.is_empty() && self.in_flight > 0) {
            return None;
        }
        let (&service, _) = self
            .services
            .iter()
            .min_by_key(|(_, service)| service.in_flight)?;
        let suspect = self.next_of(true);
        let token = match suspect {
            Some(token) => {
                self.trial = true;
                token
            }
            None => self.next_of(false)?,
        };
        self.in_flight += 1;
        self.questions.get_mut(&token)?.place = Place::With(service);
        let chosen = self.services.get_mut(&service)?;
        chosen.in_flight += 1;
        Some(Errand {
            question: token,
            service,
            port: chosen.port.port().clone(),
        })
    }

    /// The next of a queue that has not ended.
    fn next_of(&mut self, suspect: bool) -> Option<u64> {
        loop {
            let token = self.queue(suspect).pop_front()?;
            if self.is_waiting(token) {
                return Some(token);
            }
        }
    }

    /// A question that waits for a service that will not come. Suspects wait until their deadline all the same: the
    /// service that died with them may come back by itself, and most of them are innocent.
    pub(super) fn next_forlorn(&mut self) -> Option<u64> {
        if self.expected || !self.services.is_empty() {
            return None;
        }
        match self.next_of(false) {
            None if self.stopped => self.next_of(true),
            waiting => waiting,
        }
    }

    /// A service has gone, and had this question, `delivered` or not: it is asked again, alone if it was.
    pub(super) fn ask_again(&mut self, token: u64, service: u64, delivered: bool) {
        let was = self
            .questions
            .get(&token)
            .is_some_and(|question| question.suspect);
        self.leave(service, was);
        let question = self.questions.get(&token);
        let suspect = delivered || question.is_some_and(|question| self.is_deadly(question));
        let Some(question) = self.questions.get_mut(&token) else {
            return;
        };
        question.place = Place::Waiting;
        question.pending = None;
        question.suspect |= suspect;
        if question.suspect {
            self.suspects.push_back(token);
        } else {
            self.waiting.push_front(token);
        }
    }

    /// A service has died that had this question. If it had others too, a file that is root's alone is taken for innocent:
    /// without such files (a library, say) no service may be able to come back.
    pub(super) fn accuse(&mut self, token: u64) {
        let question = self.questions.get(&token);
        let accused = question.filter(|question| question.suspect || !question.facts.of_root);
        if let Some((file, _)) = accused.and_then(|question| question.facts.key) {
            self.deadly().add(file);
        }
    }

    /// A service has answered a question: its file is not one that it dies of.
    pub(super) fn acquit(&mut self, token: u64) {
        let question = self.questions.get(&token);
        if let Some((file, _)) = question.and_then(|question| question.facts.key) {
            self.deadly().remove(file);
        }
    }

    /// Nobody needs the answer any more, unless others wait for it with this question: what is to be done about it.
    pub(super) fn withdraw(&mut self, token: u64) -> Option<Withdrawal> {
        let question = self.questions.get(&token)?;
        let flight = question.facts.key.filter(|_| question.leads);
        let flight = flight.and_then(|key| self.flights.get(&key));
        // They have waited for it: asked again, they would wait twice.
        let waits = |token| self.questions.contains_key(token);
        if flight.is_some_and(|flight| flight.early.iter().chain(&flight.late).any(waits)) {
            return None;
        }
        let question = self.questions.get_mut(&token)?;
        question.withdrawn = true;
        match question.place {
            Place::With(_) => question.pending.take().map(Withdrawal::Cancel),
            Place::Waiting | Place::Joined => {
                let (question, _) = self.take(token)?;
                Some(Withdrawal::Drop(Box::new(question)))
            }
        }
    }

    /// The questions whose time is over.
    pub(super) fn late(&self, now: Instant) -> Vec<u64> {
        let late = self.times.iter().take_while(|(time, _)| *time <= now);
        late.map(|(_, token)| *token).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.times.first().map(|(time, _)| *time)
    }

    /// A question's time is over later, if this is the first time that its service asks for that: the time left.
    pub(super) fn extend(&mut self, service: u64, id: u64, by: Duration) -> Option<Duration> {
        let (&token, question) = self.questions.iter_mut().find(|(_, question)| {
            question.facts.id == id && question.place == Place::With(service) && !question.extended
        })?;
        let flight = question.facts.key.filter(|_| question.leads);
        let flight = flight.and_then(|key| self.flights.get(&key));
        // Those who wait for its answer have the time that they would have had alone.
        let followers = flight.map(|flight| {
            let all = flight.early.iter().chain(&flight.late);
            all.copied().collect::<Vec<_>>()
        });
        for token in followers.into_iter().flatten().chain([token]) {
            // Whoever had more time with an earlier question, which was not answered for him, has had it.
            if let Some(question) = self.questions.get_mut(&token).filter(|q| !q.extended) {
                question.extended = true;
                self.times.remove(&(question.facts.deadline, token));
                question.facts.deadline += by;
                question.granted = by;
                self.times.insert((question.facts.deadline, token));
            }
        }
        self.questions
            .get(&token)
            .map(|question| question.facts.remaining())
    }

    /// Whether files wait to be tried alone.
    fn has_suspects(&self) -> bool {
        self.suspects.iter().any(|token| self.is_waiting(*token))
    }

    /// How a question ends that no service has, and takes it out as [`Self::end`] does. Whoever waits for the answer to
    /// another is as suspect as that.
    pub(super) fn end_unasked(&mut self, token: u64) -> Option<(Question, Followers, Outcome)> {
        let question = self.questions.get(&token)?;
        let key = question
            .facts
            .key
            .filter(|_| question.place == Place::Joined);
        let leader = key
            .and_then(|key| self.flights.get(&key))
            .map(|flight| flight.leader);
        let leader = leader.and_then(|leader| self.questions.get(&leader));
        let suspect = leader.is_some_and(|leader| leader.suspect);
        let question = self.questions.get_mut(&token)?;
        question.suspect |= suspect;
        let asked = question.facts.asked;
        let situation = self.situation(asked);
        let outcome = self.questions.get(&token)?.without_service(situation);
        let (question, followers) = self.end(token, &outcome)?;
        Some((question, followers, outcome))
    }

    /// Services connected, questions with them, questions that wait.
    pub(super) fn load(&self) -> (usize, usize, usize) {
        let waiting = self.questions.len().saturating_sub(self.in_flight);
        (self.services.len(), self.in_flight, waiting)
    }

    pub(super) fn count_death(&mut self, now: Instant) {
        self.deaths.push_back(now);
        while self.deaths.len() > DEATHS {
            self.deaths.pop_front();
        }
    }

    /// What the services are like for a question, asked at that time, that is to be decided without them.
    pub(super) fn situation(&self, asked: Instant) -> Situation {
        let killed = self.deaths.len() >= DEATHS
            && self
                .deaths
                .front()
                .is_some_and(|first| first.elapsed() < KILLED);
        match self.services.is_empty() {
            _ if self.stopped => Situation::Ending,
            true if killed => Situation::Killed,
            true => Situation::Absent,
            false if self.answered > Some(asked) => Situation::Busy,
            false if self.trial || self.has_suspects() => Situation::Trial,
            false => Situation::Silent,
        }
    }
}

#[cfg(test)]
mod tests;

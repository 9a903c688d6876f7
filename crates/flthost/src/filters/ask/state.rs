//! Which questions there are, where each is, and which service gets which: no system call, no lock, no clock of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fltport::protocol::TypedPort;
use fltport::protocol::file::FileProtocol;
use fltport::{ClientPort, Pending};

use super::question::{Key, Place, Question};
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
    deadly: Deadly,
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
    early: Vec<u64>,
    /// Those who came later: the file may have changed since it was read.
    late: Vec<u64>,
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
        let file = question.facts.key.map(|(file, _)| file);
        question.suspect |= file.is_some_and(|file| self.deadly.contains(file));
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
                flight.early.push(token);
            } else {
                flight.late.push(token);
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
            if question.suspect {
                self.suspects.push_back(token);
            } else {
                self.waiting.push_back(token);
            }
        }
        self.questions.insert(token, question);
        token
    }

    pub(super) fn question(&mut self, token: u64) -> Option<&mut Question> {
        self.questions.get_mut(&token)
    }

    /// Takes a question out, because it ends, with those that wait for its answer.
    pub(super) fn take(&mut self, token: u64) -> Option<(Question, Followers)> {
        let question = self.remove(token)?;
        let mut followers = Followers::default();
        let flight = question.facts.key.filter(|_| question.leads);
        if let Some(flight) = flight.and_then(|key| self.flights.remove(&key)) {
            let mut all = |tokens: Vec<u64>| -> Vec<Question> {
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
        Some(question)
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
        let suspect = self.next_of(|state| &mut state.suspects);
        let token = match suspect {
            Some(token) => {
                self.trial = true;
                token
            }
            None => self.next_of(|state| &mut state.waiting)?,
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
    fn next_of(&mut self, queue: impl Fn(&mut Self) -> &mut VecDeque<u64>) -> Option<u64> {
        loop {
            let token = queue(self).pop_front()?;
            let question = self.questions.get(&token);
            if question.is_some_and(|question| question.place == Place::Waiting) {
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
        match self.next_of(|state| &mut state.waiting) {
            None if self.stopped => self.next_of(|state| &mut state.suspects),
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
        let Some(question) = self.questions.get_mut(&token) else {
            return;
        };
        question.place = Place::Waiting;
        question.pending = None;
        question.suspect |= delivered;
        if question.suspect {
            self.suspects.push_back(token);
        } else {
            self.waiting.push_front(token);
        }
    }

    /// A service has died that had this question.
    pub(super) fn accuse(&mut self, token: u64) {
        let question = self.questions.get(&token);
        if let Some((file, _)) = question.and_then(|question| question.facts.key) {
            self.deadly.add(file);
        }
    }

    /// A service has answered a question: its file is not one that it dies of.
    pub(super) fn acquit(&mut self, token: u64) {
        let question = self.questions.get(&token);
        if let Some((file, _)) = question.and_then(|question| question.facts.key) {
            self.deadly.remove(file);
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
        let followers = flight.map(|flight| [&flight.early[..], &flight.late[..]].concat());
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
        let waits = |token| {
            let question: Option<&Question> = self.questions.get(token);
            question.is_some_and(|question| question.place == Place::Waiting)
        };
        self.suspects.iter().any(waits)
    }

    /// Takes out a question that ends without a service, and those that wait for its answer. Whoever waits for the
    /// answer to another is as suspect as that.
    pub(super) fn take_unasked(&mut self, token: u64) -> Option<(Question, Followers)> {
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
        let (mut question, followers) = self.take(token)?;
        question.suspect |= suspect;
        Some((question, followers))
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

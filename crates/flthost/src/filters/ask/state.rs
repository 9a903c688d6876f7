//! Which questions there are, where each is, and which service gets which: no system call, no clock of its own.

mod deadly;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fltport::protocol::TypedPort;
use fltport::protocol::file::FileProtocol;
use fltport::{ClientPort, Pending};

use self::deadly::{Deadly, Deaths, KILLED};
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
    flights: HashMap<FlightKey, Flight>,
    /// A suspect is with a service now.
    trial: bool,
    /// How many of the others are sent before the next suspect: those who waited while the last one was tried.
    turns: usize,
    /// Questions with services, the trial's included.
    pub(super) in_flight: usize,
    /// A service is on its way: questions wait for it.
    pub(super) expected: bool,
    /// When a service answered last: while some do, a question that none took fell to the load.
    pub(super) answered: Option<Instant>,
    /// When services died with files, lately: where that goes on, their absence is the files' doing.
    deaths: Deaths,
    /// Some thread hands questions out.
    pub(super) pumping: bool,
    pub(super) stopped: bool,
}

#[derive(Debug)]
pub(super) struct Service {
    port: TypedPort<FileProtocol>,
    in_flight: usize,
    /// Files that it was too slow with, and may still be busy with: it can die of one all the same.
    given_up: VecDeque<(FileId, Instant)>,
}

/// Suspects wait for the answers to suspects, and others for those to others.
type FlightKey = (Key, bool);

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

/// So many files that one service was given and has not answered in time are remembered; it is hardly busy with more.
const GIVEN_UP: usize = 256;

/// A queue below this length is not looked through for what has ended.
const QUEUE_MIN: usize = 64;

impl State {
    pub(super) fn add_service(&mut self, port: ClientPort) -> u64 {
        let number = NEXT_SERVICE.fetch_add(1, Ordering::Relaxed);
        let service = Service {
            port: TypedPort::new(port),
            in_flight: 0,
            given_up: VecDeque::new(),
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
        let key = question.facts.key.filter(|_| joins);
        let key = key.map(|key| (key, question.suspect));
        if let Some(flight) = key.and_then(|key| self.flights.get_mut(&key)) {
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

    /// Whether no service is to be given the file of this question for now: the last one has died of it alone.
    pub(super) fn is_poison(&self, question: &Question, now: Instant) -> bool {
        let stamp = question.facts.stamp.as_ref();
        stamp.is_some_and(|stamp| self.deadly().is_poison(stamp, now))
    }

    /// A service has died that had this question alone. Files of root are tried again at once: without one of them, a
    /// library say, no service may be able to come back.
    pub(super) fn condemn(&mut self, token: u64, now: Instant) {
        let facts = self.questions.get(&token).map(|question| &question.facts);
        let stamp = facts.filter(|f| !f.of_root).and_then(|f| f.stamp);
        if let Some(stamp) = stamp {
            self.deadly().condemn(stamp, now);
        }
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
        if let Some(key) = question.flight() {
            self.pass_on(key, question.place == Place::Waiting);
        }
        Some((question, Followers::default()))
    }

    /// `at_once`: the one before has had no turn, and theirs is the next one's.
    fn pass_on(&mut self, key: FlightKey, at_once: bool) {
        let Some(mut flight) = self.flights.remove(&key) else {
            return;
        };
        // No service has the question now, so all of them come before that.
        flight.early.append(&mut flight.late);
        while let Some(token) = flight.early.pop_front() {
            // Some have ended meanwhile.
            if let Some(next) = self.questions.get_mut(&token) {
                next.leads = true;
                next.place = Place::Waiting;
                flight.leader = token;
                self.flights.insert(key, flight);
                let suspect = self.look_again(token);
                if at_once {
                    self.queue(suspect).push_front(token);
                } else {
                    self.queue(suspect).push_back(token);
                }
                return;
            }
        }
    }

    /// Whether a question is a suspect, or is one by now.
    fn look_again(&mut self, token: u64) -> bool {
        let is_deadly = self.questions.get(&token).is_some_and(|question| {
            // Most files are not.
            !question.suspect && self.is_deadly(question)
        });
        if is_deadly {
            self.suspect(token);
        }
        let question = self.questions.get(&token);
        question.is_some_and(|question| question.suspect)
    }

    /// A question is tried alone from now on, and whoever waits for its answer is as suspect.
    fn suspect(&mut self, token: u64) {
        let Some(question) = self.questions.get_mut(&token) else {
            return;
        };
        let flight = question.flight().filter(|_| !question.suspect);
        question.suspect = true;
        let Some((key, mut flight)) =
            flight.and_then(|key| Some((key.0, self.flights.remove(&key)?)))
        else {
            return;
        };
        for follower in flight.early.iter().chain(&flight.late) {
            if let Some(follower) = self.questions.get_mut(follower) {
                follower.suspect = true;
            }
        }
        let Some(other) = self.flights.get_mut(&(key, true)) else {
            self.flights.insert((key, true), flight);
            return;
        };
        // Another is tried already: this one is by itself.
        flight.early.append(&mut flight.late);
        let leader = self.questions.get(&other.leader);
        if leader.is_some_and(|leader| leader.place == Place::Waiting) {
            other.early.append(&mut flight.early);
        } else {
            other.late.append(&mut flight.early);
        }
        if let Some(question) = self.questions.get_mut(&token) {
            question.leads = false;
        }
    }

    /// Takes a question out, because it ends, with those that wait for its answer.
    pub(super) fn take(&mut self, token: u64) -> Option<(Question, Followers)> {
        let question = self.remove(token)?;
        let mut followers = Followers::default();
        if let Some(flight) = question.flight().and_then(|key| self.flights.remove(&key)) {
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
            self.turns = self.waiting.len();
        }
        if let Some(service) = self.services.get_mut(&service) {
            service.in_flight = service.in_flight.saturating_sub(1);
        }
    }

    /// The next question and the service that gets it.
    pub(super) fn next_errand(&mut self) -> Option<Errand> {
        if self.trial {
            return None;
        }
        let (&service, _) = self
            .services
            .iter()
            .min_by_key(|(_, service)| service.in_flight)?;
        let token = self.next_turn()?;
        let question = self.questions.get_mut(&token)?;
        question.place = Place::With(service);
        self.trial = question.suspect;
        self.in_flight += 1;
        let chosen = self.services.get_mut(&service)?;
        chosen.in_flight += 1;
        Some(Errand {
            question: token,
            service,
            port: chosen.port.port().clone(),
        })
    }

    /// Suspects first, and alone; but whoever waited during a trial does not wait for the next one, too: two files that take
    /// long would keep all others from the services.
    fn next_turn(&mut self) -> Option<u64> {
        if self.turns > 0 {
            self.turns -= 1;
            if let Some(token) = self.next_of(false) {
                return Some(token);
            }
            self.turns = 0;
        }
        if self.in_flight > 0 && self.has_suspects() {
            return None;
        }
        match self.next_of(true).or_else(|| self.next_of(false)) {
            // Some of the others have turned out to be suspects.
            None if self.in_flight == 0 => self.next_of(true),
            token => token,
        }
    }

    /// The next of a queue that has not ended. A service may have died of its file since it was put there.
    fn next_of(&mut self, suspect: bool) -> Option<u64> {
        loop {
            let token = self.queue(suspect).pop_front()?;
            if !self.is_waiting(token) {
                continue;
            }
            if self.look_again(token) == suspect {
                return Some(token);
            }
            self.suspects.push_back(token);
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
        let Some(question) = self.questions.get_mut(&token) else {
            return;
        };
        question.place = Place::Waiting;
        question.pending = None;
        if delivered {
            self.suspect(token);
        }
        if self.look_again(token) {
            self.suspects.push_back(token);
        } else {
            self.waiting.push_front(token);
        }
    }

    /// A service is no more. True: it has died with files that it was too slow with lately, and those are accused.
    pub(super) fn bury(&mut self, service: u64, now: Instant) -> bool {
        let gone = self.services.remove(&service);
        let mut given_up = gone.map(|gone| gone.given_up).unwrap_or_default();
        given_up.retain(|(_, since)| now.saturating_duration_since(*since) < KILLED);
        if given_up.is_empty() {
            return false;
        }
        let mut deadly = self.deadly();
        given_up.into_iter().for_each(|(file, _)| deadly.add(file));
        drop(deadly);
        self.deaths.count(service, now);
        true
    }

    /// A service has died that had a message.
    pub(super) fn count_death(&mut self, service: u64, now: Instant) {
        self.deaths.count(service, now);
    }

    /// A service has died that had this question. If it had others too, a file that is root's alone is taken for innocent:
    /// without such files (a library, say) no service may be able to come back.
    pub(super) fn accuse(&mut self, token: u64, beside_given_up: bool) {
        let accused = self
            .questions
            .get(&token)
            .filter(|question| !question.facts.of_root || (question.suspect && !beside_given_up));
        if let Some((file, _)) = accused.and_then(|question| question.facts.key) {
            self.deadly().add(file);
        }
    }

    /// A service has this question, or had it, and may be busy with it still.
    pub(super) fn leave_with(&mut self, token: u64, service: u64, now: Instant) {
        let question = self.questions.get(&token);
        let facts = question
            .map(|question| &question.facts)
            .filter(|f| !f.of_root);
        let file = facts.and_then(|facts| facts.key).map(|(file, _)| file);
        if let (Some(file), Some(service)) = (file, self.services.get_mut(&service)) {
            service.given_up.retain(|(other, _)| *other != file);
            if service.given_up.len() >= GIVEN_UP {
                service.given_up.pop_front();
            }
            service.given_up.push_back((file, now));
        }
    }

    /// A service has answered a question: its file is not one that it dies of, or else it dies of it yet.
    pub(super) fn acquit(&mut self, token: u64) {
        let question = self.questions.get(&token);
        if let Some((file, _)) = question.and_then(|question| question.facts.key) {
            self.deadly().remove(file);
            for service in self.services.values_mut() {
                service.given_up.retain(|(other, _)| *other != file);
            }
        }
    }

    /// Nobody needs the answer any more, unless others wait for it with this question: what is to be done about it.
    pub(super) fn withdraw(&mut self, token: u64) -> Option<Withdrawal> {
        let question = self.questions.get(&token)?;
        let flight = question.flight().and_then(|key| self.flights.get(&key));
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
        let flight = question.flight().and_then(|key| self.flights.get(&key));
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

    /// How a question ends that no service has, and takes it out as [`Self::end`] does.
    pub(super) fn end_unasked(&mut self, token: u64) -> Option<(Question, Followers, Outcome)> {
        let question = self.questions.get(&token)?;
        // A service has got it meanwhile, and is told that its time is over. It is no suspect because of what others had.
        if matches!(question.place, Place::With(_)) {
            return None;
        }
        let asked = question.facts.asked;
        self.look_again(token);
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

    /// What the services are like for a question, asked at that time, that is to be decided without them.
    pub(super) fn situation(&self, asked: Instant) -> Situation {
        match self.services.is_empty() {
            _ if self.stopped => Situation::Ending,
            true if self.deaths.are_many() => Situation::Killed,
            true => Situation::Absent,
            false if self.answered > Some(asked) => Situation::Busy,
            false if self.trial || self.has_suspects() => Situation::Trial,
            false => Situation::Silent,
        }
    }
}

#[cfg(test)]
mod tests;

//! Tests of the questions' accounts, without services.

use std::sync::mpsc::Sender;

use fltport::protocol::AskError;
use fltport::{Caller, Client, NtStatus, Peer, PortHandler, Refusal, SendError, ServerPort};

use super::*;
use crate::policy::Cause;

/// Ends as a question does that nobody had time for.
fn overload() -> Outcome {
    Outcome::Policy(Cause::Overload, String::new())
}

/// Takes in so many questions about one file.
fn crowd(state: &mut State, inode: u64, count: usize) -> Vec<u64> {
    let questions = (0..count).map(|_| Question::about(inode, false));
    questions
        .map(|question| state.add(question, true))
        .collect()
}

fn place(state: &mut State, token: u64) -> Place {
    state.question(token).unwrap().place
}

#[test]
fn when_the_time_of_one_is_over_the_next_waits_in_its_place_and_nobody_else_is_moved() {
    let mut state = State::default();
    let tokens = crowd(&mut state, 7, 1_000);
    let late = state.late(Instant::now() + Duration::from_secs(120));
    assert_eq!(late, tokens);
    // The second one's is over before the first one's.
    let (_, followers) = state.end(tokens[1], &overload()).unwrap();
    assert!(followers.early.is_empty() && followers.late.is_empty());
    for (at, token) in tokens.iter().enumerate().filter(|(at, _)| *at != 1) {
        assert_eq!(place(&mut state, *token), Place::Waiting);
        let (ended, followers) = state.end(*token, &overload()).unwrap();
        assert!(ended.leads && followers.early.is_empty() && followers.late.is_empty());
        // Each of the others is still there under its number.
        let left = state.late(Instant::now() + Duration::from_secs(120));
        let expected: Vec<u64> = tokens[at + 1..]
            .iter()
            .copied()
            .filter(|t| *t != tokens[1])
            .collect();
        assert_eq!(left, expected);
    }
    assert!(state.flights.is_empty() && state.questions.is_empty());
}

#[test]
fn who_came_while_a_service_had_the_question_waits_behind_who_came_before() {
    let mut state = State::default();
    let early = crowd(&mut state, 7, 2);
    let late = {
        state.question(early[0]).unwrap().place = Place::With(1);
        crowd(&mut state, 7, 2)
    };
    state.end(early[0], &overload()).unwrap();
    assert_eq!(place(&mut state, early[1]), Place::Waiting);
    // The file is read once more, after all of them have come.
    let answer = Outcome::Policy(Cause::Poison, String::new());
    let (_, followers) = state.end(early[1], &answer).unwrap();
    assert_eq!(
        (followers.early.len(), followers.late.len()),
        (late.len(), 0)
    );
}

#[test]
fn who_waited_for_the_answer_of_a_suspect_is_tried_alone_in_its_place() {
    let mut state = State::default();
    let [first, second] = crowd(&mut state, 7, 2)[..] else {
        panic!()
    };
    state.suspect(first);
    state.end(first, &Outcome::Withdrawn).unwrap();
    assert!(state.question(second).unwrap().suspect);
    assert_eq!(state.suspects, [second]);
}

#[test]
fn a_file_of_root_is_accused_only_if_a_service_dies_of_it_alone() {
    let mut state = State::default();
    let mut accused = |of_root, suspect| {
        let mut question = Question::about(7, of_root);
        question.suspect = suspect;
        let token = state.add(question, false);
        state.accuse(token, false);
        let is_accused = state.is_deadly(&Question::about(7, of_root));
        state.acquit(token);
        state.end(token, &overload()).unwrap();
        is_accused
    };
    let beside_and_alone = |of_root: bool, accused: &mut dyn FnMut(bool, bool) -> bool| {
        [accused(of_root, false), accused(of_root, true)]
    };
    assert_eq!(beside_and_alone(false, &mut accused), [true, true]);
    assert_eq!(beside_and_alone(true, &mut accused), [false, true]);
}

#[test]
fn a_question_that_a_dead_service_did_not_get_is_a_suspect_if_its_file_has_killed_it() {
    let mut state = State::default();
    let [got, other] = [7, 8].map(|inode| crowd(&mut state, inode, 1)[0]);
    let same = state.add(Question::about(7, false), false);
    for token in [got, other, same] {
        state.question(token).unwrap().place = Place::With(1);
    }
    state.accuse(got, false);
    state.ask_again(got, 1, true);
    state.ask_again(same, 1, false);
    state.ask_again(other, 1, false);
    let suspects = [got, same, other].map(|token| state.question(token).unwrap().suspect);
    assert_eq!(suspects, [true, true, false]);
}

#[test]
fn what_a_service_of_remote_files_died_of_is_known_where_others_are_asked() {
    let [mut local, mut remote] = [State::default(), State::default()];
    remote.share_deadly(&local);
    let token = remote.add(Question::about(7, false), true);
    remote.accuse(token, false);
    let token = local.add(Question::about(7, false), true);
    assert!(local.question(token).unwrap().suspect);
}

#[test]
fn queues_that_nobody_empties_do_not_grow() {
    let mut state = State::default();
    for suspect in [true, false] {
        for _ in 0..10_000 {
            let mut question = Question::about(7, false);
            question.suspect = suspect;
            let token = state.add(question, false);
            state.end(token, &overload()).unwrap();
        }
        assert!(state.queue(suspect).len() <= QUEUE_MIN + 1);
    }
}

#[test]
fn whoever_opens_a_file_of_root_later_does_not_wait_for_one_that_is_tried_alone() {
    let mut state = State::default();
    let [first, follower] = [0; 2].map(|_| state.add(Question::about(7, true), true));
    give(&mut state, first, 1);
    state.accuse(first, false);
    state.ask_again(first, 1, true);
    let later = state.add(Question::about(7, true), true);
    assert_eq!(place(&mut state, later), Place::Waiting);
    let suspects = [first, follower, later].map(|token| state.question(token).unwrap().suspect);
    assert_eq!(suspects, [true, true, false]);
    let (_, followers, _) = state.end_unasked(first).unwrap();
    assert_eq!(followers.early.len() + followers.late.len(), 1);
    assert_eq!(state.next_forlorn(), Some(later));
}

#[test]
fn two_that_turn_out_to_be_suspects_have_their_followers_together() {
    let mut state = State::default();
    let tried = crowd(&mut state, 7, 2);
    state.suspect(tried[0]);
    let others = crowd(&mut state, 7, 2);
    state.suspect(others[0]);
    assert!(!state.question(others[0]).unwrap().leads);
    let poison = Outcome::Policy(Cause::Poison, String::new());
    let (_, followers) = state.end(tried[0], &poison).unwrap();
    assert_eq!(followers.early.len(), 2);
    state.end(others[0], &poison).unwrap();
    assert!(state.flights.is_empty() && state.questions.is_empty());
}

#[test]
fn what_waits_becomes_a_suspect_when_a_service_has_died_of_its_file() {
    let mut state = State::default();
    let got = state.add(Question::about(7, false), false);
    give(&mut state, got, 1);
    let waits: Vec<u64> = (0..2)
        .map(|_| state.add(Question::about(7, false), false))
        .collect();
    let follower = crowd(&mut state, 7, 2)[1];
    state.accuse(got, false);
    // Nobody is there: it is not let go by the policy for that.
    assert_eq!(state.next_forlorn(), None);
    let (_, _, outcome) = state.end_unasked(waits[0]).unwrap();
    assert!(matches!(outcome, Outcome::Policy(Cause::Poison, _)));
    let (_, _, outcome) = state.end_unasked(follower).unwrap();
    assert!(matches!(outcome, Outcome::Policy(Cause::Poison, _)));
}

#[test]
fn one_that_follows_becomes_a_suspect_when_it_is_its_turn() {
    let mut state = State::default();
    let tokens = crowd(&mut state, 7, 2);
    let got = state.add(Question::about(7, false), false);
    state.accuse(got, false);
    state.end(tokens[0], &Outcome::Withdrawn).unwrap();
    assert!(state.question(tokens[1]).unwrap().suspect);
    assert_eq!(state.suspects, [tokens[1]]);
}

#[test]
fn a_service_dies_once_whatever_it_had() {
    let mut state = State::default();
    let killed = |state: &State| state.situation(Instant::now()) == Situation::Killed;
    for service in 1..=4 {
        assert!(!killed(&state));
        for _ in 0..4 {
            state.count_death(service, Instant::now());
        }
    }
    assert!(killed(&state));
}

#[test]
fn a_service_that_dies_of_what_it_was_too_slow_with_has_died_of_that() {
    let mut state = State::default();
    let (_port, service) = serve(&mut state);
    let [slow, quick] = [7, 8].map(|inode| crowd(&mut state, inode, 1)[0]);
    let of_root = state.add(Question::about(9, true), true);
    for token in [slow, quick, of_root] {
        state.leave_with(token, service, Instant::now());
    }
    // Another service has answered about one of them.
    state.acquit(quick);
    assert!(state.bury(service, Instant::now()));
    assert!(!state.bury(service, Instant::now()));
    let deadly = [(7, false), (8, false), (9, true)];
    let deadly = deadly.map(|(inode, of_root)| state.is_deadly(&Question::about(inode, of_root)));
    assert_eq!(deadly, [true, false, false]);
    // One that root alone can write to was not alone with it.
    state.suspect(of_root);
    state.accuse(of_root, true);
    assert!(!state.is_deadly(&Question::about(9, true)));
}

#[test]
fn what_a_service_was_too_slow_with_long_ago_is_not_what_it_ends_of() {
    let mut state = State::default();
    let (_port, service) = serve(&mut state);
    let slow = crowd(&mut state, 7, 1)[0];
    let now = Instant::now();
    state.leave_with(slow, service, now);
    assert!(!state.bury(service, now + KILLED));
    assert!(!state.is_deadly(&Question::about(7, false)));
}

#[test]
fn whoever_waited_during_a_trial_does_not_wait_for_the_next_one() {
    let mut state = State::default();
    let (_port, _) = serve(&mut state);
    let suspect = |state: &mut State, inode| {
        let mut question = Question::about(inode, false);
        question.suspect = true;
        state.add(question, true)
    };
    let first = suspect(&mut state, 1);
    let next = |state: &mut State| state.next_errand().map(|errand| errand.question);
    assert_eq!(next(&mut state), Some(first));
    let second = suspect(&mut state, 2);
    let others = [3, 4].map(|inode| crowd(&mut state, inode, 1)[0]);
    assert_eq!(next(&mut state), None);
    state.end(first, &overload()).unwrap();
    // One that comes now waits for the second trial.
    let later = crowd(&mut state, 5, 1)[0];
    let now = [0; 3].map(|_| next(&mut state));
    assert_eq!(now, [Some(others[0]), Some(others[1]), None]);
    for other in others {
        state.end(other, &overload()).unwrap();
    }
    let now = [0; 2].map(|_| next(&mut state));
    assert_eq!(now, [Some(second), None]);
    state.end(second, &overload()).unwrap();
    assert_eq!(next(&mut state), Some(later));
}

#[test]
fn one_that_a_service_has_got_meanwhile_ends_there() {
    let mut state = State::default();
    let (_port, _) = serve(&mut state);
    let token = crowd(&mut state, 7, 1)[0];
    state.next_errand().unwrap();
    assert!(state.end_unasked(token).is_none());
    assert!(state.question(token).is_some());
}

#[test]
fn a_suspect_that_has_ended_holds_nobody_up() {
    let mut state = State::default();
    let (_port, service) = serve(&mut state);
    let slow = crowd(&mut state, 1, 1)[0];
    assert_eq!(state.next_errand().unwrap().question, slow);
    let suspect = crowd(&mut state, 2, 1)[0];
    state.suspect(suspect);
    state.waiting.clear();
    state.suspects.push_back(suspect);
    let other = crowd(&mut state, 3, 1)[0];
    assert!(state.next_errand().is_none());
    state.end_unasked(suspect).unwrap();
    let errand = state.next_errand().unwrap();
    assert_eq!((errand.question, errand.service), (other, service));
}

#[test]
fn the_next_one_has_the_turn_of_one_that_had_none() {
    let mut state = State::default();
    let popular = crowd(&mut state, 7, 3);
    let other = crowd(&mut state, 8, 1)[0];
    state.end(popular[0], &overload()).unwrap();
    assert_eq!(state.next_of(false), Some(popular[1]));
    give(&mut state, popular[1], 1);
    state.end(popular[1], &overload()).unwrap();
    let rest = [0; 2].map(|_| state.next_of(false));
    assert_eq!(rest, [Some(other), Some(popular[2])]);
}

#[test]
fn that_a_file_takes_too_long_is_said_of_one_that_a_service_had_for_half_of_its_time() {
    let cause_if_sent_before = |seconds: u64, situation| {
        let mut question = Question::about(7, false);
        let now = question.facts.asked;
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        question.facts.asked = before(60);
        question.facts.deadline = now;
        question.sent = Some(before(seconds));
        let late = Err(AskError::Send(SendError::TimedOut { delivered: true }));
        match question.outcome(late, situation) {
            Outcome::Policy(cause, _) => cause,
            other => panic!("{other:?}"),
        }
    };
    // Others are answered, or would be if suspects did not wait: a file does not get the policy for silence by those.
    for situation in [Situation::Busy, Situation::Trial] {
        assert_eq!(cause_if_sent_before(60, situation), Cause::Unscannable);
        assert_eq!(cause_if_sent_before(31, situation), Cause::Unscannable);
        assert_eq!(cause_if_sent_before(1, situation), Cause::Overload);
    }
    let silent = cause_if_sent_before(60, Situation::Silent);
    assert_eq!(silent, Cause::Timeout);
}

/// With a service, as far as the accounts know.
fn give(state: &mut State, token: u64, service: u64) {
    state.question(token).unwrap().place = Place::With(service);
    state.in_flight += 1;
}

/// A service, and what keeps its port open.
fn serve(state: &mut State) -> ((ServerPort, Client), u64) {
    let (told, port) = std::sync::mpsc::channel();
    let server = ServerPort::unnamed().listen(Tell(told)).unwrap();
    let client = Client::from_fd(server.offer().unwrap(), b"").unwrap();
    let service = state.add_service(port.recv().unwrap());
    ((server, client), service)
}

struct Tell(Sender<ClientPort>);

impl PortHandler for Tell {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        self.0.send(port).map_err(|_| NtStatus::ACCESS_DENIED)
    }

    fn disconnect(&self, (): (), _: &Peer) {}

    fn message(&self, (): &(), _: Caller, _: &[u8], _: &mut [u8]) -> Result<usize, Refusal> {
        Err(NtStatus::ACCESS_DENIED.into())
    }
}

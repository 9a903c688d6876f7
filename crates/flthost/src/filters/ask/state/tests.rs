//! Tests of the questions' accounts, without services.

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
    state.question(first).unwrap().suspect = true;
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
        state.accuse(token);
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
    state.accuse(got);
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
    remote.accuse(token);
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

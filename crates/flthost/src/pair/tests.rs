//! Tests of pairs.

use rustix::fs::MemfdFlags;

use super::*;
use crate::stamp::Stamp;

/// In any order: nothing is opened here. A process of many threads cannot find out.
fn pair(place: usize, journal: Journal) -> Option<Pair> {
    let (Ok(one), Ok(other)) = (Group::new(Class::PreContent), Group::new(Class::PreContent))
    else {
        println!("skipped: no fanotify group");
        return None;
    };
    Some(Pair::of(place, journal, one, other))
}

#[test]
fn a_worker_that_follows_another_keeps_nothing_out_at_first() {
    let journal = Journal::new(100).unwrap();
    let (Some(first), Some(next)) = (pair(0, journal), pair(1, journal)) else {
        return;
    };
    let file = rustix::fs::memfd_create(c"kept", MemfdFlags::CLOEXEC).unwrap();
    let id = Stamp::of(file.as_fd()).unwrap().id;
    next.keep_nothing_out();
    let twice = |pair: &Pair| [0; 2].map(|_| pair.keep_out(file.as_fd(), id, None));
    // The first open of a kept file is seen in both groups, whatever is marked meanwhile.
    assert_eq!(twice(&first), [false, true]);
    assert_eq!(twice(&next), [false, false]);
}

#[test]
fn a_file_is_kept_out_while_nothing_is_on_its_way_and_never_again_after_its_mark_was_met() {
    let journal = Journal::new(100).unwrap();
    let Some(pair) = pair(0, journal) else {
        return;
    };
    let file = rustix::fs::memfd_create(c"sent", MemfdFlags::CLOEXEC).unwrap();
    let id = Stamp::of(file.as_fd()).unwrap().id;
    let pid = Some(rustix::process::getpid());
    let keep_out = || pair.keep_out(file.as_fd(), id, pid);
    assert!(pair.send(file.as_fd(), id, pid));
    // What is allowed meanwhile arrives as well, and who is who cannot be told.
    assert!(!keep_out());
    pair.arrived(id, pid);
    assert!(!keep_out());
    pair.arrived(id, pid);
    pair.arrived(id, pid);
    let empty = |state: Option<&Gate>| matches!(state, Some(Gate::Seen { on_their_way, marked: false }) if on_their_way.capacity() == 0);
    assert!(empty(pair.lock().get(&id)));
    pair.forget_past();
    assert!(pair.lock().is_empty());
    assert_eq!([0; 2].map(|_| keep_out()), [false, true]);
    // From now on something may be on its way that has met the mark.
    assert!(pair.send(file.as_fd(), id, pid));
    pair.arrived(id, pid);
    assert!(!keep_out());
    pair.arrived(id, pid);
    assert!(!keep_out());
    // The kernel knows of the mark where nobody else does any more.
    pair.lock().clear();
    assert_eq!([0; 2].map(|_| keep_out()), [false, false]);
}

#[test]
fn what_an_older_host_has_sent_on_is_decided_where_it_arrives_also_by_one_that_sends_nothing_on() {
    let journal = Journal::new(100).unwrap();
    let Some(own) = pair(0, journal) else {
        return;
    };
    let [triage, questions] =
        [&own.triage, &own.questions].map(|group| group.as_fd().try_clone_to_owned().unwrap());
    let taken = Pair::from_fds(1, journal, triage, questions, false, false);
    let in_triage = |pair: &Pair| {
        [true, false].map(|split| {
            pair.set_split(split);
            pair.is_decided_in_triage()
        })
    };
    assert_eq!(in_triage(&own), [false, true]);
    assert_eq!(in_triage(&taken), [false, false]);
}

#[test]
fn of_a_filesystem_that_is_not_known_yet_no_mark_is_touched_and_nothing_is_sent_past_one() {
    let journal = Journal::new(100).unwrap();
    let Some(pair) = pair(0, journal) else {
        return;
    };
    let file = rustix::fs::memfd_create(c"unknown", MemfdFlags::CLOEXEC).unwrap();
    let id = Stamp::of(file.as_fd()).unwrap().id;
    // An earlier worker keeps it out.
    assert_eq!(
        [0; 2].map(|_| pair.keep_out(file.as_fd(), id, None)),
        [false, true]
    );
    pair.lock().clear();
    pair.set_unknown(false);
    // It waits in triage: in the other group it might not be seen.
    assert!(!pair.send(file.as_fd(), id, None));
    assert!(!pair.keep_out(file.as_fd(), id, None));
    assert!(pair.lock().is_empty());
    pair.set_remote(false);
    assert!(pair.send(file.as_fd(), id, None));
    assert!(matches!(
        pair.lock().get(&id),
        Some(Gate::Seen { marked: true, .. })
    ));
}

#[test]
fn after_a_remote_filesystem_a_pair_keeps_nothing_out_any_more() {
    let journal = Journal::new(100).unwrap();
    let Some(pair) = pair(0, journal) else {
        return;
    };
    let file = rustix::fs::memfd_create(c"remote", MemfdFlags::CLOEXEC).unwrap();
    let id = Stamp::of(file.as_fd()).unwrap().id;
    for remote in [true, false] {
        pair.set_remote(remote);
        assert_eq!(pair.is_remote(), remote);
        assert!(pair.send(file.as_fd(), id, None));
        assert_eq!(
            [0; 2].map(|_| pair.keep_out(file.as_fd(), id, None)),
            [false; 2]
        );
        assert_eq!(
            pair.questions.unignore(file.as_fd()),
            Err(MarkError::NotMarked)
        );
    }
}

#[test]
fn what_comes_by_a_pair_that_guards_nothing_any_more_is_decided_in_triage() {
    let journal = Journal::new(100).unwrap();
    let Some(pair) = pair(0, journal) else {
        return;
    };
    let file = rustix::fs::memfd_create(c"given up", MemfdFlags::CLOEXEC).unwrap();
    let id = Stamp::of(file.as_fd()).unwrap().id;
    pair.give_up();
    assert!(!pair.send(file.as_fd(), id, None));
    assert!(pair.lock().is_empty());
    pair.set_remote(false);
    assert_eq!(pair.file_marks(), FileMarks::Kept);
    // What an older one had was never known, and may have been remote.
    pair.set_unknown(false);
    pair.give_up();
    pair.set_remote(false);
    assert_eq!(pair.file_marks(), FileMarks::None);
}

#[test]
fn what_a_spare_pair_guards_is_not_known_at_a_takeover() {
    let journal = Journal::new(100).unwrap();
    let Some(own) = pair(0, journal) else {
        return;
    };
    let marks =
        [(false, false), (true, false), (false, true), (true, true)].map(|(slow, spare)| {
            let groups =
                [&own.triage, &own.questions].map(|group| group.as_fd().try_clone_to_owned());
            let [Ok(triage), Ok(questions)] = groups else {
                panic!()
            };
            Pair::from_fds(1, journal, triage, questions, slow, spare).file_marks()
        });
    let (unknown, none) = (FileMarks::Unknown, FileMarks::None);
    assert_eq!(marks, [FileMarks::Kept, none, unknown, unknown]);
}

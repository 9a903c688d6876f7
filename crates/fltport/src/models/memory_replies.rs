//! Replies through memory, word by word: each reply that returned success is with its sender, bytes and all.

use fltport_engine::output::Outcome;
use fltport_engine::{Deadline, NtStatus, Timeout};

use super::bare_core::{Answer, Ends, check, message};
use crate::clock::Limit;
use crate::driver_plane::{Asked, Direct};
use crate::sync::thread::spawn;

const NEVER: Limit = Limit::Fixed(Deadline::Never);

/// One that has come.
const OVER: Limit = Limit::Fixed(Deadline::At(fltport_engine::Instant::from_nanos(0)));

/// A question in a get that was posted for it.
fn ask(ends: &Ends, limit: Limit) -> Asked {
    match ends.core.send_at_once(b"question", None, Some(10), limit) {
        Some(Direct::Asked(asked)) => asked,
        other => panic!("{other:?}"),
    }
}

/// A question that its client has; where its reply is awaited, and its number.
fn asked(ends: &Ends, limit: Limit) -> (Asked, u64) {
    let slot = ends.post();
    let asked = ask(ends, limit);
    let (id, bytes) = message(ends.wait(slot)).unwrap();
    assert_eq!(bytes, b"question");
    (asked, id)
}

fn answered(answer: &Answer) -> Option<&[u8]> {
    match answer {
        Outcome::Replied { reply, .. } => Some(&reply.bytes),
        _ => None,
    }
}

const TOO_LATE: NtStatus = NtStatus::FLT_NO_WAITER_FOR_REPLY;

/// A sender that sleeps, or is about to, is woken by its reply and has all of it.
#[test]
fn a_reply_wakes_its_sender_and_is_there() {
    check(None, || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, NEVER);
        let client = ends.clone();
        let replier = spawn(move || client.reply(id, b"the answer"));
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        assert_eq!(answered(&answer), Some(&b"the answer"[..]));
        assert_eq!(replier.join().unwrap(), NtStatus::SUCCESS);
    });
}

/// Reply and deadline: success and a reply, or neither.
#[test]
fn a_reply_races_the_deadline() {
    check(None, || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, OVER);
        let client = ends.clone();
        let replier = spawn(move || client.reply(id, b"yes"));
        let answer = ends.core.wait_for_reply(asked, OVER, None);
        match (replier.join().unwrap(), answer) {
            (NtStatus::SUCCESS, answer) => assert_eq!(answered(&answer), Some(&b"yes"[..])),
            (TOO_LATE, Outcome::TimedOut { delivered: true }) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// Reply and the filter's close: success and a reply, or neither; nobody sleeps on.
#[test]
fn a_reply_races_the_end_of_the_connection() {
    check(Some(3), || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, NEVER);
        let client = ends.clone();
        let replier = spawn(move || client.reply(id, b"yes"));
        let core = ends.core.clone();
        let closer = spawn(move || core.close());
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        match (replier.join().unwrap(), answer) {
            (NtStatus::SUCCESS, answer) => assert_eq!(answered(&answer), Some(&b"yes"[..])),
            (NtStatus::PORT_DISCONNECTED, Outcome::Disconnected { delivered: true }) => {}
            other => panic!("{other:?}"),
        }
        closer.join().unwrap();
    });
}

/// The end wakes a sender by a word that no client sees, whatever that does with its own.
#[test]
fn the_end_wakes_a_sender() {
    check(None, || {
        let ends = Ends::new();
        let (asked, _) = asked(&ends, NEVER);
        let core = ends.core.clone();
        let closer = spawn(move || core.close());
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        assert!(matches!(answer, Outcome::Disconnected { delivered: true }));
        closer.join().unwrap();
    });
}

/// Two threads reply to one message: one wins, and the sender has that one's bytes.
#[test]
fn two_replies_race() {
    check(None, || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, NEVER);
        let client = ends.clone();
        let other = spawn(move || client.reply(id, b"one"));
        let two = ends.reply(id, b"two");
        let one = other.join().unwrap();
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        let winner: &[u8] = match (one, two) {
            (NtStatus::SUCCESS, TOO_LATE) => b"one",
            (TOO_LATE, NtStatus::SUCCESS) => b"two",
            other => panic!("{other:?}"),
        };
        assert_eq!(answered(&answer), Some(winner));
    });
}

/// A reply by a frame, which its sender finds under the lock and nowhere else.
#[test]
fn a_reply_by_a_frame_wakes_its_sender_and_is_there() {
    check(None, || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, NEVER);
        let client = ends.clone();
        let replier = spawn(move || client.reply_by_frame(1, id, b"framed"));
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        assert_eq!(answered(&answer), Some(&b"framed"[..]));
        assert_eq!(replier.join().unwrap(), NtStatus::SUCCESS);
    });
}

/// One by a frame and one through memory.
#[test]
fn replies_by_both_ways_race() {
    check(Some(3), || {
        let ends = Ends::new();
        let (asked, id) = asked(&ends, NEVER);
        let client = ends.clone();
        let framed = spawn(move || client.reply_by_frame(1, id, b"framed"));
        let client = ends.clone();
        let other = spawn(move || client.reply(id, b"direct"));
        let answer = ends.core.wait_for_reply(asked, NEVER, None);
        let bytes = answered(&answer).unwrap().to_vec();
        match (framed.join().unwrap(), other.join().unwrap()) {
            (NtStatus::SUCCESS, TOO_LATE) => assert_eq!(bytes, b"framed"),
            (TOO_LATE, NtStatus::SUCCESS) => assert_eq!(bytes, b"direct"),
            // The one claimed it, the other finished it.
            (NtStatus::SUCCESS, NtStatus::PORT_DISCONNECTED) => assert_eq!(bytes, b"framed"),
            other => panic!("{other:?}"),
        }
    });
}

/// A reply that comes too late finds nobody, also when the place of its sender is another's by then.
#[test]
fn a_late_reply_is_not_for_the_next_message() {
    check(None, || {
        let ends = Ends::new();
        let (asked_first, first) = asked(&ends, OVER);
        let client = ends.clone();
        let late = spawn(move || client.reply(first, b"late"));
        let answer = ends.core.wait_for_reply(asked_first, OVER, None);
        let (asked, second) = asked(&ends, NEVER);
        assert!(first != second);
        assert_eq!(ends.reply(second, b"mine"), NtStatus::SUCCESS);
        let own = ends.core.wait_for_reply(asked, NEVER, None);
        assert_eq!(answered(&own), Some(&b"mine"[..]));
        let status = late.join().unwrap();
        assert_eq!(answered(&answer).is_some(), status == NtStatus::SUCCESS);
    });
}

/// A send that no thread waits for: its function is called for the reply, once, though nobody looks at its word.
#[test]
fn a_reply_reaches_a_function() {
    check(None, || {
        let ends = Ends::new();
        let told = std::sync::Arc::new(crate::sync::Mutex::new(Vec::new()));
        let slot = ends.post();
        let say = std::sync::Arc::clone(&told);
        ends.ask_then(Timeout::Never, move |answer| {
            say.lock()
                .unwrap()
                .push(answered(&answer).map(<[u8]>::to_vec));
        });
        let (id, _) = message(ends.wait(slot)).unwrap();
        let core = ends.core.clone();
        // Whoever looks at the ring meanwhile has to see to what it finds.
        let looker = spawn(move || core.statistics());
        let status = ends.reply(id, b"yes");
        looker.join().unwrap();
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(*told.lock().unwrap(), [Some(b"yes".to_vec())]);
    });
}

/// The same against the end: told once, and as the replier is.
#[test]
fn a_reply_to_a_function_races_the_end() {
    check(None, || {
        let ends = Ends::new();
        let told = std::sync::Arc::new(crate::sync::Mutex::new(Vec::new()));
        let slot = ends.post();
        let say = std::sync::Arc::clone(&told);
        ends.ask_then(Timeout::Never, move |answer| {
            say.lock().unwrap().push(answered(&answer).is_some());
        });
        let (id, _) = message(ends.wait(slot)).unwrap();
        let core = ends.core.clone();
        let closer = spawn(move || core.close());
        let status = ends.reply(id, b"yes");
        closer.join().unwrap();
        assert_eq!(*told.lock().unwrap(), [status == NtStatus::SUCCESS]);
    });
}

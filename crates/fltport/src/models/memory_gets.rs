//! Gets through memory, word by word: each message is taken once or stays with its sender, and no thread sleeps for ever.

use std::sync::Arc;

use fltport_engine::{NtStatus, Timeout};

use super::bare_core::{Ends, check, message};
use crate::SendError;
use crate::plane::client::{ClientPlane, Taken, Woken};
use crate::plane::layout;
use crate::sync::thread::spawn;
use crate::sync::{AtomicU64, Mutex, Ordering, start};

/// A receiver that sleeps, or is about to, is woken by a message and has all of it.
#[test]
fn a_message_wakes_its_receiver_and_is_there() {
    check(None, || {
        let ends = Ends::new();
        let slot = ends.post();
        let port = ends.port();
        let sender = spawn(move || port.notify(b"the message", Timeout::Never));
        let (_, bytes) = message(ends.wait(slot)).unwrap();
        assert_eq!(bytes, b"the message");
        sender.join().unwrap().unwrap();
    });
}

/// A get and a message at once: neither waits for the other for ever, whoever comes first, and whoever has to say so.
#[test]
fn a_get_that_is_posted_meets_a_message() {
    check(None, || {
        let ends = Ends::new();
        let port = ends.port();
        let sender = spawn(move || port.notify(b"m", Timeout::Never));
        assert_eq!(ends.next().unwrap().1, b"m");
        sender.join().unwrap().unwrap();
    });
}

/// The same for a message whose sender does not wait: nobody comes back to look, so the kick has to be right.
#[test]
fn a_get_that_is_posted_meets_a_message_of_nobody() {
    check(None, || {
        let ends = Ends::new();
        let client = ends.clone();
        let poster = spawn(move || client.post());
        ends.ask_then(Timeout::Never, |_| {});
        let slot = poster.join().unwrap();
        let (_, bytes) = message(ends.take(slot)).expect("a get that nobody looks at");
        assert_eq!(bytes, b"?");
    });
}

/// Two gets at once, and one message: one kick has to be enough.
#[test]
fn two_gets_that_are_posted_meet_two_messages() {
    check(Some(2), || {
        let ends = Ends::new();
        ends.ask_then(Timeout::Never, |_| {});
        let posters = [(); 2].map(|()| {
            let client = ends.clone();
            spawn(move || client.post())
        });
        ends.ask_then(Timeout::Never, |_| {});
        // One may bring the kick for both.
        for slot in posters.map(|poster| poster.join().unwrap()) {
            assert!(message(ends.take(slot)).is_some(), "left alone");
        }
    });
}

/// Withdrawal and delivery: the message is in the get, or in the next one, and never in both.
#[test]
fn a_message_races_the_withdrawal_of_its_get() {
    check(Some(5), || {
        let ends = Ends::new();
        let slot = ends.post();
        let port = ends.port();
        let sender = spawn(move || port.notify(b"m", Timeout::Never));
        let withdrawn = ends.client.withdraw(slot);
        let taken = ends.take(slot);
        if withdrawn {
            assert_eq!(taken, Taken::Withdrawn);
            assert_eq!(ends.next().unwrap().1, b"m");
        } else {
            assert_eq!(message(taken).unwrap().1, b"m");
        }
        sender.join().unwrap().unwrap();
        assert_eq!(ends.port().info().delivered, 1);
    });
}

/// A get that is withdrawn and posted anew while its record is written: whoever takes it waits until that is over.
#[test]
fn a_record_has_one_writer() {
    check(None, || {
        let ends = Ends::new();
        let get = layout::get_of(ClientPlane::token(ends.post())).unwrap();
        let core = Arc::clone(&ends.core);
        core.memory().unwrap().set_writing(get, true);
        let written = Arc::new(AtomicU64::new(0));
        let says = Arc::clone(&written);
        let writer = spawn(move || {
            says.store(1, Ordering::Relaxed);
            core.memory().unwrap().set_writing(get, false);
        });
        // It looks into the ring, and takes what is there.
        ends.ask_then(Timeout::Never, |_| {});
        assert_eq!(written.load(Ordering::Relaxed), 1, "two write at once");
        writer.join().unwrap();
    });
}

/// The same with two senders, of whom the first may still write when the second is given the get.
#[test]
fn messages_are_whole_although_a_get_is_withdrawn_and_posted_anew() {
    check(Some(2), || {
        let ends = Ends::new();
        let slot = ends.post();
        let messages: [&[u8]; 2] = [b"a", b"bb"];
        let senders = messages.map(|bytes| {
            let port = ends.port();
            spawn(move || port.notify(bytes, Timeout::Never))
        });
        ends.client.withdraw(slot);
        let mut taken: Vec<_> = message(ends.take(slot)).into_iter().collect();
        while taken.len() < messages.len() {
            taken.push(ends.next().unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, messages.map(|bytes| (0, bytes.to_vec())));
        for sender in senders {
            sender.join().unwrap().unwrap();
        }
    });
}

/// A get with a deadline that has come, and a message with one: both have it, or neither.
#[test]
fn a_get_that_is_late_races_a_message_that_is() {
    check(None, || {
        let ends = Ends::new();
        let slot = ends.post();
        let port = ends.port();
        let none = Timeout::After(std::time::Duration::ZERO);
        let sender = spawn(move || port.notify(b"m", none));
        let taken = message(ends.wait_until(slot, Some(start())));
        match sender.join().unwrap() {
            Ok(()) => assert_eq!(taken.unwrap().1, b"m"),
            Err(SendError::TimedOut { delivered: false }) => assert_eq!(taken, None),
            other => panic!("{other:?}"),
        }
    });
}

/// A get that is posted as the connection ends does not sleep on.
#[test]
fn a_get_that_is_posted_races_the_end() {
    check(None, || {
        let ends = Ends::new();
        let client = ends.clone();
        let getter = spawn(move || client.next());
        ends.core.close();
        assert_eq!(getter.join().unwrap(), None);
    });
}

/// One that nobody has posted yet to the host's knowledge, and a thread at it.
#[test]
fn the_end_wakes_a_receiver() {
    check(None, || {
        let ends = Ends::new();
        let slot = ends.post();
        let core = Arc::clone(&ends.core);
        let closer = spawn(move || core.close());
        assert_eq!(message(ends.wait(slot)), None);
        closer.join().unwrap();
    });
}

/// A nudge wakes whoever waits, or finds that it is not waiting yet.
#[test]
fn a_nudge_wakes_a_receiver() {
    check(None, || {
        let ends = Ends::new();
        let slot = ends.post();
        let client = Arc::clone(&ends.client);
        let nudger = spawn(move || client.nudge_all());
        assert_eq!(ends.client.wait(slot, None), Woken::Nudged);
        nudger.join().unwrap();
    });
}

/// The client's own close wakes its threads.
#[test]
fn the_clients_close_wakes_a_receiver() {
    check(None, || {
        let ends = Ends::new();
        let client = Arc::clone(&ends.client);
        let closer = spawn(move || client.close());
        // Nothing is posted any more once it is closed; one that was posted before is woken.
        if let Some((slot, _)) = ends.client.post(100, false) {
            assert_eq!(ends.client.wait(slot, None), Woken::Ended);
        }
        closer.join().unwrap();
    });
}

/// Two threads of a client, each with a get, and two messages: each has one of them.
#[test]
fn two_receivers_share_two_messages() {
    check(Some(1), || {
        let ends = Ends::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let getters = [(); 2].map(|()| {
            let (ends, seen) = (ends.clone(), Arc::clone(&seen));
            spawn(move || {
                let (id, bytes) = ends.next().unwrap();
                seen.lock().unwrap().push(bytes.clone());
                assert_eq!(ends.reply(id, &bytes), NtStatus::SUCCESS);
            })
        });
        for question in [b"a", b"b"] {
            let reply = ends.port().ask(question, 1, Timeout::Never).unwrap();
            assert_eq!(reply.bytes, question);
        }
        for getter in getters {
            getter.join().unwrap();
        }
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, [b"a", b"b"]);
    });
}

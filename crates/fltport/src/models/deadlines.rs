//! A message, a get, and a limit on either of them: a message is with its receiver or still with its sender, never neither
//! and never both.

use std::sync::Arc;

use super::scene::{IN_TIME, SOON, Told, connected, deadline, explore, spawn};
use crate::{CallError, SendError, Timeout};

/// A get and the sender's timeout: the message was delivered, or the get stays.
#[test]
fn get_races_the_senders_timeout() {
    explore(|| {
        let (_port, end, client) = connected();
        let getter = {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().unwrap().payload().to_vec())
        };
        let clock = deadline();
        let first = end.notify(b"first", IN_TIME);
        clock.join().unwrap();
        let got = match first {
            Ok(()) => getter.join().unwrap(),
            Err(SendError::TimedOut { delivered: false }) => {
                end.notify(b"second", Timeout::Never).unwrap();
                getter.join().unwrap()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            got,
            if first.is_ok() {
                b"first".to_vec()
            } else {
                b"second".to_vec()
            }
        );
    });
}

/// A get that is given up and its delivery: the message comes to it or to another get, once.
#[test]
fn cancel_of_a_get_races_delivery() {
    explore(|| {
        let (_port, end, client) = connected();
        let get = client.post_get(100);
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        let got = match get.cancel() {
            Ok(message) => message.payload().to_vec(),
            Err(CallError::Cancelled) => client.next_message().unwrap().payload().to_vec(),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(got, b"m");
        sender.join().unwrap().unwrap();
        assert!(client.try_next_message().unwrap().is_none());
    });
}

/// A get with a limit of its own and its delivery: what came too late for it comes to the next one.
#[test]
fn limit_of_a_get_races_delivery() {
    explore(|| {
        let (_port, end, client) = connected();
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        let clock = deadline();
        let got = match client.next_message_within(SOON) {
            Err(CallError::TimedOut) => client.next_message(),
            others => others,
        };
        assert_eq!(got.unwrap().payload(), b"m");
        sender.join().unwrap().unwrap();
        clock.join().unwrap();
        assert!(client.try_next_message().unwrap().is_none());
    });
}

/// The same beside a get that stays: the message is for whichever is left, and its thread learns of it.
#[test]
fn get_that_stays_has_what_another_gave_up() {
    explore(|| {
        let (_port, end, client) = connected();
        let leaving = client.post_get(100);
        let getter = {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().unwrap().payload().to_vec())
        };
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        // A message that has come is kept for the other, which waits or is going to.
        drop(leaving);
        assert_eq!(getter.join().unwrap(), b"m");
        sender.join().unwrap().unwrap();
    });
}

/// The timer sleeps until a late deadline when an earlier one comes: it ends at its own time.
#[test]
fn earlier_deadline_wakes_the_timer() {
    explore(|| {
        let (port, end, _client) = connected();
        let told = Arc::new(Told::default());
        for deadline in [100 * SOON, SOON] {
            let told = Arc::clone(&told);
            let _pending = end.ask_then(b"?", 1, Timeout::After(deadline), move |result| {
                told.push((deadline, result.is_err()));
            });
        }
        deadline().join().unwrap();
        assert_eq!(told.take(1), [(SOON, true)]);
        port.shutdown();
    });
}

/// Two sends without a thread, of which one is answered and one runs out: each is told once, and its own.
#[test]
fn timer_races_reply() {
    explore(|| {
        let (port, end, client) = connected();
        let told = Arc::new(Told::default());
        for question in [b"a", b"b"] {
            let told = Arc::clone(&told);
            let _pending = end.ask_then(question, 1, IN_TIME, move |result| {
                told.push((question, result));
            });
        }
        let clock = deadline();
        let replier = {
            let client = Arc::clone(&client);
            spawn(move || {
                let Ok(message) = client.next_message() else {
                    return (Vec::new(), false);
                };
                let bytes = message.payload().to_vec();
                (bytes.clone(), message.reply(&bytes).is_ok())
            })
        };
        clock.join().unwrap();
        // Ends the get, if its messages are gone, and tells whoever has not been told.
        end.close();
        let (question, replied) = replier.join().unwrap();
        port.shutdown();
        for (of, result) in told.take(2) {
            let mine = replied && of[..] == question[..];
            assert_eq!(result.is_ok(), mine, "{result:?}");
        }
    });
}

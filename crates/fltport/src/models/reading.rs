//! Among the threads of a client that wait, one reads for all: none of them sleeps on what another has read or left unread.
//!
//! Nothing here has an assertion that matters as much as that it ends: a wake-up that is lost is a deadlock, and found.

use std::sync::Arc;

use super::scene::{SOON, connected, deadline, explore, spawn};
use crate::{CallError, Timeout};

/// A get, its reply and a request at once.
#[test]
fn get_reply_and_request_at_once() {
    explore(|| {
        let (_port, end, client) = connected();
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).unwrap())
        };
        let asker = spawn(move || end.ask(b"?", 4, Timeout::Never).unwrap());
        client.next_message().unwrap().reply(b"yes").unwrap();
        assert_eq!(asker.join().unwrap().bytes, b"yes");
        assert_eq!(requester.join().unwrap(), b"echo");
    });
}

/// A thread is woken for what another has read for it, though that other reads on.
#[test]
fn served_while_the_reader_reads_on() {
    explore(|| {
        let (_port, end, client) = connected();
        let getter = {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().unwrap().payload().to_vec())
        };
        assert_eq!(client.send(b"echo", 4).unwrap(), b"echo");
        // Only now is there anything for the other.
        end.notify(b"m", Timeout::Never).unwrap();
        assert_eq!(getter.join().unwrap(), b"m");
    });
}

/// Three threads that wait: whoever has read what it waited for lets another read.
#[test]
fn reader_that_is_served_hands_over() {
    explore(|| {
        let (_port, end, client) = connected();
        let getters = [(); 2].map(|()| {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().unwrap().payload().to_vec())
        });
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).unwrap())
        };
        end.notify(b"m", Timeout::Never).unwrap();
        end.notify(b"m", Timeout::Never).unwrap();
        for getter in getters {
            assert_eq!(getter.join().unwrap(), b"m");
        }
        assert_eq!(requester.join().unwrap(), b"echo");
    });
}

/// A reader whose limit comes lets another read.
#[test]
fn reader_that_leaves_hands_over() {
    explore(|| {
        let (_port, end, client) = connected();
        let leaver = {
            let client = Arc::clone(&client);
            spawn(move || {
                client
                    .next_message_within(SOON)
                    .map(|m| m.payload().to_vec())
            })
        };
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).unwrap())
        };
        let clock = deadline();
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        assert_eq!(requester.join().unwrap(), b"echo");
        match leaver.join().unwrap() {
            Ok(bytes) => assert_eq!(bytes, b"m"),
            Err(CallError::TimedOut) => assert_eq!(client.next_message().unwrap().payload(), b"m"),
            Err(other) => panic!("{other:?}"),
        }
        sender.join().unwrap().unwrap();
        clock.join().unwrap();
    });
}

/// A look by a thread that does not wait, beside one that does.
#[test]
fn look_beside_a_reader() {
    explore(|| {
        let (_port, end, client) = connected();
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).unwrap())
        };
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        let looked = client.try_next_message().unwrap();
        sender.join().unwrap().unwrap();
        requester.join().unwrap();
        // Delivered, so it is there.
        let message = looked.or_else(|| client.try_next_message().unwrap());
        assert_eq!(message.expect("delivered and not there").payload(), b"m");
    });
}

/// The end of the connection ends every wait, whoever reads.
#[test]
fn end_of_the_connection_ends_every_wait() {
    explore(|| {
        let (_port, end, client) = connected();
        let getters = [(); 2].map(|()| {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().map(|_| ()))
        });
        let closer = spawn(move || end.close());
        client.hang_up();
        for getter in getters {
            assert!(matches!(
                getter.join().unwrap(),
                Err(CallError::Disconnected)
            ));
        }
        closer.join().unwrap();
    });
}

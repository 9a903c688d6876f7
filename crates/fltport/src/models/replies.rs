//! Who gets a reply: a reply that returned success reached its sender, whatever raced with it.

use std::sync::Arc;

use super::scene::{IN_TIME, Told, connected, deadline, explore, spawn};
use crate::{CallError, NtStatus, Reply, SendError, Timeout};

/// The sender has what the replier was told.
fn agree(replied: &Result<(), CallError>, asked: &Result<Reply, SendError>, payload: &[u8]) {
    if replied.is_ok() {
        let reply = asked.as_ref().expect("a reply that succeeded got lost");
        assert_eq!(reply.bytes, payload);
        assert_eq!(reply.status, NtStatus::SUCCESS);
    }
}

/// Reply and timeout: exactly one of the two outcomes, seen alike from both sides.
#[test]
fn reply_races_timeout() {
    explore(|| {
        let (_port, end, client) = connected();
        let asker = spawn(move || end.ask(b"?", 4, IN_TIME));
        let clock = deadline();
        let replier = {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().map(|message| message.reply(b"yes")))
        };
        let asked = asker.join().unwrap();
        clock.join().unwrap();
        if matches!(asked, Err(SendError::TimedOut { delivered: false })) {
            // Its get waits for a message that never comes.
            client.hang_up();
        }
        let replied = replier.join().unwrap();
        match (&asked, &replied) {
            (Ok(_), Ok(Ok(()))) => agree(&Ok(()), &asked, b"yes"),
            (Err(SendError::TimedOut { delivered: true }), Ok(Err(CallError::NoWaiter))) => {}
            (Err(SendError::TimedOut { delivered: false }), Err(CallError::Disconnected)) => {}
            others => panic!("{others:?}"),
        }
    });
}

/// Reply and the filter's close: both sides say it went well, or both say it did not.
#[test]
fn reply_races_the_filters_close() {
    explore(|| {
        let (_port, end, client) = connected();
        let closer = {
            let end = end.clone();
            spawn(move || end.close())
        };
        let asker = spawn(move || end.ask(b"?", 4, Timeout::Never));
        let replied = client
            .next_message()
            .and_then(|message| message.reply(b"yes"));
        let asked = asker.join().unwrap();
        closer.join().unwrap();
        agree(&replied, &asked, b"yes");
        assert_eq!(replied.is_ok(), asked.is_ok(), "{replied:?} {asked:?}");
    });
}

/// Reply and the end of the client itself: success is success, and the sender never waits on.
#[test]
fn reply_races_the_clients_end() {
    explore(|| {
        let (_port, end, client) = connected();
        let asker = spawn(move || end.ask(b"?", 4, Timeout::Never));
        let closer = {
            let client = Arc::clone(&client);
            spawn(move || client.hang_up())
        };
        let replied = client
            .next_message()
            .and_then(|message| message.reply(b"yes"));
        closer.join().unwrap();
        agree(&replied, &asker.join().unwrap(), b"yes");
    });
}

/// Two replies to one id: one wins, and the sender has that one's bytes.
#[test]
fn two_replies_race() {
    explore(|| {
        let (_port, end, client) = connected();
        let asker = spawn(move || end.ask(b"?", 4, Timeout::Never));
        let id = client.next_message().unwrap().detach();
        let other = {
            let client = Arc::clone(&client);
            spawn(move || client.reply_to(id, NtStatus::SUCCESS, b"one"))
        };
        let two = client.reply_to(id, NtStatus::SUCCESS, b"two");
        let one = other.join().unwrap();
        let asked = asker.join().unwrap();
        agree(&one, &asked, b"one");
        agree(&two, &asked, b"two");
        let loser = match (one, two) {
            (Ok(()), Err(loser)) | (Err(loser), Ok(())) => loser,
            others => panic!("{others:?}"),
        };
        assert!(matches!(loser, CallError::NoWaiter), "{loser:?}");
    });
}

/// Two messages and two repliers: each sender has the reply to its own.
#[test]
fn replies_of_two_senders_do_not_cross() {
    explore(|| {
        let (_port, end, client) = connected();
        let askers = [b"a", b"b"].map(|question| {
            let end = end.clone();
            spawn(move || end.ask(question, 1, Timeout::Never))
        });
        let replier = {
            let client = Arc::clone(&client);
            spawn(move || echo(&client))
        };
        echo(&client);
        replier.join().unwrap();
        for (asker, question) in askers.into_iter().zip([b"a", b"b"]) {
            assert_eq!(asker.join().unwrap().unwrap().bytes, question);
        }
    });
}

/// A reply and a sender that gives up by itself.
#[test]
fn reply_races_cancel() {
    explore(|| {
        let (_port, end, client) = connected();
        let told = Arc::new(Told::default());
        let done = Arc::clone(&told);
        let pending = end.ask_then(b"?", 4, Timeout::Never, move |result| done.push(result));
        let message = client.next_message().unwrap();
        let canceller = spawn(move || pending.cancel());
        let replied = message.reply(b"yes");
        canceller.join().unwrap();
        // The replier may know before the sender's function is called, but called it is.
        let asked = told.take(1).remove(0);
        agree(&replied, &asked, b"yes");
        assert_eq!(replied.is_ok(), asked.is_ok(), "{replied:?} {asked:?}");
    });
}

fn echo(client: &crate::Client) {
    let message = client.next_message().unwrap();
    let bytes = message.payload().to_vec();
    message.reply(&bytes).unwrap();
}

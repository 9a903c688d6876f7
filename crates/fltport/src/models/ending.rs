//! Ends that race with what is under way: nobody is left waiting, and no callback runs after the last one.

use std::sync::Arc;

use super::scene::{Filter, connected, explore, spawn};
use crate::{CallError, SendError, Timeout};

/// The client closes while a message is delivered to it.
#[test]
fn clients_close_races_delivery() {
    explore(|| {
        let (_port, end, client) = connected();
        let getter = {
            let client = Arc::clone(&client);
            spawn(move || client.next_message().map(|m| m.payload().to_vec()))
        };
        let sender = spawn(move || end.notify(b"m", Timeout::Never));
        client.close();
        match sender.join().unwrap() {
            // It was given to the get; the close may have been faster in telling the thread that waits for that.
            Ok(()) => {}
            Err(SendError::Disconnected { delivered: false }) => {
                assert!(matches!(
                    getter.join().unwrap(),
                    Err(CallError::Disconnected)
                ));
            }
            Err(other) => panic!("{other:?}"),
        }
    });
}

/// The filter closes while it asks: the ask ends as disconnected, whether it was delivered or not, and so does the get.
#[test]
fn filters_close_races_send() {
    explore(|| {
        let (_port, end, client) = connected();
        let asker = {
            let end = end.clone();
            spawn(move || end.ask(b"?", 4, Timeout::Never))
        };
        let getter = spawn(move || client.next_message().map(crate::Message::detach));
        end.close();
        let asked = asker.join().unwrap();
        let delivered = getter.join().unwrap().is_ok();
        assert!(
            matches!(asked, Err(SendError::Disconnected { delivered: d }) if d == delivered),
            "{asked:?} {delivered}"
        );
    });
}

/// The client's close waits for the disconnect callback, and that for the message callback.
#[test]
fn close_waits_for_the_last_callback() {
    explore(|| {
        let filter = Filter::default();
        let port = filter.listen(1);
        let client = Arc::new(port.connect_in_memory(b"").unwrap());
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).is_ok())
        };
        client.close();
        let seen = filter.seen();
        assert_eq!((seen.connects, seen.disconnects, seen.running), (1, 1, 0));
        requester.join().unwrap();
    });
}

/// Shutdown while callbacks run or are about to: after it returned none runs, and each connect had its disconnect.
#[test]
fn no_callback_after_shutdown() {
    explore(|| {
        let filter = Filter::default();
        let port = filter.listen(2);
        let client = Arc::new(port.connect_in_memory(b"").unwrap());
        let requester = {
            let client = Arc::clone(&client);
            spawn(move || client.send(b"echo", 4).is_ok())
        };
        let leaver = spawn(move || client.hang_up());
        port.shutdown();
        filter.over();
        let seen = filter.seen();
        assert_eq!((seen.connects, seen.disconnects), (1, 1));
        requester.join().unwrap();
        leaver.join().unwrap();
        filter.seen();
    });
}

/// Shutdown while somebody sends: every send ends.
#[test]
fn shutdown_ends_every_send() {
    explore(|| {
        let (port, end, client) = connected();
        let asker = {
            let end = end.clone();
            spawn(move || end.ask(b"?", 4, Timeout::Never))
        };
        let replier = spawn(move || client.next_message().and_then(|m| m.reply(b"yes")));
        port.shutdown();
        let (asked, replied) = (asker.join().unwrap(), replier.join().unwrap());
        assert!(
            asked.is_ok() || replied.is_err(),
            "a reply that succeeded got lost"
        );
        assert!(end.notify(b"m", Timeout::Never).is_err());
    });
}

//! Connects that race with each other or with the end of their port.

use std::sync::Arc;

use super::scene::{Filter, explore, spawn};
use crate::{ConnectError, NtStatus, Timeout};

/// Three connects and room for two: exactly two succeed.
#[test]
fn as_many_connect_as_there_is_room_for() {
    explore(|| {
        let filter = Filter::default();
        let port = Arc::new(filter.listen(2));
        let connects = [(); 3].map(|()| {
            let port = Arc::clone(&port);
            spawn(move || port.connect_in_memory(b""))
        });
        let clients = connects.map(|connect| connect.join().unwrap());
        let refused = clients.iter().filter(|client| {
            matches!(
                client,
                Err(ConnectError::Refused(NtStatus::CONNECTION_COUNT_LIMIT))
            )
        });
        assert_eq!(refused.count(), 1);
        assert_eq!(clients.iter().filter(|client| client.is_ok()).count(), 2);
        assert_eq!(filter.seen().connects, 2);
        let [one, two] = &filter.seen().ports[..] else {
            panic!("two connects and other ports")
        };
        assert_ne!(one.info().id, two.info().id);
    });
}

/// A place that a client leaves is free once its disconnect callback has returned.
#[test]
fn place_that_is_left_is_free_again() {
    explore(|| {
        let filter = Filter::default();
        let port = filter.listen(1);
        for round in 1..=2 {
            let client = port.connect_in_memory(b"").unwrap();
            let requester = {
                let client = Arc::new(client);
                let other = Arc::clone(&client);
                let requester = spawn(move || other.send(b"echo", 4).is_ok());
                client.close();
                requester
            };
            assert_eq!(filter.seen().disconnects, round);
            requester.join().unwrap();
        }
    });
}

/// A connect and the close of its port: it succeeds wholly, or there is no such port.
#[test]
fn connect_races_the_ports_close() {
    explore(|| {
        let filter = Filter::default();
        let port = Arc::new(filter.listen(1));
        let closer = {
            let port = Arc::clone(&port);
            spawn(move || port.close())
        };
        let client = port.connect_in_memory(b"");
        closer.join().unwrap();
        match client {
            Ok(client) => {
                let end = filter.seen().ports.remove(0);
                let sender = spawn(move || end.notify(b"m", Timeout::Never));
                assert_eq!(client.next_message().unwrap().payload(), b"m");
                sender.join().unwrap().unwrap();
                assert_eq!(client.send(b"echo", 4).unwrap(), b"echo");
            }
            Err(ConnectError::Refused(NtStatus::OBJECT_NAME_NOT_FOUND)) => {
                assert_eq!(filter.seen().connects, 0);
            }
            Err(other) => panic!("{other:?}"),
        }
    });
}

/// A connect and the shutdown of its port: refused, or connected and ended; never one without the other.
#[test]
fn connect_races_shutdown() {
    explore(|| {
        let filter = Filter::default();
        let port = Arc::new(filter.listen(1));
        let connect = {
            let port = Arc::clone(&port);
            spawn(move || port.connect_in_memory(b""))
        };
        // What a shutdown does, while others still have the port.
        port.close();
        port.shared().unregister();
        filter.over();
        let seen = filter.seen();
        assert_eq!(seen.connects, seen.disconnects);
        if let Ok(client) = connect.join().unwrap() {
            client.next_message().unwrap_err();
        }
        filter.seen();
    });
}

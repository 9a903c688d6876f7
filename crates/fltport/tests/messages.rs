//! Messages one after the other with gets posted ahead: none waits behind a get that is still posted, wherever its own is.
#![cfg(target_os = "linux")]

mod common;

use common::{Ends, LONG, both_ways, both_ways_owned, until, watchdog};
use fltport::{Client, ClientPort, PostedGet};

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

/// Answers `count` messages with the double of their numbers.
fn answer(messages: &mut fltport::Messages<'_>, count: u32) {
    for message in messages.take(count as usize) {
        let message = message.unwrap();
        let doubled = 2 * number(message.payload());
        message.reply(&doubled.to_le_bytes()).unwrap();
    }
}

#[test]
fn a_hundred_senders_at_once_are_answered_through_a_hundred_gets() {
    let _watchdog = watchdog("a_hundred_senders_at_once_are_answered_through_a_hundred_gets");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&mut client.messages(100), 300));
            for sender in 0..100u32 {
                scope.spawn(move || {
                    for i in 3 * sender..3 * sender + 3 {
                        let reply = filter.ask(&i.to_le_bytes(), 4, LONG).unwrap();
                        assert_eq!(number(&reply.bytes), 2 * i);
                    }
                });
            }
        });
    });
}

/// Together they have more gets than memory has room for, and post them by turns.
#[test]
fn threads_that_share_the_room_for_gets_hold_up_no_message() {
    let _watchdog = watchdog("threads_that_share_the_room_for_gets_hold_up_no_message");
    both_ways_owned(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for message in client.messages(40) {
                        let message = message.unwrap();
                        let doubled = 2 * number(message.payload());
                        message.reply(&doubled.to_le_bytes()).unwrap();
                    }
                });
            }
            for i in 0..600u32 {
                let reply = filter.ask(&i.to_le_bytes(), 4, LONG).unwrap();
                assert_eq!(number(&reply.bytes), 2 * i);
            }
            client.close();
        });
    });
}

/// Its gets are posted by frames while there is no room, and in memory when there is: those at the host are over first.
#[test]
fn gets_that_move_into_memory_hold_up_no_message() {
    let _watchdog = watchdog("gets_that_move_into_memory_hold_up_no_message");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            for round in 0..10u32 {
                // Too small for anything that is sent here.
                let full: Vec<_> = (0..64).map(|_| client.post_get(16)).collect();
                let service = scope.spawn(|| answer(&mut client.messages(3), 40));
                let ask = |i: u32| {
                    let reply = filter.ask(&i.to_le_bytes(), 4, LONG).unwrap();
                    assert_eq!(number(&reply.bytes), 2 * i);
                };
                (0..20).map(|i| 100 * round + i).for_each(ask);
                drop(full);
                (20..40).map(|i| 100 * round + i).for_each(ask);
                service.join().unwrap();
            }
        });
    });
}

#[test]
fn a_message_kept_from_a_dropped_get_is_the_next_though_gets_are_posted() {
    let _watchdog = watchdog("a_message_kept_from_a_dropped_get_is_the_next");
    both_ways(|Ends { filter, client, .. }| {
        let dropped = client.post_get(1_000);
        filter.notify(b"kept", LONG).unwrap();
        // Its frame is taken by this call, at the latest.
        assert_eq!(client.send(b"look", 16).unwrap(), b"look");
        let mut messages = client.messages(3);
        std::thread::scope(|scope| {
            scope.spawn(|| filter.notify(b"first", LONG).unwrap());
            let first = messages.next().unwrap().unwrap();
            assert_eq!(first.payload(), b"first");
        });
        drop(dropped);
        let kept = messages.next().unwrap().unwrap();
        assert_eq!(kept.payload(), b"kept");
    });
}

#[test]
fn a_message_that_is_kept_while_its_thread_waits_reaches_it() {
    let _watchdog = watchdog("a_message_that_is_kept_while_its_thread_waits_reaches_it");
    both_ways(|Ends { filter, client, .. }| {
        let dropped = client.post_get(1_000);
        filter.notify(b"kept", LONG).unwrap();
        assert_eq!(client.send(b"look", 16).unwrap(), b"look");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let message = client.messages(100).next().unwrap().unwrap();
                message.payload().to_vec()
            });
            until("gets are posted", || filter.info().gets > 0);
            drop(dropped);
            assert_eq!(waits.join().unwrap(), b"kept");
        });
    });
}

/// A sender has each of its messages taken before it sends the next.
#[test]
fn the_messages_of_one_sender_come_in_their_order() {
    let _watchdog = watchdog("the_messages_of_one_sender_come_in_their_order");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            scope
                .spawn(|| (0..500u32).for_each(|i| filter.notify(&i.to_le_bytes(), LONG).unwrap()));
            let messages = client.messages(100).take(500);
            let numbers = messages.map(|message| number(message.unwrap().payload()));
            assert!(numbers.eq(0..500));
        });
    });
}

#[test]
fn what_was_delivered_is_still_there_after_the_end() {
    let _watchdog = watchdog("what_was_delivered_is_still_there_after_the_end");
    both_ways(|Ends { filter, client, .. }| {
        let mut messages = client.messages(100);
        std::thread::scope(|scope| {
            scope.spawn(|| filter.notify(&0u32.to_le_bytes(), LONG).unwrap());
            assert_eq!(number(messages.next().unwrap().unwrap().payload()), 0);
        });
        // All but the one that is over: as many as memory has room for, or as were asked for.
        until("the host has all", || matches!(filter.info().gets, 63 | 99));
        let posted = u32::try_from(filter.info().gets).unwrap();
        (1..=posted).for_each(|i| filter.notify(&i.to_le_bytes(), LONG).unwrap());
        filter.close();
        let numbers = messages.map(|message| number(message.unwrap().payload()));
        assert!(numbers.eq(1..=posted));
    });
}

#[test]
fn gets_without_number_are_as_many_as_a_connection_may_have() {
    let _watchdog = watchdog("gets_without_number_are_as_many_as_a_connection_may_have");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&mut client.messages(usize::MAX), 10));
            for i in 0..10u32 {
                let reply = filter.ask(&i.to_le_bytes(), 4, LONG).unwrap();
                assert_eq!(number(&reply.bytes), 2 * i);
            }
        });
    });
}

/// A get that is posted by a frame, because gets that are too small for anything take the room in memory, and a message on
/// its way to it, which nobody has read. Half of the room is free afterwards.
fn on_its_way(filter: &ClientPort, client: &Client) -> (PostedGet, Vec<PostedGet>) {
    let mut full: Vec<_> = (0..64).map(|_| client.post_get(16)).collect();
    let get = client.post_get(1_000);
    until("the host has all", || filter.info().gets == 65);
    filter.notify(b"on its way", LONG).unwrap();
    full.truncate(32);
    until("the host has the rest", || filter.info().gets == 32);
    (get, full)
}

#[test]
fn a_message_on_its_way_to_a_get_that_is_dropped_is_the_next() {
    let _watchdog = watchdog("a_message_on_its_way_to_a_get_that_is_dropped_is_the_next");
    both_ways(|Ends { filter, client, .. }| {
        let (dropped, _full) = on_its_way(filter, client);
        drop(dropped);
        let next = client.messages(2).next().unwrap().unwrap();
        assert_eq!(next.payload(), b"on its way");
    });
}

#[test]
fn a_message_on_its_way_to_a_get_that_is_dropped_reaches_a_thread_that_sleeps() {
    let _watchdog = watchdog("a_message_on_its_way_to_a_get_that_is_dropped_reaches");
    both_ways(|Ends { filter, client, .. }| {
        let (dropped, _full) = on_its_way(filter, client);
        std::thread::scope(|scope| {
            let sleeps = scope.spawn(|| client.next_message().unwrap().payload().to_vec());
            until("its get is posted", || filter.info().gets == 33);
            drop(dropped);
            assert_eq!(sleeps.join().unwrap(), b"on its way");
        });
    });
}

#[test]
fn a_message_on_its_way_to_a_get_that_is_dropped_reaches_a_thread_that_waits_in_memory() {
    let _watchdog = watchdog("a_message_on_its_way_to_a_get_that_is_dropped");
    both_ways(|Ends { filter, client, .. }| {
        let (dropped, _full) = on_its_way(filter, client);
        drop(dropped);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| client.next_message().unwrap().payload().to_vec());
            // In the process alone that thread reads, and may have it already.
            until("it waits", || {
                waits.is_finished() || filter.info().gets == 33
            });
            // Whoever reads finds a message that nobody waits for at the host.
            assert_eq!(client.send(b"look", 16).unwrap(), b"look");
            assert_eq!(waits.join().unwrap(), b"on its way");
        });
    });
}

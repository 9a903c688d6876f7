//! Many threads on one connection: every payload exactly once, and nobody sleeps through the end of a call.

mod common;

use std::collections::BTreeSet;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use common::{Ends, LONG, both_ways, until, watchdog};
use fltport::{CallError, SendError, Timeout};

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn d14_f22_eight_senders_and_four_receivers_exchange_every_payload_once() {
    let _watchdog = watchdog("d14_f22_eight_senders_and_four_receivers");
    both_ways(|Ends { filter, client, .. }| {
        let seen = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Ok(message) = client.next_message() {
                        let value = number(message.payload());
                        if message.reply_capacity().is_some() {
                            message.reply(&(value + 1).to_le_bytes()).unwrap();
                        }
                        assert!(seen.lock().unwrap().insert(value), "{value} came twice");
                    }
                });
            }
            let senders: Vec<_> = (0..8u32)
                .map(|sender| {
                    scope.spawn(move || {
                        for i in 0..200 {
                            let value = sender * 200 + i;
                            if i % 2 == 0 {
                                filter.notify(&value.to_le_bytes(), LONG).unwrap();
                                continue;
                            }
                            let reply = filter.ask(&value.to_le_bytes(), 4, LONG).unwrap();
                            assert_eq!(number(&reply.bytes), value + 1);
                        }
                    })
                })
                .collect();
            senders
                .into_iter()
                .for_each(|sender| sender.join().unwrap());
            until("all were taken", || seen.lock().unwrap().len() == 1_600);
            client.close();
        });
    });
}

#[test]
fn l13_a_thread_that_leaves_with_its_message_wakes_another_to_read() {
    let _watchdog = watchdog("l13_a_thread_that_leaves_with_its_message_wakes_another_to_read");
    both_ways(|Ends { filter, client, .. }| {
        for round in 0..150u32 {
            // Each takes one message and goes: whoever was to read next may be gone already.
            const THREADS: u32 = 6;
            std::thread::scope(|scope| {
                let takers: Vec<_> = (0..THREADS)
                    .map(|_| scope.spawn(|| number(client.next_message().unwrap().payload())))
                    .collect();
                if round % 2 == 0 {
                    until("all wait", || filter.info().gets == THREADS as usize);
                }
                for i in 0..THREADS {
                    filter.notify(&i.to_le_bytes(), LONG).unwrap();
                }
                let got: BTreeSet<_> = takers.into_iter().map(|t| t.join().unwrap()).collect();
                assert_eq!(got.len(), THREADS as usize);
            });
        }
    });
}

#[test]
fn a_thread_whose_time_is_up_wakes_another_to_read() {
    let _watchdog = watchdog("a_thread_whose_time_is_up_wakes_another_to_read");
    both_ways(|Ends { filter, client, .. }| {
        for _ in 0..60 {
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| client.next_message().map(drop));
                let hasty: Vec<_> = [200, 400, 600, 800]
                    .into_iter()
                    .map(|wait| {
                        let wait = Duration::from_micros(wait);
                        scope.spawn(move || client.next_message_within(wait).map(drop))
                    })
                    .collect();
                for hasty in hasty {
                    assert_eq!(hasty.join().unwrap(), Err(CallError::TimedOut));
                }
                until("one waits alone", || filter.info().gets == 1);
                filter.notify(b"x", LONG).unwrap();
                waits.join().unwrap().unwrap();
            });
        }
    });
}

#[test]
fn n3_a_close_races_with_senders_and_receivers_and_ends_them_all() {
    let _watchdog = watchdog("n3_a_close_races_with_senders_and_receivers");
    for round in 0..60u64 {
        both_ways(|Ends { filter, client, .. }| {
            let start = Barrier::new(7);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        start.wait();
                        loop {
                            match filter.ask(b"?", 4, Timeout::Never) {
                                Ok(reply) => assert_eq!(reply.bytes, b"yes"),
                                Err(SendError::Disconnected { .. }) => return,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    });
                    scope.spawn(|| {
                        start.wait();
                        while let Ok(message) = client.next_message() {
                            match message.reply(b"yes") {
                                Ok(()) => {}
                                Err(CallError::Disconnected | CallError::NoWaiter) => {}
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                    });
                }
                start.wait();
                std::thread::sleep(Duration::from_micros(round * 20));
                if round % 2 == 0 {
                    filter.close();
                } else {
                    client.close();
                }
            });
        });
    }
}

#[test]
fn i18_a_reply_that_was_taken_reached_its_sender_whatever_came_next() {
    let _watchdog = watchdog("i18_a_reply_that_was_taken_reached_its_sender");
    let host = common::Host::new();
    for _ in 0..200 {
        let client = host.connect();
        let filter = host.log.next_port();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| filter.ask(b"?", 4, Timeout::Never));
            let replied = client.next_message().unwrap().reply(b"yes");
            drop(client);
            let asked = asked.join().unwrap();
            assert_eq!(replied.is_ok(), asked.is_ok(), "{replied:?} {asked:?}");
        });
    }
    host.shutdown();
}

#[test]
fn f24_a_reply_at_the_deadline_is_either_taken_or_finds_nobody() {
    let _watchdog = watchdog("f24_a_reply_at_the_deadline_is_either_taken_or_finds_nobody");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            let (sender, outcomes) = std::sync::mpsc::channel();
            scope.spawn(move || {
                while let Ok(message) = client.next_message() {
                    let id = message.header().message_id;
                    sender.send((id, message.reply(b"yes"))).unwrap();
                }
            });
            let mut numbers = std::collections::HashSet::new();
            for i in 0..1_000 {
                let wait = Timeout::after(Duration::from_micros(20 + i % 100));
                let asked = filter.ask(b"?", 4, wait);
                let taken = match asked {
                    Ok(_) => true,
                    Err(SendError::TimedOut { delivered: true }) => false,
                    Err(SendError::TimedOut { delivered: false }) => continue,
                    Err(other) => panic!("{other:?}"),
                };
                let (id, replied) = outcomes.recv().unwrap();
                assert!(
                    id != 0 && numbers.insert(id),
                    "the number of another message"
                );
                let expected = if taken {
                    Ok(())
                } else {
                    Err(CallError::NoWaiter)
                };
                assert_eq!(replied, expected);
            }
            client.close();
        });
    });
}

#[test]
fn h5_gets_that_give_up_lose_no_message_to_one_that_waits() {
    let _watchdog = watchdog("h5_gets_that_give_up_lose_no_message_to_one_that_waits");
    both_ways(|Ends { filter, client, .. }| {
        const COUNT: u32 = 1_000;
        let got = Mutex::new(Vec::new());
        let take = |bytes: &[u8]| {
            got.lock()
                .unwrap()
                .push(u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        std::thread::scope(|scope| {
            // Waits for ever: a message that a hasty get left over is for it.
            scope.spawn(|| {
                while let Ok(message) = client.next_message() {
                    take(message.payload());
                }
            });
            for wait in [3, 17, 60] {
                scope.spawn(move || {
                    loop {
                        match client.next_message_within(Duration::from_micros(wait)) {
                            Ok(message) => take(message.payload()),
                            Err(CallError::TimedOut) => {}
                            Err(_) => return,
                        }
                    }
                });
            }
            for i in 0..COUNT {
                filter.notify(&i.to_le_bytes(), LONG).unwrap();
            }
            until("all have come", || {
                got.lock().unwrap().len() >= COUNT as usize
            });
            client.close();
        });
        let mut got = got.into_inner().unwrap();
        got.sort_unstable();
        assert!(got.into_iter().eq(0..COUNT));
    });
}

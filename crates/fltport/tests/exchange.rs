//! Questions and answers of every length and status, over a socket and in memory alike.
#![cfg(target_os = "linux")]

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::{Ends, Handler, LONG, both_ways, both_ways_owned, each_way, until, watchdog};
use fltport::{CallError, NtStatus, SendError, Timeout, WallTime};
use rustix::event::{PollFd, PollFlags};

#[test]
fn e2_a_get_that_is_too_small_is_told_so_and_the_message_waits() {
    let _watchdog = watchdog("e2_a_get_that_is_too_small_is_told_so_and_the_message_waits");
    both_ways(|Ends { filter, client, .. }| {
        assert!(matches!(
            client.get(8),
            Err(CallError::TooSmall { needed: 16 })
        ));
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| filter.notify(&[1; 64], LONG));
            let small = client.get(16 + 63).map(drop);
            assert_eq!(small, Err(CallError::TooSmall { needed: 80 }));
            assert_eq!(small.unwrap_err().hresult().0, 0x8007_007A);
            assert!(!sent.is_finished());
            let message = client.get(16 + 64).unwrap();
            assert_eq!(message.payload(), [1; 64]);
            assert_eq!(
                (message.header().message_id, message.reply_capacity()),
                (0, None)
            );
            sent.join().unwrap().unwrap();
        });
    });
}

#[test]
fn f2_f4_f6_replies_of_every_length_and_status_reach_the_sender() {
    let _watchdog = watchdog("f2_f4_f6_replies_of_every_length_and_status_reach_the_sender");
    both_ways(|Ends { filter, client, .. }| {
        let answer = |status, payload: &'static [u8]| {
            std::thread::scope(|scope| {
                let replied = scope.spawn(move || {
                    let message = client.next_message().unwrap();
                    assert_eq!(message.reply_capacity(), Some(4));
                    message.reply_with(status, payload)
                });
                (filter.ask(b"?", 4, LONG), replied.join().unwrap())
            })
        };
        let (asked, replied) = answer(NtStatus::ACCESS_DENIED, b"deny");
        let reply = asked.unwrap();
        assert_eq!(
            (reply.status, &reply.bytes[..]),
            (NtStatus::ACCESS_DENIED, &b"deny"[..])
        );
        assert_eq!(replied, Ok(()));
        let (asked, replied) = answer(NtStatus::SUCCESS, b"");
        assert_eq!((asked.unwrap().bytes, replied), (Vec::new(), Ok(())));
        let (asked, replied) = answer(NtStatus::SUCCESS, b"too long");
        let cut = matches!(&asked, Err(SendError::ReplyTooLong(reply)) if reply.bytes == b"too ");
        assert!(cut, "{asked:?}");
        assert_eq!(asked.unwrap_err().status(), NtStatus::BUFFER_OVERFLOW);
        assert_eq!(replied, Err(CallError::ReplyTooLong));
    });
}

#[test]
fn a_message_that_is_dropped_tells_its_sender_at_once() {
    let _watchdog = watchdog("a_message_that_is_dropped_tells_its_sender_at_once");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            scope.spawn(|| drop(client.next_message().unwrap()));
            assert_eq!(
                filter.ask(b"?", 4, LONG).unwrap().status,
                NtStatus::CANCELLED
            );
            scope.spawn(|| client.next_message().unwrap().reply_and_forget(b"yes"));
            assert_eq!(filter.ask(b"?", 4, LONG).unwrap().bytes, b"yes");
        });
    });
}

#[test]
fn g4_g7_a_poll_reaches_a_get_that_waits_and_nothing_else() {
    let _watchdog = watchdog("g4_g7_a_poll_reaches_a_get_that_waits_and_nothing_else");
    both_ways(|Ends { filter, client, .. }| {
        for poll in [Timeout::poll(), Timeout::At(WallTime::from_ticks(1))] {
            let alone = filter.notify(b"poll", poll);
            assert!(matches!(
                alone,
                Err(SendError::TimedOut { delivered: false })
            ));
            std::thread::scope(|scope| {
                let got = scope.spawn(|| client.next_message().unwrap().payload().to_vec());
                until("a get waits", || filter.info().gets == 1);
                filter.notify(b"poll", poll).unwrap();
                assert_eq!(got.join().unwrap(), b"poll");
            });
        }
    });
}

#[test]
fn a_get_with_a_limit_leaves_nothing_behind() {
    let _watchdog = watchdog("a_get_with_a_limit_leaves_nothing_behind");
    both_ways(|Ends { filter, client, .. }| {
        for _ in 0..20 {
            let none = client
                .next_message_within(Duration::from_millis(1))
                .map(drop);
            assert_eq!(none, Err(CallError::TimedOut));
        }
        until("no get is left", || filter.info().gets == 0);
        let sent = filter.notify(b"x", Timeout::after(Duration::from_millis(30)));
        assert!(matches!(
            sent,
            Err(SendError::TimedOut { delivered: false })
        ));
    });
}

#[test]
fn a_polling_consumer_sleeps_on_the_descriptor() {
    let _watchdog = watchdog("a_polling_consumer_sleeps_on_the_descriptor");
    both_ways(|Ends { filter, client, .. }| {
        std::thread::scope(|scope| {
            assert!(client.try_next_message().unwrap().is_none());
            for i in 0..200u32 {
                let asked = scope.spawn(move || filter.ask(&i.to_le_bytes(), 4, LONG).unwrap());
                let message = loop {
                    if let Some(message) = client.try_next_message().unwrap() {
                        break message;
                    }
                    rustix::event::poll(&mut [PollFd::new(&client.as_fd(), PollFlags::IN)], None)
                        .unwrap();
                };
                let payload = message.payload().to_vec();
                message.reply(&payload).unwrap();
                assert_eq!(asked.join().unwrap().bytes, i.to_le_bytes());
            }
        });
    });
}

#[test]
fn frames_of_every_length_go_both_ways_up_to_sixteen_mebibytes() {
    let _watchdog = watchdog("frames_of_every_length_go_both_ways_up_to_sixteen_mebibytes");
    let most = 16 << 20;
    each_way(
        Handler::default,
        |builder| builder.max_message(most),
        |ends| {
            let Ends { filter, client, .. } = ends;
            assert_eq!((client.max_message(), filter.max_message()), (most, most));
            let whole: Vec<u8> = (0..=250).cycle().take(most as usize).collect();
            let part = 32_768 - 40;
            for length in [
                0,
                1,
                part - 1,
                part,
                part + 1,
                3 * part,
                1 << 20,
                most as usize,
            ] {
                let payload = &whole[..length];
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let message = client.next_message().unwrap();
                        let copy = message.payload().to_vec();
                        message.reply(&copy).unwrap();
                    });
                    let capacity = u32::try_from(length).unwrap();
                    let reply = filter.ask(&payload.to_vec(), capacity, LONG).unwrap();
                    assert!(reply.bytes == payload);
                    if length > 0 {
                        assert!(client.send(payload, capacity).unwrap() == payload);
                    }
                });
            }
            let over = vec![0; most as usize + 1];
            let sent = filter.notify(&over, LONG);
            assert!(matches!(
                sent,
                Err(SendError::Refused(NtStatus::INVALID_PARAMETER))
            ));
            let sent = client.send(&over, 0);
            assert_eq!(sent, Err(CallError::Status(NtStatus::INVALID_PARAMETER)));
            assert_eq!(
                client.send(b"", 0),
                Err(CallError::Status(NtStatus::INVALID_PARAMETER))
            );
        },
    );
}

#[test]
fn what_was_delivered_reaches_its_client_though_the_port_shuts_down() {
    let _watchdog = watchdog("what_was_delivered_reaches_its_client_though_the_port_shuts_down");
    let test = |Ends {
                    port,
                    filter,
                    client,
                    ..
                }: Ends| {
        let long = vec![7; 1 << 20]; // more than a socket holds
        let got = std::thread::scope(|scope| {
            let getter =
                scope.spawn(|| client.next_message().map(|message| message.payload().len()));
            filter.notify(&long, LONG).unwrap();
            port.shutdown();
            getter.join().unwrap()
        });
        assert_eq!(got, Ok(1 << 20));
    };
    both_ways_owned(test);
}

#[test]
fn f6_a_reply_over_the_ports_limit_is_cut_and_both_sides_hear_of_it() {
    let _watchdog = watchdog("f6_a_reply_over_the_ports_limit");
    each_way(
        Handler::default,
        |builder| builder.max_message(1_000),
        |ends| {
            for capacity in [4, 1_000] {
                let sent = std::thread::scope(|scope| {
                    let sent = scope.spawn(|| ends.filter.ask(b"x", capacity, LONG));
                    let message = ends.client.next_message().unwrap();
                    let reply = message.reply(&[7; 1_001]);
                    assert_eq!(reply, Err(CallError::ReplyTooLong));
                    sent.join().unwrap()
                });
                let (status, bytes) = match sent {
                    Ok(reply) | Err(SendError::ReplyTooLong(reply)) => (reply.status, reply.bytes),
                    Err(other) => panic!("{other}"),
                };
                assert_eq!(status, NtStatus::BUFFER_OVERFLOW);
                assert_eq!(bytes, vec![7; usize::try_from(capacity).unwrap()]);
            }
        },
    );
}

#[test]
fn a_message_kept_from_a_dropped_get_holds_up_no_other_and_ends_with_the_connection() {
    let _watchdog = watchdog("a_message_kept_from_a_dropped_get");
    both_ways(|ends| {
        let dropped = ends.client.post_get(1_000);
        ends.filter.notify(&[1; 500], LONG).unwrap();
        // Its frame is taken by this call, at the latest.
        assert_eq!(ends.client.send(b"look", 16).unwrap(), b"look");
        drop(dropped);
        let told = ends.client.get(64).map(drop);
        assert_eq!(told, Err(CallError::TooSmall { needed: 516 }));
        std::thread::scope(|scope| {
            let small = scope.spawn(|| ends.filter.notify(b"small", LONG));
            assert_eq!(ends.client.get(64).unwrap().payload(), b"small");
            small.join().unwrap().unwrap();
        });
        ends.client.close();
        let after = ends.client.get(1_000).map(drop);
        assert_eq!(after, Err(CallError::Disconnected));
    });
}

#[test]
fn a_message_whose_connection_the_filter_has_closed_is_abandoned() {
    let _watchdog = watchdog("a_message_whose_connection_the_filter_has_closed");
    both_ways(|ends| {
        let (told, ended) = std::sync::mpsc::channel();
        let asked = ends
            .filter
            .ask_then(b"x", 4, Timeout::Never, move |result| {
                told.send(result.map(drop)).unwrap();
            });
        let message = ends.client.next_message().unwrap();
        assert!(!message.is_abandoned());
        ends.filter.close();
        let ended = ended.recv().unwrap();
        assert!(matches!(
            ended,
            Err(SendError::Disconnected { delivered: true })
        ));
        until("the client knows", || message.is_abandoned());
        drop(asked);
    });
}

#[test]
fn whose_message_the_client_has_hears_of_its_end_before_those_whose_it_has_not() {
    let _watchdog = watchdog("whose_message_the_client_has_hears_of_its_end");
    both_ways_owned(|ends| {
        let (told, ended) = std::sync::mpsc::channel();
        let ask = || {
            let told = told.clone();
            ends.filter
                .ask_then(b"x", 4, Timeout::Never, move |result| {
                    told.send(result.map(drop)).unwrap();
                })
        };
        let _first = ask();
        let message = ends.client.next_message().unwrap();
        let _second = ask();
        until("it waits", || ends.filter.info().waiting == 1);
        ends.client.close();
        for expected in [true, false] {
            let end = ended.recv().unwrap();
            assert!(
                matches!(end, Err(SendError::Disconnected { delivered }) if delivered == expected),
                "{end:?}"
            );
        }
        drop(message);
    });
}

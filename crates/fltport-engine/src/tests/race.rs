//! Two things at once: each race in both orders, each with one defined outcome.

use super::port::House;
use super::*;

const DONE: Option<NtStatus> = Some(NtStatus::SUCCESS);
const GONE: Option<NtStatus> = Some(NtStatus::PORT_DISCONNECTED);
const LATE: Option<NtStatus> = Some(NtStatus::TIMEOUT);
const NOBODY: Option<NtStatus> = Some(NtStatus::FLT_NO_WAITER_FOR_REPLY);

#[test]
fn f24_of_reply_and_timeout_exactly_one_happens() {
    for reply_first in [true, false] {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, within(10));
        if !reply_first {
            advance(&mut pair, 10);
        }
        let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
        advance(&mut pair, 10);
        let expected = if reply_first {
            (DONE, DONE)
        } else {
            (NOBODY, LATE)
        };
        assert_eq!((told, sent(&pair, send)), expected);
        assert_eq!(pair.host.pending(), (0, 0));
    }
}

#[test]
fn f24_a_reply_at_the_latency_of_the_timeout_is_never_half_done() {
    let mut pair = Pair::connected();
    for round in 0..10_000 {
        let (send, id) = asked(&mut pair, b"safe?", 4, within(5));
        advance(&mut pair, round % 10);
        let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
        assert_eq!(told == DONE, sent(&pair, send) == DONE);
        assert_eq!(told == NOBODY, sent(&pair, send) == LATE);
    }
}

#[test]
fn f24_a_reply_that_overtakes_the_timer_wins_after_its_deadline_too() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, within(10));
    let mut late = pair.now();
    late.monotonic = late.monotonic.checked_add(Duration::from_secs(1)).unwrap();
    // The reply is on the wire before the driver's timer fires.
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    pair.host.handle_timeout(late);
    pair.drive();
    assert_eq!((told, sent(&pair, send)), (DONE, DONE));
}

#[test]
fn i18_of_reply_and_client_port_close_exactly_one_happens() {
    for reply_first in [true, false] {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        pair.stop_reading();
        if !reply_first {
            pair.host.handle_filter_closed();
            pair.drive();
        }
        let reply = pair.start_reply(id, NtStatus::SUCCESS, b"yes");
        if reply_first {
            pair.host.handle_filter_closed();
            pair.drive();
        }
        pair.resume_reading();
        let told = ended(&pair, reply);
        let expected = if reply_first { DONE } else { GONE };
        assert_eq!((told, sent(&pair, send)), (expected, expected));
        assert_eq!(pair.lies, []);
    }
}

#[test]
fn i18_of_reply_and_unregister_exactly_one_happens() {
    for reply_first in [true, false] {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        pair.stop_reading();
        if !reply_first {
            pair.host.handle_unregister();
            pair.drive();
        }
        let reply = pair.start_reply(id, NtStatus::SUCCESS, b"yes");
        if reply_first {
            pair.host.handle_unregister();
            pair.drive();
        }
        pair.resume_reading();
        let told = ended(&pair, reply);
        let expected = if reply_first { DONE } else { GONE };
        assert_eq!((told, sent(&pair, send)), (expected, expected));
        assert_eq!(pair.lies, []);
    }
}

#[test]
fn d4_of_get_and_timeout_exactly_one_takes_the_message() {
    for get_first in [true, false] {
        let mut pair = Pair::connected();
        let send = pair.send(b"event", None, within(10));
        advance(&mut pair, if get_first { 9 } else { 10 });
        let (get, _) = pair.get(room(8));
        advance(&mut pair, 10);
        let expected = if get_first { DONE } else { LATE };
        assert_eq!(sent(&pair, send), expected);
        assert_eq!(taken(&pair, get).is_some(), get_first);
        assert_eq!(pair.host.posted(), usize::from(!get_first));
    }
}

#[test]
fn d4_a_get_that_fits_after_the_timeout_stays_posted_for_the_next() {
    let mut pair = Pair::connected();
    pair.send(b"late", None, within(10));
    advance(&mut pair, 10);
    let (get, _) = pair.get(room(8));
    pair.send(b"next", None, FOREVER);
    assert_eq!(taken(&pair, get), Some(&b"next"[..]));
}

#[test]
fn h5_a_message_that_a_cancelled_get_missed_goes_to_another() {
    for cancel_first in [true, false] {
        let mut pair = Pair::connected();
        let (first, number) = pair.get(room(8));
        let (second, _) = pair.get(room(8));
        if cancel_first {
            pair.cancel(number);
        }
        pair.send(b"event", None, FOREVER);
        if !cancel_first {
            assert!(!pair.cancel(number));
        }
        assert_eq!(taken(&pair, first).is_some(), !cancel_first);
        assert_eq!(taken(&pair, second).is_some(), cancel_first);
        assert_eq!(pair.host.counters().delivered, 1);
    }
}

#[test]
fn i3_i4_of_close_and_delivery_each_order_disconnects_the_question() {
    for delivery_first in [true, false] {
        let mut pair = Pair::connected();
        pair.get(room(8));
        pair.stop_reading();
        if !delivery_first {
            pair.close_client();
        }
        let send = pair.send(b"safe?", Some(4), FOREVER);
        if delivery_first {
            pair.close_client();
        }
        let outcome = Outcome::Disconnected {
            delivered: delivery_first,
        };
        assert_eq!(pair.outcome(send), Some(&outcome));
        assert_eq!(pair.disconnects, 1);
    }
}

#[test]
fn i3_a_message_that_wants_no_reply_is_delivered_or_disconnected() {
    for delivery_first in [true, false] {
        let mut pair = Pair::connected();
        pair.get(room(8));
        if !delivery_first {
            pair.close_client();
        }
        let send = pair.send(b"event", None, FOREVER);
        if delivery_first {
            pair.close_client();
        }
        let expected = if delivery_first { DONE } else { GONE };
        assert_eq!(sent(&pair, send), expected);
    }
}

#[test]
fn n3_of_client_port_close_and_eight_senders_each_has_a_legal_result() {
    for before in 0..=8 {
        let mut pair = Pair::connected();
        pair.get(room(8));
        let mut sends = Vec::new();
        for n in 0..8 {
            if n == before {
                pair.host.handle_filter_closed();
            }
            sends.push(pair.send(&[n], None, FOREVER));
        }
        pair.host.handle_filter_closed();
        pair.drive();
        let served = sends.iter().filter(|send| sent(&pair, **send) == DONE);
        assert_eq!(served.count(), usize::from(before > 0));
        let gone = sends.iter().filter(|send| sent(&pair, **send) == GONE);
        assert_eq!(gone.count(), if before > 0 { 7 } else { 8 });
        assert_eq!(pair.releases, 1);
    }
}

#[test]
fn i11_of_filter_close_and_client_close_both_orders_end_the_same() {
    for filter_first in [true, false] {
        let mut pair = Pair::connected();
        let send = pair.send(b"event", None, FOREVER);
        if filter_first {
            pair.host.handle_filter_closed();
        }
        pair.close_client();
        if !filter_first {
            pair.host.handle_filter_closed();
        }
        pair.disconnect_returns();
        assert_eq!(sent(&pair, send), GONE);
        assert_eq!((pair.disconnects, pair.releases), (1, 1));
        assert_eq!(pair.host.state(), State::Ended);
    }
}

#[test]
fn j4_of_unregister_and_client_close_both_orders_end_the_same() {
    for unregister_first in [true, false] {
        let mut pair = Pair::connected();
        let get = pair.get(room(8)).0;
        if unregister_first {
            pair.host.handle_unregister();
        }
        pair.close_client();
        if !unregister_first {
            pair.host.handle_unregister();
        }
        pair.disconnect_returns();
        assert_eq!(ended(&pair, get), GONE);
        assert_eq!((pair.disconnects, pair.releases), (1, 1));
    }
}

#[test]
fn j13_of_connect_and_port_close_the_connect_succeeds_wholly_or_finds_no_name() {
    for connect_first in [true, false] {
        let mut house = House::new(1);
        if !connect_first {
            house.close_port();
        }
        let connected = house.connect();
        if connect_first {
            house.close_port();
            let pair = &mut house.pairs[connected.unwrap()];
            let (send, id) = asked(pair, b"safe?", 4, FOREVER);
            pair.reply(id, NtStatus::SUCCESS, b"yes");
            assert_eq!(sent(pair, send), DONE);
        } else {
            assert_eq!(connected, Err(NtStatus::OBJECT_NAME_NOT_FOUND));
            assert_eq!(house.port.connections(), (0, 1));
        }
    }
}

#[test]
fn h10_of_reply_and_giving_up_exactly_one_happens() {
    for reply_first in [true, false] {
        let mut pair = Pair::connected();
        let (get, _) = pair.get(room(8));
        let (send, key) = pair.send_keyed(b"safe?", Some(4), FOREVER);
        let id = pair.message(get).unwrap().0.message_id;
        if !reply_first {
            pair.host.handle_send_cancelled(key);
        }
        let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
        pair.host.handle_send_cancelled(key);
        pair.drive();
        let terminating = Some(NtStatus::THREAD_IS_TERMINATING);
        let expected = if reply_first {
            (DONE, DONE)
        } else {
            (NOBODY, terminating)
        };
        assert_eq!((told, sent(&pair, send)), expected);
    }
}

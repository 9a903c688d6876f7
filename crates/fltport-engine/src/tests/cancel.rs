//! Gets that are withdrawn, senders that give up.

use super::*;

#[test]
fn h1_a_cancelled_get_ends_so_and_the_next_message_goes_to_another() {
    let mut pair = Pair::connected();
    let (first, number) = pair.get(room(8));
    let (second, _) = pair.get(room(8));
    assert!(pair.cancel(number));
    assert_eq!(ended(&pair, first), Some(NtStatus::CANCELLED));
    assert_eq!(NtStatus::CANCELLED.to_hresult().0, 0x8007_03E3);
    pair.send(b"next", None, FOREVER);
    assert_eq!(taken(&pair, second), Some(&b"next"[..]));
}

#[test]
fn h2_all_gets_can_be_cancelled() {
    let mut pair = Pair::connected();
    let gets: Vec<_> = (0..10).map(|_| pair.get(room(8))).collect();
    for (get, number) in gets {
        assert!(pair.cancel(number));
        assert_eq!(ended(&pair, get), Some(NtStatus::CANCELLED));
    }
    assert_eq!(pair.host.posted(), 0);
}

#[test]
fn h3_cancelling_what_is_not_pending_says_so() {
    let mut pair = Pair::connected();
    assert!(!pair.cancel(1));
    let (get, number) = pair.get(room(8));
    pair.send(b"fast", None, FOREVER);
    assert!(!pair.cancel(number));
    assert!(taken(&pair, get).is_some());
}

#[test]
fn h3_a_request_cannot_be_cancelled_as_a_get() {
    let mut pair = Pair::connected();
    let request = pair.request(b"version?", 8);
    assert!(!pair.cancel(1));
    pair.callback_returns(NtStatus::SUCCESS, b"1");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

#[test]
fn h5_whoever_wins_between_cancel_and_delivery_no_message_is_lost() {
    let mut pair = Pair::connected();
    let mut received = 0;
    for round in 0..10_000 {
        let (get, number) = pair.get(room(8));
        if round % 2 == 0 {
            // Delivered first: the message is on its way when the client cancels.
            pair.stop_reading();
            pair.send(b"fast", None, FOREVER);
            assert!(pair.cancel(number));
            pair.resume_reading();
            assert!(taken(&pair, get).is_some());
        } else {
            assert!(pair.cancel(number));
            pair.send(b"late", None, FOREVER);
            assert_eq!(ended(&pair, get), Some(NtStatus::CANCELLED));
            let (next, _) = pair.get(room(8));
            assert!(taken(&pair, next).is_some());
        }
        received += 1;
    }
    assert_eq!(pair.host.counters().delivered, received);
    assert_eq!(pair.host.posted(), 0);
}

#[test]
fn h6_h11_after_a_cancel_the_connection_and_new_gets_work() {
    let mut pair = Pair::connected();
    let (_, number) = pair.get(room(8));
    pair.cancel(number);
    assert_eq!(pair.host.state(), State::Connected);
    let (get, _) = pair.get(room(8));
    pair.send(b"works", None, FOREVER);
    assert_eq!(taken(&pair, get), Some(&b"works"[..]));
}

#[test]
fn h9_a_sender_that_gives_up_before_delivery_is_never_heard() {
    let mut pair = Pair::connected();
    let (send, key) = pair.send_keyed(b"never mind", None, FOREVER);
    pair.host.handle_send_cancelled(key);
    pair.drive();
    let outcome = Outcome::Cancelled { delivered: false };
    assert_eq!(pair.outcome(send), Some(&outcome));
    assert_eq!(sent(&pair, send), Some(NtStatus::THREAD_IS_TERMINATING));
    let (get, _) = pair.get(room(16));
    assert_eq!(pair.ended(get), None);
}

#[test]
fn h10_a_sender_that_gives_up_after_delivery_leaves_nobody_for_the_reply() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(8));
    let (send, key) = pair.send_keyed(b"safe?", Some(4), FOREVER);
    let id = pair.message(get).unwrap().0.message_id;
    pair.host.handle_send_cancelled(key);
    pair.drive();
    let outcome = Outcome::Cancelled { delivered: true };
    assert_eq!(pair.outcome(send), Some(&outcome));
    assert_eq!(pair.abandoned, [id]);
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
}

#[test]
fn h9_giving_up_what_has_ended_changes_nothing() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    let (send, key) = pair.send_keyed(b"fast", None, FOREVER);
    pair.host.handle_send_cancelled(key);
    pair.drive();
    assert_eq!(pair.outcome(send), Some(&Outcome::Delivered));
}

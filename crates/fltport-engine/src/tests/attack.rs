//! Clients that lie to the host, and hosts that lie to the client.

use super::*;
use crate::client::Client;
use crate::wire::MessageHeader;

/// The client of a pair whose get number 1 is pending, and that pair.
fn with_a_get() -> (Pair, u64) {
    let mut pair = Pair::connected();
    let (get, number) = pair.get(room(8));
    assert_eq!(number, 1);
    (pair, get)
}

fn client(pair: &mut Pair) -> &mut Client<Bytes, u64> {
    pair.client.as_mut().unwrap()
}

#[test]
fn a_get_number_that_does_not_rise_is_a_lie() {
    let mut pair = Pair::connected();
    assert_eq!(pair.host.handle_get(7, room(8)), Ok(()));
    for number in [7, 6, 1, 0] {
        assert!(pair.host.handle_get(number, room(8)).is_err());
    }
    assert_eq!(pair.host.handle_get(8, room(8)), Ok(()));
    assert_eq!(pair.host.posted(), 2);
}

#[test]
fn a_get_number_is_used_up_even_by_a_get_that_failed() {
    let mut pair = Pair::connected();
    assert_eq!(pair.host.handle_get(7, 0), Ok(()));
    assert!(pair.host.handle_get(7, room(8)).is_err());
}

#[test]
fn get_numbers_may_jump_to_the_end_of_their_range() {
    let mut pair = Pair::connected();
    assert_eq!(pair.host.handle_get(u64::MAX, room(8)), Ok(()));
    assert!(pair.host.handle_get(0, room(8)).is_err());
    assert!(pair.host.handle_get(u64::MAX, room(8)).is_err());
}

#[test]
fn p9_a_client_that_lies_loses_its_connection_and_the_filter_is_told_once() {
    let mut pair = Pair::connected();
    let (question, _) = asked(&mut pair, b"safe?", 4, FOREVER);
    let waiting = pair.send(b"event", None, FOREVER);
    assert!(pair.host.handle_get(1, room(8)).is_err());
    pair.host.handle_peer_closed();
    pair.drive();
    let gone = Some(NtStatus::PORT_DISCONNECTED);
    assert_eq!((sent(&pair, question), sent(&pair, waiting)), (gone, gone));
    pair.close_client();
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
}

#[test]
fn cancelling_a_number_never_posted_changes_nothing() {
    let (mut pair, get) = with_a_get();
    for number in [0, 2, u64::MAX] {
        pair.host.handle_get_cancelled(number);
    }
    pair.drive();
    assert_eq!(pair.ended(get), None);
    assert_eq!(pair.lies, []);
    pair.send(b"works", None, FOREVER);
    assert!(taken(&pair, get).is_some());
}

#[test]
fn cancelling_a_get_twice_ends_it_once() {
    let (mut pair, get) = with_a_get();
    pair.host.handle_get_cancelled(1);
    pair.host.handle_get_cancelled(1);
    pair.drive();
    assert_eq!(ended(&pair, get), Some(NtStatus::CANCELLED));
    assert_eq!(pair.lies, []);
}

#[test]
fn f10_f11_p7_guessed_numbers_find_nobody() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    // Not delivered yet, so it has no number; its guess is as bad as any.
    let next = pair.send(b"safe?", Some(4), FOREVER);
    for guess in [0, id + 1, id - 1, u64::MAX, 1 << 63] {
        let told = pair.reply(guess, NtStatus::SUCCESS, b"yes");
        assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY), "{guess}");
    }
    assert_eq!(pair.outcome(send), None);
    assert_eq!(pair.outcome(next), None);
    assert_eq!(pair.host.counters().late_replies, 5);
}

#[test]
fn p8_a_reply_to_an_abandoned_message_reaches_nobody_however_often() {
    let mut pair = Pair::connected();
    let (old, id) = asked(&mut pair, b"old", 4, within(1));
    advance(&mut pair, 1);
    let (send, _) = asked(&mut pair, b"new", 4, FOREVER);
    for _ in 0..100 {
        let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
        assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
    }
    assert_eq!(sent(&pair, old), Some(NtStatus::TIMEOUT));
    assert_eq!(pair.outcome(send), None);
}

#[test]
fn nothing_a_client_sends_before_it_is_connected_counts() {
    let mut pair = Pair::connecting();
    let send = pair.send(b"too early", Some(4), FOREVER);
    assert_eq!(pair.host.handle_get(1, room(64)), Ok(()));
    pair.host
        .handle_reply(1, 1, NtStatus::SUCCESS, Bytes::default());
    pair.host.handle_request(1, Bytes(b"x".to_vec()), 8);
    pair.drive();
    assert_eq!(pair.host.posted(), 0);
    assert!(pair.callbacks.is_empty());
    assert_eq!(pair.outcome(send), None);
}

#[test]
fn a_request_number_used_twice_is_answered_twice_and_confuses_only_the_liar() {
    let mut pair = Pair::connected();
    pair.host.handle_request(9, Bytes(b"one".to_vec()), 8);
    pair.host.handle_request(9, Bytes(b"two".to_vec()), 8);
    pair.drive();
    assert_eq!(pair.callbacks.len(), 2);
    pair.close_client();
    for _ in 0..2 {
        assert_eq!(pair.disconnects, 0);
        pair.callback_returns(NtStatus::SUCCESS, b"");
    }
    assert_eq!(pair.disconnects, 1);
}

#[test]
fn a_callback_that_returns_twice_is_heard_once() {
    let mut pair = Pair::connected();
    let request = pair.request(b"x", 8);
    let (key, ..) = *pair.callbacks.front().unwrap();
    pair.callback_returns(NtStatus::SUCCESS, b"one");
    pair.host
        .handle_request_returned(key, 1, NtStatus::UNSUCCESSFUL, None);
    pair.drive();
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
    assert_eq!(pair.lies, []);
}

#[test]
fn a_host_that_ends_calls_never_made_is_found_out() {
    let (mut pair, get) = with_a_get();
    let header = MessageHeader::new(0, 0);
    let client = client(&mut pair);
    for number in [0, 2, u64::MAX] {
        let message = client.handle_message(number, header, Bytes::default());
        assert!(message.is_err(), "{number}");
        let failed = client.handle_get_failed(number, NtStatus::CANCELLED, 0);
        assert!(failed.is_err(), "{number}");
        let replied = client.handle_reply_done(number, NtStatus::SUCCESS);
        assert!(replied.is_err(), "{number}");
        let answered = client.handle_request_done(number, NtStatus::SUCCESS, None);
        assert!(answered.is_err(), "{number}");
    }
    pair.drive();
    assert_eq!(pair.ended(get), None);
}

#[test]
fn a_host_that_ends_a_call_as_another_kind_is_found_out() {
    let (mut pair, get) = with_a_get();
    pair.request(b"x", 8);
    let client = client(&mut pair);
    let done = NtStatus::SUCCESS;
    assert!(client.handle_reply_done(1, done).is_err());
    assert!(client.handle_request_done(1, done, None).is_err());
    assert!(client.handle_get_failed(2, done, 0).is_err());
    let header = MessageHeader::new(0, 0);
    let message = client.handle_message(2, header, Bytes::default());
    assert!(message.is_err());
    pair.drive();
    assert_eq!(pair.ended(get), None);
}

#[test]
fn a_host_that_ends_a_call_twice_is_found_out() {
    let (mut pair, get) = with_a_get();
    pair.send(b"once", None, FOREVER);
    let header = MessageHeader::new(0, 0);
    let client = client(&mut pair);
    let message = client.handle_message(1, header, Bytes(b"twice".to_vec()));
    assert!(message.is_err());
    let failed = client.handle_get_failed(1, NtStatus::CANCELLED, 0);
    assert!(failed.is_err());
    pair.drive();
    assert_eq!(taken(&pair, get), Some(&b"once"[..]));
}

#[test]
fn a_host_that_ends_a_call_never_made_is_found_out_after_its_goodbye_too() {
    let (mut pair, _) = with_a_get();
    pair.host.handle_filter_closed();
    pair.drive();
    let client = client(&mut pair);
    let gone = NtStatus::PORT_DISCONNECTED;
    for number in [0, 2, u64::MAX] {
        assert!(client.handle_get_failed(number, gone, 0).is_err());
        assert!(client.handle_reply_done(number, gone).is_err());
        assert!(client.handle_request_done(number, gone, None).is_err());
    }
    let header = MessageHeader::new(0, 0);
    let message = client.handle_message(1, header, Bytes::default());
    assert!(message.is_err());
}

#[test]
fn k27_an_answer_longer_than_the_request_can_take_is_found_out() {
    let mut pair = Pair::connected();
    let request = pair.request(b"x", 4);
    let long = Some(Bytes(b"12345".to_vec()));
    let answered = client(&mut pair).handle_request_done(1, NtStatus::SUCCESS, long);
    assert!(answered.is_err());
    pair.drive();
    assert_eq!(pair.ended(request), None);
    pair.callback_returns(NtStatus::SUCCESS, b"1234");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

#[test]
fn when_the_client_leaves_a_lying_host_all_its_calls_end() {
    let (mut pair, get) = with_a_get();
    let request = pair.request(b"x", 4);
    client(&mut pair).handle_closed();
    pair.drive();
    let gone = Some(NtStatus::PORT_DISCONNECTED);
    assert_eq!((ended(&pair, get), ended(&pair, request)), (gone, gone));
    assert_eq!(client(&mut pair).pending(), 0);
}

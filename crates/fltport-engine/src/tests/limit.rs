//! What one client or one filter can make the host keep, and what happens beyond it.

use super::port::user;
use super::*;
use crate::client::Client;
use crate::server::{Access, Port};

const SHORT: Option<NtStatus> = Some(NtStatus::INSUFFICIENT_RESOURCES);

#[test]
fn one_get_too_many_is_refused_and_the_others_stay() {
    let mut pair = Pair::connected();
    for _ in 0..limits::GETS_PER_CONNECTION {
        let (get, _) = pair.get(room(8));
        assert_eq!(pair.ended(get), None);
    }
    let (get, _) = pair.get(room(8));
    assert_eq!(ended(&pair, get), SHORT);
    assert_eq!(pair.host.posted(), limits::GETS_PER_CONNECTION);
    pair.send(b"room", None, FOREVER);
    let (get, _) = pair.get(room(8));
    assert_eq!(pair.ended(get), None);
}

#[test]
fn the_client_does_not_bother_the_host_with_a_get_too_many() {
    let mut client = Client::<Bytes, ()>::new(limits::MESSAGE_DEFAULT);
    for _ in 0..limits::GETS_PER_CONNECTION {
        assert_ne!(client.start_get(room(8), ()), 0);
    }
    assert_eq!(client.start_get(room(8), ()), 0);
    assert_eq!(client.pending(), limits::GETS_PER_CONNECTION);
}

#[test]
fn the_host_counts_gets_itself() {
    let mut pair = Pair::connected();
    for number in 1..=2 * limits::GETS_PER_CONNECTION {
        let number = u64::try_from(number).unwrap();
        assert_eq!(pair.host.handle_get(number, room(8)), Ok(()));
    }
    assert_eq!(pair.host.posted(), limits::GETS_PER_CONNECTION);
}

#[test]
fn one_sender_too_many_is_told_that_resources_are_short() {
    let mut pair = Pair::connected();
    let first = pair.send(b"x", None, FOREVER);
    for _ in 1..limits::WAITERS_PER_CONNECTION {
        pair.send(b"x", Some(1), FOREVER);
    }
    let beyond = pair.send(b"x", None, FOREVER);
    assert_eq!(sent(&pair, beyond), SHORT);
    assert_eq!(pair.outcome(first), None);
    pair.get(room(8));
    assert_eq!(sent(&pair, first), Some(NtStatus::SUCCESS));
    let next = pair.send(b"x", None, FOREVER);
    assert_eq!(pair.outcome(next), None);
}

#[test]
fn questions_that_wait_for_replies_count_as_senders() {
    let mut pair = Pair::connected();
    for _ in 0..limits::WAITERS_PER_CONNECTION {
        asked(&mut pair, b"x", 1, FOREVER);
    }
    let beyond = pair.send(b"x", None, FOREVER);
    assert_eq!(sent(&pair, beyond), SHORT);
    pair.reply(1, NtStatus::SUCCESS, b"");
    let next = pair.send(b"x", None, FOREVER);
    assert_eq!(pair.outcome(next), None);
}

#[test]
fn the_seventeenth_callback_waits_for_its_turn() {
    let mut pair = Pair::connected();
    for n in 0..20 {
        pair.request(&[n], 0);
    }
    assert_eq!(pair.callbacks.len(), limits::RUNNING_PER_CONNECTION);
    pair.callback_returns(NtStatus::SUCCESS, b"");
    assert_eq!(pair.callbacks.len(), limits::RUNNING_PER_CONNECTION);
    let (_, input, _) = pair.callbacks.back().unwrap();
    assert_eq!(input.0, [16]);
}

#[test]
fn requests_beyond_the_queue_are_refused_and_not_kept() {
    let mut pair = Pair::connected();
    let kept = limits::RUNNING_PER_CONNECTION + limits::QUEUED_PER_CONNECTION;
    for _ in 0..kept {
        let request = pair.request(b"x", 0);
        assert_eq!(pair.ended(request), None);
    }
    let beyond = pair.request(b"x", 0);
    assert_eq!(ended(&pair, beyond), SHORT);
    pair.callback_returns(NtStatus::SUCCESS, b"");
    let next = pair.request(b"x", 0);
    assert_eq!(pair.ended(next), None);
}

#[test]
fn bytes_of_requests_and_their_answers_are_bounded() {
    let mut pair = Pair::connected();
    // Each counts a byte of its own and the rest of a megabyte for its answer, whether it runs or waits.
    let rest = limits::MESSAGE_DEFAULT - 1;
    for _ in 0..limits::QUEUED_BYTES_PER_CONNECTION / u64::from(limits::MESSAGE_DEFAULT) {
        let request = pair.request(b"x", rest);
        assert_eq!(pair.ended(request), None);
    }
    let beyond = pair.request(b"x", 0);
    assert_eq!(ended(&pair, beyond), SHORT);
    pair.callback_returns(NtStatus::SUCCESS, b"");
    let next = pair.request(b"x", rest);
    assert_eq!(pair.ended(next), None);
}

#[test]
fn bytes_of_requests_are_given_back_in_full() {
    let mut pair = Pair::connected();
    for _ in 0..200 {
        let request = pair.request(b"question", limits::MESSAGE_DEFAULT);
        pair.callback_returns(NtStatus::SUCCESS, b"x");
        assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
    }
}

#[test]
fn an_answer_may_have_no_more_than_a_message_of_the_port() {
    let mut pair = Pair::connected();
    pair.request(b"x", u32::MAX);
    assert_eq!(pair.callbacks.front().unwrap().2, limits::MESSAGE_DEFAULT);
}

#[test]
fn a_user_has_so_many_half_open_connects_and_others_are_not_hindered() {
    let mut port = Port::new(Access::everyone(), 4).unwrap();
    for _ in 0..limits::HANDSHAKES_PER_USER {
        assert_eq!(port.handle_arrival(&user(1_000)), Ok(()));
    }
    let refused = Err(NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(port.handle_arrival(&user(1_000)), refused);
    assert_eq!(port.handle_arrival(&user(1_001)), Ok(()));
    port.handle_greeting_over(1_000);
    assert_eq!(port.handle_arrival(&user(1_000)), Ok(()));
    assert_eq!(port.connections(), (0, 4));
}

#[test]
fn n8_messages_that_nobody_gets_are_kept_by_their_senders_alone() {
    let mut pair = Pair::connected();
    for _ in 0..10_000 {
        pair.send(&[7; 64], Some(64), within(1));
        advance(&mut pair, 1);
        assert_eq!(pair.host.pending(), (0, 0));
    }
    assert_eq!(pair.host.counters().delivered, 0);
    assert_eq!(pair.host.counters().timed_out, 10_000);
}

#[test]
fn p10_a_client_that_stops_reading_leaves_messages_with_their_senders() {
    let mut pair = Pair::connected();
    let gets: Vec<_> = (0..3).map(|_| pair.get(room(8)).0).collect();
    pair.stop_reading();
    let first = pair.send(b"first", None, FOREVER);
    let second = pair.send(b"second", None, within(100));
    let third = pair.send(b"third", None, within(300));
    assert_eq!(pair.outcome(first), Some(&Outcome::Delivered));
    assert_eq!(pair.outcome(second), None);
    advance(&mut pair, 200);
    let outcome = Outcome::TimedOut { delivered: false };
    assert_eq!(pair.outcome(second), Some(&outcome));
    pair.resume_reading();
    assert_eq!(pair.outcome(third), Some(&Outcome::Delivered));
    assert_eq!(taken(&pair, gets[0]), Some(&b"first"[..]));
    assert_eq!(taken(&pair, gets[1]), Some(&b"third"[..]));
    assert_eq!(pair.ended(gets[2]), None);
}

#[test]
fn p10_a_poll_over_a_blocked_link_is_not_delivered() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    let (get, _) = pair.get(room(8));
    pair.stop_reading();
    pair.send(b"fills it", None, FOREVER);
    let poll = pair.send(b"poll", None, Timeout::poll());
    let outcome = Outcome::TimedOut { delivered: false };
    assert_eq!(pair.outcome(poll), Some(&outcome));
    pair.resume_reading();
    assert_eq!(pair.ended(get), None);
}

#[test]
fn p10_senders_over_a_blocked_link_end_with_the_connection() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    pair.get(room(8));
    pair.stop_reading();
    let question = pair.send(b"fills it", Some(4), FOREVER);
    let waiting = pair.send(b"waits", None, FOREVER);
    pair.close_client();
    let delivered = |delivered| Outcome::Disconnected { delivered };
    assert_eq!(pair.outcome(question), Some(&delivered(true)));
    assert_eq!(pair.outcome(waiting), Some(&delivered(false)));
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
}

#[test]
fn p10_over_a_blocked_link_no_new_callback_starts() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    pair.stop_reading();
    pair.send(b"fills it", None, FOREVER);
    let request = pair.request(b"question", 8);
    assert!(pair.callbacks.is_empty());
    pair.resume_reading();
    assert_eq!(pair.callbacks.len(), 1);
    pair.callback_returns(NtStatus::SUCCESS, b"answer");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

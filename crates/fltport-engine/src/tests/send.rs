//! Sending up without a reply.

use super::*;
use std::vec;

#[test]
fn d1_d2_a_waiting_get_takes_the_message_and_the_header_says_no_reply() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(64));
    let send = pair.send(&[7; 64], None, FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    let (header, bytes) = pair.message(get).unwrap();
    assert_eq!(bytes, [7; 64]);
    assert_eq!((header.reply_length, header.message_id), (0, 0));
    assert_eq!(header.reply_capacity(), None);
}

#[test]
fn d3_g8_a_send_without_a_get_blocks_until_one_is_posted() {
    let mut pair = Pair::connected();
    let send = pair.send(&[7; 64], None, FOREVER);
    advance(&mut pair, 300);
    assert_eq!(pair.outcome(send), None);
    let (get, _) = pair.get(room(64));
    assert_eq!(taken(&pair, get), Some(&[7; 64][..]));
    assert_eq!(pair.outcome(send), Some(&Outcome::Delivered));
}

#[test]
fn d4_a_send_without_a_get_times_out_and_leaves_no_trace() {
    let mut pair = Pair::connected();
    let send = pair.send(&[7; 64], None, within(200));
    advance(&mut pair, 199);
    assert_eq!(pair.outcome(send), None);
    advance(&mut pair, 1);
    let outcome = Outcome::TimedOut { delivered: false };
    assert_eq!(pair.outcome(send), Some(&outcome));
    let (get, _) = pair.get(room(64));
    assert_eq!(pair.ended(get), None);
    assert!(pair.abandoned.is_empty());
}

#[test]
fn d5_two_gets_and_two_sends_make_two_pairs() {
    let mut pair = Pair::connected();
    let gets = [pair.get(room(8)).0, pair.get(room(8)).0];
    pair.send(b"one", None, FOREVER);
    pair.send(b"two", None, FOREVER);
    let mut seen = gets.map(|get| taken(&pair, get).unwrap());
    seen.sort_unstable();
    assert_eq!(seen, [&b"one"[..], b"two"]);
}

#[test]
fn d6_the_second_send_waits_for_a_second_get() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    let one = pair.send(b"one", None, FOREVER);
    let two = pair.send(b"two", None, FOREVER);
    assert_eq!(sent(&pair, one), Some(NtStatus::SUCCESS));
    assert_eq!(pair.outcome(two), None);
    let (get, _) = pair.get(room(8));
    assert_eq!(sent(&pair, two), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&pair, get), Some(&b"two"[..]));
}

#[test]
fn d7_a_send_without_a_reply_has_nothing_to_copy_back() {
    let mut pair = Pair::connected();
    pair.get(room(8));
    let send = pair.send(b"event", None, FOREVER);
    assert_eq!(pair.outcome(send), Some(&Outcome::Delivered));
    assert_eq!(answer(&pair, send), None);
}

#[test]
fn d8_e7_an_empty_message_is_a_header_and_fits_a_get_of_sixteen() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(0));
    let send = pair.send(b"", None, FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&pair, get), Some(&b""[..]));
}

#[test]
fn d9_a_megabyte_arrives_whole() {
    let mut pair = Pair::connected();
    let long: Vec<u8> = (0..limits::MESSAGE_DEFAULT)
        .map(|n| n.to_le_bytes()[1])
        .collect();
    let (get, _) = pair.get(room(limits::MESSAGE_DEFAULT));
    let send = pair.send(&long, None, FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert!(taken(&pair, get) == Some(&long[..]));
}

#[test]
fn d10_a_message_beyond_the_limit_is_refused_at_once() {
    let mut pair = Pair::connected();
    let long = vec![0; usize::try_from(limits::MESSAGE_DEFAULT).unwrap() + 1];
    let (get, _) = pair.get(u32::MAX);
    let send = pair.send(&long, None, FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::INVALID_PARAMETER));
    let send = pair.send(b"short", Some(u32::MAX), FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::INVALID_PARAMETER));
    assert_eq!(pair.ended(get), None);
}

#[test]
fn d11_i12_a_closed_client_port_refuses_sends_at_once_and_may_be_closed_again() {
    let mut pair = Pair::connected();
    for _ in 0..2 {
        pair.host.handle_filter_closed();
        pair.drive();
        let send = pair.send(b"late", Some(4), FOREVER);
        let outcome = Outcome::Disconnected { delivered: false };
        assert_eq!(pair.outcome(send), Some(&outcome));
    }
    assert_eq!(pair.releases, 1);
}

#[test]
fn d13_a_larger_get_takes_exactly_the_message() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(1000));
    pair.send(&[7; 64], None, FOREVER);
    assert_eq!(taken(&pair, get).unwrap().len(), 64);
}

#[test]
fn d14_every_one_of_eight_thousand_messages_arrives_once() {
    let mut pair = Pair::connected();
    let mut gets = Vec::new();
    for round in 0..1_000_u32 {
        for sender in 0..8_u32 {
            pair.send(&(round * 8 + sender).to_le_bytes(), None, FOREVER);
        }
        // Four getters; sends run ahead by half and gets catch up at the end.
        gets.extend((0..4).map(|_| pair.get(room(4)).0));
    }
    gets.extend((0..4_000).map(|_| pair.get(room(4)).0));
    let mut seen: Vec<u32> = gets
        .iter()
        .map(|get| u32::from_le_bytes(taken(&pair, *get).unwrap().try_into().unwrap()))
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..8_000));
    assert_eq!(pair.host.pending(), (0, 0));
}

#[test]
fn d15_b24_connections_have_queues_of_their_own() {
    let (mut a, mut b) = (Pair::connected(), Pair::connected());
    let (to_a, to_b) = (a.get(room(8)).0, b.get(room(8)).0);
    a.send(b"for a", None, FOREVER);
    assert_eq!(taken(&a, to_a), Some(&b"for a"[..]));
    assert_eq!(b.ended(to_b), None);
}

#[test]
fn d16_a_hundred_sends_are_received_in_their_order() {
    let mut pair = Pair::connected();
    for n in 1..=100 {
        pair.send(&[n], None, FOREVER);
    }
    let gets: Vec<_> = (1..=100).map(|_| pair.get(room(1)).0).collect();
    let seen = gets.iter().map(|get| taken(&pair, *get).unwrap()[0]);
    assert!(seen.eq(1..=100));
}

#[test]
fn n5_a_blocked_send_on_one_connection_does_not_delay_another() {
    let (mut a, mut b) = (Pair::connected(), Pair::connected());
    let blocked = a.send(b"nobody gets", None, FOREVER);
    b.get(room(8));
    let send = b.send(b"quick", None, FOREVER);
    assert_eq!(sent(&b, send), Some(NtStatus::SUCCESS));
    assert_eq!(a.outcome(blocked), None);
}

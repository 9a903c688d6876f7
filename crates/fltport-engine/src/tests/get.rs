//! Gets: too small, too many, which of several.

use super::*;

fn needed(pair: &Pair, get: u64) -> Option<u32> {
    match pair.ended(get)? {
        Ended::Done(_, needed, _) => Some(*needed),
        Ended::Message(..) => None,
    }
}

#[test]
fn e1_a_get_of_the_exact_size_takes_the_message() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(64));
    pair.send(&[7; 64], None, FOREVER);
    assert_eq!(taken(&pair, get), Some(&[7; 64][..]));
}

#[test]
fn e2_e4_a_get_too_small_fails_with_the_size_needed_and_loses_nothing() {
    let mut pair = Pair::connected();
    let (small, _) = pair.get(room(63));
    let send = pair.send(&[7; 64], None, FOREVER);
    assert_eq!(ended(&pair, small), Some(NtStatus::BUFFER_TOO_SMALL));
    assert_eq!(needed(&pair, small), Some(80));
    assert_eq!(pair.outcome(send), None);
    let (get, _) = pair.get(room(64));
    assert_eq!(taken(&pair, get), Some(&[7; 64][..]));
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert_eq!(pair.host.counters().too_small, 1);
}

#[test]
fn e3_after_a_get_too_small_the_deadline_still_runs() {
    let mut pair = Pair::connected();
    pair.get(room(63));
    let send = pair.send(&[7; 64], None, within(500));
    advance(&mut pair, 499);
    assert_eq!(pair.outcome(send), None);
    advance(&mut pair, 1);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
    let (get, _) = pair.get(room(64));
    assert_eq!(pair.ended(get), None);
}

#[test]
fn e5_e6_the_get_that_fits_is_chosen_and_the_small_one_serves_a_small_message() {
    let mut pair = Pair::connected();
    let (small, _) = pair.get(room(10));
    let (large, _) = pair.get(room(64));
    pair.send(&[7; 64], None, FOREVER);
    assert_eq!(taken(&pair, large), Some(&[7; 64][..]));
    assert_eq!(pair.ended(small), None);
    pair.send(&[8; 10], None, FOREVER);
    assert_eq!(taken(&pair, small), Some(&[8; 10][..]));
}

#[test]
fn e5_of_several_gets_that_fit_the_oldest_is_chosen() {
    let mut pair = Pair::connected();
    let (older, _) = pair.get(room(100));
    let (newer, _) = pair.get(room(64));
    pair.send(&[7; 64], None, FOREVER);
    assert!(taken(&pair, older).is_some());
    assert_eq!(pair.ended(newer), None);
}

#[test]
fn e2_if_none_fits_only_the_oldest_get_is_told() {
    let mut pair = Pair::connected();
    let (older, _) = pair.get(room(10));
    let (newer, _) = pair.get(room(20));
    let send = pair.send(&[7; 64], None, FOREVER);
    assert_eq!(ended(&pair, older), Some(NtStatus::BUFFER_TOO_SMALL));
    assert_eq!(pair.ended(newer), None);
    assert_eq!(pair.outcome(send), None);
}

#[test]
fn e2_small_gets_posted_meanwhile_stay_for_other_senders() {
    let mut pair = Pair::connected();
    pair.get(room(10));
    let long = pair.send(&[7; 64], None, FOREVER);
    let (small, _) = pair.get(room(10));
    assert_eq!(pair.ended(small), None);
    pair.send(&[8; 10], None, FOREVER);
    assert_eq!(taken(&pair, small), Some(&[8; 10][..]));
    assert_eq!(pair.outcome(long), None);
}

#[test]
fn e2_a_sender_whose_get_was_too_small_keeps_its_place() {
    let mut pair = Pair::connected();
    pair.get(room(10));
    let older = pair.send(&[7; 64], None, FOREVER);
    let newer = pair.send(&[8; 10], None, FOREVER);
    let (get, _) = pair.get(room(64));
    assert_eq!(taken(&pair, get), Some(&[7; 64][..]));
    assert_eq!(sent(&pair, older), Some(NtStatus::SUCCESS));
    assert_eq!(pair.outcome(newer), None);
}

#[test]
fn e8_a_get_without_a_buffer_is_an_argument_that_is_wrong() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(0);
    assert_eq!(ended(&pair, get), Some(NtStatus::INVALID_PARAMETER));
    assert_eq!(pair.host.posted(), 0);
}

#[test]
fn e10_a_get_below_the_header_fails_at_once() {
    for size in 1..limits::HEADER {
        let mut pair = Pair::connected();
        let (get, _) = pair.get(size);
        assert_eq!(ended(&pair, get), Some(NtStatus::BUFFER_TOO_SMALL));
        assert_eq!(needed(&pair, get), Some(limits::HEADER));
        assert_eq!(pair.host.posted(), 0);
    }
}

#[test]
fn e17_e18_the_header_says_what_may_be_replied_header_included() {
    let mut pair = Pair::connected();
    for (capacity, told) in [(4, 20), (0, 16)] {
        let (get, _) = pair.get(room(8));
        pair.send(b"question", Some(capacity), FOREVER);
        let (header, _) = pair.message(get).unwrap();
        assert_eq!(header.reply_length, told);
        assert_eq!(header.reply_capacity(), Some(capacity));
    }
}

#[test]
fn e19_e20_message_numbers_begin_with_one_and_never_repeat() {
    let mut pair = Pair::connected();
    let mut last = 0;
    for round in 0..10_000_u32 {
        let (send, id) = asked(&mut pair, b"q", 0, FOREVER);
        assert!(id > last, "{id} after {last}");
        assert!(round != 0 || id == 1);
        last = id;
        pair.reply(id, NtStatus::SUCCESS, b"");
        assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    }
}

#[test]
fn l8_a_get_on_a_disconnected_port_fails_at_once() {
    let mut pair = Pair::connected();
    pair.host.handle_filter_closed();
    pair.drive();
    for size in [0, 8, room(64)] {
        let (get, _) = pair.get(size);
        assert_eq!(ended(&pair, get), Some(NtStatus::PORT_DISCONNECTED));
    }
}

#[test]
fn l9_a_thousand_gets_and_as_many_sends_complete_once_each() {
    let mut pair = Pair::connected();
    let gets: Vec<_> = (0..1_024).map(|_| pair.get(room(4)).0).collect();
    for n in 0..1_024_u32 {
        let send = pair.send(&n.to_le_bytes(), None, FOREVER);
        assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    }
    for (n, get) in gets.into_iter().enumerate() {
        let n = u32::try_from(n).unwrap();
        assert_eq!(taken(&pair, get), Some(&n.to_le_bytes()[..]));
    }
}

#[test]
fn senders_whom_gets_were_too_small_for_are_served_in_the_order_of_their_calls() {
    let mut pair = Pair::connected();
    let long = pair.send(&[1; 17], None, FOREVER);
    let short = pair.send(&[2; 2], None, FOREVER);
    for too_small in [pair.get(room(1)).0, pair.get(room(1)).0] {
        assert_eq!(ended(&pair, too_small), Some(NtStatus::BUFFER_TOO_SMALL));
    }
    let last = pair.send(&[3; 16], None, FOREVER);
    pair.get(room(1));
    let (first, _) = pair.get(room(64));
    assert_eq!(taken(&pair, first), Some(&[1; 17][..]));
    assert_eq!(sent(&pair, long), Some(NtStatus::SUCCESS));
    // What does not fit a get is passed over, and no more.
    let longer = pair.send(&[4; 40], None, FOREVER);
    pair.get(room(1));
    let (second, _) = pair.get(room(16));
    assert_eq!(taken(&pair, second), Some(&[2; 2][..]));
    let (third, _) = pair.get(room(16));
    assert_eq!(taken(&pair, third), Some(&[3; 16][..]));
    assert_eq!(sent(&pair, short), Some(NtStatus::SUCCESS));
    assert_eq!(sent(&pair, last), Some(NtStatus::SUCCESS));
    assert_eq!(sent(&pair, longer), None);
}

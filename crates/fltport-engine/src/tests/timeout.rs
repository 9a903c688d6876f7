//! Deadlines: one for delivery and reply together, on two clocks.

use super::*;
use crate::time::{Deadline, WallTime};

/// The wall clock of this pair, `millis` from now.
fn wall(pair: &Pair, millis: u64) -> Timeout {
    Timeout::At(WallTime::from_ticks(
        pair.now().wall.as_ticks() + millis * 10_000,
    ))
}

#[test]
fn g1_p8_a_question_without_an_answer_times_out_and_a_late_reply_finds_nobody() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, within(200));
    advance(&mut pair, 199);
    assert_eq!(pair.outcome(send), None);
    advance(&mut pair, 1);
    let outcome = Outcome::TimedOut { delivered: true };
    assert_eq!(pair.outcome(send), Some(&outcome));
    assert_eq!(pair.abandoned, [id]);
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
    assert_eq!(pair.host.counters().late_replies, 1);
}

#[test]
fn g2_delivery_and_reply_share_one_deadline() {
    let mut pair = Pair::connected();
    let send = pair.send(b"safe?", Some(4), within(200));
    advance(&mut pair, 150);
    let (get, _) = pair.get(room(8));
    assert!(taken(&pair, get).is_some());
    advance(&mut pair, 49);
    assert_eq!(pair.outcome(send), None);
    advance(&mut pair, 1);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
}

#[test]
fn g3_an_absolute_time_ends_the_send_at_that_time() {
    let mut pair = Pair::connected();
    let at = wall(&pair, 300);
    let send = pair.send(b"safe?", None, at);
    advance(&mut pair, 299);
    assert_eq!(pair.outcome(send), None);
    advance(&mut pair, 1);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
}

#[test]
fn g4_g5_an_absolute_time_in_the_past_serves_only_a_get_that_waits() {
    let mut pair = Pair::connected();
    let past = Timeout::At(WallTime::from_ticks(1));
    let send = pair.send(b"event", None, past);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
    let (get, _) = pair.get(room(8));
    assert_eq!(pair.ended(get), None);
    let send = pair.send(b"again", None, past);
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&pair, get), Some(&b"again"[..]));
}

#[test]
fn g6_g7_a_zero_timeout_serves_only_a_get_that_waits() {
    let mut pair = Pair::connected();
    let send = pair.send(b"event", None, Timeout::poll());
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
    let (get, _) = pair.get(room(8));
    assert_eq!(pair.ended(get), None);
    let send = pair.send(b"again", None, Timeout::poll());
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&pair, get), Some(&b"again"[..]));
}

#[test]
fn g6_a_question_that_polls_is_delivered_and_not_waited_for() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, Timeout::poll());
    let outcome = Outcome::TimedOut { delivered: true };
    assert_eq!(pair.outcome(send), Some(&outcome));
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
}

#[test]
fn g8_without_a_timeout_nothing_ends_the_wait() {
    let mut pair = Pair::connected();
    let waiting = pair.send(b"nobody gets", None, FOREVER);
    pair.advance(Duration::from_secs(1_000_000));
    assert_eq!(pair.outcome(waiting), None);
    assert_eq!(
        pair.host.next_deadlines(),
        (Deadline::Never, Deadline::Never)
    );
}

#[test]
fn g10_a_timed_out_send_takes_no_get_and_does_not_break_the_next() {
    let (mut a, mut b) = (Pair::connected(), Pair::connected());
    let (elsewhere, _) = b.get(room(8));
    let send = a.send(b"late", None, within(10));
    advance(&mut a, 10);
    assert_eq!(sent(&a, send), Some(NtStatus::TIMEOUT));
    assert_eq!(b.ended(elsewhere), None);
    let (get, _) = a.get(room(8));
    let next = a.send(b"next", None, within(10));
    assert_eq!(sent(&a, next), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&a, get), Some(&b"next"[..]));
}

#[test]
fn g11_a_wait_beyond_the_clock_never_ends_and_overflows_nothing() {
    let mut pair = Pair::connected();
    // The most negative relative time of Windows, in units of 100 ns.
    let ticks = u128::from(i64::MIN.unsigned_abs());
    let longest = Duration::from_secs(u64::try_from(ticks / 10_000_000).unwrap());
    for wait in [longest, Duration::MAX] {
        let send = pair.send(b"x", None, Timeout::after(wait));
        pair.advance(Duration::from_secs(3_600 * 24 * 365));
        assert_eq!(pair.outcome(send), None);
    }
}

#[test]
fn g13_setting_the_clock_ends_absolute_waits_and_no_relative_ones() {
    let mut pair = Pair::connected();
    let at = wall(&pair, 1_800_000);
    let absolute = pair.send(b"x", None, at);
    let relative = pair.send(b"x", None, within(1_800_000));
    pair.set_wall(Duration::from_secs(3_600));
    assert_eq!(sent(&pair, absolute), Some(NtStatus::TIMEOUT));
    assert_eq!(pair.outcome(relative), None);
    advance(&mut pair, 1_800_000);
    assert_eq!(sent(&pair, relative), Some(NtStatus::TIMEOUT));
}

#[test]
fn p8_a_late_reply_does_not_touch_the_newer_waiter() {
    let mut pair = Pair::connected();
    let (_, old) = asked(&mut pair, b"old", 4, within(10));
    advance(&mut pair, 10);
    let (send, new) = asked(&mut pair, b"new", 4, within(10));
    let told = pair.reply(old, NtStatus::SUCCESS, b"old");
    assert_eq!(told, Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
    assert_eq!(pair.outcome(send), None);
    pair.reply(new, NtStatus::SUCCESS, b"new");
    assert_eq!(answer(&pair, send), Some(&b"new"[..]));
}

#[test]
fn g1_the_driver_is_told_the_next_deadline_of_each_clock() {
    let mut pair = Pair::connected();
    let at = wall(&pair, 5);
    pair.send(b"x", None, within(20));
    pair.send(b"x", None, within(10));
    pair.send(b"x", None, at);
    let now = pair.now();
    assert_eq!(
        pair.host.next_deadlines(),
        (within(10).deadline(now), at.deadline(now))
    );
    advance(&mut pair, 10);
    assert_eq!(
        pair.host.next_deadlines(),
        (within(20).deadline(now), Deadline::Never)
    );
    pair.get(room(8));
    assert_eq!(
        pair.host.next_deadlines(),
        (Deadline::Never, Deadline::Never)
    );
}

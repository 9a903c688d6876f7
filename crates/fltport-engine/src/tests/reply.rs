//! Replies: sizes, statuses, numbers, order.

use super::*;

const NOBODY: Option<NtStatus> = Some(NtStatus::FLT_NO_WAITER_FOR_REPLY);
const DONE: Option<NtStatus> = Some(NtStatus::SUCCESS);

#[test]
fn f1_a_reply_reaches_its_sender() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"yes."), DONE);
    assert_eq!(sent(&pair, send), DONE);
    assert_eq!(answer(&pair, send), Some(&b"yes."[..]));
}

#[test]
fn f2_f3_the_status_of_the_reply_is_what_the_send_returns() {
    for status in [NtStatus::ACCESS_DENIED, NtStatus::TIMEOUT] {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        assert_eq!(pair.reply(id, status, b"nope"), DONE);
        assert_eq!(sent(&pair, send), Some(status));
        assert_eq!(answer(&pair, send), Some(&b"nope"[..]));
    }
}

#[test]
fn f4_f5_a_shorter_reply_is_fine_and_says_its_length() {
    for reply in [&b"y"[..], b""] {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        assert_eq!(pair.reply(id, NtStatus::SUCCESS, reply), DONE);
        assert_eq!(sent(&pair, send), DONE);
        assert_eq!(answer(&pair, send), Some(reply));
    }
}

#[test]
fn f6_f7_a_longer_reply_is_cut_told_to_both_and_counts_as_the_answer() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    let overflow = Some(NtStatus::BUFFER_OVERFLOW);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"too long"), overflow);
    assert_eq!(sent(&pair, send), overflow);
    assert_eq!(answer(&pair, send), Some(&b"too "[..]));
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"yes."), NOBODY);
}

#[test]
fn f8_an_overflow_hides_the_status_of_the_reply() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    pair.reply(id, NtStatus::ACCESS_DENIED, b"too long");
    assert_eq!(sent(&pair, send), Some(NtStatus::BUFFER_OVERFLOW));
}

#[test]
fn f9_f19_of_two_replies_the_first_wins_and_the_sender_keeps_it() {
    for round in 0..1_000_u32 {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        let first = round.to_le_bytes();
        assert_eq!(pair.reply(id, NtStatus::SUCCESS, &first), DONE);
        assert_eq!(pair.reply(id, NtStatus::ACCESS_DENIED, b"no"), NOBODY);
        assert_eq!(sent(&pair, send), DONE);
        assert_eq!(answer(&pair, send), Some(&first[..]));
    }
}

#[test]
fn f10_a_reply_to_a_number_never_given_leaves_the_waiter_alone() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    for wrong in [id + 1, id + 1_000, u64::MAX] {
        assert_eq!(pair.reply(wrong, NtStatus::SUCCESS, b"no"), NOBODY);
    }
    assert_eq!(pair.outcome(send), None);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"yes"), DONE);
}

#[test]
fn f11_nobody_waits_under_the_number_of_messages_that_want_no_reply() {
    let mut pair = Pair::connected();
    let (send, _) = asked(&mut pair, b"safe?", 4, FOREVER);
    let (get, _) = pair.get(room(8));
    pair.send(b"event", None, FOREVER);
    let (header, _) = pair.message(get).unwrap();
    let told = pair.reply(header.message_id, NtStatus::SUCCESS, b"");
    assert_eq!(told, NOBODY);
    assert_eq!(pair.outcome(send), None);
}

#[test]
fn f12_a_reply_that_is_refused_for_its_size_leaves_the_waiter_alone() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    let long = std::vec![0; usize::try_from(limits::MESSAGE_DEFAULT).unwrap() + 1];
    let told = pair.reply(id, NtStatus::SUCCESS, &long);
    assert_eq!(told, Some(NtStatus::INVALID_PARAMETER));
    assert_eq!(pair.outcome(send), None);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"yes"), DONE);
    assert_eq!(sent(&pair, send), DONE);
}

#[test]
fn f12_a_dead_connection_is_found_before_a_wrong_size() {
    let mut pair = Pair::connected();
    pair.host.handle_filter_closed();
    pair.drive();
    let long = std::vec![0; usize::try_from(limits::MESSAGE_DEFAULT).unwrap() + 1];
    let told = pair.reply(1, NtStatus::SUCCESS, &long);
    assert_eq!(told, Some(NtStatus::PORT_DISCONNECTED));
}

#[test]
fn f15_a_number_of_another_connection_means_nothing_here() {
    let (mut a, mut b) = (Pair::connected(), Pair::connected());
    let (send, id) = asked(&mut a, b"safe?", 4, FOREVER);
    assert_eq!(b.reply(id, NtStatus::SUCCESS, b"yes"), NOBODY);
    assert_eq!(a.outcome(send), None);
}

#[test]
fn f18_replies_in_reverse_order_reach_their_own_senders() {
    let mut pair = Pair::connected();
    let (one, first) = asked(&mut pair, b"one?", 8, FOREVER);
    let (two, second) = asked(&mut pair, b"two?", 8, FOREVER);
    pair.reply(second, NtStatus::SUCCESS, b"two.");
    pair.reply(first, NtStatus::SUCCESS, b"one.");
    assert_eq!(answer(&pair, one), Some(&b"one."[..]));
    assert_eq!(answer(&pair, two), Some(&b"two."[..]));
}

#[test]
fn f20_the_receiver_saw_the_question_and_not_the_answer_that_replaces_it() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(8));
    let send = pair.send(b"original", Some(8), FOREVER);
    let id = pair.message(get).unwrap().0.message_id;
    pair.reply(id, NtStatus::SUCCESS, b"replaced");
    assert_eq!(taken(&pair, get), Some(&b"original"[..]));
    assert_eq!(answer(&pair, send), Some(&b"replaced"[..]));
}

#[test]
fn f21_a_reply_in_the_instant_of_delivery_is_not_lost() {
    let mut pair = Pair::connected();
    for id in 1..=10_000 {
        let (get, _) = pair.get(room(8));
        pair.stop_reading();
        let send = pair.send(b"safe?", Some(4), FOREVER);
        // The message is on its way; the client answers from a guess before it has read it.
        let reply = pair.start_reply(id, NtStatus::SUCCESS, b"yes");
        assert_eq!(answer(&pair, send), Some(&b"yes"[..]));
        pair.resume_reading();
        assert_eq!(ended(&pair, reply), DONE);
        assert_eq!(pair.message(get).unwrap().0.message_id, id);
    }
}

#[test]
fn f22_sixty_four_senders_get_the_answers_to_their_own_questions() {
    let mut pair = Pair::connected();
    let gets: Vec<_> = (0..64).map(|_| pair.get(room(1)).0).collect();
    let sends: Vec<_> = (0..64).map(|n| pair.send(&[n], Some(2), FOREVER)).collect();
    // Eight repliers, each with every eighth message, the last ones first.
    for replier in 0..8 {
        for get in gets.iter().skip(replier).step_by(8).rev() {
            let (header, bytes) = pair.message(*get).unwrap();
            let reply = [bytes[0], !bytes[0]];
            pair.reply(header.message_id, NtStatus::SUCCESS, &reply);
        }
    }
    for (n, send) in (0..64).zip(sends) {
        assert_eq!(answer(&pair, send), Some(&[n, !n][..]));
    }
}

#[test]
fn f25_with_no_room_for_a_reply_an_empty_one_is_right_and_a_byte_too_much() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"seen?", 0, FOREVER);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b""), DONE);
    assert_eq!(sent(&pair, send), DONE);
    let (send, id) = asked(&mut pair, b"seen?", 0, FOREVER);
    let overflow = Some(NtStatus::BUFFER_OVERFLOW);
    assert_eq!(pair.reply(id, NtStatus::SUCCESS, b"!"), overflow);
    assert_eq!(sent(&pair, send), overflow);
    assert_eq!(answer(&pair, send), Some(&b""[..]));
}

#[test]
fn i8_p3_a_reply_after_the_end_says_disconnected() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    pair.host.handle_filter_closed();
    pair.drive();
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(told, Some(NtStatus::PORT_DISCONNECTED));
    assert_eq!(sent(&pair, send), Some(NtStatus::PORT_DISCONNECTED));
}

#[test]
fn f6_an_application_sees_an_overflow_and_a_missing_waiter_as_failures() {
    let seen = [NtStatus::BUFFER_OVERFLOW, NtStatus::FLT_NO_WAITER_FOR_REPLY]
        .map(|status| status.to_hresult().0);
    assert_eq!(seen, [0x8007_00EA, 0x801F_0020]);
}

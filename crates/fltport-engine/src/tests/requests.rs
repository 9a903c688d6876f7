//! Requests of the client and the callbacks that answer them.

use super::*;

/// What the callback wrote, as the client has it.
fn written(pair: &Pair, request: u64) -> Option<&[u8]> {
    match pair.ended(request)? {
        Ended::Done(_, _, body) => body.as_ref().map(|body| &body.0[..]),
        Ended::Message(..) => None,
    }
}

#[test]
fn k1_the_callback_sees_the_bytes_and_the_room_and_its_answer_comes_back() {
    let mut pair = Pair::connected();
    let request = pair.request(b"question", 16);
    let (_, input, capacity) = pair.callbacks.front().unwrap();
    assert_eq!((&input.0[..], *capacity), (&b"question"[..], 16));
    assert_eq!(pair.ended(request), None);
    pair.callback_returns(NtStatus::SUCCESS, b"reply");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
    assert_eq!(written(&pair, request), Some(&b"reply"[..]));
}

#[test]
fn k2_k4_without_room_or_without_bytes_nothing_comes_back() {
    let mut pair = Pair::connected();
    for capacity in [0, 16] {
        let request = pair.request(b"question", capacity);
        assert_eq!(pair.callbacks.front().unwrap().2, capacity);
        pair.callback_returns(NtStatus::SUCCESS, b"");
        assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
        assert_eq!(written(&pair, request), None);
    }
}

#[test]
fn k6_to_k12_the_status_of_the_callback_reaches_the_client() {
    let rows = [
        (NtStatus::NO_MORE_ENTRIES, 0x8007_0103),
        (NtStatus::INVALID_PARAMETER, 0x8007_0057),
        (NtStatus::BUFFER_TOO_SMALL, 0x8007_007A),
        (NtStatus::PENDING, 0x8007_03E5),
        (NtStatus::TIMEOUT, 0x8007_0102),
        (NtStatus::FLT_NO_WAITER_FOR_REPLY, 0x801F_0020),
    ];
    let mut pair = Pair::connected();
    for (status, seen) in rows {
        let request = pair.request(b"question", 16);
        pair.callback_returns(status, b"");
        let told = ended(&pair, request).unwrap();
        assert_eq!((told, told.to_hresult().0), (status, seen));
    }
}

#[test]
fn k9_a_warning_carries_its_bytes() {
    let mut pair = Pair::connected();
    let request = pair.request(b"question", 16);
    pair.callback_returns(NtStatus::BUFFER_OVERFLOW, &[7; 16]);
    assert_eq!(ended(&pair, request), Some(NtStatus::BUFFER_OVERFLOW));
    assert_eq!(written(&pair, request), Some(&[7; 16][..]));
}

#[test]
fn k15_an_empty_request_fails_without_the_callback() {
    let mut pair = Pair::connected();
    let request = pair.request(b"", 16);
    assert_eq!(ended(&pair, request), Some(NtStatus::INVALID_PARAMETER));
    assert!(pair.callbacks.is_empty());
}

#[test]
fn k20_up_to_sixteen_callbacks_overlap_and_all_calls_are_answered() {
    let mut pair = Pair::connected();
    let mut requests = Vec::new();
    for _ in 0..1_000 {
        requests.extend((0..16).map(|_| pair.request(b"x", 4)));
        assert_eq!(pair.callbacks.len(), 16);
        for _ in 0..16 {
            pair.callback_returns(NtStatus::SUCCESS, b"done");
        }
    }
    let done = Some(NtStatus::SUCCESS);
    assert!(requests.iter().all(|call| ended(&pair, *call) == done));
}

#[test]
fn k20_callbacks_may_return_in_any_order() {
    let mut pair = Pair::connected();
    let one = pair.request(b"one", 8);
    let two = pair.request(b"two", 8);
    pair.callbacks.rotate_left(1);
    pair.callback_returns(NtStatus::SUCCESS, b"two.");
    assert_eq!(pair.ended(one), None);
    pair.callback_returns(NtStatus::SUCCESS, b"one.");
    assert_eq!(written(&pair, one), Some(&b"one."[..]));
    assert_eq!(written(&pair, two), Some(&b"two."[..]));
}

#[test]
fn k21_n6_a_blocked_get_and_a_running_callback_do_not_hinder_each_other() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(8));
    let request = pair.request(b"slow", 8);
    pair.send(b"event", None, FOREVER);
    assert_eq!(taken(&pair, get), Some(&b"event"[..]));
    assert_eq!(pair.ended(request), None);
    pair.callback_returns(NtStatus::SUCCESS, b"done");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

#[test]
fn k22_a_request_fits_between_a_message_and_its_reply() {
    let mut pair = Pair::connected();
    let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    let request = pair.request(b"whose file?", 8);
    pair.callback_returns(NtStatus::SUCCESS, b"yours");
    assert_eq!(written(&pair, request), Some(&b"yours"[..]));
    pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(answer(&pair, send), Some(&b"yes"[..]));
}

#[test]
fn k24_a_callback_that_asks_its_own_caller_times_out_and_does_not_hang() {
    let mut pair = Pair::connected();
    let request = pair.request(b"question", 8);
    let send = pair.send(b"counter-question", Some(4), within(200));
    advance(&mut pair, 200);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
    pair.callback_returns(NtStatus::SUCCESS, b"done");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

#[test]
fn k25_a_callback_that_sends_is_heard_by_another_get() {
    let mut pair = Pair::connected();
    let (get, _) = pair.get(room(8));
    pair.request(b"question", 8);
    let send = pair.send(b"event", None, within(200));
    assert_eq!(sent(&pair, send), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&pair, get), Some(&b"event"[..]));
}

#[test]
fn k26_on_a_disconnected_port_no_callback_runs() {
    let mut pair = Pair::connected();
    pair.host.handle_filter_closed();
    pair.drive();
    let request = pair.request(b"question", 8);
    assert_eq!(ended(&pair, request), Some(NtStatus::PORT_DISCONNECTED));
    assert!(pair.callbacks.is_empty());
}

#[test]
fn k26_a_request_that_waits_for_a_thread_ends_with_the_connection() {
    let mut pair = Pair::connected();
    for _ in 0..limits::RUNNING_PER_CONNECTION {
        pair.request(b"x", 0);
    }
    let waiting = pair.request(b"x", 0);
    pair.host.handle_filter_closed();
    pair.drive();
    assert_eq!(ended(&pair, waiting), Some(NtStatus::PORT_DISCONNECTED));
    assert_eq!(pair.callbacks.len(), limits::RUNNING_PER_CONNECTION);
}

#[test]
fn k28_no_clock_ends_a_request() {
    let mut pair = Pair::connected();
    let request = pair.request(b"question", 8);
    pair.advance(Duration::from_secs(1_000_000));
    assert_eq!(pair.ended(request), None);
    pair.callback_returns(NtStatus::SUCCESS, b"at last");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
}

#[test]
fn k29_a_megabyte_goes_down_and_comes_back() {
    let mut pair = Pair::connected();
    let long = std::vec![7; usize::try_from(limits::MESSAGE_DEFAULT).unwrap()];
    let request = pair.request(&long, limits::MESSAGE_DEFAULT);
    assert!(pair.callbacks.front().unwrap().1.0 == long);
    pair.callback_returns(NtStatus::SUCCESS, &long);
    assert!(written(&pair, request) == Some(&long[..]));
}

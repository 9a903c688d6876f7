//! The end of a connection: by the client, by the filter, in both orders.

use super::port::House;
use super::*;
use crate::output::Output;

const GONE: Option<NtStatus> = Some(NtStatus::PORT_DISCONNECTED);

#[test]
fn i1_i2_i19_i22_an_idle_client_that_closes_or_dies_is_told_to_the_filter_once() {
    let mut pair = Pair::connected();
    pair.close_client();
    pair.close_client();
    assert_eq!(pair.disconnects, 1);
    pair.disconnect_returns();
    pair.close_client();
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
}

#[test]
fn i3_i20_a_sender_that_waits_for_a_get_ends_when_the_client_closes() {
    let mut pair = Pair::connected();
    let send = pair.send(b"event", None, FOREVER);
    pair.close_client();
    let outcome = Outcome::Disconnected { delivered: false };
    assert_eq!(pair.outcome(send), Some(&outcome));
}

#[test]
fn i4_a_sender_that_waits_for_a_reply_ends_when_the_client_closes() {
    let mut pair = Pair::connected();
    let (send, _) = asked(&mut pair, b"safe?", 4, FOREVER);
    pair.close_client();
    let outcome = Outcome::Disconnected { delivered: true };
    assert_eq!(pair.outcome(send), Some(&outcome));
}

#[test]
fn i5_after_the_disconnect_sends_fail_at_once() {
    let mut pair = Pair::connected();
    pair.close_client();
    let send = pair.send(b"event", None, FOREVER);
    assert_eq!(sent(&pair, send), GONE);
    pair.disconnect_returns();
    let send = pair.send(b"event", None, FOREVER);
    assert_eq!(sent(&pair, send), GONE);
}

#[test]
fn i7_i8_i10_a_closed_client_port_ends_gets_and_senders() {
    let mut pair = Pair::connected();
    let (question, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    let get = pair.get(room(1)).0;
    let send = pair.send(&[7; 64], None, FOREVER);
    let other = pair.get(room(2)).0;
    pair.host.handle_filter_closed();
    pair.drive();
    assert_eq!(ended(&pair, get), Some(NtStatus::BUFFER_TOO_SMALL));
    assert_eq!(ended(&pair, other), GONE);
    assert_eq!((sent(&pair, question), sent(&pair, send)), (GONE, GONE));
    let late = pair.get(room(8)).0;
    assert_eq!(ended(&pair, late), GONE);
    assert_eq!(
        pair.reply(id, NtStatus::SUCCESS, b"yes"),
        Some(NtStatus::PORT_DISCONNECTED)
    );
    assert_eq!(pair.lies, []);
}

#[test]
fn i7_the_application_sees_an_invalid_handle() {
    assert_eq!(NtStatus::PORT_DISCONNECTED.to_hresult().0, 0x8007_0006);
}

#[test]
fn i11_after_the_filter_closed_the_callback_waits_for_the_client_to_close() {
    let mut pair = Pair::connected();
    pair.host.handle_filter_closed();
    pair.drive();
    assert_eq!((pair.disconnects, pair.releases), (0, 1));
    assert_eq!(pair.host.state(), State::Severed);
    pair.close_client();
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
    assert_eq!(pair.host.state(), State::Ended);
}

#[test]
fn i13_closing_in_a_message_callback_waits_for_nothing_and_the_request_is_answered() {
    let mut pair = Pair::connected();
    let request = pair.request(b"stop", 8);
    pair.host.handle_filter_closed();
    pair.drive();
    assert_eq!(pair.host.state(), State::Severed);
    assert_eq!(pair.ended(request), None);
    pair.callback_returns(NtStatus::NO_MORE_ENTRIES, b"bye");
    assert_eq!(ended(&pair, request), Some(NtStatus::NO_MORE_ENTRIES));
    let next = pair.request(b"more", 8);
    assert_eq!(ended(&pair, next), GONE);
    assert!(pair.callbacks.is_empty());
}

#[test]
fn i14_i16_closing_in_or_after_the_disconnect_callback_is_the_normal_path() {
    for late in [false, true] {
        let mut pair = Pair::connected();
        pair.close_client();
        if late {
            pair.disconnect_returns();
            advance(&mut pair, 1_000);
        }
        pair.host.handle_filter_closed();
        pair.drive();
        pair.disconnect_returns();
        assert_eq!((pair.disconnects, pair.releases), (1, 1));
        assert_eq!(pair.host.state(), State::Ended);
    }
}

#[test]
fn i15_a_disconnect_callback_that_closes_nothing_frees_the_slot() {
    let mut house = House::new(1);
    let pair = house.connect().unwrap();
    house.close(pair);
    assert!(house.connect().is_ok());
}

#[test]
fn i17_the_disconnect_callback_waits_for_running_message_callbacks() {
    let mut pair = Pair::connected();
    pair.request(b"slow", 8);
    pair.request(b"slower", 8);
    pair.close_client();
    assert_eq!(pair.disconnects, 0);
    pair.callback_returns(NtStatus::SUCCESS, b"");
    assert_eq!(pair.disconnects, 0);
    pair.callback_returns(NtStatus::SUCCESS, b"");
    assert_eq!(pair.disconnects, 1);
    pair.disconnect_returns();
    assert_eq!(pair.releases, 1);
}

#[test]
fn i17_after_the_filter_closed_the_disconnect_callback_still_waits() {
    let mut pair = Pair::connected();
    pair.request(b"slow", 8);
    pair.host.handle_filter_closed();
    pair.close_client();
    assert_eq!((pair.disconnects, pair.releases), (0, 1));
    pair.callback_returns(NtStatus::SUCCESS, b"");
    assert_eq!(pair.disconnects, 1);
}

#[test]
fn i17_requests_that_wait_for_a_thread_are_dropped_at_the_end() {
    let mut pair = Pair::connected();
    for _ in 0..limits::RUNNING_PER_CONNECTION + 5 {
        pair.request(b"x", 0);
    }
    pair.close_client();
    for _ in 0..limits::RUNNING_PER_CONNECTION {
        assert_eq!(pair.disconnects, 0);
        pair.callback_returns(NtStatus::SUCCESS, b"");
    }
    assert!(pair.callbacks.is_empty());
    assert_eq!(pair.disconnects, 1);
}

#[test]
fn i18_a_reply_and_an_instant_close_still_reach_the_sender() {
    for _ in 0..1_000 {
        let mut pair = Pair::connected();
        let (send, id) = asked(&mut pair, b"safe?", 4, FOREVER);
        let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
        pair.close_client();
        assert_eq!(told, Some(NtStatus::SUCCESS));
        assert_eq!(answer(&pair, send), Some(&b"yes"[..]));
    }
}

#[test]
fn i21_the_end_of_one_connection_does_not_disturb_another() {
    let mut house = House::new(2);
    let a = house.connect().unwrap();
    let b = house.connect().unwrap();
    let (get, _) = house.pairs[b].get(room(8));
    house.close(a);
    let send = house.pairs[b].send(b"alive", None, FOREVER);
    assert_eq!(sent(&house.pairs[b], send), Some(NtStatus::SUCCESS));
    assert_eq!(taken(&house.pairs[b], get), Some(&b"alive"[..]));
    assert_eq!(house.pairs[b].disconnects, 0);
}

#[test]
fn i7_frames_under_way_when_the_filter_closes_are_no_lies() {
    let mut pair = Pair::connected();
    let request = pair.request(b"slow", 8);
    let posted = pair.get(room(8)).0;
    pair.stop_reading();
    pair.host.handle_filter_closed();
    pair.drive();
    // The client has not read of the end: its calls cross the news.
    let get = pair.get(room(8)).0;
    let reply = pair.start_reply(1, NtStatus::SUCCESS, b"");
    let late = pair.request(b"late", 8);
    pair.resume_reading();
    for call in [posted, get, reply, late] {
        assert_eq!(ended(&pair, call), GONE);
    }
    pair.callback_returns(NtStatus::SUCCESS, b"done");
    assert_eq!(ended(&pair, request), Some(NtStatus::SUCCESS));
    assert_eq!(pair.lies, []);
}

#[test]
fn i8_the_host_itself_tells_late_callers_that_it_is_over() {
    let mut pair = Pair::connected();
    let (_, id) = asked(&mut pair, b"safe?", 4, FOREVER);
    pair.host.handle_filter_closed();
    pair.drive();
    let body = || Bytes(b"x".to_vec());
    pair.host.handle_reply(8, id, NtStatus::SUCCESS, body());
    pair.host.handle_get(9, room(8)).unwrap();
    pair.host.handle_request(10, body(), 8);
    for call in 8..=10 {
        let (told, status) = match pair.host.poll_output().unwrap() {
            Output::ReplyDone { reply, status } => (reply, status),
            Output::GetFailed { get, status, .. } => (get, status),
            Output::RequestDone {
                request, status, ..
            } => (request, status),
            other => panic!("{other:?}"),
        };
        assert_eq!((told, Some(status)), (call, GONE));
    }
    assert!(pair.host.poll_output().is_none());
}

#[test]
fn i7_j6_the_goodbye_comes_after_all_that_it_ends() {
    for unregister in [true, false] {
        let mut pair = Pair::connected();
        pair.get(room(1));
        pair.get(room(1));
        if unregister {
            pair.host.handle_unregister();
        } else {
            pair.host.handle_filter_closed();
        }
        let outputs = core::iter::from_fn(|| pair.host.poll_output());
        let said: Vec<_> = outputs
            .filter(|output| !matches!(output, Output::ReleaseSlot))
            .map(|output| std::mem::discriminant(&output))
            .collect();
        let goodbye = std::mem::discriminant(&Output::Disconnected);
        assert_eq!(said.iter().position(|said| *said == goodbye), Some(2));
    }
}

#[test]
fn n7_a_thousand_blocked_senders_all_return_when_the_client_leaves() {
    let mut pair = Pair::connected();
    let sends: Vec<_> = (0..1_000)
        .map(|_| pair.send(b"x", Some(1), FOREVER))
        .collect();
    pair.close_client();
    assert!(sends.iter().all(|send| sent(&pair, *send) == GONE));
    assert_eq!(pair.host.pending(), (0, 0));
}

#[test]
fn j12_when_the_host_dies_every_call_of_the_client_ends() {
    let mut pair = Pair::connected();
    let get = pair.get(room(8)).0;
    let request = pair.request(b"slow", 8);
    pair.client.as_mut().unwrap().handle_closed();
    pair.drive();
    assert_eq!((ended(&pair, get), ended(&pair, request)), (GONE, GONE));
    let late = pair.get(room(8)).0;
    assert_eq!(ended(&pair, late), GONE);
}

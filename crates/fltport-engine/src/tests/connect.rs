//! The connect callback: what it says, what happens while it runs.

use super::port::{House, user};
use super::*;

#[test]
fn b1_a_client_is_connected_when_the_callback_has_accepted() {
    let mut pair = Pair::connecting();
    pair.drive();
    assert_eq!(pair.connected, None);
    pair.host.handle_connect_returned(NtStatus::SUCCESS);
    pair.drive();
    assert_eq!(pair.connected, Some(NtStatus::SUCCESS));
    assert_eq!(pair.host.state(), State::Connected);
    assert_eq!((pair.disconnects, pair.releases), (0, 0));
}

#[test]
fn b1_any_success_accepts_and_the_client_sees_plain_success() {
    for status in [NtStatus::TIMEOUT, NtStatus::PENDING, NtStatus(0x4000_0000)] {
        let mut pair = Pair::connecting();
        pair.host.handle_connect_returned(status);
        pair.drive();
        assert_eq!(pair.connected, Some(NtStatus::SUCCESS));
    }
}

#[test]
fn b13_b14_b15_a_refusal_reaches_the_client_and_nothing_else_happens() {
    let refusals = [
        (NtStatus::ACCESS_DENIED, 0x8007_0005),
        (NtStatus::INVALID_PARAMETER_3, 0x8007_0057),
        (NtStatus(0xC019_0001), 0x8000_4005),
    ];
    for (status, seen) in refusals {
        let mut pair = Pair::connecting();
        pair.host.handle_connect_returned(status);
        pair.drive();
        assert_eq!(pair.connected.unwrap().to_hresult().0, seen);
        assert!(pair.client.is_none());
        assert_eq!((pair.disconnects, pair.releases), (0, 1));
        assert_eq!(pair.host.state(), State::Ended);
    }
}

#[test]
fn b13_a_warning_is_no_acceptance() {
    let mut pair = Pair::connecting();
    pair.host.handle_connect_returned(NtStatus::BUFFER_OVERFLOW);
    pair.drive();
    assert!(pair.client.is_none());
}

#[test]
fn b29_a_client_that_dies_during_the_callback_is_disconnected_once_if_accepted() {
    let mut pair = Pair::connecting();
    pair.close_client();
    assert_eq!((pair.disconnects, pair.releases), (0, 0));
    pair.host.handle_connect_returned(NtStatus::SUCCESS);
    pair.drive();
    assert_eq!((pair.disconnects, pair.releases), (1, 0));
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
    assert_eq!(pair.host.state(), State::Ended);
}

#[test]
fn b29_a_client_that_dies_during_the_callback_is_forgotten_if_refused() {
    let mut pair = Pair::connecting();
    pair.close_client();
    pair.host.handle_connect_returned(NtStatus::ACCESS_DENIED);
    pair.drive();
    assert_eq!((pair.disconnects, pair.releases), (0, 1));
    assert_eq!(pair.host.state(), State::Ended);
}

#[test]
fn b29_i20_a_send_from_the_callback_ends_when_the_client_dies() {
    let mut pair = Pair::connecting();
    let send = pair.send(b"too early", None, FOREVER);
    assert_eq!(pair.outcome(send), None);
    pair.close_client();
    let outcome = Outcome::Disconnected { delivered: false };
    assert_eq!(pair.outcome(send), Some(&outcome));
}

#[test]
fn b30_a_connect_that_comes_after_unregistering_began_is_refused() {
    let mut house = House::new(1);
    house.unregister();
    assert_eq!(house.connect(), Err(NtStatus::FLT_DELETING_OBJECT));
    assert_eq!(house.port.connections(), (0, 1));
}

#[test]
fn b30_a_connect_that_unregistering_overtakes_succeeds_and_is_over() {
    let mut house = House::new(1);
    let pair = house.begin(&user(1_000)).unwrap();
    house.unregister();
    let told = house.finish(pair, NtStatus::SUCCESS);
    assert_eq!(told, Some(NtStatus::SUCCESS));
    let (get, _) = house.pairs[pair].get(room(1));
    assert_eq!(
        ended(&house.pairs[pair], get),
        Some(NtStatus::PORT_DISCONNECTED)
    );
    assert_eq!(house.pairs[pair].disconnects, 1);
    house.pairs[pair].disconnect_returns();
    house.settle();
    assert_eq!(house.port.connections(), (0, 1));
}

#[test]
fn j13_a_connect_that_the_closing_port_overtakes_is_completed() {
    let mut house = House::new(1);
    let pair = house.begin(&user(1_000)).unwrap();
    house.close_port();
    let told = house.finish(pair, NtStatus::SUCCESS);
    assert_eq!(told, Some(NtStatus::SUCCESS));
    assert_eq!(house.connect(), Err(NtStatus::OBJECT_NAME_NOT_FOUND));
}

#[test]
fn p5_a_send_from_the_callback_times_out_and_the_connect_succeeds() {
    let mut pair = Pair::connecting();
    let send = pair.send(b"too early", None, within(100));
    advance(&mut pair, 100);
    assert_eq!(sent(&pair, send), Some(NtStatus::TIMEOUT));
    pair.host.handle_connect_returned(NtStatus::SUCCESS);
    pair.drive();
    assert_eq!(pair.connected, Some(NtStatus::SUCCESS));
    let (get, _) = pair.get(room(16));
    assert_eq!(pair.ended(get), None);
}

#[test]
fn p6_closing_the_client_port_in_the_callback_disconnects_whoever_was_accepted() {
    let mut pair = Pair::connecting();
    pair.host.handle_filter_closed();
    pair.host.handle_connect_returned(NtStatus::SUCCESS);
    pair.drive();
    assert_eq!(pair.connected, Some(NtStatus::PORT_DISCONNECTED));
    assert!(pair.client.is_none());
    pair.disconnect_returns();
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
}

#[test]
fn p6_i10_closing_the_client_port_in_the_callback_ends_its_sends() {
    let mut pair = Pair::connecting();
    let send = pair.send(b"too early", None, FOREVER);
    pair.host.handle_filter_closed();
    pair.drive();
    assert_eq!(sent(&pair, send), Some(NtStatus::PORT_DISCONNECTED));
    let send = pair.send(b"too late", None, FOREVER);
    assert_eq!(sent(&pair, send), Some(NtStatus::PORT_DISCONNECTED));
}

#[test]
fn p6_b29_however_a_connect_goes_the_slot_is_released_once() {
    let mut dice = Dice(0xB29);
    for _ in 0..10_000 {
        let mut pair = Pair::connecting();
        let mut accepted = None;
        let mut sends = Vec::new();
        for _ in 0..8 {
            match dice.below(7) {
                0 => pair.close_client(),
                1 => pair.host.handle_filter_closed(),
                2 => pair.host.handle_unregister(),
                3 | 4 => sends.push(pair.send(b"x", None, FOREVER)),
                5 => pair.disconnect_returns(),
                _ => {
                    let verdict = [NtStatus::SUCCESS, NtStatus::ACCESS_DENIED][dice.half()];
                    accepted = accepted.or_else(|| Some(verdict.is_nt_success()));
                    pair.host.handle_connect_returned(verdict);
                }
            }
        }
        let accepted = accepted.unwrap_or(false);
        pair.host.handle_connect_returned(NtStatus::UNSUCCESSFUL);
        pair.close_client();
        pair.disconnect_returns();
        assert_eq!(pair.host.state(), State::Ended);
        assert_eq!((pair.disconnects, pair.releases), (u32::from(accepted), 1));
        assert!(sends.iter().all(|send| pair.outcome(*send).is_some()));
    }
}

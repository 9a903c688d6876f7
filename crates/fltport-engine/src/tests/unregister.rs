//! Closing server ports and unregistering filters.

use super::port::{House, user};
use super::*;
use crate::server::{Access, FilterState, Port};

const GONE: Option<NtStatus> = Some(NtStatus::PORT_DISCONNECTED);

#[test]
fn j1_a_closed_server_port_leaves_its_connections_alone() {
    let mut house = House::new(4);
    let pair = house.connect().unwrap();
    house.close_port();
    house.settle();
    let pair = &mut house.pairs[pair];
    let (send, id) = asked(pair, b"safe?", 4, FOREVER);
    let told = pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(told, Some(NtStatus::SUCCESS));
    assert_eq!(sent(pair, send), Some(NtStatus::SUCCESS));
    let request = pair.request(b"version?", 8);
    pair.callback_returns(NtStatus::SUCCESS, b"1");
    assert_eq!(ended(pair, request), Some(NtStatus::SUCCESS));
    assert_eq!(pair.disconnects, 0);
}

#[test]
fn j3_a_new_port_lives_beside_the_connections_of_the_old_one() {
    let mut house = House::new(1);
    let old = house.connect().unwrap();
    house.close_port();
    house.filter.handle_create().unwrap();
    let mut port = Port::new(Access::everyone(), 1).unwrap();
    port.handle_arrival(&user(1_000)).unwrap();
    assert_eq!(port.handle_connect(), Ok(()));
    let request = house.pairs[old].request(b"version?", 8);
    house.pairs[old].callback_returns(NtStatus::SUCCESS, b"old");
    let ended = house.pairs[old].ended(request);
    let body = Some(Bytes(b"old".to_vec()));
    assert_eq!(ended, Some(&Ended::Done(NtStatus::SUCCESS, 0, body)));
}

#[test]
fn j4_unregistering_disconnects_the_survivors_and_then_is_over() {
    let mut house = House::new(4);
    let pair = house.connect().unwrap();
    let get = house.pairs[pair].get(room(8)).0;
    house.close_port();
    house.unregister();
    assert_eq!(house.pairs[pair].disconnects, 1);
    assert_eq!(house.filter.state(), FilterState::Unregistering);
    house.pairs[pair].disconnect_returns();
    house.settle();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
    assert_eq!(ended(&house.pairs[pair], get), GONE);
    assert_eq!(house.pairs[pair].releases, 1);
}

#[test]
fn j5_unregistering_waits_for_a_port_that_was_not_closed() {
    let mut house = House::new(4);
    house.unregister();
    assert_eq!(house.filter.state(), FilterState::Unregistering);
    house.close_port();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
}

#[test]
fn j6_j7_unregistering_ends_gets_and_senders() {
    let mut pair = Pair::connected();
    let (question, _) = asked(&mut pair, b"safe?", 4, FOREVER);
    let small = pair.get(room(2)).0;
    let send = pair.send(&[7; 64], None, FOREVER);
    let get = pair.get(room(2)).0;
    pair.host.handle_unregister();
    pair.drive();
    assert_eq!(ended(&pair, small), Some(NtStatus::BUFFER_TOO_SMALL));
    assert_eq!(ended(&pair, get), GONE);
    assert_eq!((sent(&pair, question), sent(&pair, send)), (GONE, GONE));
    assert_eq!(pair.lies, []);
}

#[test]
fn j8_unregistering_waits_for_a_running_callback_whose_answer_still_goes_out() {
    let mut house = House::new(4);
    let pair = house.connect().unwrap();
    let get = house.pairs[pair].get(room(8)).0;
    let request = house.pairs[pair].request(b"slow", 8);
    house.close_port();
    house.unregister();
    assert_eq!(house.pairs[pair].disconnects, 0);
    assert_eq!(ended(&house.pairs[pair], get), GONE);
    assert_eq!(house.filter.state(), FilterState::Unregistering);
    house.pairs[pair].callback_returns(NtStatus::SUCCESS, b"done");
    let told = ended(&house.pairs[pair], request);
    assert_eq!(told, Some(NtStatus::SUCCESS));
    assert_eq!(house.pairs[pair].lies, []);
    house.pairs[pair].disconnect_returns();
    house.settle();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
}

#[test]
fn j9_after_unregistering_no_callback_runs() {
    let mut house = House::new(4);
    let pair = house.connect().unwrap();
    house.close_port();
    house.unregister();
    house.pairs[pair].disconnect_returns();
    house.settle();
    let pair = &mut house.pairs[pair];
    let request = pair.request(b"still there?", 8);
    let get = pair.get(room(8)).0;
    pair.close_client();
    assert_eq!((ended(pair, request), ended(pair, get)), (GONE, GONE));
    assert!(pair.callbacks.is_empty());
    assert_eq!((pair.disconnects, pair.releases), (1, 1));
}

#[test]
fn j9_frames_that_arrive_after_unregistering_run_no_callback() {
    let mut pair = Pair::connected();
    pair.host.handle_unregister();
    pair.drive();
    pair.disconnect_returns();
    pair.host.handle_request(1, Bytes(b"x".to_vec()), 0);
    pair.host.handle_get(1, 32).unwrap();
    pair.host
        .handle_reply(1, 1, NtStatus::SUCCESS, Bytes::default());
    pair.drive();
    assert!(pair.callbacks.is_empty());
    assert_eq!(pair.host.posted(), 0);
}

#[test]
fn j10_a_client_that_is_asked_to_leave_replies_and_closes() {
    let mut house = House::new(1);
    let pair = house.connect().unwrap();
    let (send, id) = asked(&mut house.pairs[pair], b"leaving", 0, FOREVER);
    house.pairs[pair].reply(id, NtStatus::SUCCESS, b"");
    house.close(pair);
    assert_eq!(sent(&house.pairs[pair], send), Some(NtStatus::SUCCESS));
    house.close_port();
    house.unregister();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
    assert_eq!(house.pairs[pair].disconnects, 1);
}

#[test]
fn j11_without_a_client_unloading_is_over_at_once() {
    let mut house = House::new(1);
    house.close_port();
    house.unregister();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
}

#[test]
fn j14_a_hundred_loads_leak_nothing() {
    for _ in 0..100 {
        let mut house = House::new(1);
        let pair = house.connect().unwrap();
        house.pairs[pair].get(room(8));
        house.close_port();
        house.unregister();
        house.pairs[pair].disconnect_returns();
        house.settle();
        assert_eq!(house.port.connections(), (0, 1));
        assert_eq!(house.filter.state(), FilterState::Unregistered);
        assert_eq!(house.pairs[pair].host.posted(), 0);
    }
}

#[test]
fn j15_unregistering_one_filter_leaves_another_alone() {
    let (mut one, mut other) = (House::new(1), House::new(1));
    one.connect().unwrap();
    let pair = other.connect().unwrap();
    one.close_port();
    one.unregister();
    let pair = &mut other.pairs[pair];
    let (send, id) = asked(pair, b"safe?", 4, FOREVER);
    pair.reply(id, NtStatus::SUCCESS, b"yes");
    assert_eq!(answer(pair, send), Some(&b"yes"[..]));
}

#[test]
fn j4_i11_a_connection_that_the_filter_closed_is_finished_by_unregistering() {
    let mut house = House::new(1);
    let pair = house.connect().unwrap();
    house.pairs[pair].host.handle_filter_closed();
    house.close_port();
    house.unregister();
    assert_eq!(house.pairs[pair].disconnects, 1);
    assert_eq!(house.filter.state(), FilterState::Unregistering);
    house.pairs[pair].disconnect_returns();
    house.settle();
    assert_eq!(house.filter.state(), FilterState::Unregistered);
    assert_eq!(house.pairs[pair].releases, 1);
}

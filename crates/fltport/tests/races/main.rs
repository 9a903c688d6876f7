//! Races with defined outcomes, thousands of rounds each, between two processes: this test binary is both.
//!
//! `scene` has the host and the process on the other side, `ledger` the comparison of what both saw, `aim` the delays that
//! are kept where both outcomes occur. `FLTPORT_RACE_ROUNDS` and `FLTPORT_SEED` set what is printed at the start.
//! After every race each reply that succeeded has reached its sender, and every accepted connection had its disconnect
//! callback once.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod aim;
mod connects;
mod endings;
mod gets;
mod ledger;
mod replies;
mod scene;

use scene::play;

#[test]
fn a_reply_races_with_its_senders_deadline() {
    play(
        "a_reply_races_with_its_senders_deadline",
        replies::deadline_host,
        replies::deadline_client,
    );
}

#[test]
fn f9_two_replies_race_for_one_message() {
    play(
        "f9_two_replies_race_for_one_message",
        replies::two_host,
        replies::two_client,
    );
}

#[test]
fn a_get_races_with_its_senders_deadline() {
    play(
        "a_get_races_with_its_senders_deadline",
        gets::deadline_host,
        gets::deadline_client,
    );
}

#[test]
fn withdrawing_a_get_races_with_its_message() {
    play(
        "withdrawing_a_get_races_with_its_message",
        gets::withdrawn_host,
        gets::withdrawn_client,
    );
}

#[test]
fn a_reply_races_with_the_filters_close() {
    play(
        "a_reply_races_with_the_filters_close",
        endings::reply_host,
        endings::reply_client,
    );
}

#[test]
fn a_reply_races_with_its_own_clients_close() {
    play(
        "a_reply_races_with_its_own_clients_close",
        endings::reply_own_host,
        endings::reply_own_client,
    );
}

#[test]
fn the_clients_close_races_with_a_delivery() {
    play(
        "the_clients_close_races_with_a_delivery",
        endings::delivery_host,
        endings::delivery_client,
    );
}

#[test]
fn the_filters_close_races_with_its_sends() {
    play(
        "the_filters_close_races_with_its_sends",
        endings::send_host,
        endings::send_client,
    );
}

#[test]
fn a_connect_races_with_the_close_of_the_port() {
    play(
        "a_connect_races_with_the_close_of_the_port",
        connects::close_host,
        connects::client,
    );
}

#[test]
fn b19_of_many_connects_as_many_as_allowed_succeed() {
    play(
        "b19_of_many_connects_as_many_as_allowed_succeed",
        connects::limit_host,
        connects::client,
    );
}

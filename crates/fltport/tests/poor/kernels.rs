//! Old kernels, filters of containers, and no room: what there is of the memory depends on what the host can have, and what it
//! cannot have goes by packets.

use std::time::Duration;

use super::common::watchdog_of;
use super::lack::{
    BLOCKS, FILES, FUTURE_WRITE, LOCKED, MAPS, MEMFD, NOEXEC_SEAL, PAGES, POPULATE, WAITV,
    WAITV_ALLOWED,
};
use super::story::Story;

fn play(name: &'static str, stories: &[Story]) {
    let _watchdog = watchdog_of(name, Duration::from_secs(120));
    Story::play_all(stories);
}

#[test]
fn a_host_that_cannot_seal_or_fill_memory_uses_packets() {
    let stories = [FUTURE_WRITE, MEMFD, POPULATE].map(|what| Story::at_host(what, false));
    play("a_host_that_cannot_seal_or_fill_memory", &stories);
}

#[test]
fn a_client_needs_nothing_of_what_makes_memory() {
    let stories = [FUTURE_WRITE, MEMFD, POPULATE].map(|what| Story::at_client(what, true));
    play("a_client_needs_nothing_of_what_makes_memory", &stories);
}

#[test]
fn memory_needs_no_seal_against_execution() {
    play(
        "memory_needs_no_seal_against_execution",
        &[Story::at_both(NOEXEC_SEAL, true)],
    );
}

#[test]
fn a_host_without_room_uses_packets() {
    let stories = [PAGES, FILES, MAPS].map(|what| Story::at_host(what, false));
    play("a_host_without_room_uses_packets", &stories);
}

#[test]
fn a_client_that_cannot_map_uses_packets() {
    let stories = [Story::at_client(MAPS, false), Story::at_client(FILES, true)];
    play("a_client_that_cannot_map_uses_packets", &stories);
}

#[test]
fn a_host_without_room_for_long_messages_sends_them_by_packets() {
    play(
        "a_host_without_room_for_long_messages",
        &[Story::at_host(BLOCKS, true)],
    );
}

#[test]
fn nothing_needs_locked_memory() {
    play(
        "nothing_needs_locked_memory",
        &[Story::at_both(LOCKED, true)],
    );
}

#[test]
fn waits_work_before_there_was_a_wait_on_two_words() {
    play(
        "waits_work_before_there_was_a_wait",
        &[Story::at_host(WAITV, true)],
    );
}

#[test]
fn a_client_needs_no_wait_on_two_words() {
    let stories = [WAITV, WAITV_ALLOWED].map(|what| Story::at_client(what, true));
    play("a_client_needs_no_wait_on_two_words", &stories);
}

/// As containers do whose filter is older than the call.
#[test]
fn a_host_whose_filter_refuses_a_wait_on_two_words_sleeps_all_the_same() {
    play(
        "a_host_whose_filter_refuses_a_wait",
        &[Story::at_host(WAITV_ALLOWED, true)],
    );
}

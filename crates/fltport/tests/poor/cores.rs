//! One core for a side, or for both: nobody waits awake where that keeps the other side from working.

use std::time::Duration;

use super::common::watchdog_of;
use super::lack::CORES;
use super::story::Story;

#[test]
fn one_core_is_enough_for_both_sides_and_for_either() {
    let _watchdog = watchdog_of("one_core_is_enough", Duration::from_secs(120));
    Story::play_all(&[
        Story::at_both(CORES, true),
        Story::at_host(CORES, true),
        Story::at_client(CORES, true),
    ]);
}

//! Hostile peers, each in a process of its own. Whatever one does, the other side's process serves others, counts its
//! callbacks even, and keeps nothing.
//!
//! [`common::stage`] has the host and the check after every story; the clients that misbehave are programs of this binary.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod crowd;
mod fight;
mod files;
mod flood;
mod liar;
mod memory;
mod memory_answers;
mod memory_endings;
mod memory_flips;
mod memory_frames;
mod memory_gifts;
mod memory_holes;
mod memory_liar;
mod memory_lies;
mod memory_quiet_host;
mod memory_races;
mod memory_stopped;
mod memory_words;
mod packets;
mod passed;
mod quiet;
mod rogue;
mod sequence;
mod stopped;

use std::time::Duration;

use common::child::{Process, role};
use common::stage::PROGRAMS;
use common::{host_program, watchdog_of};

/// Every program of this binary starts here.
#[test]
fn programs() {
    // Longer than the longest test.
    let _watchdog = watchdog_of(PROGRAMS, Duration::from_secs(200));
    let Some((role, told)) = role() else {
        let mut nobody = Process::start(PROGRAMS, "nobody", &[], |command| {
            command.stderr(std::process::Stdio::null());
        })
        .unwrap();
        assert!(!nobody.wait().success(), "a part that does not exist");
        return;
    };
    if role != "holder" {
        // Whatever becomes of the test, its programs do not outlive it. A holder ends with its connection.
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill).unwrap();
    }
    match role.as_str() {
        "host" => host_program::play(&told),
        "client" => client::play(&told),
        "crowd" => crowd::play(&told),
        "fighter" => fight::play(&told),
        "holder" => passed::play_holder(),
        "passing" => passed::play_passing(&told),
        "taking" => passed::play_taking(&told),
        "stopped" => stopped::play(&told),
        "impostor" => rogue::play(&told),
        "liar" => liar::play(&told),
        "memory-liar" => memory_liar::play(&told),
        other => panic!("there is no part {other}"),
    }
}

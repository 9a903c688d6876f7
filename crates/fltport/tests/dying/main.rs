//! SIGKILL of either side, at steps drawn at random: of connect, send, get, reply and close.
//!
//! The survivor checks what has to hold: a reply that was accepted has reached its sender, every call has ended, each
//! connection has had one disconnect callback, and nothing is left over. `FLTPORT_SEED` makes the same choices again,
//! `FLTPORT_ROUNDS` sets how many there are.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod hosts;
mod service;

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
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill).unwrap();
    match role.as_str() {
        "host" => host_program::play(&told),
        "victim" => clients::play(&told),
        other => panic!("there is no part {other}"),
    }
}

/// Kills of each side: more than a thousand in all.
fn rounds() -> usize {
    let told = std::env::var("FLTPORT_ROUNDS").ok();
    told.map_or(520, |text| {
        text.parse().expect("FLTPORT_ROUNDS is a number")
    })
}

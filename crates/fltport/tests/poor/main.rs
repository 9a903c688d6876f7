//! Systems that lack something: an old kernel, a container's filter, limits, one core. Either side goes without what it
//! cannot have, and nobody waits awake, hangs or loses a descriptor for it.
//!
//! Both sides are processes of their own, which first restrict themselves ([`lack`]); [`work`] is what has to go on all the
//! same.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod cores;
mod descriptors;
mod kernels;
mod lack;
mod raw_work;
mod stopped;
mod story;
mod work;

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
    // Before there is a thread that would not inherit it.
    let lacks = told.iter().filter_map(|text| text.strip_prefix("lacks="));
    lacks.for_each(lack::go_without);
    match role.as_str() {
        "host" => host_program::play(&told),
        "client" => work::play(&told),
        "claims" => stopped::play_claims(&told),
        other => panic!("there is no part {other}"),
    }
}

//! A client that was stopped while it seemed to wait awake: the host believes that for a moment, and no longer.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::common::child::{next_line, say};
use super::common::memory_layout as layout;
use super::common::memory_raw::Memory;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::raw_work;
use super::work::{ASLEEP, TOLERANCE, cpu_time};

/// Questions that the client is asked while it is stopped: how many, and for how many milliseconds each. It has posted as
/// many gets.
const QUESTIONS: [(u32, u64); 2] = [(1, 300), (19, 20)];
const GETS: usize = 20;

/// Plays the client: it says that it is quick, and on a core where nobody else is.
pub(crate) fn play_claims(told: &[String]) {
    let mut memory = Memory::at(Path::new(&told[0]));
    memory.client.store(layout::CLIENT_PACE, 1);
    memory.client.store(layout::CLIENT_CORE, 1 << 20);
    // Without the mark of one who sleeps there.
    (0..GETS).for_each(|get| memory.post(get));
    say("quick");
    assert_eq!(next_line().as_deref(), Some("go on"));
    raw_work::work(&mut memory);
    say("worked");
    assert_eq!(next_line(), None);
}

#[test]
fn a_client_that_was_stopped_while_it_seemed_awake_is_not_waited_for_awake() {
    let _watchdog = watchdog_of("a_client_that_was_stopped", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for killed in [false, true] {
        let mut client = stage.program("claims", &[]);
        client.hear("quick");
        client.stop();
        for (count, millis) in QUESTIONS {
            let wait = Duration::from_millis(millis);
            let (before, start) = (cpu_time(&stage), Instant::now());
            for _ in 0..count {
                let answer = stage.ask(&format!("each 8 {millis}"));
                assert_eq!(answer, "the deadline passed before the reply");
            }
            let (spent, took) = (cpu_time(&stage) - before, start.elapsed());
            println!("{count} of {wait:?}: {took:?}, of which the host has computed {spent:?}");
            assert!(took >= count * wait && took < count * wait + TOLERANCE);
            assert!(spent < ASLEEP, "{spent:?}");
        }
        if killed {
            client.kill();
        } else {
            client.signal(Signal::CONT);
            client.tell("go on");
            client.hear("worked");
            client.let_go();
            assert!(client.wait().success());
        }
        stage.check("a client that was stopped");
    }
    stage.finish();
}

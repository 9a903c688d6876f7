//! Descriptors that run out, at either side, at the moment when a connection would get its memory.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::common::raw::Raw;
use super::common::stage::{Stage, assert_serves};
use super::common::watchdog_of;
use super::story::killed;
use super::work::{ASLEEP, cpu_time};

/// Descriptors that a client needs for memory: two pieces, and what notices the end of its hosts.
const CLIENT_NEEDS: usize = 3;

/// Descriptors that a host needs for memory.
const HOST_NEEDS: usize = 2;

#[test]
fn a_client_that_runs_out_of_descriptors_uses_packets() {
    let _watchdog = watchdog_of("a_client_that_runs_out_of_descriptors", LONGEST);
    std::thread::scope(|scope| {
        for left in 1..=CLIENT_NEEDS {
            scope.spawn(move || play_a_client_with(left));
        }
    });
}

#[test]
fn a_client_that_had_no_descriptor_for_memory_gets_some_later() {
    let _watchdog = watchdog_of("a_client_that_had_no_descriptor", LONGEST);
    play_a_client_with(0);
}

/// Two connections with so few descriptors left, and one with as many as it likes.
fn play_a_client_with(left: usize) {
    let story = format!("{left} descriptors left at the client");
    println!("{story}");
    let stage = Stage::new(&[]);
    let client = stage.program("client", &[&format!("left={left}")]);
    // What notices the end of hosts is there for the second connection.
    for needed in [CLIENT_NEEDS, CLIENT_NEEDS - 1] {
        let mapped = if left < needed { "0" } else { "2" };
        assert_eq!(client.hear("mapped "), mapped, "{story}");
    }
    killed(&stage, client, true, &story);
    stage.finish();
}

#[test]
fn a_host_that_runs_out_of_descriptors_uses_packets() {
    let _watchdog = watchdog_of("a_host_that_runs_out_of_descriptors", LONGEST);
    let stage = Stage::new(&[]);
    for left in 0..=HOST_NEEDS {
        println!("{left} descriptors left at the host");
        let mut client = stage.program("client", &["once", "pause"]);
        client.hear("connected");
        let squeezed = Squeezed::to(stage.host(), left);
        client.tell("go on");
        let mapped = if left < HOST_NEEDS { "0" } else { "2" };
        assert_eq!(client.hear("mapped "), mapped);
        client.hear("worked");
        drop(squeezed);
        client.tell("go on");
        killed(&stage, client, true, &format!("{left} left"));
    }
    stage.finish();
}

#[test]
fn a_connect_that_the_host_has_no_descriptor_for_waits_and_nobody_spins() {
    let _watchdog = watchdog_of("a_connect_that_the_host_has_no_descriptor_for", LONGEST);
    let stage = Stage::new(&[]);
    let idle = Raw::greeted_below(stage.directory(), b"");
    let squeezed = Squeezed::to(stage.host(), 0);
    std::thread::scope(|scope| {
        let connects = scope.spawn(|| stage.connect(b"well").unwrap());
        let before = cpu_time(&stage);
        // As long as that takes: nobody gets messages here.
        let answer = stage.ask("each 8 300");
        assert_eq!(
            answer,
            "the deadline passed before anybody took the message"
        );
        let spent = cpu_time(&stage) - before;
        println!("the host has computed for {spent:?}");
        assert!(spent < ASLEEP, "{spent:?}");
        assert!(!connects.is_finished());
        drop(squeezed);
        assert_serves(&connects.join().unwrap());
    });
    drop(idle);
    stage.check("a connect without a descriptor");
    stage.finish();
}

const LONGEST: Duration = Duration::from_secs(120);

/// A process with few descriptors left, until this is dropped.
struct Squeezed {
    process: Pid,
    before: Rlimit,
}

impl Squeezed {
    /// Leaves a process exactly so many.
    fn to(process: u32, left: usize) -> Self {
        let folder = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let used: Vec<u64> = names.map(|name| name.parse().unwrap()).collect();
        // Numbers below the limit can be had, if they are free.
        let most = (0..)
            .filter(|number| !used.contains(number))
            .nth(left)
            .unwrap();
        let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        let before = rustix::process::getrlimit(Resource::Nofile);
        let now = Rlimit {
            current: Some(most),
            maximum: before.maximum,
        };
        let before = prlimit(Some(process), Resource::Nofile, now).unwrap();
        Self { process, before }
    }
}

impl Drop for Squeezed {
    fn drop(&mut self) {
        prlimit(Some(self.process), Resource::Nofile, self.before).unwrap();
    }
}

//! Many connections: floods that are refused, a port that is full, and ten thousand that do nothing.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fltport::{ConnectError, NtStatus, limits};
use fltport_engine::wire::ToHost;

use super::common::child::{Process, next_line, say, wait_for_the_end};
use super::common::look::allow_descriptors;
use super::common::raw::Raw;
use super::common::stage::{PROGRAMS, Stage};
use super::common::{LIMIT, until, watchdog_of};
use super::sequence::{answer, send_long};

/// A user who is nobody here.
const STRANGER: u32 = 65_534;

#[test]
fn connects_without_a_greeting_keep_others_out_no_longer_than_they_may_take() {
    let _watchdog = watchdog_of("connects_without_a_greeting", Duration::from_secs(90));
    let stage = Stage::new(&[]);
    for killed in [true, false] {
        let most = Duration::from_millis(limits::HANDSHAKE_MILLIS);
        let begun = Instant::now();
        let mut flood = stage.program("crowd", &["silent", "200"]);
        flood.hear("done");
        let refused = stage.connect(b"").map(drop);
        let refused = matches!(
            refused,
            Err(ConnectError::Refused(NtStatus::INSUFFICIENT_RESOURCES))
        );
        // This user has as many connects under way as may be, unless their time was up before.
        assert!(refused || begun.elapsed() > most);
        let start = Instant::now();
        if killed {
            flood.kill();
        }
        // At once, or when the time for their greetings is up.
        stage.assert_serves();
        let took = start.elapsed();
        println!("served after {took:?}, killed: {killed}");
        assert!(took < if killed { LIMIT } else { most + LIMIT });
        drop(flood);
        stage.check("connects without a greeting");
    }
    stage.finish();
}

#[test]
fn a_flood_of_another_user_keeps_nobody_out() {
    let _watchdog = watchdog_of("a_flood_of_another_user", Duration::from_secs(60));
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become somebody else");
    }
    let stage = Stage::new(&[]);
    let flood = Process::start(
        PROGRAMS,
        "crowd",
        &[stage.path(), "again", "0"],
        |command| {
            command.uid(STRANGER).gid(STRANGER);
        },
    );
    let Ok(mut flood) = flood else {
        return println!("skipped: other users cannot run this test binary");
    };
    flood.hear("done");
    for _ in 0..100 {
        stage.assert_serves();
    }
    assert!(!flood.has_ended());
    flood.kill();
    stage.check("a flood of another user");
    stage.finish();
}

#[test]
fn a_full_port_has_room_again_when_the_crowd_is_gone() {
    let _watchdog = watchdog_of("a_full_port", Duration::from_secs(60));
    let stage = Stage::new(&["max=32"]);
    for _ in 0..5 {
        let mut crowd = stage.program("crowd", &["idle", "31"]);
        crowd.hear("done");
        for _ in 0..50 {
            let refused = stage.connect(b"").map(drop);
            let full = matches!(
                refused,
                Err(ConnectError::Refused(NtStatus::CONNECTION_COUNT_LIMIT))
            );
            assert!(full, "{refused:?}");
        }
        crowd.kill();
        stage.check("a full port");
    }
    stage.finish();
}

#[test]
fn who_closes_and_reads_nothing_is_counted_until_it_is_gone() {
    let _watchdog = watchdog_of("who_closes_and_reads_nothing", Duration::from_secs(90));
    const MOST: usize = 32;
    let stage = Stage::new(&["max=32"]);
    for how in ["closing", "closed by the filter"] {
        let mut crowd = stage.program("crowd", &[how, "200"]);
        let count: usize = crowd.hear("done ").parse().unwrap();
        // A slot that is free again leaves nothing behind that nobody counts: neither files nor what was not read.
        let (now, before) = (stage.look(), stage.before());
        println!("{how}: {count} times, {now:?}");
        let bound = if how == "closing" {
            assert!(count < MOST, "the port is full");
            MOST
        } else {
            MOST + limits::SEVERED_PER_USER
        };
        assert!(now.descriptors <= before.descriptors + bound, "{now:?}");
        assert!(now.memory <= before.memory + bound * (2 << 20), "{now:?}");
        crowd.kill();
        stage.check(how);
    }
    stage.finish();
}

#[test]
fn ten_thousand_idle_connections_cost_one_descriptor_each() {
    const EACH: usize = 5_000;
    let _watchdog = watchdog_of("ten_thousand_idle_connections", Duration::from_secs(150));
    if !allow_descriptors(2 * EACH as u64 + 500) {
        return println!("skipped: this process may not open ten thousand files");
    }
    let most = format!("max={}", 2 * EACH + 50);
    let stage = Stage::new(&[&most]);
    come_and_go(&stage, EACH);
    // What the allocator kept of it is used again.
    let first = stage.look().memory;
    come_and_go(&stage, EACH);
    let second = stage.look().memory;
    println!("{first} bytes left after the first time, {second} after the second");
    assert!(second < first + (8 << 20));
    stage.finish();
}

/// Two crowds come, are counted and served, and go: one is killed, one leaves.
fn come_and_go(stage: &Stage, each: usize) {
    let start = Instant::now();
    let number = each.to_string();
    let mut crowds: Vec<_> = (0..2)
        .map(|_| stage.program("crowd", &["idle", &number]))
        .collect();
    crowds.iter().for_each(|crowd| drop(crowd.hear("done")));
    println!("connected in {:?}", start.elapsed());
    let before = stage.before();
    until("the host is at rest", || {
        let now = stage.look();
        now.descriptors <= before.descriptors + 2 * each && now.threads == before.threads
    });
    let now = stage.look();
    assert_eq!(now.descriptors, before.descriptors + 2 * each);
    let bytes = (now.memory - before.memory) / (2 * each);
    println!(
        "{} descriptors, {} without them; {bytes} bytes of memory for each connection",
        now.descriptors, before.descriptors
    );
    assert!(bytes < IDLE, "{bytes} bytes for each idle connection");
    stage.assert_serves();
    for crowd in &mut crowds {
        crowd.tell("ask");
        crowd.hear("served");
    }
    println!("all served after {:?}", start.elapsed());
    crowds[0].kill();
    until("half of them are over", || {
        stage.state().live == 1 + each as u64
    });
    crowds[1].let_go();
    assert!(crowds[1].wait().success());
    stage.check_within("ten thousand idle connections", 2 * each * IDLE);
    println!("all over after {:?}", start.elapsed());
}

/// Bytes that an idle connection may take: its books, empty.
const IDLE: usize = 4_096;

/// Plays a crowd: `told` is the directory, how, and how many.
pub(crate) fn play(told: &[String]) {
    let at = Path::new(&told[0]);
    let count: usize = told[2].parse().unwrap();
    match told[1].as_str() {
        "silent" => {
            let kept: Vec<_> = (0..count).map(|_| Raw::connect_below(at)).collect();
            let refused = count - limits::HANDSHAKES_PER_USER;
            let told = kept.iter().rev().take(refused);
            for raw in told {
                assert_eq!(raw.status(), Some(NtStatus::INSUFFICIENT_RESOURCES));
            }
            say("done");
            wait_for_the_end();
        }
        "closing" | "closed by the filter" => {
            let mut kept = Vec::new();
            while kept.len() < count {
                let raw = Raw::greeting_below(at, b"");
                if raw.status() != Some(NtStatus::SUCCESS) {
                    break;
                }
                // An answer that does not fit the socket, and then the end.
                send_long(&raw, 1 << 20, 1 << 20);
                if told[1] != "closing" {
                    raw.ask(2, "close");
                }
                raw.frame(&ToHost::Close, b"");
                kept.push(raw);
            }
            say(&format!("done {}", kept.len()));
            wait_for_the_end();
        }
        "again" => {
            // Until it is killed: as many as may be, all the time.
            let mut kept = std::collections::VecDeque::new();
            for round in 0.. {
                kept.push_back(Raw::connect_below(at));
                if kept.len() > 2 * limits::HANDSHAKES_PER_USER {
                    kept.pop_front();
                }
                if round == 1_000 {
                    say("done");
                }
            }
        }
        _ => {
            assert!(allow_descriptors(count as u64 + 100));
            let kept: Vec<_> = (0..count).map(|_| Raw::greeted_below(at, b"")).collect();
            say("done");
            if next_line().is_some() {
                for raw in &kept {
                    assert!(raw.ask(1, "who"));
                }
                kept.iter().for_each(|raw| answer(raw, 1));
                say("served");
                next_line();
            }
        }
    }
}

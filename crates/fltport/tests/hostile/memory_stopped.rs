//! A client that stops, wakes and moves whom it likes, and leaves a child behind: the host's waits are its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fltport::limits::REPLY_GRACE_MILLIS;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::futex;

use super::client::Story;
use super::common::child::say;
use super::common::memory_layout as layout;
use super::common::memory_map::leave_a_child_that_scribbles;
use super::common::memory_raw::Memory;
use super::common::stage::Stage;
use super::common::{until, watchdog_of};
use super::memory::{check, cpu_time};

/// What an end may take more on a loaded machine.
const TOLERANCE: Duration = Duration::from_secs(3);

pub(crate) const STORIES: &[Story] = &[
    ("claimed and never finished", |at| {
        let mut memory = Memory::at(at);
        memory.post(0);
        say("posted");
        let id = memory.message(0);
        assert!(memory.claim(id));
        vec![memory.raw]
    }),
    ("always about to answer", |at| {
        let mut memory = Memory::at(at);
        memory.client.store(layout::CLIENT_PACE, 1);
        let home = memory.host.load(layout::HOST_HOME);
        memory.client.store(layout::CLIENT_HOME, home);
        (0..32).for_each(|get| memory.post(get));
        vec![memory.raw]
    }),
    ("a child with the memory alone", |at: &Path| {
        let mut memory = Memory::at(at);
        memory.post(0);
        let child = leave_a_child_that_scribbles(memory.client);
        say(&format!("child {child}"));
        vec![memory.raw]
    }),
];

#[test]
fn a_reply_that_is_claimed_and_never_finished_is_waited_for_a_moment() {
    let _watchdog = watchdog_of("a_reply_that_is_claimed", Duration::from_secs(100));
    let stage = Stage::new(&[]);
    for question in ["each 8 1000", "each-then 8 1000", "each 8 never"] {
        let mut client = stage.program("client", &["claimed and never finished"]);
        client.hear("posted");
        let stage = &stage;
        std::thread::scope(|scope| {
            let start = Instant::now();
            let asked = scope.spawn(move || (stage.ask(question), start.elapsed()));
            client.hear("done");
            client.stop();
            stage.assert_serves_meanwhile(question);
            if question.ends_with("never") {
                assert!(!asked.is_finished());
                client.kill();
            }
            let (ended, took) = asked.join().unwrap();
            assert_eq!(ended, "the connection is over", "{question}");
            let most = Duration::from_millis(1000 + REPLY_GRACE_MILLIS) + TOLERANCE;
            assert!(question.ends_with("never") || took < most, "{took:?}");
            // While the client is still there.
            until("its connection is over", || stage.state().live == 1);
        });
        client.kill();
        check(stage, question);
    }
    stage.finish();
}

#[test]
fn nobody_stays_awake_for_a_client_that_says_it_is_quick() {
    let _watchdog = watchdog_of("nobody_stays_awake", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    let mut client = stage.program("client", &["always about to answer"]);
    client.hear("done");
    client.stop();
    std::thread::scope(|scope| {
        let before = cpu_time(stage.host());
        let asked: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| stage.ask("each 8 600")))
            .collect();
        for one in asked {
            let ended = one.join().unwrap();
            assert_eq!(ended, "the deadline passed before the reply");
        }
        let spent = cpu_time(stage.host()) - before;
        println!("{spent} hundredths of a second for 8 senders of 600 ms");
        assert!(spent < 30, "{spent} hundredths of a second");
        let asked = scope.spawn(|| stage.ask("each 8 never"));
        stage.assert_serves_meanwhile("a quick client that is stopped");
        client.kill();
        assert_eq!(asked.join().unwrap(), "the connection is over");
    });
    check(&stage, "a quick client");
}

#[test]
fn a_child_that_keeps_the_memory_keeps_nothing_else() {
    let _watchdog = watchdog_of("a_child_that_keeps_the_memory", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for killed in [true, false] {
        let mut client = stage.program("client", &["a child with the memory alone"]);
        let child = Pid::from_raw(client.hear("child ").parse().unwrap()).unwrap();
        client.hear("done");
        stage.assert_serves_meanwhile("a child");
        if killed {
            client.kill();
        } else {
            client.let_go();
            client.wait();
        }
        // The child writes all the time.
        check(&stage, "a child that scribbles");
        kill_process(child, Signal::KILL).unwrap();
    }
}

/// A client can wake whoever sleeps at its words, and move them to others: a deadline and the end of the connection do not
/// depend on either.
#[test]
fn a_client_that_wakes_and_moves_the_hosts_sleepers_delays_nothing() {
    let _watchdog = watchdog_of("a_client_that_wakes_and_moves", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    for (question, expected) in [
        ("each 8 300", "the deadline passed before the reply"),
        ("each 8 60000", "the connection is over"),
        ("each 8 never", "the connection is over"),
    ] {
        let mut memory = Memory::at(stage.directory());
        memory.post(0);
        let over = AtomicBool::new(false);
        let moved = AtomicUsize::new(0);
        let (stage, over) = (&stage, &over);
        std::thread::scope(|scope| {
            let start = Instant::now();
            let asked = scope.spawn(move || (stage.ask(question), start.elapsed()));
            let (waiter, _) = layout::waiter_of(memory.message(0));
            let word = layout::waiter_word(waiter);
            let client = memory.client;
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    client.load(word);
                    futex::wake(client.half(word), futex::Flags::empty(), u32::MAX >> 1).ok();
                }
            });
            let moved = &moved;
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let now = u32::try_from(client.load(word) & u64::from(u32::MAX)).unwrap();
                    let (from, to) = (client.half(word), client.half(layout::get_word(63)));
                    let (flags, all) = (futex::Flags::empty(), u32::MAX >> 1);
                    let some = futex::cmp_requeue(from, flags, 0, all, to, now).unwrap_or(0);
                    moved.fetch_add(some, Ordering::SeqCst);
                }
            });
            until("it was moved", || {
                moved.load(Ordering::SeqCst) > 0 || asked.is_finished()
            });
            let closed = Instant::now();
            if expected.starts_with("the connection") {
                memory.raw.ask(1, "close");
            }
            let (ended, took) = asked.join().unwrap();
            over.store(true, Ordering::SeqCst);
            println!("{question}: {ended} after {took:?}, moved {moved:?} times");
            assert_eq!(ended, expected);
            assert!(took < Duration::from_millis(300) + TOLERANCE || closed.elapsed() < TOLERANCE);
        });
        drop(memory);
        check(stage, question);
    }
}

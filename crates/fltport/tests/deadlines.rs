//! Sends that end by the clock or are given up, and sends that take no thread.
#![cfg(target_os = "linux")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use common::child::alone;
use common::{Ends, LIMIT, LONG, both_ways, threads, until, watchdog};
use fltport::{CallError, SendError, Timeout, WallTime};

fn soon(millis: u64) -> Timeout {
    let then = SystemTime::now() + Duration::from_millis(millis);
    let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timeout::At(WallTime::from_unix(since))
}

#[test]
fn g1_g3_deadlines_hold_on_both_clocks_for_blocking_and_other_sends() {
    let _watchdog = watchdog("g1_g3_deadlines_hold_on_both_clocks_for_blocking_and_other_sends");
    both_ways(|Ends { filter, client, .. }| {
        for timeout in [|| Timeout::after(Duration::from_millis(60)), || soon(60)] {
            let start = Instant::now();
            let blocking = filter.notify(b"late", timeout());
            assert!(matches!(
                blocking,
                Err(SendError::TimedOut { delivered: false })
            ));
            // The wall clock counts in its own steps.
            assert!(start.elapsed() >= Duration::from_millis(55));
            let (sender, over) = mpsc::channel();
            filter.ask_then(b"late", 4, timeout(), move |end| sender.send(end).unwrap());
            let message = client.next_message().unwrap();
            let end = over.recv_timeout(LIMIT).unwrap();
            assert!(
                matches!(end, Err(SendError::TimedOut { delivered: true })),
                "{end:?}"
            );
            assert_eq!(message.reply(b"x"), Err(CallError::NoWaiter));
        }
        assert!(filter.info().timed_out == 4 && filter.info().late_replies == 2);
    });
}

#[test]
fn the_receiver_sees_the_deadline_and_that_it_was_abandoned() {
    let _watchdog = watchdog("the_receiver_sees_the_deadline_and_that_it_was_abandoned");
    both_ways(|Ends { filter, client, .. }| {
        let start = Instant::now();
        let wait = Duration::from_secs(3_600);
        let pending = filter.ask_then(b"?", 4, Timeout::after(wait), |_| ());
        let message = client.next_message().unwrap();
        let deadline = message.deadline().unwrap();
        assert!(deadline > start + wait / 2 && deadline <= Instant::now() + wait);
        assert!(!message.is_abandoned());
        pending.cancel();
        until("the client knows", || message.is_abandoned());
        assert_eq!(message.reply(b"x"), Err(CallError::NoWaiter));
        let _endless = filter.ask_then(b"?", 4, Timeout::Never, |_| ());
        assert_eq!(client.next_message().unwrap().deadline(), None);
    });
}

#[test]
fn a_thousand_pending_asks_take_no_thread_and_can_be_given_up() {
    let _watchdog = watchdog("a_thousand_pending_asks_take_no_thread_and_can_be_given_up");
    alone(
        "a_thousand_pending_asks_take_no_thread_and_can_be_given_up",
        || {
            both_ways(|Ends { filter, client, .. }| {
                let (sender, over) = mpsc::channel();
                let ask = |timeout| {
                    let sender = sender.clone();
                    filter.ask_then(b"?", 4, timeout, move |end| sender.send(end).unwrap())
                };
                // The first with a deadline starts the timer.
                let first = ask(LONG);
                let before = threads();
                let rest: Vec<_> = (1..1_000).map(|_| ask(LONG)).collect();
                assert!(threads() <= before);
                let message = client.next_message().unwrap();
                first.cancel();
                for pending in rest {
                    pending.cancel();
                }
                for _ in 0..1_000 {
                    let end = over.recv().unwrap();
                    assert!(matches!(end, Err(SendError::Cancelled { .. })), "{end:?}");
                }
                assert_eq!(message.reply(b"x"), Err(CallError::NoWaiter));
                let info = filter.info();
                assert_eq!((info.waiting, info.outstanding), (0, 0));
            });
        },
    );
}

#[test]
fn a_thousand_deadlines_of_one_moment_all_come() {
    let _watchdog = watchdog("a_thousand_deadlines_of_one_moment_all_come");
    both_ways(|Ends { filter, .. }| {
        let (sender, over) = mpsc::channel();
        for i in 0..1_000 {
            let sender = sender.clone();
            let timeout = Timeout::after(Duration::from_millis(5 + i % 50));
            filter.ask_then(b"?", 4, timeout, move |end| sender.send(end).unwrap());
        }
        for _ in 0..1_000 {
            let end = over.recv_timeout(LIMIT).unwrap();
            assert!(matches!(end, Err(SendError::TimedOut { delivered: false })));
        }
    });
}

#[test]
fn a_future_that_is_dropped_gives_its_send_up() {
    let _watchdog = watchdog("a_future_that_is_dropped_gives_its_send_up");
    both_ways(|Ends { filter, client, .. }| {
        let mut context = Context::from_waker(Waker::noop());
        let mut dropped = Box::pin(filter.ask_async(b"dropped", 4, LONG));
        assert!(dropped.as_mut().poll(&mut context).is_pending());
        assert_eq!(filter.info().waiting, 1);
        drop(dropped);
        assert_eq!(filter.info().waiting, 0);
        let mut kept = pin!(filter.ask_async(b"kept", 4, LONG));
        let message = client.next_message().unwrap();
        assert_eq!(message.payload(), b"kept");
        message.reply(b"yes").unwrap();
        let mut reply = Vec::new();
        until("the sender has it too", || {
            if let Poll::Ready(end) = kept.as_mut().poll(&mut context) {
                reply = end.unwrap().bytes;
            }
            reply == b"yes"
        });
    });
}

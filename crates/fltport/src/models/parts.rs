//! The small parts that threads share, in every order of their steps: where a sender waits, where a client's call waits, the
//! threads of callbacks, and the numbers of connections.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fltport_engine::output::Outcome;
use fltport_engine::{Deadline, NtStatus, Timeout};

use crate::body::Body;
use crate::client_call::{Call, Ended};
use crate::clock;
use crate::pool::Pool;
use crate::slot::{News, Slot};
use crate::sync::thread::{self, spawn};
use crate::sync::{self, AtomicU64, Condvar, Mutex, Ordering};

/// Tries the model in all orders, or in all with up to so many preemptions; `LOOM_MAX_PREEMPTIONS` asks for another number.
/// With `--nocapture` the test says how many there are.
pub(super) fn exhaust(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.max_branches = 10_000;
    let orders = Arc::new(sync::StaticAtomicU64::new(0));
    let count = Arc::clone(&orders);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

fn replied() -> Outcome<Body> {
    Outcome::Replied {
        status: NtStatus::SUCCESS,
        reply: Body::default(),
        copied: 0,
    }
}

fn done(status: NtStatus) -> Ended {
    Ended::Done {
        status,
        needed: 0,
        bytes: Vec::new(),
    }
}

fn status(ended: &Ended) -> Option<NtStatus> {
    match ended {
        Ended::Done { status, .. } => Some(*status),
        Ended::Message(_) => None,
    }
}

/// A send that ends is never slept through.
#[test]
fn slot_wait_sees_the_finish() {
    exhaust(None, || {
        let slot = Arc::new(Slot::default());
        let other = Arc::clone(&slot);
        let finisher = spawn(move || other.finish(replied()));
        let outcome = slot.wait(Deadline::Never, || unreachable!());
        assert!(matches!(outcome, News::Ended(Outcome::Replied { .. })));
        finisher.join().unwrap();
    });
}

/// A deadline and a reply: whoever takes the send from the engine first decides, and the sender returns just that.
#[test]
fn slot_finish_races_expire() {
    exhaust(None, || {
        let slot = Arc::new(Slot::default());
        // What the engine is here: it has the send, until somebody ends it.
        let engine = Arc::new(Mutex::new(Some(())));
        let deadline = Timeout::After(Duration::from_secs(1)).deadline(clock::now());
        sync::advance(Duration::from_secs(2));
        let replier = {
            let (slot, engine) = (Arc::clone(&slot), Arc::clone(&engine));
            spawn(move || {
                let taken = engine.lock().unwrap().take().is_some();
                if taken {
                    slot.finish(replied());
                }
                taken
            })
        };
        let outcome = slot.wait(deadline, || {
            let taken = engine.lock().unwrap().take().is_some();
            if taken {
                slot.finish(Outcome::TimedOut { delivered: true });
            }
        });
        let accepted = replier.join().unwrap();
        let has_reply = matches!(outcome, News::Ended(Outcome::Replied { .. }));
        assert_eq!(has_reply, accepted);
    });
}

/// Two that end one call: the first wins, the other has its end back, and the sleeper has the first's.
#[test]
fn call_is_ended_once() {
    exhaust(None, || {
        let call = Arc::new(Call::default());
        let enders = [NtStatus::SUCCESS, NtStatus::CANCELLED].map(|with| {
            let call = Arc::clone(&call);
            spawn(move || call.finish(done(with)).is_none())
        });
        // As a thread of a client waits that does not read.
        call.wake_this_thread();
        let ended = loop {
            match call.take() {
                Some(ended) => break ended,
                None => thread::park(),
            }
        };
        let [first, second] = enders.map(|ender| ender.join().unwrap());
        assert!(first != second);
        let winner = if first {
            NtStatus::SUCCESS
        } else {
            NtStatus::CANCELLED
        };
        assert_eq!(status(&ended), Some(winner));
        assert!(call.take().is_none());
    });
}

/// A call that is given up while it ends: its end is with the one who gave up, or back with the one who ended it.
#[test]
fn call_finish_races_give_up() {
    exhaust(None, || {
        let call = Arc::new(Call::default());
        let other = Arc::clone(&call);
        let ender = spawn(move || other.finish(done(NtStatus::SUCCESS)));
        let kept = call.give_up();
        let back = ender.join().unwrap();
        assert!(kept.is_some() != back.is_some());
    });
}

/// A task that polls while the call ends has the end, or is woken.
#[test]
fn call_finish_races_poll() {
    struct Flag(Mutex<bool>);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() = true;
        }
    }
    exhaust(None, || {
        let call = Arc::new(Call::default());
        let other = Arc::clone(&call);
        let ender = spawn(move || other.finish(done(NtStatus::SUCCESS)));
        let flag = Arc::new(Flag(Mutex::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut ready = call.poll(&Context::from_waker(&waker)).is_ready();
        assert!(ender.join().unwrap().is_none());
        if !ready {
            assert!(*flag.0.lock().unwrap(), "the waker was lost");
            ready = matches!(call.poll(&Context::from_waker(&waker)), Poll::Ready(_));
        }
        assert!(ready);
    });
}

/// Jobs that come while the only thread runs, idles or leaves: each is run once.
#[test]
fn pool_runs_each_job() {
    exhaust(None, || {
        let pool = Arc::new(Pool::new("pool".into(), 1));
        let ran = Arc::new((Mutex::new([0; 2]), Condvar::new()));
        let job = |number: usize| {
            let (pool, ran) = (Arc::clone(&pool), Arc::clone(&ran));
            move || {
                pool.run(move || {
                    ran.0.lock().unwrap()[number] += 1;
                    ran.1.notify_one();
                });
            }
        };
        let other = spawn(job(1));
        job(0)();
        other.join().unwrap();
        let mut counts = ran.0.lock().unwrap();
        while *counts != [1, 1] {
            assert!(counts.iter().all(|count| *count <= 1));
            counts = ran.1.wait(counts).unwrap();
        }
    });
}

/// Numbers of connections, taken as [`crate::ServerPort`] takes them, are never the same.
#[test]
fn numbers_of_connections_differ() {
    exhaust(None, || {
        let next = Arc::new(AtomicU64::new(1));
        let takers = [(); 2].map(|()| {
            let next = Arc::clone(&next);
            spawn(move || next.fetch_add(1, Ordering::Relaxed))
        });
        let mut numbers = takers.map(|taker| taker.join().unwrap());
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
    });
}

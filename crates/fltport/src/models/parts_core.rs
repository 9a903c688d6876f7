//! The filter's end of one connection, [`Core`] itself, over a link that takes everything: the races of a message's life in
//! every order.

use std::sync::Arc;
use std::time::Duration;

use fltport_engine::output::Outcome;
use fltport_engine::wire::{ToClient, ToHost};
use fltport_engine::{Deadline, NtStatus};

use super::bare_core::{self, Frames};
use super::parts::exhaust;
use crate::Timeout;
use crate::body::Body;
use crate::clock;
use crate::driver::{Core, Outgoing, Sender};
use crate::slot::{News, Slot};
use crate::sync;
use crate::sync::thread::spawn;

const LIMIT: Duration = Duration::from_secs(1);

/// A connection with one get posted.
fn connected() -> (Arc<Core>, Frames) {
    let (core, frames) = bare_core::connected();
    get(&core, 1);
    (core, frames)
}

fn get(core: &Arc<Core>, get: u64) {
    core.handle_frame(ToHost::Get { get, size: 100 }, Vec::new(), None)
        .unwrap();
}

/// A question; where its sender will wait.
fn ask(core: &Arc<Core>, timeout: Timeout) -> Arc<Slot> {
    let slot = Arc::new(Slot::default());
    let message = Outgoing {
        body: Body::default(),
        reply: Some(10),
        timeout,
    };
    core.send(message, Sender::Waits(Arc::clone(&slot)));
    slot
}

fn wait(core: &Arc<Core>, slot: &Slot, timeout: Timeout) -> Outcome<Body> {
    wait_until(core, slot, timeout.deadline(clock::now()))
}

fn wait_until(core: &Arc<Core>, slot: &Slot, deadline: Deadline) -> Outcome<Body> {
    match slot.wait(deadline, || core.handle_timeout()) {
        News::Ended(outcome) => outcome,
        News::Delivered(_) => unreachable!("no memory"),
    }
}

fn reply(core: &Arc<Core>, reply: u64) {
    let frame = ToHost::Reply {
        reply,
        message_id: 1,
        status: NtStatus::SUCCESS,
        length: 0,
    };
    core.handle_frame(frame, Vec::new(), None).unwrap();
}

/// Reply and deadline: the replier is told success just when the sender has the reply.
#[test]
fn reply_races_the_deadline() {
    exhaust(None, || {
        let (core, frames) = connected();
        let timeout = Timeout::After(LIMIT);
        let slot = ask(&core, timeout);
        let deadline = timeout.deadline(clock::now());
        sync::advance(LIMIT);
        let other = Arc::clone(&core);
        let replier = spawn(move || reply(&other, 1));
        let outcome = wait_until(&core, &slot, deadline);
        replier.join().unwrap();
        match outcome {
            Outcome::Replied { .. } => assert_eq!(frames.told(1), Some(NtStatus::SUCCESS)),
            Outcome::TimedOut { delivered: true } => {
                assert_eq!(frames.told(1), Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Reply and the filter's close.
#[test]
fn reply_races_the_close() {
    exhaust(None, || {
        let (core, frames) = connected();
        let slot = ask(&core, Timeout::Never);
        let threads = {
            let (one, two) = (Arc::clone(&core), Arc::clone(&core));
            [spawn(move || reply(&one, 1)), spawn(move || two.close())]
        };
        let outcome = wait(&core, &slot, Timeout::Never);
        for thread in threads {
            thread.join().unwrap();
        }
        let success = frames.told(1) == Some(NtStatus::SUCCESS);
        assert_eq!(
            matches!(outcome, Outcome::Replied { .. }),
            success,
            "{outcome:?}"
        );
    });
}

/// Two replies: one wins.
#[test]
fn two_replies_race() {
    exhaust(None, || {
        let (core, frames) = connected();
        let slot = ask(&core, Timeout::Never);
        let repliers = [1, 2].map(|number| {
            let core = Arc::clone(&core);
            spawn(move || reply(&core, number))
        });
        let outcome = wait(&core, &slot, Timeout::Never);
        assert!(matches!(outcome, Outcome::Replied { .. }));
        for replier in repliers {
            replier.join().unwrap();
        }
        let mut both = [1, 2].map(|number| frames.told(number).unwrap());
        both.sort_by_key(|status| *status != NtStatus::SUCCESS);
        assert_eq!(both, [NtStatus::SUCCESS, NtStatus::FLT_NO_WAITER_FOR_REPLY]);
    });
}

/// A message and the withdrawal of the only get: it is taken by that one, or by the next.
#[test]
fn delivery_races_the_cancel_of_the_get() {
    exhaust(None, || {
        let (core, frames) = connected();
        let other = Arc::clone(&core);
        let client = spawn(move || {
            other
                .handle_frame(ToHost::CancelGet { get: 1 }, Vec::new(), None)
                .unwrap();
            get(&other, 2);
        });
        let slot = ask(&core, Timeout::Never);
        client.join().unwrap();
        reply(&core, 1);
        let outcome = wait(&core, &slot, Timeout::Never);
        assert!(matches!(outcome, Outcome::Replied { .. }));
        let taken = frames.find(|frame| match frame {
            ToClient::Message { get, .. } => Some(*get),
            _ => None,
        });
        let failed = frames.find(|frame| match frame {
            ToClient::GetFailed { get: 1, .. } => Some(()),
            _ => None,
        });
        assert_eq!(taken, if failed.is_empty() { [1] } else { [2] });
    });
}

//! The filter's end of one connection, [`Core`] itself, over a link that takes everything: the races of a message's life in
//! every order.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fltport_engine::output::Outcome;
use fltport_engine::server::Credentials;
use fltport_engine::wire::{ToClient, ToHost};
use fltport_engine::{Deadline, NtStatus};

use super::parts::exhaust;
use crate::body::Body;
use crate::clock;
use crate::driver::{Core, MessageCall, Outgoing, Owner, Sender};
use crate::link::{HostLink, Sent};
use crate::slot::{News, Slot};
use crate::sync;
use crate::sync::thread::spawn;
use crate::sys::Attachment;
use crate::timer::Timer;
use crate::{Peer, Timeout};

const LIMIT: Duration = Duration::from_secs(1);

/// What was sent to the client. No checker's lock: it is only taken under that of the core, or when all is over.
type Frames = Arc<std::sync::Mutex<Vec<ToClient>>>;

#[derive(Debug)]
struct Link(Frames);

impl HostLink for Link {
    fn send(&mut self, head: &[u8], payload: &[u8], _: &[Arc<Attachment>]) -> Sent {
        let packet = [head, payload].concat();
        let frame = ToClient::parse(&packet).unwrap().0;
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(frame);
        Sent::Done
    }

    fn want_writable(&mut self, _: bool) {}

    fn close(&mut self) {}
}

/// A filter without callbacks.
#[derive(Default)]
struct Filter(Timer);

impl Owner for Filter {
    fn run_message(&self, _: Arc<Core>, _: MessageCall) {}
    fn run_disconnect(&self, _: Arc<Core>) {}
    fn release_slot(&self) {}
    fn severed(&self, _: &Arc<Core>) {}
    fn ended(&self, _: &Core) {}
    fn timer(&self) -> &Timer {
        &self.0
    }
    fn shares_memory(&self) -> bool {
        false
    }
    fn spins(&self) -> bool {
        false
    }
}

/// A connection with one get posted.
fn connected() -> (Arc<Core>, Frames) {
    let frames = Frames::default();
    let peer = Peer {
        pid: 1,
        credentials: Credentials::default(),
        bits: 64,
        socket: std::sync::Weak::new(),
    };
    let link = Box::new(Link(Arc::clone(&frames)));
    let core = Arc::new(Core::new(Arc::<Filter>::default(), link, peer, 1, 100));
    core.connect_returned(NtStatus::SUCCESS, None);
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

/// What a reply was told.
fn told(frames: &Frames, number: u64) -> Option<NtStatus> {
    let frames = frames.lock().unwrap();
    frames.iter().find_map(|frame| match frame {
        ToClient::ReplyDone { reply, status } if *reply == number => Some(*status),
        _ => None,
    })
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
            Outcome::Replied { .. } => assert_eq!(told(&frames, 1), Some(NtStatus::SUCCESS)),
            Outcome::TimedOut { delivered: true } => {
                assert_eq!(told(&frames, 1), Some(NtStatus::FLT_NO_WAITER_FOR_REPLY));
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
        let success = told(&frames, 1) == Some(NtStatus::SUCCESS);
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
        let mut both = [1, 2].map(|number| told(&frames, number).unwrap());
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
        let frames = frames.lock().unwrap();
        let taken = frames.iter().filter_map(|frame| match frame {
            ToClient::Message { get, .. } => Some(*get),
            _ => None,
        });
        let taken: Vec<_> = taken.collect();
        let failed = frames
            .iter()
            .any(|frame| matches!(frame, ToClient::GetFailed { get: 1, .. }));
        assert_eq!(taken, if failed { [2] } else { [1] });
    });
}

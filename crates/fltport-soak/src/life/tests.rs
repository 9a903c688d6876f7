//! Each thing that must hold, once kept and once broken.

use std::time::{Duration, Instant};

use super::{End, Life, Send};
use crate::record::{Event, Record};
use crate::soak::Soak;

const fn record(event: Event, length: u32) -> Record {
    Record {
        number: 7,
        event,
        length,
    }
}

fn send(limit: Option<Duration>, tiny: bool) -> Send {
    Send {
        started: Instant::now(),
        limit,
        tiny,
        end: None,
    }
}

/// Whether something is found broken when message 7 ended like this and the client wrote these down.
fn breaks(end: End, tiny: bool, records: &[Record]) -> bool {
    let soak = Soak::new("nowhere".into());
    let life = Life::new(1);
    assert!(life.begin(7, send(None, tiny)));
    life.end(7, end, &soak);
    assert!(life.close());
    life.check(records, &soak);
    soak.is_broken()
}

#[test]
fn an_accepted_reply_has_to_be_received() {
    let ok = [record(Event::Got, 0), record(Event::ReplyOk, 5)];
    assert!(!breaks(End::Replied(5), false, &ok));
    assert!(breaks(End::Replied(4), false, &ok));
    assert!(breaks(End::Unanswered, false, &ok));
    let twice = [record(Event::ReplyOk, 5), record(Event::ReplyOk, 5)];
    assert!(breaks(End::Replied(5), false, &twice));
    let tiny = [record(Event::ReplyOkTiny, 5)];
    assert!(!breaks(End::Replied(5), true, &tiny));
    assert!(breaks(End::Unanswered, true, &tiny));
}

#[test]
fn a_reply_that_found_nobody_or_was_cut_is_known_to_its_sender_as_such() {
    assert!(breaks(
        End::Replied(5),
        false,
        &[record(Event::ReplyNoWaiter, 5)]
    ));
    assert!(!breaks(
        End::Unanswered,
        false,
        &[record(Event::ReplyNoWaiter, 5)]
    ));
    assert!(!breaks(
        End::Cut(5),
        false,
        &[record(Event::ReplyTooLong, 5)]
    ));
    assert!(breaks(
        End::Replied(5),
        false,
        &[record(Event::ReplyTooLong, 5)]
    ));
}

#[test]
fn a_message_comes_once_and_not_after_it_was_reported_undelivered() {
    let got = record(Event::Got, 0);
    assert!(!breaks(End::Delivered, false, &[got]));
    assert!(breaks(End::Undelivered, false, &[got]));
    assert!(breaks(End::Delivered, false, &[got, got]));
}

#[test]
fn a_send_that_does_not_end_is_found() {
    let soak = Soak::new("nowhere".into());
    let life = Life::new(1);
    let mut late = send(Some(Duration::ZERO), false);
    let Some(started) = late.started.checked_sub(Duration::from_secs(3600)) else {
        return println!("skipped: a machine that runs for an hour");
    };
    assert!(life.begin(1, send(Some(Duration::ZERO), false)));
    life.look(&soak);
    assert!(!soak.is_broken());
    late.started = started;
    assert!(life.begin(2, late));
    life.look(&soak);
    assert!(soak.is_broken() && !life.close());
}

//! Ends of asks at moments of the client's choice: in the middle of its reply, with a reply by a frame, after the connection,
//! before anybody waits.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use fltport::{BegunAsk, ClientPort, Outbound, Reply, SendError, Timeout};
use fltport_engine::wire::ToHost;

use super::common::memory_layout as layout;
use super::common::memory_raw::Memory;
use super::common::raw::Raw;
use super::common::{Handler, Host, LIMIT, until, watchdog};

/// A client with memory, and the filter's end of its connection.
pub(crate) fn connected() -> (Host, Memory, ClientPort) {
    let host = Host::with(Handler::default(), |builder| builder);
    let memory = Memory::of(Raw::greeted(&host)).unwrap();
    let filter = host.log.next_port();
    // The host uses the memory once it has read that it is mapped.
    assert!(memory.answer(1, "there?").is_some());
    (host, memory, filter)
}

/// An ask that only its reply or the end of the connection ends.
pub(crate) fn begin(filter: &ClientPort, question: &[u8]) -> BegunAsk {
    let question = Outbound::new(question);
    filter.begin_ask(question, 64, Timeout::Never).unwrap()
}

/// The client goes, which its host notices.
pub(crate) fn gone(host: Host, memory: Memory) {
    drop(memory);
    until("the client is gone", || host.log.disconnects() == 1);
    host.shutdown();
}

/// The reply's bytes, or why there is none.
fn end(reply: Result<Reply, SendError>) -> Result<Vec<u8>, String> {
    reply
        .map(|reply| reply.bytes)
        .map_err(|error| format!("{error:?}"))
}

fn over(error: SendError) -> Result<Vec<u8>, String> {
    end(Err(error))
}

/// The reply to a question that was given up is not the reply to the next one.
#[test]
fn a_reply_that_is_being_written_keeps_its_place_when_nobody_wants_it_any_more() {
    let _watchdog = watchdog("a_reply_that_is_being_written");
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let one = begin(&filter, b"one?");
    let first = memory.message(0);
    assert!(memory.claim(first));
    drop(one);
    memory.post(1);
    let two = begin(&filter, b"two?");
    let second = memory.message(1);
    assert!(memory.finish(first, b"to the first"));
    assert!(memory.reply(second, b"to the second"));
    assert_eq!(end(two.wait()), Ok(b"to the second".to_vec()));
    until("the first is forgotten", || filter.info().outstanding == 0);
    gone(host, memory);
}

/// One that is never finished ends the connection, as at a deadline: its place cannot be used again.
#[test]
fn a_reply_that_nobody_wants_and_that_is_never_finished_ends_the_connection() {
    let _watchdog = watchdog("a_reply_that_nobody_wants");
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let ask = begin(&filter, b"one?");
    assert!(memory.claim(memory.message(0)));
    drop(ask);
    until("the connection is over", || host.log.disconnects() == 1);
    assert!(!filter.info().connected);
    host.shutdown();
}

/// An ask that is cancelled while its reply is being written ends with that reply, or soon.
#[test]
fn a_cancelled_ask_ends_although_its_reply_is_being_written() {
    let _watchdog = watchdog("a_cancelled_ask_ends");
    for finishes in [true, false] {
        let (host, mut memory, filter) = connected();
        memory.post(0);
        let (told, ended) = mpsc::channel();
        let pending = filter.ask_then(b"one?", 64, Timeout::Never, move |reply| {
            told.send(end(reply)).unwrap();
        });
        let id = memory.message(0);
        assert!(memory.claim(id));
        pending.cancel();
        if finishes {
            assert!(memory.finish(id, b"written"));
        }
        let ended = ended.recv_timeout(LIMIT);
        let expected = if finishes {
            Ok(b"written".to_vec())
        } else {
            over(SendError::Disconnected { delivered: true })
        };
        assert_eq!(ended, Ok(expected));
        gone(host, memory);
    }
}

/// A replier that was told of its success has been heard, whatever has become of the connection when the sender looks.
#[test]
fn a_reply_by_a_frame_outlives_its_connection() {
    let _watchdog = watchdog("a_reply_by_a_frame");
    for closer in ["the client", "the filter"] {
        let (host, mut memory, filter) = connected();
        memory.post(0);
        let ask = begin(&filter, b"one?");
        let id = memory.message(0);
        let told = memory.raw.reply(id, b"by a frame");
        assert_eq!(told, fltport::NtStatus::SUCCESS);
        if closer == "the filter" {
            filter.close();
        }
        drop(memory);
        until("the connection is over", || host.log.disconnects() == 1);
        assert_eq!(end(ask.wait()), Ok(b"by a frame".to_vec()), "{closer}");
        host.shutdown();
    }
}

/// The second of two replies is told that nobody waits, and does not touch the first.
#[test]
fn of_two_replies_by_frames_the_first_counts() {
    let _watchdog = watchdog("of_two_replies_by_frames");
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let ask = begin(&filter, b"one?");
    let id = memory.message(0);
    assert_eq!(memory.raw.reply(id, b"first"), fltport::NtStatus::SUCCESS);
    let late = fltport::NtStatus::FLT_NO_WAITER_FOR_REPLY;
    assert_eq!(memory.raw.reply(id, b"second"), late);
    // Also one that claims that there was no first.
    let (waiter, _) = layout::waiter_of(id);
    memory.step(waiter, layout::REPLIED, layout::WAITING);
    assert_eq!(memory.raw.reply(id, b"third"), late);
    memory.step(waiter, layout::WAITING, layout::REPLIED);
    memory.wake(layout::waiter_word(waiter));
    assert_eq!(end(ask.wait()), Ok(b"first".to_vec()));
    gone(host, memory);
}

/// A reply that claims more bytes than it was given room for is a lie: what would be read is not the reply's.
#[test]
fn a_reply_longer_than_its_room_ends_the_connection() {
    let _watchdog = watchdog("a_reply_longer_than_its_room");
    let (host, mut memory, filter) = connected();
    memory.post(0);
    // Its room is a block of 4 KiB, and its sender takes twice that.
    let mut asks: Vec<_> = (0..200)
        .map_while(|_| {
            let ask = filter.begin_ask(Outbound::new(b"?"), 8192, Timeout::Never);
            let id = memory.message(0);
            let (waiter, _) = layout::waiter_of(id);
            memory.post(0);
            let room = memory.client.load(layout::reply_room(waiter)) >> 32;
            ask.ok().map(|ask| (ask, id, room))
        })
        .collect();
    let place = asks.iter().position(|(_, _, room)| *room < 8192);
    let (ask, id, room) = asks.swap_remove(place.expect("room for every reply"));
    let (waiter, _) = layout::waiter_of(id);
    assert_eq!(room, 0);
    assert!(memory.claim(id));
    memory.client.store(layout::reply_head(waiter), 8192 << 32);
    memory.step(waiter, layout::REPLYING, layout::REPLIED);
    memory.wake(layout::waiter_word(waiter));
    let expected = over(SendError::Disconnected { delivered: true });
    assert_eq!(end(ask.wait()), expected);
    until("the connection is over", || host.log.disconnects() == 1);
    host.shutdown();
}

/// The deadline of an ask is looked at although nobody waits for it yet.
#[test]
fn an_ask_that_nobody_waits_for_yet_is_not_delivered_after_its_deadline() {
    let _watchdog = watchdog("an_ask_that_nobody_waits_for");
    let (host, mut memory, filter) = connected();
    let ask = filter
        .begin_ask(
            Outbound::new(b"one?"),
            64,
            Timeout::after(Duration::from_millis(30)),
        )
        .unwrap();
    assert_eq!(filter.info().waiting, 1);
    until("it is over", || filter.info().waiting == 0);
    memory.post(0);
    assert!(memory.answer(2, "look").is_some());
    let word = memory.client.load(layout::get_word(0));
    assert_eq!(word & 7, layout::POSTED, "it was delivered all the same");
    let late = over(SendError::TimedOut { delivered: false });
    assert_eq!(end(ask.wait()), late);
    gone(host, memory);
}

/// The time of an ask runs from its beginning, wherever it waits.
#[test]
fn the_time_of_an_ask_begins_with_it() {
    const WAIT: Duration = Duration::from_secs(1);
    let _watchdog = watchdog("the_time_of_an_ask");
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let begun = Instant::now();
    let ask = filter
        .begin_ask(Outbound::new(b"one?"), 64, Timeout::after(WAIT))
        .unwrap();
    memory.message(0);
    until("its time is over", || begun.elapsed() > WAIT);
    let waits = Instant::now();
    let late = over(SendError::TimedOut { delivered: true });
    assert_eq!(end(ask.wait()), late);
    assert!(waits.elapsed() < WAIT / 2, "it begins with the wait");
    gone(host, memory);
}

#[test]
fn what_has_happened_stays_known_when_the_connection_is_over() {
    let _watchdog = watchdog("what_has_happened_stays_known");
    let (host, mut memory, filter) = connected();
    for (get, byte) in [(0, b'a'), (1, b'b')] {
        memory.post(get);
        let ask = filter
            .begin_ask(Outbound::new(&[byte]), 64, Timeout::Never)
            .unwrap();
        assert!(memory.reply(memory.message(get), &[byte]));
        assert_eq!(end(ask.wait()), Ok(vec![byte]));
    }
    memory.post(2);
    let poll = filter.ask(b"late", 8, Timeout::after(Duration::from_millis(1)));
    assert_eq!(end(poll), over(SendError::TimedOut { delivered: true }));
    let before = filter.info();
    assert_eq!(
        (before.delivered, before.replied, before.timed_out),
        (3, 2, 1)
    );
    assert!(memory.raw.frame(&ToHost::Close, b""));
    memory.raw.assert_ended();
    until("the connection is over", || host.log.disconnects() == 1);
    let after = filter.info();
    assert_eq!((after.delivered, after.replied, after.timed_out), (3, 2, 1));
    host.shutdown();
}

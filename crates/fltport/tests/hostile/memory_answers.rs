//! Replies and ends where a reply goes two ways, where nobody reads the socket, where a host is dead, or never lets go of a
//! sleeper.

use std::os::fd::AsFd;
use std::time::Duration;

use fltport::{CallError, Connector, NtStatus, Outbound};
use fltport_engine::wire::ToClient;
use zerocopy::IntoBytes;

use super::common::memory_layout as layout;
use super::common::raw::Raw;
use super::common::{Host, LIMIT, LONG, NAME, until, watchdog_of};
use super::memory_endings::{begin, connected, gone};
use super::memory_liar::greet;
use super::memory_lies::Liar;

const MOST: Duration = Duration::from_secs(60);

/// More than the client's socket takes of what the host says of each.
const MANY: usize = 4000;

/// What the host says of such a reply is for nobody, and all threads of the client wait in memory: its socket is read all the
/// same, or the host would stop to read what that client sends.
#[test]
fn replies_by_frames_that_nobody_waits_for_hold_up_nobody() {
    let _watchdog = watchdog_of("replies_by_frames_that_nobody_waits_for", MOST);
    let host = Host::new();
    let client = host.connect();
    let filter = host.log.next_port();
    let question = || {
        filter
            .begin_ask(Outbound::new(b"?"), 1 << 20, LONG)
            .unwrap()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for message in client.messages(16) {
                message.unwrap().reply_and_forget(&[7; 200]);
            }
        });
        // Two have all the room that there is in memory for replies of such a length.
        let held = [question(), question()];
        for answered in 0..MANY {
            let reply = filter.ask(b"?", 1 << 20, LONG);
            let length = reply.map(|reply| reply.bytes.len());
            assert_eq!(length.ok(), Some(200), "{answered} were answered");
        }
        for ask in held {
            assert_eq!(ask.wait().unwrap().bytes, [7; 200]);
        }
        client.hang_up();
    });
    drop(client);
    host.shutdown();
}

/// The reply by a frame finds that the message is claimed: it must not end that claim, whose bytes are still being written.
#[test]
fn a_reply_by_a_frame_does_not_take_over_a_claim() {
    let _watchdog = watchdog_of("a_reply_by_a_frame_does_not_take_over", MOST);
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let one = begin(&filter, b"one?");
    let id = memory.message(0);
    assert!(memory.claim(id));
    let told = memory.raw.reply(id, b"by a frame");
    assert_eq!(told, NtStatus::FLT_NO_WAITER_FOR_REPLY);
    assert!(memory.finish(id, b"in memory"));
    assert_eq!(one.wait().unwrap().bytes, b"in memory");
    gone(host, memory);
}

#[test]
fn a_reply_that_is_taken_after_the_end_is_counted() {
    let _watchdog = watchdog_of("a_reply_that_is_taken_after_the_end", MOST);
    let (host, mut memory, filter) = connected();
    memory.post(0);
    let ask = begin(&filter, b"one?");
    assert!(memory.reply(memory.message(0), b"yes"));
    drop(memory);
    until("the client is gone", || host.log.disconnects() == 1);
    assert_eq!(ask.wait().unwrap().bytes, b"yes");
    let info = filter.info();
    assert_eq!((info.delivered, info.replied), (1, 1));
    host.shutdown();
}

/// The word of a host that was killed says for ever that its sender waits.
#[test]
fn a_reply_to_a_dead_host_is_no_success() {
    let _watchdog = watchdog_of("a_reply_to_a_dead_host", MOST);
    let directory = tempfile::tempdir().unwrap();
    let listener = Raw::listen_below(directory.path());
    let host = std::thread::spawn(move || {
        let mut liar = Liar::new(greet(&listener));
        liar.await_get();
        liar.asks(1, layout::word(layout::WAITING, 0), 600, 0);
        liar
    });
    let connector = Connector::new().directory(directory.path());
    let client = connector.connect(NAME, b"").unwrap();
    let message = client.next_message().unwrap();
    drop(host.join().unwrap());
    until("it is known", || !client.is_connected());
    assert!(message.is_abandoned());
    assert_eq!(message.reply(b"too late"), Err(CallError::Disconnected));
}

/// Open files and messages for a get that was not said to await any would stay for as long as the connection.
#[test]
fn what_no_get_awaits_ends_the_connection() {
    let _watchdog = watchdog_of("what_no_get_awaits", MOST);
    for file in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let listener = Raw::listen_below(directory.path());
        let host = std::thread::spawn(move || {
            let mut liar = Liar::new(greet(&listener));
            liar.await_get();
            let token = layout::token(liar.get as u64, liar.generation);
            if file {
                let frame = ToClient::Files { length: 8 };
                let bytes = [frame.header().as_bytes(), &token.to_ne_bytes()].concat();
                let file = std::fs::File::open("/proc/self/status").unwrap();
                liar.raw.bytes_with(&bytes, &[file.as_fd()]);
            } else {
                liar.raw
                    .tell(&super::memory_liar::message(token, 4), b"four");
            }
            // Whoever waits in memory reads it.
            liar.host.store(layout::READ, 1);
            liar.wake();
            liar.raw.assert_ended();
        });
        let connector = Connector::new().directory(directory.path());
        let client = connector.connect(NAME, b"").unwrap();
        let got = client.next_message_within(LIMIT);
        assert_eq!(got.map(|m| m.payload().len()), Err(CallError::Disconnected));
        host.join().unwrap();
    }
}

#[test]
fn a_host_that_claims_longer_messages_than_any_port_has_is_none() {
    let _watchdog = watchdog_of("a_host_that_claims_longer_messages", MOST);
    for most in [
        fltport::limits::MESSAGE_MAX,
        fltport::limits::MESSAGE_MAX + 1,
        u32::MAX,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let listener = Raw::listen_below(directory.path());
        let host = std::thread::spawn(move || {
            let raw = listener.accept();
            raw.packet().unwrap();
            let status = NtStatus::SUCCESS;
            let max_message = most;
            raw.tell(
                &ToClient::Connected {
                    status,
                    max_message,
                },
                b"",
            );
            raw.assert_ended();
        });
        let connector = Connector::new().directory(directory.path());
        let client = connector.connect(NAME, b"");
        assert_eq!(client.is_ok(), most <= fltport::limits::MESSAGE_MAX);
        drop(client);
        host.join().unwrap();
    }
}

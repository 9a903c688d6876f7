//! A host that does not read its socket for a while: what a client has to say reaches it all the same, although the client's
//! threads sleep in memory by then.

use fltport::{CallError, Connector};
use fltport_engine::wire::ToHost;

use super::common::memory_layout as layout;
use super::common::raw::Raw;
use super::common::{NAME, until, watchdog};
use super::memory_liar::{greet, next};
use super::memory_lies::Liar;

/// More than a socket takes.
const MANY: usize = 2000;

#[test]
fn a_kick_leaves_when_the_host_reads_again_whatever_the_clients_threads_do() {
    let _watchdog = watchdog("a_kick_leaves_when_the_host_reads");
    let directory = tempfile::tempdir().unwrap();
    let listener = Raw::listen_below(directory.path());
    let host = std::thread::spawn(move || {
        let liar = Liar::new(greet(&listener));
        // It maps the memory, and says so.
        assert_eq!(next(&liar.raw), Some(ToHost::Kick));
        liar
    });
    let client = Connector::new()
        .directory(directory.path())
        .connect(NAME, b"")
        .unwrap();
    // The first 64 are in memory, the others are frames.
    let size = client.max_message();
    let mut gets: Vec<_> = (0..layout::GETS).map(|_| client.post_get(size)).collect();
    let liar = host.join().unwrap();
    let mut framed = Vec::new();
    for _ in 0..MANY {
        framed.push(client.post_get(size));
        assert!(matches!(next(&liar.raw), Some(ToHost::Get { .. })));
    }
    // From here on nobody reads. Each says that it is withdrawn, and waits for nothing.
    drop(framed);
    // The host sleeps, and is to be told of what is put in the ring.
    liar.host.store(layout::KICK, 1);
    drop(gets.pop());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.get(size));
        let entry = layout::ring_entry(layout::GETS as u64);
        until("it is posted again", || liar.client.load(entry) != 0);
        for _ in 0..MANY {
            assert!(matches!(next(&liar.raw), Some(ToHost::CancelGet { .. })));
        }
        assert_eq!(next(&liar.raw), Some(ToHost::Kick));
        drop(liar);
        let ended = waits.join().unwrap().map(|message| message.payload().len());
        assert_eq!(ended, Err(CallError::Disconnected));
    });
}

/// A reply that has no room in memory is claimed by the host, with its bytes: one that the client had claimed would have to be
/// finished in time, however long the frame takes.
#[test]
fn a_reply_that_goes_by_a_frame_is_not_claimed_in_memory() {
    let _watchdog = watchdog("a_reply_that_goes_by_a_frame");
    let directory = tempfile::tempdir().unwrap();
    let listener = Raw::listen_below(directory.path());
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            let mut liar = Liar::new(greet(&listener));
            liar.await_get();
            // It takes 600 bytes, and has room for none of them.
            liar.asks(1, layout::word(layout::WAITING, 0), 600, 0);
            let reply = loop {
                match next(&liar.raw) {
                    Some(ToHost::Kick) => {}
                    Some(ToHost::Reply { length, .. }) => break length,
                    other => panic!("{other:?}"),
                }
            };
            let word = liar.client.load(layout::waiter_word(1));
            (reply, word & 7)
        });
        let client = Connector::new()
            .directory(directory.path())
            .connect(NAME, b"")
            .unwrap();
        let message = client.next_message().unwrap();
        assert_eq!(message.payload().len(), 8);
        message.reply_and_forget(&[7; 500]);
        assert_eq!(host.join().unwrap(), (500, layout::WAITING));
    });
}

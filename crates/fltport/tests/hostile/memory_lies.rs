//! What [`super::memory_liar`] says in memory.

use std::time::{Duration, Instant};

use fltport_engine::wire::{ToClient, ToHost};

use super::common::LIMIT;
use super::common::memory_layout::{self as layout, CLIENT_BYTES, HOST_BYTES, LAYOUT};
use super::common::memory_map::Map;
use super::common::raw::Raw;
use super::memory_gifts::right;
use super::memory_liar::{give, next};

/// What is done to a client that waits for a message.
pub(crate) type Lie = (&'static str, fn(&mut Liar));

/// A host's end of right memory, and the get that its client has posted there.
pub(crate) struct Liar {
    pub(crate) raw: Raw,
    pub(crate) host: Map,
    pub(crate) client: Map,
    pub(crate) get: usize,
    pub(crate) generation: u64,
}

impl Liar {
    pub(crate) fn new(raw: Raw) -> Self {
        assert_eq!(next(&raw), Some(ToHost::Attach));
        let files = right();
        let host = Map::new(&files[0], HOST_BYTES, true).unwrap();
        let client = Map::new(&files[1], CLIENT_BYTES, true).unwrap();
        give(&raw, LAYOUT, 0, &files);
        Self {
            raw,
            host,
            client,
            get: 0,
            generation: 0,
        }
    }

    /// Waits until the client has posted a get.
    pub(crate) fn await_get(&mut self) {
        let end = Instant::now() + LIMIT;
        while self.client.load(layout::ring_entry(0)) == 0 {
            assert!(Instant::now() < end, "no get is posted");
            std::thread::yield_now();
        }
        let entry = self.client.load(layout::ring_entry(0));
        self.get = usize::try_from(entry & 63).unwrap();
        self.generation = self.client.load(layout::get_word(self.get)) >> 8;
    }

    pub(crate) fn wake(&self) {
        let half = self.client.half(layout::get_word(self.get));
        let flags = rustix::thread::futex::Flags::empty();
        rustix::thread::futex::wake(half, flags, 1).ok();
    }

    fn record(&self, id: u64, lengths: u64, place: u64) {
        let record = layout::record(self.get);
        self.host.store(record, id);
        self.host.store(record + 8, lengths);
        self.host.store(record + 16, place);
    }

    fn end(&self, state: u64) {
        self.word(layout::word(state, self.generation));
    }

    fn word(&self, bits: u64) {
        self.client.store(layout::get_word(self.get), bits);
        self.wake();
    }

    /// A message of so many bytes there.
    fn assign(&self, length: u64, place: u64) {
        self.record(0, length, place);
        self.end(layout::ASSIGNED);
    }

    fn disconnect(&self) {
        self.raw.tell(&ToClient::Disconnected, b"");
    }

    /// A right message whose reply finds this.
    pub(crate) fn asks(&self, waiter: usize, word: u64, head: u64, room: u64) {
        self.client.store(layout::waiter_word(waiter), word);
        self.client.store(layout::reply_head(waiter), head);
        self.client.store(layout::reply_room(waiter), room);
        let payload = layout::payload(self.get);
        self.record(waiter as u64, 600 << 32 | 8, payload as u64);
        self.end(layout::ASSIGNED);
    }
}

const ALL: u64 = u64::MAX;
const HALF: u64 = u32::MAX as u64;

pub(crate) const LIES: &[Lie] = &[
    ("a message where none is", |l| l.assign(8, HALF)),
    ("a message beyond the end", |l| {
        l.assign(4096, HOST_BYTES as u64 - 8)
    }),
    ("a message at the end", |l| {
        l.assign(4096, HOST_BYTES as u64)
    }),
    ("a message among the control words", |l| l.assign(4096, 0)),
    ("a message at an odd place", |l| l.assign(4095, 4097)),
    ("a message at an odd place at the end", |l| {
        l.assign(4095, HOST_BYTES as u64 - 1)
    }),
    ("nothing at all", |l| l.end(layout::ASSIGNED)),
    ("a message for nobody", |l| {
        l.record(ALL, 16 << 32 | 8, 12_288);
        l.end(layout::ASSIGNED);
        // No frame says what became of its reply.
        l.disconnect();
    }),
    ("a message whose reply is matched by frames", |l| {
        l.record(1 << 62, HALF << 32, 12_288);
        l.end(layout::ASSIGNED);
        l.disconnect();
    }),
    ("a get that is free", |l| l.end(layout::FREE)),
    ("a get that was withdrawn", |l| l.end(layout::CANCELLED)),
    ("a get that was too small for nothing", |l| {
        l.end(layout::TOO_SMALL)
    }),
    ("a get that was too small for everything", |l| {
        l.record(0, ALL, ALL);
        l.end(layout::TOO_SMALL);
    }),
    ("a get whose connection is over", |l| l.end(5)),
    ("a get in state 6", |l| l.end(6)),
    ("a get in state 7", |l| l.end(7)),
    ("a get of before", |l| {
        l.word(layout::word(layout::ASSIGNED, l.generation - 1))
    }),
    ("a get of later", |l| {
        l.word(layout::word(layout::ASSIGNED, l.generation + 1))
    }),
    ("a get posted later", |l| {
        l.word(layout::word(layout::POSTED, l.generation + 1))
    }),
    ("a word of zeros", |l| l.word(0)),
    ("a word of ones", |l| l.word(ALL)),
    ("a mark that there is not", |l| {
        l.word(layout::word(layout::POSTED, l.generation) | 8)
    }),
    ("a get that is posted and nudged", |l| {
        l.word(layout::word(layout::POSTED, l.generation) | layout::NUDGED);
    }),
    ("an end", |l| {
        l.host.store(layout::ENDED, 1);
    }),
    ("a head in the future", |l| {
        l.host.store(layout::HEAD, ALL);
        l.assign(8, 12_288);
    }),
    ("a wish for kicks and sleepers", |l| {
        for word in [
            layout::KICK,
            layout::HOST_CORE,
            layout::HOST_PACE,
            layout::HOST_HOME,
        ] {
            l.host.store(word, 1);
        }
        l.assign(8, 12_288);
    }),
    ("a reply that may be anywhere", |l| {
        l.asks(1, layout::WAITING, 600, ALL)
    }),
    ("a reply beyond the end", |l| {
        l.asks(
            1,
            layout::WAITING,
            600,
            HALF << 32 | (CLIENT_BYTES as u64 - 8),
        );
    }),
    ("a reply among the control words", |l| {
        l.asks(1, layout::WAITING, HALF, 4096 << 32)
    }),
    ("a reply at an odd place", |l| {
        l.asks(1, layout::WAITING, 600, HALF << 32 | 8_400_897)
    }),
    ("a reply of nothing", |l| l.asks(1, layout::WAITING, 0, 0)),
    ("a reply to the last of all", |l| {
        l.asks(65_536, layout::WAITING, 64, 0)
    }),
    ("a reply that is claimed", |l| {
        l.asks(1, layout::REPLYING, 600, 0)
    }),
    ("a reply that is there", |l| {
        l.asks(1, layout::REPLIED, 600, 0)
    }),
    ("a reply to ones", |l| l.asks(1, ALL, ALL, ALL)),
    ("a reply to zeros", |l| l.asks(1, 0, 0, 0)),
    ("a reply that rings", |l| {
        l.asks(1, layout::WAITING | layout::BELL, 64, 0)
    }),
    ("a reply that rings where the ring is full", |l| {
        l.host.store(layout::HEAD, 1u64.wrapping_sub(layout::RING));
        l.asks(1, layout::WAITING | layout::BELL, 64, 0);
        // It is waited for as long as the host lives.
        std::thread::sleep(Duration::from_millis(100));
        rustix::net::shutdown(&l.raw, rustix::net::Shutdown::Both).unwrap();
    }),
];

pub(crate) const SLOW: &[Lie] = &[
    ("a message longer than its get", |l| {
        l.assign(1 << 20, 12_288)
    }),
    ("a message longer than any", |l| l.assign(HALF, 12_288)),
    ("a message by a frame that never comes", |l| {
        l.assign(8, layout::BY_FRAME)
    }),
    ("a file that never comes", |l| {
        l.assign(8, layout::WITH_FILE | 12_288)
    }),
    ("both", |l| l.assign(8, ALL)),
    ("a get that is nudged all the time", |l| {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            l.word(layout::word(layout::POSTED, l.generation) | layout::NUDGED);
        }
    }),
];

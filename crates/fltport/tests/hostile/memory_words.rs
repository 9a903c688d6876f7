//! Every word that a client can write, with every value that means something or nothing, at each step of a question.
//!
//! Whatever a word says, the connection ends or goes on; every question on it comes to an end.

use std::path::Path;
use std::time::Duration;

use fltport_engine::wire::ToClient;

use super::client::Story;
use super::common::memory_layout as layout;
use super::common::memory_raw::Memory;
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::memory::every;

#[test]
fn no_word_at_any_step_hurts_anybody_else() {
    let _watchdog = watchdog_of("no_word_at_any_step", Duration::from_secs(120));
    let stage = Stage::new(&["max=200"]);
    every(&stage, STORIES);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("words before a get", |at| {
        attack(at, |memory| memory.first_id)
    }),
    ("words after a get was posted", |at| {
        attack(at, |memory| {
            memory.post(0);
            memory.first_id
        })
    }),
    ("words after a message was delivered", |at| {
        attack(at, delivered)
    }),
    ("words after a message was claimed", |at| {
        attack(at, |memory| {
            let id = delivered(memory);
            // In time, mostly: the machine decides.
            memory.claim(id);
            id
        })
    }),
    ("words after a reply was finished", |at| {
        attack(at, |memory| {
            let id = delivered(memory);
            memory.reply(id, b"reply");
            id
        })
    }),
    ("words after the deadline", |at| {
        attack(at, |memory| {
            memory.post(0);
            memory.answer(99, "ask 8 1").unwrap();
            // Delivered or not: the machine decides.
            memory.first_id + 1
        })
    }),
    ("words after the filter has closed", |at| {
        attack(at, |memory| {
            let id = delivered(memory);
            assert!(memory.raw.ask(99, "close"));
            memory
                .raw
                .next(|frame| matches!(frame, ToClient::Disconnected).then_some(()));
            id
        })
    }),
];

/// Brings a connection to a step. Gives the number of its message, or of the first that there will be.
type Step = fn(&mut Memory) -> u64;

/// A get is posted, and a message is in it.
fn delivered(memory: &mut Memory) -> u64 {
    memory.post(0);
    assert!(memory.raw.ask(1, "ask 8 40"));
    memory.message(0)
}

/// A word and what is written there.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Any bits, at this offset of the client's part.
    Bits(usize, u64),
    /// The next in the ring, as one so many further.
    Lap(u64),
    /// The next in the ring.
    Entry(u64),
    /// The word of the get: a state, a generation so far from the right one, marks.
    Get(u64, u64, u64),
    /// The word of the waiter, in the same way.
    Waiter(u64, u64, u64),
    /// The reply's head is this.
    Head(u64),
    /// The reply's room is this.
    Room(u64),
    /// The reply is finished with a head like this.
    Finished(u64),
}

fn lies() -> Vec<Lie> {
    let any = [0, 1, u64::MAX, 1 << 63, 1 << 31];
    let mut lies = Vec::new();
    for bits in any {
        for offset in [
            layout::CLIENT_CORE,
            layout::CLIENT_PACE,
            layout::LATE,
            layout::CLIENT_HOME,
            layout::get_word(0),
            layout::waiter_word(1),
        ] {
            lies.push(Lie::Bits(offset, bits));
        }
    }
    let far = [1, 255, 256, 257, 1 << 32, u64::MAX, u64::MAX - 255, 1 << 63];
    lies.extend(far.map(Lie::Lap));
    let full = u64::from(u32::MAX) << 32;
    lies.extend(any.map(Lie::Entry));
    lies.extend([0, 1, 63, 64].map(|get| Lie::Entry(get | full)));
    lies.extend([15, 16, 24].map(|size| Lie::Entry(layout::posted(0, size))));
    let waiters = [0, 1, 2, 65_536, 65_537, (1 << 17) - 1];
    lies.extend(waiters.map(|waiter| Lie::Entry(layout::replied(waiter))));
    lies.push(Lie::Entry(layout::replied(1) | 1 << 32));
    let words = [Lie::Get, Lie::Waiter];
    for (word, state) in words.iter().flat_map(|word| (0..8).map(move |s| (word, s))) {
        for generation in [0, 1, u64::MAX, 1 << 45] {
            lies.push(word(state, generation, 0));
        }
        let marks = [layout::ASLEEP, layout::BELL, layout::NUDGED, 8, 0x80];
        lies.extend(marks.map(|mark| word(state, 0, mark)));
    }
    for length in [0, 1, 64, 65, 104, 105, 1 << 20, u64::from(u32::MAX)] {
        for status in [0, 0x8000_0005, u64::from(u32::MAX)] {
            lies.push(Lie::Head(length << 32 | status));
            lies.push(Lie::Finished(length << 32 | status));
        }
    }
    lies.extend(
        [
            0,
            1,
            u64::MAX,
            full,
            0x1000_0000_8000,
            layout::get_word(0) as u64,
        ]
        .map(Lie::Room),
    );
    lies
}

impl Lie {
    fn tell(self, memory: &Memory, id: u64) {
        let (waiter, generation) = layout::waiter_of(id);
        let put = |offset, bits| memory.client.store(offset, bits);
        let word = |state, right: u64, far, marks| {
            layout::word(state, right.wrapping_add(far) & (u64::MAX >> 8)) | marks
        };
        match self {
            Self::Bits(offset, bits) => put(offset, bits),
            Self::Lap(far) => {
                let number = memory.tail.wrapping_add(far);
                let entry = layout::numbered(layout::posted(0, 4096), number);
                put(layout::ring_entry(number), entry);
                put(layout::ring_entry(memory.tail), entry);
            }
            Self::Entry(entry) => {
                let entry = layout::numbered(entry, memory.tail);
                put(layout::ring_entry(memory.tail), entry);
            }
            Self::Get(state, far, marks) => {
                let bits = word(state, memory.generations[0], far, marks);
                put(layout::get_word(0), bits);
            }
            Self::Waiter(state, far, marks) => {
                let bits = word(state, generation, far, marks);
                put(layout::waiter_word(waiter), bits);
            }
            Self::Head(head) => put(layout::reply_head(waiter), head),
            Self::Room(room) => put(layout::reply_room(waiter), room),
            Self::Finished(head) => {
                put(layout::reply_head(waiter), head);
                let bits = word(layout::REPLIED, generation, 0, 0);
                put(layout::waiter_word(waiter), bits);
            }
        }
        memory.wake(layout::waiter_word(waiter));
    }
}

/// Tells every lie at this step, each on a connection of its own, some of them at the same time.
fn attack(at: &Path, step: Step) -> Vec<Raw> {
    // Fewer than handshakes that one user may have.
    const AT_ONCE: usize = 12;
    let lies = lies();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let mine = lies.iter().skip(first).step_by(AT_ONCE);
            scope.spawn(|| mine.for_each(|lie| play_one(at, step, *lie)));
        }
    });
    Vec::new()
}

fn play_one(at: &Path, step: Step, lie: Lie) {
    let mut memory = Memory::at(at);
    let id = step(&mut memory);
    lie.tell(&memory, id);
    // The host looks; others ask on the same connection, in both ways; and it says what it has counted.
    memory.kick();
    let mut asked = vec![2, 3, 4];
    memory.raw.ask(2, "ask 8 20");
    memory.raw.ask(3, "then 8 20");
    memory.raw.ask(4, "info");
    if memory.generations[0] > 0 {
        lie.tell(&memory, id);
    }
    if id != memory.first_id || memory.client.load(layout::waiter_word(1)) != 0 {
        memory.raw.ask(5, "ask 300 20 4000");
        asked.push(5);
    }
    // Every question ends, or the connection does.
    memory.answers_or_end(&asked);
}

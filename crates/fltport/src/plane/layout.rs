//! Where everything is in the two pieces of memory, and what a word says.
//!
//! A word is 64 bits: its lower half, on which a thread can wait, has the state and who waits how; the rest is the
//! generation, so that a word of an earlier use is never taken for one of this. Offsets are in bytes.

use fltport_engine::exchange::{Get, GetStep, Waiter, WaiterStep};
use fltport_engine::limits;

/// Names this layout to the client. Another number is another layout, and the client stays with frames.
pub(crate) const LAYOUT: u32 = 2;

/// Gets of a connection that are posted here; a client that posts more posts them as frames.
pub(crate) const GETS: usize = 64;

/// Entries of the ring: each get once, and replies that somebody has to be told of.
pub(crate) const RING: u64 = 256;

/// Bits of a message's number that name its waiter; the rest is the generation.
const WAITER_BITS: u32 = 17;

/// Waiters, of which the first is never used: numbers of messages begin at 1.
pub(crate) const WAITERS: usize = limits::WAITERS_PER_CONNECTION + 1;

const _: () = assert!(WAITERS <= 1 << WAITER_BITS);

/// Bytes of a message that need no block.
pub(crate) const INLINE_MESSAGE: usize = RECORD - RECORD_PAYLOAD;
/// Bytes of a reply that need no block.
pub(crate) const INLINE_REPLY: usize = WAITER - WAITER_PAYLOAD;

const PAGE: usize = 4096;

/// The host's control words.
pub(crate) mod host_word {
    /// 0 while the connection lives.
    pub(crate) const ENDED: usize = 0;
    /// Changes when the host cannot send for want of somebody who reads the socket.
    pub(crate) const READ: usize = 8;
    /// Not 0: the host wants a kick for what is put in the ring, once for each value.
    pub(crate) const KICK: usize = 64;
    /// Entries of the ring that the host has taken.
    pub(crate) const HEAD: usize = 128;
    /// How long the filter takes from a reply to its next message, in nanoseconds.
    pub(crate) const PACE: usize = 192;
    /// The only core of the host, see [`crate::plane::spin::home`].
    pub(crate) const HOME: usize = 200;
    /// The core, counted from 1, that a thread of the host was on when it waited awake.
    pub(crate) const CORE: usize = 208;
}

/// The client's control words.
pub(crate) mod client_word {
    /// How long the service takes from a message to its reply, in nanoseconds.
    pub(crate) const PACE: usize = 64;
    /// Replies that found nobody.
    pub(crate) const LATE: usize = 72;
    /// The only core of the client, see [`crate::plane::spin::home`].
    pub(crate) const HOME: usize = 80;
    /// The core, counted from 1, that a thread of the client was on when it waited awake.
    pub(crate) const CORE: usize = 88;
    /// The ring.
    pub(crate) const RING: usize = 2048;
}

/// Bytes of the ring.
const RING_BYTES: usize = 256 * 8;

const _: () = assert!(RING_BYTES as u64 == RING * 8 && client_word::RING + RING_BYTES <= PAGE);

/// Bytes of a get's record in the host's part: two lines, the first of which has all that is to be known of a message, and
/// that it is there.
const RECORD: usize = 128;
const RECORDS: usize = PAGE;
const RECORD_PAYLOAD: usize = 40;
/// Where blocks for messages begin.
pub(crate) const MESSAGE_BLOCKS: usize = RECORDS + GETS * RECORD;

const GET_WORDS: usize = PAGE;
/// Bytes of a waiter in the client's part.
pub(crate) const WAITER: usize = 128;
const WAITER_TABLE: usize = GET_WORDS + GETS * 64;
const WAITER_PAYLOAD: usize = 24;
/// Where blocks for replies begin.
pub(crate) const REPLY_BLOCKS: usize = (WAITER_TABLE + WAITERS * WAITER).next_multiple_of(PAGE);

/// What the host writes about a message, before the get's word says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(usize);

impl Record {
    pub(crate) const fn of(get: usize) -> Self {
        Self(RECORDS + (get % GETS) * RECORD)
    }

    /// What the get's word says since the host has changed it. For whoever waits awake: it comes with the rest of the line,
    /// and the host needs no line of the client's for it.
    pub(crate) const fn ready(self) -> usize {
        self.0
    }

    /// The message's number.
    pub(crate) const fn id(self) -> usize {
        self.0 + 8
    }

    /// Payload bytes (lower half), and what the header says can be taken back (upper half). For a get that is too small:
    /// the bytes it would need.
    pub(crate) const fn lengths(self) -> usize {
        self.0 + 16
    }

    /// See [`Place`].
    pub(crate) const fn place(self) -> usize {
        self.0 + 24
    }

    /// When the sender gives up, on the monotonic clock in nanoseconds; 0 without a limit.
    pub(crate) const fn deadline(self) -> usize {
        self.0 + 32
    }

    /// The payload, if it is short.
    pub(crate) const fn payload(self) -> usize {
        self.0 + RECORD_PAYLOAD
    }
}

/// Where a message's payload is, and whether an open file comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: At,
    pub(crate) file: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// In the host's part.
    Offset(u32),
    /// In a frame that follows on the socket, with everything else.
    Frame,
}

impl Place {
    pub(crate) fn bits(self) -> u64 {
        let at = match self.at {
            At::Offset(offset) => u64::from(offset),
            At::Frame => 1 << 32,
        };
        at | u64::from(self.file) << 33
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let at = if bits >> 32 & 1 == 1 {
            At::Frame
        } else {
            At::Offset(low(bits))
        };
        Self {
            at,
            file: bits >> 33 & 1 == 1,
        }
    }
}

/// The word of a get.
pub(crate) const fn get_word(get: usize) -> usize {
    GET_WORDS + (get % GETS) * 64
}

/// The word of a waiter.
pub(crate) const fn waiter_word(waiter: usize) -> usize {
    WAITER_TABLE + (waiter % WAITERS) * WAITER
}

/// Before there is a reply: the bytes that its sender can take. Then its status (lower half) and bytes (upper half).
pub(crate) const fn reply_head(waiter: usize) -> usize {
    waiter_word(waiter) + 8
}

/// Where a reply longer than the waiter's own room goes, 0 for nowhere (lower half), and how long that is (upper half).
pub(crate) const fn reply_room(waiter: usize) -> usize {
    waiter_word(waiter) + 16
}

/// The payload of a short reply.
pub(crate) const fn reply_payload(waiter: usize) -> usize {
    waiter_word(waiter) + WAITER_PAYLOAD
}

/// An entry of the ring.
pub(crate) const fn ring_entry(index: u64) -> usize {
    client_word::RING + (index % RING) as usize * 8
}

/// The number of the message that this waiter waits for.
pub(crate) const fn message_id(waiter: usize, generation: u64) -> u64 {
    generation << WAITER_BITS | waiter as u64
}

/// The waiter and the generation of a message's number, if it is one.
pub(crate) const fn waiter_of(id: u64) -> Option<(usize, u64)> {
    let waiter = (id & ((1 << WAITER_BITS) - 1)) as usize;
    if waiter == 0 || waiter >= WAITERS {
        return None;
    }
    Some((waiter, id >> WAITER_BITS))
}

/// The first generation whose numbers are all above `last`, or the very first.
pub(crate) const fn generation_after(last: u64) -> u64 {
    if last == 0 {
        0
    } else {
        (last >> WAITER_BITS) + 1
    }
}

/// Generations that a message's number has room for.
pub(crate) const GENERATIONS_OF_ID: u64 = (1 << 45) - 1;

/// Messages whose reply is matched by the engine all the same have numbers from here on.
pub(crate) const FRAMED_IDS: u64 = 1 << 62;

const _: () = assert!(message_id(WAITERS - 1, GENERATIONS_OF_ID) < FRAMED_IDS);

/// Marks the numbers of gets that are posted here, as the engine and the socket name them.
const GET_MARK: u64 = 1 << 63;

/// The number of a get.
pub(crate) const fn get_token(get: usize, generation: u64) -> u64 {
    GET_MARK | (generation & GENERATION_OF_TOKEN) << 6 | (get % GETS) as u64
}

/// The get that has this number, if it is posted here.
pub(crate) const fn get_of(token: u64) -> Option<usize> {
    if token & GET_MARK == 0 {
        return None;
    }
    Some((token & 63) as usize)
}

/// The generation that a number has room for.
pub(crate) const GENERATION_OF_TOKEN: u64 = (1 << 57) - 1;

const _: () = assert!(GETS == 64);

/// What the client has put in the ring.
///
/// An entry is one word, which says by its lap round the ring that it is new: so the host looks at one word, and not at a
/// tail and then at a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has posted this get, of so many bytes. The generation is in the get's word.
    Posted { get: usize, size: u32 },
    /// It has replied to a message whose sender is not waiting there.
    Replied { waiter: usize },
}

/// Bits of an entry: the index, whether it is a waiter's, the lap, the size.
const INDEX_BITS: u32 = 17;
const REPLIED: u64 = 1 << INDEX_BITS;
const LAP_SHIFT: u32 = INDEX_BITS + 1;
const LAPS: u64 = 1 << (32 - LAP_SHIFT);

const _: () = assert!(WAITERS <= 1 << INDEX_BITS);

/// The lap of the entry of this number: never 0, which fresh memory has, and another than that of the lap before.
const fn lap(number: u64) -> u64 {
    (number / RING) % (LAPS - 1) + 1
}

impl Entry {
    pub(crate) fn bits(self, number: u64) -> u64 {
        let what = match self {
            Self::Posted { get, size } => u64::from(size) << 32 | get as u64,
            Self::Replied { waiter } => REPLIED | waiter as u64,
        };
        what | lap(number) << LAP_SHIFT
    }

    /// Whether a word is the entry of this number.
    pub(crate) const fn is_there(bits: u64, number: u64) -> bool {
        (bits >> LAP_SHIFT) % LAPS == lap(number)
    }

    /// What an entry says; `None` for one that no client writes.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let size = high(bits);
        let index = (bits & (REPLIED - 1)) as usize;
        if bits & REPLIED != 0 {
            (size == 0 && (1..WAITERS).contains(&index)).then_some(Self::Replied { waiter: index })
        } else {
            (index < GETS).then_some(Self::Posted { get: index, size })
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub(crate) const fn low(bits: u64) -> u32 {
    bits as u32
}

pub(crate) const fn high(bits: u64) -> u32 {
    (bits >> 32) as u32
}

pub(crate) fn halves(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A word: a state, who waits how, and the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<S> {
    pub(crate) state: S,
    /// A thread sleeps on this word: whoever changes it wakes that.
    pub(crate) asleep: bool,
    /// Its owner sleeps elsewhere: whoever changes it says so by a frame.
    pub(crate) bell: bool,
    /// Its owner's own side wants its attention.
    pub(crate) nudged: bool,
    pub(crate) generation: u64,
}

/// A state that fits a word.
pub(crate) trait State: Copy + Eq {
    fn number(self) -> u64;
    fn from_number(number: u64) -> Option<Self>;
}

impl State for Get {
    fn number(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Posted => 1,
            Self::Assigned => 2,
            Self::Cancelled => 3,
            Self::TooSmall => 4,
            Self::Disconnected => 5,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::Posted,
            2 => Self::Assigned,
            3 => Self::Cancelled,
            4 => Self::TooSmall,
            5 => Self::Disconnected,
            _ => return None,
        })
    }
}

impl State for Waiter {
    fn number(self) -> u64 {
        match self {
            Self::Waiting => 1,
            Self::Replying => 2,
            Self::Replied => 3,
            Self::Abandoned => 4,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Waiting,
            2 => Self::Replying,
            3 => Self::Replied,
            4 => Self::Abandoned,
            _ => return None,
        })
    }
}

const ASLEEP: u64 = 1 << 4;
const BELL: u64 = 1 << 5;
const NUDGED: u64 = 1 << 6;
const GENERATION_SHIFT: u32 = 8;
/// Generations that a word has room for; none is ever used up.
pub(crate) const GENERATIONS: u64 = u64::MAX >> GENERATION_SHIFT;

impl<S: State> Word<S> {
    pub(crate) const fn new(state: S, generation: u64) -> Self {
        Self {
            state,
            asleep: false,
            bell: false,
            nudged: false,
            generation,
        }
    }

    pub(crate) fn bits(self) -> u64 {
        let flag = |is: bool, bit| if is { bit } else { 0 };
        self.state.number()
            | flag(self.asleep, ASLEEP)
            | flag(self.bell, BELL)
            | flag(self.nudged, NUDGED)
            | self.generation << GENERATION_SHIFT
    }

    /// What a word says; `None` for one that says nothing.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        if bits & 0x88 != 0 {
            return None;
        }
        Some(Self {
            state: S::from_number(bits & 7)?,
            asleep: bits & ASLEEP != 0,
            bell: bits & BELL != 0,
            nudged: bits & NUDGED != 0,
            generation: bits >> GENERATION_SHIFT,
        })
    }

    pub(crate) const fn with_state(self, state: S) -> Self {
        Self { state, ..self }
    }
}

impl Word<Get> {
    /// After this step; whoever waits is told, so its marks go.
    pub(crate) const fn after(self, step: GetStep) -> Option<Self> {
        match self.state.after(step) {
            Some(state) => Some(Self::new(state, self.generation)),
            None => None,
        }
    }
}

impl Word<Waiter> {
    /// After this step; who waits, and how, stays said.
    pub(crate) const fn after(self, step: WaiterStep) -> Option<Self> {
        match self.state.after(step) {
            Some(state) => Some(self.with_state(state)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_and_nonsense_does_not() {
        for number in 0..8 {
            let waiter = Waiter::from_number(number);
            assert!(waiter.is_none_or(|state| state.number() == number));
            let Some(state) = Get::from_number(number) else {
                continue;
            };
            for flags in 0..8 {
                let word = Word {
                    state,
                    asleep: flags & 1 != 0,
                    bell: flags & 2 != 0,
                    nudged: flags & 4 != 0,
                    generation: GENERATIONS - flags,
                };
                assert_eq!(Word::from_bits(word.bits()), Some(word));
            }
        }
        assert_eq!(Word::<Get>::from_bits(6), None);
        assert_eq!(Word::<Get>::from_bits(0x81), None);
        assert_eq!(Word::<Get>::from_bits(9), None);
        assert_eq!(Word::<Waiter>::from_bits(0), None);
    }

    #[test]
    fn numbers_of_messages_and_gets_name_what_they_should() {
        assert_eq!(message_id(1, 0), 1);
        for waiter in [1, 2, 65_536] {
            for generation in [0, 1, 7, GENERATIONS >> WAITER_BITS] {
                let id = message_id(waiter, generation);
                assert_eq!(waiter_of(id), Some((waiter, generation)));
            }
        }
        assert_eq!(waiter_of(0), None);
        assert_eq!(waiter_of(1 << WAITER_BITS), None);
        assert_eq!(waiter_of(WAITERS as u64), None);
        for get in [0, 1, 63] {
            assert_eq!(get_of(get_token(get, 5)), Some(get));
            assert_ne!(get_token(get, 5), get_token(get, 6));
        }
        assert_eq!(get_of(63), None);
    }

    #[test]
    fn entries_of_the_ring_come_back_and_lies_do_not() {
        for number in [0, 1, RING, RING * LAPS, 1 << 40] {
            for entry in [
                Entry::Posted { get: 0, size: 16 },
                Entry::Posted {
                    get: 63,
                    size: u32::MAX,
                },
                Entry::Replied { waiter: 1 },
                Entry::Replied { waiter: 65_536 },
            ] {
                let bits = entry.bits(number);
                assert_eq!(Entry::from_bits(bits), Some(entry));
                assert!(Entry::is_there(bits, number) && !Entry::is_there(0, number));
                assert!(!Entry::is_there(bits, number.wrapping_add(RING)));
            }
        }
        for lie in [
            64,
            REPLIED - 1,
            REPLIED,
            REPLIED | WAITERS as u64,
            1 << 32 | REPLIED | 1,
        ] {
            assert_eq!(Entry::from_bits(lie), None, "{lie:#x}");
        }
    }

    #[test]
    fn nothing_overlaps() {
        let ends = |from: usize, length: usize| (from, from + length);
        let host = [
            ends(host_word::ENDED, 8),
            ends(host_word::READ, 8),
            ends(host_word::KICK, 8),
            ends(host_word::HEAD, 8),
            ends(host_word::PACE, 8),
            ends(Record::of(0).ready(), RECORD),
            ends(Record::of(63).ready(), RECORD),
            ends(MESSAGE_BLOCKS, 1),
        ];
        let client = [
            ends(client_word::PACE, 8),
            ends(client_word::LATE, 8),
            ends(client_word::RING, RING_BYTES),
            ends(get_word(0), 64),
            ends(get_word(63), 64),
            ends(waiter_word(0), WAITER),
            ends(waiter_word(65_536), WAITER),
            ends(REPLY_BLOCKS, 1),
        ];
        for parts in [host, client] {
            for (one, other) in parts.iter().zip(&parts[1..]) {
                assert!(one.1 <= other.0, "{one:?} {other:?}");
            }
        }
        assert_eq!(reply_payload(1) % 8, 0);
        assert_eq!(Record::of(1).payload() % 8, 0);
    }
}

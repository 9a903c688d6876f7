//! Where everything is in the memory of a connection: a description of its own, so that the product's is checked by it.
//!
//! Offsets are in bytes. The host's part is read-only for a client; the client's part both write.

/// Names this layout.
pub(crate) const LAYOUT: u32 = 2;

/// Gets, and entries of the ring.
pub(crate) const GETS: usize = 64;
pub(crate) const RING: u64 = 256;

/// The host's control words.
pub(crate) const ENDED: usize = 0;
pub(crate) const READ: usize = 8;
pub(crate) const KICK: usize = 64;
pub(crate) const HEAD: usize = 128;
pub(crate) const HOST_PACE: usize = 192;
pub(crate) const HOST_HOME: usize = 200;
pub(crate) const HOST_CORE: usize = 208;

/// The client's control words.
pub(crate) const CLIENT_PACE: usize = 64;
pub(crate) const LATE: usize = 72;
pub(crate) const CLIENT_HOME: usize = 80;
pub(crate) const CLIENT_CORE: usize = 88;

/// Where a message's payload is not in the host's part, and that a file comes with it.
pub(crate) const BY_FRAME: u64 = 1 << 32;
pub(crate) const WITH_FILE: u64 = 1 << 33;

/// Marks of a word.
pub(crate) const ASLEEP: u64 = 1 << 4;
pub(crate) const BELL: u64 = 1 << 5;
pub(crate) const NUDGED: u64 = 1 << 6;

/// States of a get.
pub(crate) const FREE: u64 = 0;
pub(crate) const POSTED: u64 = 1;
pub(crate) const ASSIGNED: u64 = 2;
pub(crate) const CANCELLED: u64 = 3;
pub(crate) const TOO_SMALL: u64 = 4;

/// States of a waiter.
pub(crate) const WAITING: u64 = 1;
pub(crate) const REPLYING: u64 = 2;
pub(crate) const REPLIED: u64 = 3;

/// Bytes of both parts where the longest message is 1 MiB: 64 blocks of 4 KiB, 64 of 64 KiB, 2 of 1 MiB, after the rest.
pub(crate) const HOST_BYTES: usize = 12_288 + BLOCKS;
pub(crate) const CLIENT_BYTES: usize = REPLY_BLOCKS + BLOCKS;
pub(crate) const REPLY_BLOCKS: usize = 8_400_896;
const BLOCKS: usize = (64 << 12) + (64 << 16) + (2 << 20);

/// A get's record in the host's part: the get's word once more, id, lengths, place, deadline, and 88 bytes of payload at 40.
/// This is where the id is.
pub(crate) const fn record(get: usize) -> usize {
    4096 + get * 128 + 8
}

/// The payload of a short message.
pub(crate) const fn payload(get: usize) -> usize {
    record(get) + 32
}

pub(crate) const fn ring_entry(index: u64) -> usize {
    2048 + (index % RING) as usize * 8
}

pub(crate) const fn get_word(get: usize) -> usize {
    4096 + get * 64
}

pub(crate) const fn waiter_word(waiter: usize) -> usize {
    8192 + waiter * 128
}

/// What the sender can take; then the reply's status and length.
pub(crate) const fn reply_head(waiter: usize) -> usize {
    waiter_word(waiter) + 8
}

/// Where a long reply goes, and how long that is.
pub(crate) const fn reply_room(waiter: usize) -> usize {
    waiter_word(waiter) + 16
}

/// A reply of up to 104 bytes.
pub(crate) const fn reply_payload(waiter: usize) -> usize {
    waiter_word(waiter) + 24
}

pub(crate) const fn posted(get: u64, size: u32) -> u64 {
    (size as u64) << 32 | get
}

pub(crate) const fn replied(waiter: u64) -> u64 {
    1 << 17 | waiter
}

/// An entry of the ring as the one of this number: by its lap round the ring it is new.
pub(crate) const fn numbered(entry: u64, number: u64) -> u64 {
    let lap = number / RING % 0x3FFF + 1;
    entry & !(0x3FFF << 18) | lap << 18
}

pub(crate) const fn word(state: u64, generation: u64) -> u64 {
    state | generation << 8
}

/// The waiter and the generation of a message's number.
pub(crate) const fn waiter_of(id: u64) -> (usize, u64) {
    ((id & 0x1_FFFF) as usize, id >> 17)
}

/// The number of a get in memory, as frames name it.
pub(crate) const fn token(get: u64, generation: u64) -> u64 {
    1 << 63 | generation << 6 | get
}

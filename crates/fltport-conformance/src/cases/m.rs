//! M. Sizes and padding: exact sizes of messages and replies, as C programs with their structures give them.

use fltport::{NtStatus, Timeout};
use fltport_engine::wire::{MessageHeader, ReplyHeader};
use zerocopy::IntoBytes;

use crate::backend::{Event, Need, OK, Who, hresult};
use crate::case::{Case, case};
use crate::world::{NAME, World, bytes, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "M1",
        "D",
        &[],
        "both headers: 16 bytes, fields at 0 and 8 (the Rust structures; there is no C header yet)",
        m1,
    ),
    case(
        "M2",
        "D,S,X",
        &[],
        "reply sizes of 13 payload structures: exact, padded, packed, short (too short: C interface)",
        m2,
    ),
    case(
        "M3",
        "S",
        &[],
        "a scanner: get of 1,048 bytes, message of 1,032, reply of 17: its verdict arrives",
        m3,
    ),
    case(
        "M4",
        "D,X",
        &[],
        "the scanner with its reply padded to 24 bytes: too long, but its verdict arrives",
        m4,
    ),
    case(
        "M5",
        "S",
        &[],
        "a scanner of 40-byte gets and 20-byte replies: its thread id arrives",
        m5,
    ),
    case(
        "M6",
        "D",
        &[],
        "that scanner with its reply padded to 24 bytes: too long",
        m6,
    ),
    case(
        "M7",
        "I",
        &[Need::Bytes],
        "M3 and M5 with a client whose greeting says 32 bits (bytes as it would send them; not built for 32 bits)",
        m7,
    ),
    case(
        "M8",
        "X",
        &[],
        "the padding in a message's header is zero, whether or not a reply is wanted",
        m8,
    ),
    case(
        "M9",
        "I",
        &[],
        "a short message in a big get, after a long one, has its own bytes and no others",
        m9,
    ),
    case(
        "M10",
        "X",
        &[],
        "capacity 20 for a reply of 4 bytes: the returned length is 4",
        m10,
    ),
];

/// What one exchange came to.
struct Exchanged {
    /// The message as the client got it.
    reply_length: u32,
    payload: Vec<u8>,
    /// What the replier was told.
    replied: u32,
    /// What the sender was told.
    status: NtStatus,
    reply: Option<Vec<u8>>,
}

/// A message into a get of `get` bytes, with `capacity` for a reply whose buffer has `size` bytes, its header included.
fn exchange(world: &mut World, message: &[u8], get: u32, capacity: u32, size: usize) -> Exchanged {
    let ends = world.fixture();
    let taken = world.backend.get(ends.client, get);
    world.gets_posted(ends.conn, 1);
    let ask = world.ask(ends.conn, message, capacity, Timeout::Never);
    let got = world.got(taken);
    let answer = bytes(7, size - size_of::<ReplyHeader>());
    let replied = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, &answer);
    let sent = world.sent(ask);
    world.backend.close_port(ends.port);
    Exchanged {
        reply_length: got.reply_length,
        payload: got.payload,
        replied,
        status: NtStatus(sent.status),
        reply: sent.reply,
    }
}

/// Asserts that a reply of `size` bytes, header included, arrives whole.
fn fits(world: &mut World, capacity: u32, size: usize) {
    let done = exchange(world, b"?", 64, capacity, size);
    assert_eq!(done.reply_length, 16 + capacity, "{capacity} {size}");
    assert_eq!((done.replied, done.status), (OK, NtStatus::SUCCESS));
    assert_eq!(done.reply, Some(bytes(7, size - 16)), "{capacity} {size}");
}

/// Asserts that of a reply of `size` bytes, header included, the first `capacity` bytes arrive, and both sides are told.
fn overflows(world: &mut World, capacity: u32, size: usize) {
    let done = exchange(world, b"?", 64, capacity, size);
    let overflow = NtStatus::BUFFER_OVERFLOW;
    assert_eq!((done.replied, done.status), (hresult(overflow), overflow));
    let cut = usize::try_from(capacity).expect("small");
    assert_eq!(done.reply, Some(bytes(7, cut)), "{capacity} {size}");
}

fn m1(world: &mut World) {
    let ends = world.fixture();
    let ask = world.ask(ends.conn, b"?", 0x000F_0203 - 16, Timeout::Never);
    let got = world.get(ends.client, 80);
    assert_eq!(got.header.len(), 16);
    assert_eq!(got.header[..4], 0x000F_0203_u32.to_ne_bytes());
    assert_eq!(got.header[8..], got.message_id.to_ne_bytes());
    world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"");
    assert_eq!(world.status(ask), NtStatus::SUCCESS);
    assert_eq!(
        (size_of::<MessageHeader>(), align_of::<MessageHeader>()),
        (16, 8)
    );
    assert_eq!(
        (size_of::<ReplyHeader>(), align_of::<ReplyHeader>()),
        (16, 8)
    );
    let reply = ReplyHeader::new(NtStatus(0xC102_0304), 0x0506_0708_090A_0B0C);
    let reply = reply.as_bytes();
    assert_eq!(reply[..4], 0xC102_0304_u32.to_ne_bytes());
    assert_eq!(reply[4..8], [0; 4]);
    assert_eq!(reply[8..], 0x0506_0708_090A_0B0C_u64.to_ne_bytes());
}

/// A reply as a program declares it: the header, then its payload.
#[repr(C)]
struct Whole<P> {
    header: ReplyHeader,
    payload: P,
}

/// The same under `#pragma pack(1)`.
#[repr(C, packed)]
struct Packed<P> {
    header: [u8; 16],
    payload: P,
}

/// `{ u32, u8 }`.
#[repr(C)]
struct WordByte(u32, u8);

/// `{ u64, u8 }`.
#[repr(C)]
struct LongByte(u64, u8);

/// The size of a payload as a capacity.
fn p<P>() -> u32 {
    u32::try_from(size_of::<P>()).expect("small")
}

/// The size of the whole structure.
const fn w<P>() -> usize {
    size_of::<Whole<P>>()
}

fn m2(world: &mut World) {
    // 1: no padding at the end.
    assert_eq!((p::<u64>(), w::<u64>()), (8, 24));
    fits(world, 8, w::<u64>());
    // 2: padded to the header's alignment.
    assert_eq!((p::<u8>(), w::<u8>()), (1, 24));
    overflows(world, 1, w::<u8>());
    // 3: packed.
    assert_eq!(size_of::<Packed<u8>>(), 17);
    fits(world, 1, size_of::<Packed<u8>>());
    // 4: padded in memory, its size given exactly.
    fits(world, 1, 16 + size_of::<u8>());
    // 5, 6: the same with four bytes.
    assert_eq!((p::<u32>(), w::<u32>()), (4, 24));
    fits(world, 4, 16 + size_of::<u32>());
    overflows(world, 4, w::<u32>());
    // 7, 8: padding inside the payload is payload.
    assert_eq!((p::<WordByte>(), w::<WordByte>()), (8, 24));
    fits(world, 8, w::<WordByte>());
    assert_eq!((p::<LongByte>(), w::<LongByte>()), (16, 32));
    fits(world, 16, w::<LongByte>());
    // 9: an odd size, exactly and padded.
    assert_eq!((p::<[u8; 5]>(), w::<[u8; 5]>()), (5, 24));
    fits(world, 5, 21);
    overflows(world, 5, 24);
    // 10: the header alone.
    assert_eq!((p::<()>(), w::<()>()), (0, 16));
    fits(world, 0, w::<()>());
    // 11: a capacity that counts the header too.
    fits(world, 20, 20);
    // 12: nothing where something may be.
    fits(world, 4, 16);
    // 13: shorter than the header.
    if world.can(Need::ShortBuffers) {
        super::elsewhere(world);
    }
}

fn m3(world: &mut World) {
    let done = exchange(world, &bytes(3, 1032), 1048, 1, 17);
    assert_eq!(done.payload, bytes(3, 1032));
    assert_eq!((done.replied, done.status), (OK, NtStatus::SUCCESS));
    assert_eq!(done.reply, Some(bytes(7, 1)));
}

fn m4(world: &mut World) {
    let done = exchange(world, &bytes(4, 1032), 1048, 1, 24);
    assert_eq!(done.payload, bytes(4, 1032));
    assert_eq!(done.status, NtStatus::BUFFER_OVERFLOW);
    assert_eq!(done.reply, Some(bytes(7, 1)));
}

fn m5(world: &mut World) {
    let done = exchange(world, &bytes(5, 24), 40, 4, 20);
    assert_eq!(done.payload, bytes(5, 24));
    assert_eq!((done.replied, done.status), (OK, NtStatus::SUCCESS));
    assert_eq!(done.reply, Some(bytes(7, 4)));
}

fn m6(world: &mut World) {
    let done = exchange(world, &bytes(6, 24), 40, 4, 24);
    assert_eq!(done.status, NtStatus::BUFFER_OVERFLOW);
    assert_eq!(done.replied, hresult(NtStatus::BUFFER_OVERFLOW));
}

fn m7(world: &mut World) {
    world.create(&spec());
    for (get, message, capacity) in [(1048, 1032, 1), (40, 24, 4)] {
        let client = world
            .backend
            .narrow_client(Who::default(), NAME, get, capacity);
        let conn = world.new_conn();
        let bits = world.event("its connect", |event| match event {
            Event::Connect { conn: of, bits, .. } if *of == conn => Some(*bits),
            _ => None,
        });
        assert_eq!(bits, 32);
        world.gets_posted(conn, 1);
        let payload = bytes(8, message);
        let ask = world.ask(conn, &payload, capacity, Timeout::Never);
        assert_eq!(world.replied(client), OK);
        let sent = world.sent(ask);
        let first = &payload[..usize::try_from(capacity).expect("small")];
        assert_eq!((sent.status, sent.reply.as_deref()), (0, Some(first)));
    }
}

fn m8(world: &mut World) {
    let ends = world.fixture();
    for capacity in [None, Some(4)] {
        let op = world
            .backend
            .send(ends.conn, &bytes(8, 64), capacity, Timeout::Never);
        let got = world.get(ends.client, 80);
        assert_eq!(got.header[4..8], [0; 4]);
        if capacity.is_some() {
            world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"");
        }
        assert_eq!(world.status(op), NtStatus::SUCCESS);
    }
}

fn m9(world: &mut World) {
    let ends = world.fixture();
    for length in [1000, 10] {
        let get = world.backend.get(ends.client, 16 + 1000);
        world.gets_posted(ends.conn, 1);
        let sent = world.send(ends.conn, &bytes(9, length), Timeout::Never);
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
        assert_eq!(world.got(get).payload, bytes(9, length));
    }
}

fn m10(world: &mut World) {
    let done = exchange(world, b"?", 64, 16 + 4, 20);
    assert_eq!(done.reply_length, 36);
    assert_eq!((done.replied, done.status), (OK, NtStatus::SUCCESS));
    assert_eq!(done.reply.map(|reply| reply.len()), Some(4));
}

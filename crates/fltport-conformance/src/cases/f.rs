//! F. Reply: what a reply means to the client that gives it and to the sender that waits. Its races are in
//! [`super::f_races`].

use fltport::{NtStatus, Timeout};

use crate::backend::{Got, NOWAIT, Need, OK, Op, Sent};
use crate::case::{Case, case};
use crate::world::{Ends, World, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "F1",
        "D",
        &[],
        "a reply of the expected size reaches its sender whole",
        f1,
    ),
    case(
        "F2",
        "D,X",
        &[],
        "a reply's status is what the send returns, bytes included; the replier succeeds",
        f2,
    ),
    case(
        "F3",
        "X",
        &[],
        "a reply may carry the status of a timeout: the replier succeeds, the sender gets both",
        f3,
    ),
    case(
        "F4",
        "X",
        &[],
        "a shorter reply succeeds and is as long as it is",
        f4,
    ),
    case("F5", "X", &[], "an empty reply succeeds with no bytes", f5),
    case(
        "F6",
        "D,X",
        &[],
        "a longer reply is cut to the capacity, and both sides are told",
        f6,
    ),
    case(
        "F7",
        "X",
        &[],
        "a message with a reply that was cut is answered: a second reply finds nobody",
        f7,
    ),
    case(
        "F8",
        "X",
        &[],
        "a longer reply says so to the sender, whatever its own status",
        f8,
    ),
    case(
        "F9",
        "D,X",
        &[],
        "a second reply finds nobody, and the sender keeps the first",
        f9,
    ),
    case(
        "F10",
        "X",
        &[],
        "a reply to an id that was never given out finds nobody and ends no wait",
        f10,
    ),
    case(
        "F11",
        "X",
        &[],
        "a reply to a message that wanted none finds nobody",
        f11,
    ),
    case(
        "F12",
        "X",
        &[Need::ShortBuffers],
        "a reply shorter than its header is refused, and a right one then succeeds",
        super::elsewhere,
    ),
    case(
        "F13",
        "I",
        &[Need::WindowsArguments],
        "a reply without a buffer is refused, and the sender goes on waiting",
        super::elsewhere,
    ),
    case(
        "F14",
        "X",
        &[Need::OddAddresses],
        "a reply at an odd address is refused or taken; if refused, the sender goes on waiting",
        f14,
    ),
    case(
        "F15",
        "X",
        &[],
        "a reply through another connection of the same process finds nobody",
        f15,
    ),
    case(
        "F16",
        "I",
        &[],
        "a reply through a duplicate of the handle succeeds",
        f16,
    ),
    case(
        "F17",
        "S",
        &[Need::Parallel],
        "a reply by another thread than the one that got the message succeeds",
        f17,
    ),
    case(
        "F18",
        "D",
        &[],
        "of two messages answered in reverse order, each sender gets its own reply",
        f18,
    ),
];

/// A message with a reply capacity of 4, delivered.
struct Asked {
    ends: Ends,
    ask: Op,
    got: Got,
}

fn asked(world: &mut World) -> Asked {
    let ends = world.fixture();
    asked_on(world, ends)
}

fn asked_on(world: &mut World, ends: Ends) -> Asked {
    let ask = world.ask(ends.conn, b"question", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    assert_eq!(got.payload, b"question");
    Asked { ends, ask, got }
}

impl Asked {
    fn reply(&self, world: &mut World, status: NtStatus, payload: &[u8]) -> u32 {
        world.reply(self.ends.client, self.got.message_id, status, payload)
    }

    /// Asserts how the send has ended.
    fn ended(&self, world: &mut World, status: NtStatus, reply: &[u8]) {
        let expected = Sent {
            status: status.0,
            reply: Some(reply.to_vec()),
            delivered: Some(true),
        };
        assert_eq!(world.sent(self.ask), expected);
    }

    /// The sender still waits, and a right reply reaches it.
    fn still_waits(&self, world: &mut World) {
        world.stays(self.ask, ms(200));
        assert_eq!(self.reply(world, NtStatus::SUCCESS, b"good"), OK);
        self.ended(world, NtStatus::SUCCESS, b"good");
    }
}

fn f1(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, &bytes(1, 4)), OK);
    asked.ended(world, NtStatus::SUCCESS, &bytes(1, 4));
}

fn f2(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus(0xC000_0022), &bytes(2, 4)), OK);
    asked.ended(world, NtStatus(0xC000_0022), &bytes(2, 4));
}

fn f3(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus(0x102), &bytes(3, 4)), OK);
    asked.ended(world, NtStatus::TIMEOUT, &bytes(3, 4));
}

fn f4(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b"4"), OK);
    asked.ended(world, NtStatus::SUCCESS, b"4");
}

fn f5(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b""), OK);
    asked.ended(world, NtStatus::SUCCESS, b"");
}

fn f6(world: &mut World) {
    let asked = asked(world);
    let replied = asked.reply(world, NtStatus::SUCCESS, b"too long");
    assert_eq!(replied, 0x8007_00EA);
    asked.ended(world, NtStatus::BUFFER_OVERFLOW, b"too ");
}

fn f7(world: &mut World) {
    let asked = asked(world);
    asked.reply(world, NtStatus::SUCCESS, b"too long");
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b"good"), NOWAIT);
    asked.ended(world, NtStatus::BUFFER_OVERFLOW, b"too ");
}

fn f8(world: &mut World) {
    let asked = asked(world);
    let replied = asked.reply(world, NtStatus(0xC000_0022), b"too long");
    assert_eq!(replied, 0x8007_00EA);
    asked.ended(world, NtStatus::BUFFER_OVERFLOW, b"too ");
}

fn f9(world: &mut World) {
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b"1st!"), OK);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b"2nd!"), NOWAIT);
    asked.ended(world, NtStatus::SUCCESS, b"1st!");
}

fn f10(world: &mut World) {
    let asked = asked(world);
    for id in [asked.got.message_id + 1, u64::MAX] {
        let replied = world.reply(asked.ends.client, id, NtStatus::SUCCESS, b"lie!");
        assert_eq!(replied, NOWAIT);
    }
    asked.still_waits(world);
}

fn f11(world: &mut World) {
    let asked = asked(world);
    let sent = world.send(asked.ends.conn, b"no question", Timeout::Never);
    let got = world.get(asked.ends.client, 80);
    assert_eq!((got.message_id, got.payload), (0, b"no question".to_vec()));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    let replied = world.reply(asked.ends.client, 0, NtStatus::SUCCESS, b"lie!");
    assert_eq!(replied, NOWAIT);
    asked.still_waits(world);
}

fn f14(world: &mut World) {
    // Here every reply is given at an odd address.
    let asked = asked(world);
    match asked.reply(world, NtStatus::SUCCESS, b"good") {
        OK => asked.ended(world, NtStatus::SUCCESS, b"good"),
        refused => {
            assert_eq!(refused, 0x8007_03E6);
            world.stays(asked.ask, ms(200));
        }
    }
}

fn f15(world: &mut World) {
    let first = asked(world);
    let other = world.join(first.ends.port);
    let replied = world.reply(
        other.client,
        first.got.message_id,
        NtStatus::SUCCESS,
        b"lie!",
    );
    assert_eq!(replied, NOWAIT);
    first.still_waits(world);
}

fn f16(world: &mut World) {
    let asked = asked(world);
    let twin = world.backend.duplicate(asked.ends.client);
    let replied = world.reply(twin, asked.got.message_id, NtStatus::SUCCESS, b"good");
    assert_eq!(replied, OK);
    asked.ended(world, NtStatus::SUCCESS, b"good");
}

fn f17(world: &mut World) {
    // Here every call has a thread of its own.
    let asked = asked(world);
    assert_eq!(asked.reply(world, NtStatus::SUCCESS, b"good"), OK);
    asked.ended(world, NtStatus::SUCCESS, b"good");
}

fn f18(world: &mut World) {
    let first = asked(world);
    let second = asked_on(world, first.ends);
    assert_eq!(second.reply(world, NtStatus::SUCCESS, b"2nd!"), OK);
    second.ended(world, NtStatus::SUCCESS, b"2nd!");
    assert_eq!(first.reply(world, NtStatus::SUCCESS, b"1st!"), OK);
    first.ended(world, NtStatus::SUCCESS, b"1st!");
}

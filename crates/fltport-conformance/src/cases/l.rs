//! L. Overlapped gets: posted, and looked at later. Events, completion ports and synchronous handles are Windows' own; what
//! they are for is told with posted gets.

use std::collections::BTreeSet;

use fltport::{NtStatus, Timeout};

use crate::backend::{DISC, Need, OK, Op, hresult};
use crate::case::{Case, case};
use crate::world::{Ends, World, after, bytes, ms};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    case("L1", "S", &[], "posting a get returns at once, and the get is pending", l1),
    case("L2", "S", &[], "a get that is posted while a message waits completes with it", l2),
    case("L3", "D", &[Need::Overlapped], "completion by an event", super::elsewhere),
    case("L4", "WIN32", &[Need::Overlapped], "completion by the handle's own event", super::elsewhere),
    case("L5", "S", &[Need::Overlapped], "completion by a packet with bytes, key and OVERLAPPED", super::elsewhere),
    case("L6", "S", &[], "a disconnect ends each pending get, once, with DISC", l6),
    case("L7", "S", &[], "a cancelled get ends with 0x800703E3", l7),
    case("L8", "S,I", &[], "a get posted on a closed connection is DISC at once", l8),
    case("L9", "S-SI", &[], "1024 posted gets and 1024 sends: all complete, each once", l9),
    case("L10", "WIN32", &[Need::Overlapped], "an event with its low bit set: no packet", super::elsewhere),
    case("L11", "S", &[Need::Overlapped], "an OVERLAPPED is used again without clearing it", super::elsewhere),
    case("L12", "S-SI", &[Need::Overlapped], "a synchronous get beside a completion port posts no packet", super::elsewhere),
    case("L13", "I", &[], "two threads that get on one handle: two messages, one for each", l13),
    case("L14", "I", &[Need::SyncHandles], "on a synchronous handle an overlapped get blocks", super::elsewhere),
    case("L15", "I", &[Need::SyncHandles], "on a synchronous handle a reply waits for another thread's get", super::elsewhere),
    case("L16", "D", &[Need::SyncHandles], "on a synchronous handle get and reply take turns", super::elsewhere),
    case("L17", "WIN32", &[Need::SyncHandles], "a synchronous handle takes no completion port", super::elsewhere),
    case("L18", "S,WIN32", &[], "gets that are pending when their handle is closed still end, with DISC", l18),
    case("L19", "S", &[], "four slow repliers work on four messages at a time", l19),
    case("L20", "WIN32", &[Need::Overlapped], "an event is reset when its get starts", super::elsewhere),
];

fn l1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.stays(get, ms(100));
    let sent = world.send(ends.conn, &bytes(1, 64), Timeout::Never);
    assert_eq!(world.got(get).payload, bytes(1, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn l2(world: &mut World) {
    let ends = world.fixture();
    let sent = world.send(ends.conn, &bytes(1, 64), Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    let get = world.backend.post(ends.client, 80);
    assert_eq!(world.got(get).payload, bytes(1, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn l6(world: &mut World) {
    let ends = world.fixture();
    let gets = posted(world, ends, 3);
    world.backend.close_client_port(ends.conn);
    // An operation that ended twice would be told to have done so.
    for get in gets {
        assert_eq!(world.get_failed(get), (DISC, 0));
    }
    assert_eq!(world.counts(ends.conn).gets, 0);
}

fn l7(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.backend.cancel(get);
    assert_eq!(world.get_failed(get).0, 0x8007_03E3);
    assert_eq!(hresult(NtStatus::CANCELLED), 0x8007_03E3);
    world.assert_alive(ends);
}

fn l8(world: &mut World) {
    let ends = world.fixture();
    world.backend.close_client_port(ends.conn);
    let start = world.backend.now();
    let get = world.backend.post(ends.client, 80);
    assert_eq!(world.get_failed(get), (DISC, 0));
    world.took(start, ms(0));
}

fn l9(world: &mut World) {
    let ends = world.fixture();
    let gets: Vec<_> = (0..1024)
        .map(|_| world.backend.get(ends.client, 16 + 8))
        .collect();
    world.gets_posted(ends.conn, 1024);
    let sends: Vec<_> = (0_u64..1024)
        .map(|number| world.send(ends.conn, &number.to_le_bytes(), Timeout::Never))
        .collect();
    for sent in sends {
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
    }
    let received: BTreeSet<_> = gets
        .into_iter()
        .map(|get| u64::from_le_bytes(world.got(get).payload.try_into().expect("eight bytes")))
        .collect();
    assert_eq!(received, (0..1024).collect());
    assert_eq!(world.counts(ends.conn).gets, 0);
}

fn l13(world: &mut World) {
    let ends = world.fixture();
    let gets = [(); 2].map(|()| world.backend.get(ends.client, 80));
    world.gets_posted(ends.conn, 2);
    let sends = [b"one", b"two"].map(|text| world.send(ends.conn, text, Timeout::Never));
    for sent in sends {
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
    }
    let mut received = gets.map(|get| world.got(get).payload);
    received.sort();
    assert_eq!(received, [b"one", b"two"]);
}

fn l18(world: &mut World) {
    let ends = world.fixture();
    let gets = posted(world, ends, 3);
    world.close(ends.client);
    for get in gets {
        assert_eq!(world.get_failed(get), (DISC, 0));
    }
}

fn l19(world: &mut World) {
    let ends = world.fixture();
    let gets = posted(world, ends, 4);
    let start = world.backend.now();
    let asks: Vec<_> = (0..4_u8)
        .map(|number| world.ask(ends.conn, &[number], 1, after(20_000)))
        .collect();
    let messages: Vec<_> = gets.into_iter().map(|get| world.got(get)).collect();
    assert_eq!(world.counts(ends.conn).outstanding, 4);
    // Each takes its time, all at once.
    for ask in &asks {
        world.stays(*ask, ms(100));
    }
    let replies: Vec<_> = messages
        .iter()
        .map(|got| {
            world
                .backend
                .reply(ends.client, got.message_id, NtStatus::SUCCESS, &got.payload)
        })
        .collect();
    for reply in replies {
        assert_eq!(world.replied(reply), OK);
    }
    for (number, ask) in (0..4_u8).zip(asks) {
        assert_eq!(world.sent(ask).reply, Some(vec![number]));
    }
    world.took(start, ms(400));
}

fn posted(world: &mut World, ends: Ends, count: usize) -> Vec<Op> {
    let gets = (0..count)
        .map(|_| world.backend.post(ends.client, 80))
        .collect();
    world.gets_posted(ends.conn, count);
    gets
}

//! D. Send without reply: a message is delivered inside its sender's call, or not at all.

use fltport::{NtStatus, Timeout};

use crate::case::{Case, case};
use crate::world::{World, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "D1",
        "D",
        &[],
        "a pending get takes the message, bytes after the header",
        d1,
    ),
    case(
        "D3",
        "D",
        &[],
        "without a get the sender waits until there is one",
        d3,
    ),
];

fn d1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 64);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(1, 64), Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, bytes(1, 64));
}

fn d3(world: &mut World) {
    let ends = world.fixture();
    let start = world.backend.now();
    let sent = world.send(ends.conn, &bytes(3, 64), Timeout::Never);
    world.stays(sent, ms(300));
    world.get(ends.client, 80);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.took(start, ms(300));
}

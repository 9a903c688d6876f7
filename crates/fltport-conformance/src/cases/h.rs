//! H. Cancellation and thread death: a get or a send that is given up takes nothing with it.

use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{Done, NOWAIT, Need, Op, hresult};
use crate::case::{Case, case};
use crate::world::{Ends, World, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "H1",
        "S",
        &[],
        "a cancelled get ends as aborted; the next message goes to another get",
        h1,
    ),
    case(
        "H2",
        "S",
        &[],
        "when each get of a handle is cancelled, one by one, each of them ends as aborted",
        h2,
    ),
    case(
        "H3",
        "WIN32",
        &[Need::WindowsArguments],
        "cancelling with nothing pending finds nothing",
        super::elsewhere,
    ),
    case(
        "H4",
        "WIN32",
        &[Need::ThreadOwners],
        "a thread that posted no get cancels none of another's",
        super::elsewhere,
    ),
    case(
        "H5",
        "I",
        &[],
        "cancels race with deliveries: as many messages are received as were delivered",
        h5,
    ),
    case(
        "H6",
        "I",
        &[],
        "a cancelled get does not disconnect the port",
        h6,
    ),
    case(
        "H7",
        "WIN32",
        &[],
        "a get whose owner goes away without waiting is withdrawn",
        h7,
    ),
    case(
        "H8",
        "WIN32",
        &[Need::ThreadOwners, Need::Overlapped],
        "a get of a handle with a completion port survives the thread that posted it",
        super::elsewhere,
    ),
    case(
        "H9",
        "D",
        &[],
        "a sender that ends while it waits for a get: its message is never delivered",
        h9,
    ),
    case(
        "H10",
        "D",
        &[],
        "a sender that ends while it waits for a reply: the late reply finds nobody",
        h10,
    ),
    case(
        "H11",
        "I",
        &[],
        "after a cancelled get a new one works",
        h11,
    ),
];

/// `ERROR_OPERATION_ABORTED`.
fn aborted() -> u32 {
    let result = hresult(NtStatus::CANCELLED);
    assert_eq!(result, 0x8007_0000 | 995);
    result
}

fn h1(world: &mut World) {
    let ends = world.fixture();
    let first = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let second = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 2);
    world.backend.cancel(first);
    assert_eq!(world.get_failed(first).0, aborted());
    world.stays(second, Duration::ZERO);
    delivers(world, ends, second, b"next");
}

fn h2(world: &mut World) {
    let ends = world.fixture();
    let gets: Vec<_> = (0..5)
        .map(|_| world.backend.post(ends.client, 80))
        .collect();
    world.gets_posted(ends.conn, gets.len());
    for get in &gets {
        world.backend.cancel(*get);
    }
    for get in &gets {
        assert_eq!(world.get_failed(*get).0, aborted());
    }
    world.gets_posted(ends.conn, 0);
}

fn h5(world: &mut World) {
    let ends = world.fixture();
    let (rounds, mut received) = (world.rounds(10_000), 0);
    for round in 0..rounds {
        let payload = bytes(round, 24);
        let get = world.backend.post(ends.client, 80);
        let sent = if round % 4 == 0 {
            world.backend.cancel(get);
            world.send(ends.conn, &payload, Timeout::Never)
        } else {
            let sent = world.send(ends.conn, &payload, Timeout::Never);
            // Each time a little later.
            (0..round % 97 * 20).for_each(|_| std::hint::spin_loop());
            world.backend.cancel(get);
            sent
        };
        let got = match world.done(get) {
            Done::Got(got) => got,
            Done::GetFailed(result, _) => {
                assert_eq!(result, aborted());
                world.get(ends.client, 80)
            }
            other => panic!("a get ended as {other:?}"),
        };
        assert_eq!(got.payload, payload, "in round {round}");
        received += 1;
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
    }
    let counts = world.counts(ends.conn);
    assert_eq!((counts.delivered, received), (rounds, rounds));
    assert_eq!(counts.waiting, 0);
    world.gets_posted(ends.conn, 0);
}

fn h6(world: &mut World) {
    let ends = world.fixture();
    cancel_one(world, ends);
    world.assert_alive(ends);
    assert_eq!(world.disconnects(), 0);
}

fn h7(world: &mut World) {
    let ends = world.fixture();
    let orphan = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.backend.abandon_get(orphan);
    world.gets_posted(ends.conn, 0);
    let heir = world.backend.post(ends.client, 80);
    delivers(world, ends, heir, b"for the living");
}

fn h9(world: &mut World) {
    let ends = world.fixture();
    let dies = world
        .backend
        .send_for_cancel(ends.conn, b"of the dead", 4, Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.backend.cancel_send(dies);
    assert_eq!(world.status(dies), NtStatus::THREAD_IS_TERMINATING);
    assert_eq!(world.counts(ends.conn).waiting, 0);
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.stays(get, ms(100));
    delivers(world, ends, get, b"of the living");
}

fn h10(world: &mut World) {
    let ends = world.fixture();
    let dies = world
        .backend
        .send_for_cancel(ends.conn, b"question", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    world.replies_awaited(ends.conn, 1);
    world.backend.cancel_send(dies);
    assert_eq!(world.status(dies), NtStatus::THREAD_IS_TERMINATING);
    let late = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late");
    assert_eq!(late, NOWAIT);
    world.assert_alive(ends);
}

fn h11(world: &mut World) {
    let ends = world.fixture();
    cancel_one(world, ends);
    let get = world.backend.post(ends.client, 80);
    delivers(world, ends, get, b"again");
}

/// A get that is posted and cancelled.
fn cancel_one(world: &mut World, ends: Ends) {
    let get = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.backend.cancel(get);
    assert_eq!(world.get_failed(get).0, aborted());
}

/// The next message is this get's.
fn delivers(world: &mut World, ends: Ends, get: Op, payload: &[u8]) {
    let sent = world.send(ends.conn, payload, Timeout::Never);
    assert_eq!(world.got(get).payload, payload);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

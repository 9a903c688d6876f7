//! E. Get: sizes, waiting, and the header that a message comes with.

use std::collections::BTreeSet;
use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{ClientId, DISC, Done, Need, OK, Op, Who, hresult};
use crate::case::{Case, case};
use crate::world::{World, after, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case("E1", "D", &[], "a get of just the right size succeeds", e1),
    case(
        "E2",
        "X",
        &[],
        "a get that is one byte too small fails; the sender goes on waiting for a bigger one",
        e2,
    ),
    case(
        "E3",
        "X",
        &[],
        "after a get that was too small, and no other, the sender times out",
        e3,
    ),
    case(
        "E4",
        "X",
        &[],
        "a posted get that is too small ends with the size it should have had",
        e4,
    ),
    case(
        "E5",
        "X",
        &[],
        "of a small get and a bigger one behind it, the one that fits takes the message",
        e5,
    ),
    case(
        "E6",
        "X",
        &[],
        "the small get that was passed over takes a message that fits it",
        e6,
    ),
    case(
        "E7",
        "I",
        &[],
        "a get of a header's size takes an empty message",
        e7,
    ),
    case("E8", "X", &[], "a get of size 0 fails at once", e8),
    case(
        "E9",
        "X",
        &[Need::WindowsArguments],
        "a get without a buffer fails at once",
        super::elsewhere,
    ),
    case(
        "E10",
        "I",
        &[],
        "a get smaller than a header fails as too small, and harms nothing",
        e10,
    ),
    case(
        "E11",
        "I",
        &[Need::WindowsArguments],
        "a get into a buffer at an odd address succeeds",
        super::elsewhere,
    ),
    case(
        "E12",
        "I",
        &[],
        "a get on a handle that was closed fails with 0x80070006",
        e12,
    ),
    case(
        "E13",
        "I",
        &[Need::OtherHandles],
        "a regular file is no connection: it is refused before any get (Client::from_fd)",
        e13,
    ),
    case(
        "E14",
        "X",
        &[Need::WindowsArguments],
        "a get into read-only memory fails, and the message goes to the next get",
        super::elsewhere,
    ),
    case(
        "E15",
        "D",
        &[],
        "a get blocks for a second, and in a process of its own without using its processor",
        e15,
    ),
    case(
        "E16",
        "I",
        &[],
        "a get through a handle and one through its duplicate: one message completes one (here: one process)",
        e16,
    ),
    case(
        "E17",
        "D",
        &[],
        "a reply capacity of 4 shows as reply length 20",
        e17,
    ),
    case(
        "E18",
        "I",
        &[],
        "a reply capacity of 0 shows as reply length 16",
        e18,
    ),
    case(
        "E19",
        "D,X",
        &[],
        "10,000 messages that want replies have 10,000 different ids, none of them 0",
        e19,
    ),
    case(
        "E20",
        "X",
        &[],
        "the first message of a connection that wants a reply has id 1",
        e20,
    ),
];

/// A get for a message that is too long for it.
fn too_small() -> u32 {
    hresult(NtStatus::BUFFER_TOO_SMALL)
}

fn e1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 64);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(1, 64), Timeout::Never);
    assert_eq!(world.got(get).payload, bytes(1, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn e2(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 63);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(2, 64), Timeout::Never);
    assert_eq!(world.get_failed(get).0, 0x8007_007A);
    world.stays(sent, ms(200));
    assert_eq!(world.get(ends.client, 16 + 64).payload, bytes(2, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn e3(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 63);
    world.gets_posted(ends.conn, 1);
    let start = world.backend.now();
    let sent = world.send(ends.conn, &bytes(3, 64), after(500));
    assert_eq!(world.get_failed(get).0, too_small());
    assert_eq!(world.status(sent), NtStatus::TIMEOUT);
    world.took(start, ms(500));
}

fn e4(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.post(ends.client, 16 + 63);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(4, 64), Timeout::Never);
    assert_eq!(world.get_failed(get), (too_small(), 80));
    world.get(ends.client, 80);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

/// A small get, passed over by a message that a bigger one behind it took.
fn passed_over(world: &mut World) -> (crate::world::Ends, Op) {
    let ends = world.fixture();
    let small = world.backend.post(ends.client, 16 + 10);
    world.gets_posted(ends.conn, 1);
    let big = world.backend.post(ends.client, 16 + 64);
    world.gets_posted(ends.conn, 2);
    let sent = world.send(ends.conn, &bytes(5, 64), Timeout::Never);
    assert_eq!(world.got(big).payload, bytes(5, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    (ends, small)
}

fn e5(world: &mut World) {
    let (ends, small) = passed_over(world);
    world.stays(small, ms(200));
    assert_eq!(world.counts(ends.conn).gets, 1);
}

fn e6(world: &mut World) {
    let (ends, small) = passed_over(world);
    let sent = world.send(ends.conn, &bytes(6, 10), Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(small).payload, bytes(6, 10));
}

fn e7(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, b"", Timeout::Never);
    assert_eq!(world.got(get).payload, b"");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn e8(world: &mut World) {
    let ends = world.fixture();
    let start = world.backend.now();
    let get = world.backend.get(ends.client, 0);
    // Which code is left open.
    assert_ne!(world.get_failed(get).0, OK);
    world.took(start, ms(0));
    world.assert_alive(ends);
}

fn e10(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 8);
    // At once or when a message comes: both are allowed.
    let sent = world.send(ends.conn, &bytes(10, 64), Timeout::Never);
    assert_eq!(world.get_failed(get).0, too_small());
    assert_eq!(world.get(ends.client, 80).payload, bytes(10, 64));
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.assert_alive(ends);
}

fn e12(world: &mut World) {
    let ends = world.fixture();
    world.close(ends.client);
    let get = world.backend.get(ends.client, 80);
    assert_eq!(world.get_failed(get).0, DISC);
}

fn e13(world: &mut World) {
    let op = world.backend.connect_file();
    let Done::Connected(Err(result)) = world.done(op) else {
        panic!("a regular file was taken for a connection");
    };
    assert_ne!(result, OK);
}

fn e15(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    // Where clients live beside other stories, what the processor did is not theirs alone.
    let measured = world.can(Need::Processes);
    let pid = world.backend.pid(Who::default());
    let used = |measured: bool| measured.then(|| processor_time(pid));
    let before = used(measured);
    world.stays(get, ms(1000));
    if let Some((before, now)) = before.zip(used(measured)) {
        let used = now.saturating_sub(before);
        assert!(used <= ms(100), "used {used:?} while it waited");
    }
    let sent = world.send(ends.conn, b"at last", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, b"at last");
}

/// What a process has used of its processors.
fn processor_time(pid: u32) -> Duration {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(path).expect("the process is there");
    // After the name, which may hold anything, come fields with spaces between; user and system time are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_secs(ticks)
        / u32::try_from(rustix::param::clock_ticks_per_second()).expect("few")
}

fn e16(world: &mut World) {
    let ends = world.fixture();
    let twin = world.backend.duplicate(ends.client);
    let mut gets = [ends.client, twin].map(|client| world.backend.get(client, 80));
    world.gets_posted(ends.conn, 2);
    let sent = world.send(ends.conn, b"one", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    let mut taken = None;
    world.until("one of two gets ends", |world| {
        let [first, second] = gets.map(|get| world.backend.take(get, Duration::ZERO));
        assert!(first.is_none() || second.is_none(), "both have ended");
        if first.is_some() {
            gets.reverse();
        }
        taken = first.or(second);
        taken.is_some()
    });
    assert!(matches!(taken, Some(Done::Got(got)) if got.payload == b"one"));
    world.stays(gets[0], ms(200));
    let sent = world.send(ends.conn, b"two", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(gets[0]).payload, b"two");
}

fn e17(world: &mut World) {
    assert_eq!(reply_length(world, 4), 20);
}

fn e18(world: &mut World) {
    assert_eq!(reply_length(world, 0), 16);
}

fn reply_length(world: &mut World, capacity: u32) -> u32 {
    let ends = world.fixture();
    let ask = world.ask(ends.conn, b"?", capacity, Timeout::Never);
    let got = world.get(ends.client, 80);
    let replied = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"");
    assert_eq!(replied, OK);
    assert_eq!(world.status(ask), NtStatus::SUCCESS);
    got.reply_length
}

fn e19(world: &mut World) {
    const AT_ONCE: u64 = 50;
    let ends = world.fixture();
    let mut ids = BTreeSet::new();
    for _ in 0..10_000 / AT_ONCE {
        let asks: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                world
                    .backend
                    .send_for_cancel(ends.conn, b"?", 0, Timeout::Never)
            })
            .collect();
        let ids_now = ids_of(world, ends.client, AT_ONCE);
        let replies: Vec<_> = ids_now
            .iter()
            .map(|id| {
                world
                    .backend
                    .reply(ends.client, *id, NtStatus::SUCCESS, b"")
            })
            .collect();
        for (ask, reply) in asks.into_iter().zip(replies) {
            assert_eq!(world.replied(reply), OK);
            assert_eq!(world.status(ask), NtStatus::SUCCESS);
        }
        for id in ids_now {
            assert!(id != 0 && ids.insert(id), "message id {id}");
        }
    }
    assert_eq!(ids.len(), 10_000);
}

/// The ids of so many messages that wait.
fn ids_of(world: &mut World, client: ClientId, count: u64) -> Vec<u64> {
    let gets: Vec<_> = (0..count).map(|_| world.backend.get(client, 80)).collect();
    gets.into_iter()
        .map(|get| world.got(get).message_id)
        .collect()
}

fn e20(world: &mut World) {
    let ends = world.fixture();
    // One that wants none uses up no id.
    let sent = world.send(ends.conn, b"!", Timeout::Never);
    assert_eq!(world.get(ends.client, 80).message_id, 0);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    let ask = world.ask(ends.conn, b"?", 0, Timeout::Never);
    assert_eq!(world.get(ends.client, 80).message_id, 1);
    world.reply(ends.client, 1, NtStatus::SUCCESS, b"");
    assert_eq!(world.status(ask), NtStatus::SUCCESS);
}

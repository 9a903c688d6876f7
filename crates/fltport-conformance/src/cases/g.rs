//! G. Timeouts: one deadline for delivery and reply, relative or absolute, and what a send leaves behind when it ends so.

use std::time::Duration;

use fltport::{NtStatus, Timeout, WallTime};

use crate::backend::{ConnId, NOWAIT, Need, OK};
use crate::case::{Case, case};
use crate::world::{Ends, World, after, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "G1",
        "D",
        &[],
        "delivered and never answered, a send ends at its deadline; the late reply finds nobody",
        g1,
    ),
    case(
        "G2",
        "D",
        &[],
        "the time that delivery took is not given again to the reply",
        g2,
    ),
    case(
        "G3",
        "D",
        &[],
        "an absolute time ends a send when the clock reaches it",
        g3,
    ),
    case(
        "G4",
        "I",
        &[],
        "an absolute time in the past, no get: a timeout at once",
        g4,
    ),
    case(
        "G5",
        "I",
        &[],
        "an absolute time in the past is a poll: a get that is posted is served",
        g5,
    ),
    case("G6", "I", &[], "zero, no get: a timeout at once", g6),
    case(
        "G7",
        "I",
        &[],
        "zero is a poll: a get that is posted is served",
        g7,
    ),
    case(
        "G8",
        "D",
        &[],
        "without a timeout a send is still blocked after two seconds",
        g8,
    ),
    case(
        "G9",
        "D",
        &[],
        "a timeout passes NT_SUCCESS, and all the same no call gives it out as a success",
        g9,
    ),
    case(
        "G10",
        "I",
        &[],
        "a send that timed out takes no get of another connection and spoils no later send",
        g10,
    ),
    case(
        "G11",
        "I",
        &[],
        "the largest relative time is no limit, and nothing overflows",
        g11,
    ),
    case(
        "G12",
        "I",
        &[Need::WindowsArguments],
        "the caller's timeout is not modified",
        super::elsewhere,
    ),
    case(
        "G13",
        "WIN32,I",
        &[Need::WallClock],
        "setting the clock forward ends an absolute wait and not a relative one",
        g13,
    ),
];

/// The longest relative time that Windows can express, in units of 100 ns.
const LONGEST: u64 = 1 << 63;

fn g1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let start = world.backend.now();
    let ask = world.ask(ends.conn, &bytes(1, 64), 4, after(200));
    let got = world.got(get);
    assert_eq!(world.status(ask), NtStatus::TIMEOUT);
    world.took(start, ms(200));
    let late = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late");
    assert_eq!(late, NOWAIT);
}

fn g2(world: &mut World) {
    // Long enough that a second budget for the reply would be seen on a busy machine, too.
    let ends = world.fixture();
    let start = world.backend.now();
    let ask = world.ask(ends.conn, b"slow", 4, after(6_000));
    world.sends_waiting(ends.conn, 1);
    world.pass(ms(4_000));
    let got = world.get(ends.client, 80);
    assert_eq!(world.status(ask), NtStatus::TIMEOUT);
    world.took(start, ms(6_000));
    let late = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late");
    assert_eq!(late, NOWAIT);
}

fn g3(world: &mut World) {
    let ends = world.fixture();
    let start = world.backend.now();
    let time = from_now(world, ends.conn, ms(300));
    let sent = world.send(ends.conn, b"when?", Timeout::At(time));
    assert_eq!(world.status(sent), NtStatus::TIMEOUT);
    // The clock that is set by a time server may run a little faster than the one that measures.
    world.took(start, ms(299));
}

fn g4(world: &mut World) {
    let ends = world.fixture();
    for past in [past(world, ends.conn), WallTime::default()] {
        times_out_at_once(world, ends, Timeout::At(past));
    }
}

fn g5(world: &mut World) {
    let ends = world.fixture();
    for past in [past(world, ends.conn), WallTime::default()] {
        serves_a_posted_get(world, ends, Timeout::At(past));
    }
}

fn g6(world: &mut World) {
    let ends = world.fixture();
    times_out_at_once(world, ends, after(0));
}

fn g7(world: &mut World) {
    let ends = world.fixture();
    serves_a_posted_get(world, ends, after(0));
}

fn g8(world: &mut World) {
    let ends = world.fixture();
    let sent = world.send(ends.conn, b"patient", Timeout::Never);
    let other = world.join(ends.port);
    let get = world.backend.get(other.client, 80);
    world.gets_posted(other.conn, 1);
    let ask = world.ask(other.conn, b"patient too", 4, Timeout::Never);
    let got = world.got(get);
    world.stays(sent, ms(2_000));
    world.stays(ask, Duration::ZERO);
    assert_eq!(world.get(ends.client, 80).payload, b"patient");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    let reply = world.reply(other.client, got.message_id, NtStatus::SUCCESS, b"yes");
    assert_eq!(reply, OK);
    assert_eq!(world.status(ask), NtStatus::SUCCESS);
}

fn g9(world: &mut World) {
    assert!(NtStatus::TIMEOUT.is_nt_success());
    let ends = world.fixture();
    let notified = world.send(ends.conn, b"nobody", after(50));
    let notified = world.sent(notified);
    assert_eq!(notified.status, NtStatus::TIMEOUT.0);
    assert_eq!(notified.delivered, Some(false));
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let asked = world.ask(ends.conn, b"somebody", 4, after(200));
    world.got(get);
    let asked = world.sent(asked);
    assert_eq!(asked.status, NtStatus::TIMEOUT.0);
    assert_eq!((asked.reply, asked.delivered), (None, Some(true)));
}

fn g10(world: &mut World) {
    let ends = world.fixture();
    let other = world.join(ends.port);
    let get = world.backend.get(other.client, 80);
    world.gets_posted(other.conn, 1);
    let sent = world.send(ends.conn, b"too late", after(100));
    assert_eq!(world.status(sent), NtStatus::TIMEOUT);
    world.stays(get, ms(100));
    assert_eq!(world.counts(other.conn).gets, 1);

    let next = world.send(ends.conn, b"in time", Timeout::Never);
    assert_eq!(world.get(ends.client, 80).payload, b"in time");
    assert_eq!(world.status(next), NtStatus::SUCCESS);
    let there = world.send(other.conn, b"there", Timeout::Never);
    assert_eq!(world.got(get).payload, b"there");
    assert_eq!(world.status(there), NtStatus::SUCCESS);
}

fn g11(world: &mut World) {
    let ends = world.fixture();
    let seconds = Duration::from_secs(LONGEST / 10_000_000);
    let longest = seconds + Duration::from_nanos(LONGEST % 10_000_000 * 100);
    for wait in [longest, Duration::MAX] {
        let sent = world.send(ends.conn, b"for ever", Timeout::After(wait));
        world.sends_waiting(ends.conn, 1);
        world.stays(sent, ms(500));
        let get = world.get(ends.client, 80);
        assert_eq!(get.payload, b"for ever");
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
        let ask = world.ask(ends.conn, b"for ever", 4, Timeout::After(wait));
        let got = world.get(ends.client, 80);
        world.stays(ask, ms(100));
        let reply = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"yes");
        assert_eq!(reply, OK);
        assert_eq!(world.status(ask), NtStatus::SUCCESS);
    }
}

fn g13(world: &mut World) {
    let ends = world.fixture();
    let hour = Duration::from_secs(3_600);
    let start = world.backend.now();
    let time = from_now(world, ends.conn, hour / 2);
    let relative = world.send(ends.conn, b"relative", Timeout::After(ms(500)));
    let absolute = world.send(ends.conn, b"absolute", Timeout::At(time));
    world.stays(absolute, ms(100));
    world.backend.set_wall(hour);
    assert_eq!(world.status(absolute), NtStatus::TIMEOUT);
    world.took(start, ms(100));
    world.stays(relative, ms(390));
    assert_eq!(world.status(relative), NtStatus::TIMEOUT);
    world.took(start, ms(500));
}

/// Neither a message nor a question finds a get, and neither waits for one.
fn times_out_at_once(world: &mut World, ends: Ends, timeout: Timeout) {
    let start = world.backend.now();
    let sent = world.send(ends.conn, b"now or never", timeout);
    assert_eq!(world.status(sent), NtStatus::TIMEOUT);
    let ask = world.ask(ends.conn, b"now or never", 4, timeout);
    assert_eq!(world.status(ask), NtStatus::TIMEOUT);
    world.took(start, Duration::ZERO);
    assert_eq!(world.counts(ends.conn).delivered, 0);
}

fn serves_a_posted_get(world: &mut World, ends: Ends, timeout: Timeout) {
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, b"a poll", timeout);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, b"a poll");
}

/// The wall clock of a connection's host, so much later.
fn from_now(world: &mut World, conn: ConnId, later: Duration) -> WallTime {
    let ticks = u64::try_from(later.as_nanos() / 100).expect("a short time");
    WallTime::from_ticks(world.backend.wall(conn).as_ticks() + ticks)
}

/// A second ago on that clock.
fn past(world: &mut World, conn: ConnId) -> WallTime {
    WallTime::from_ticks(world.backend.wall(conn).as_ticks() - 10_000_000)
}

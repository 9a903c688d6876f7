//! N. Concurrency and stress, as much of it as a story can tell: everything ends, and everybody is told the truth.

use fltport::{NtStatus, Timeout};

use super::random::Random;
use crate::backend::{Callback, ClientId, DISC, Done, OK, Op, PortSpec, Sent, Who, hresult};
use crate::case::{Case, case};
use crate::world::{Death, Ends, LIMIT, NAME, World, after, bytes, holds, ms, spec};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    case("N1", "D", &[], "32 clients get and reply while some of them die: no hang, and as many disconnects as connects", n1),
    case("N2", "X", &[], "a random mix of sends, gets, cancels and replies: every race has one of its outcomes", super::n_mix::n2),
    case("N3", "D", &[], "a closed client port ends 8 senders: disconnected, or what had come before", n3),
    case("N4", "I", &[], "connects while the server port is closed and made again: in, not found, or full", n4),
    case("N5", "D", &[], "a send that is blocked on one connection does not delay another", n5),
    case("N6", "I", &[], "a blocked message callback does not block sends and gets of its connection", n6),
    case("N7", "I", &[], "1000 blocked senders all return when the client disconnects", n7),
    case("N8", "D", &[], "a client that does not get makes the host keep nothing", n8),
];

/// Clients that live in one process.
const HOUSEHOLD: u32 = 4;

#[derive(Clone, Copy)]
struct Member {
    who: Who,
    ends: Ends,
}

fn n1(world: &mut World) {
    let port = world.create(&PortSpec {
        max_connections: 64,
        ..spec()
    });
    let mut random = Random::new();
    let mut members: Vec<_> = (0..32)
        .map(|number| member(world, port, number / HOUSEHOLD))
        .collect();
    let (time, start) = (world.lasts(ms(10_000)), world.backend.now());
    let mut rounds = 0;
    while rounds < 20 || world.backend.now() < start + time {
        rounds += 1;
        let calls: Vec<_> = members
            .iter()
            .map(|member| call(world, *member, rounds))
            .collect();
        let dying = random.below(16);
        let dying = u32::try_from(dying)
            .ok()
            .filter(|process| *process < 32 / HOUSEHOLD);
        for member in &members {
            if dying == Some(member.who.process) {
                world.dies(member.who, member.ends.client, Death::Kill);
            }
        }
        for (member, (asked, get)) in members.iter_mut().zip(calls) {
            if dying == Some(member.who.process) {
                assert_eq!(world.status(asked), NtStatus::PORT_DISCONNECTED);
                *member = self::member(world, port, member.who.process);
            } else {
                answer(world, *member, asked, get, rounds);
            }
        }
        world.pass(ms(10));
    }
    for member in members {
        world.close(member.ends.client);
    }
    world.until("every connection is over", |world| {
        world.disconnects() == world.connects()
    });
    assert!(world.connects() >= 32);
}

fn member(world: &mut World, port: crate::backend::PortId, process: u32) -> Member {
    let who = Who {
        process,
        user: None,
    };
    let (client, conn) = world.connected(who, NAME, b"");
    Member {
        who,
        ends: Ends { port, client, conn },
    }
}

fn call(world: &mut World, member: Member, round: u64) -> (Op, Op) {
    let asked = world.ask(
        member.ends.conn,
        &round.to_le_bytes(),
        8,
        Timeout::After(LIMIT),
    );
    (asked, world.backend.get(member.ends.client, 16 + 8))
}

fn answer(world: &mut World, member: Member, asked: Op, get: Op, round: u64) {
    let got = world.got(get);
    assert_eq!(got.payload, round.to_le_bytes());
    let reply = bytes(round, 8);
    let replied = world.reply(
        member.ends.client,
        got.message_id,
        NtStatus::SUCCESS,
        &reply,
    );
    assert_eq!(replied, OK);
    assert_eq!(world.sent(asked).reply, Some(reply));
}

fn n3(world: &mut World) {
    let port = world.create(&spec());
    for round in 0..world.rounds(300) {
        let ends = world.join(port);
        let gets: Vec<_> = (0..4).map(|_| world.backend.get(ends.client, 80)).collect();
        world.gets_posted(ends.conn, 4);
        let sends: Vec<_> = (0..8_u8)
            .map(|number| world.send(ends.conn, &[number], Timeout::Never))
            .collect();
        if round % 2 == 0 {
            world.backend.step();
        }
        world.backend.close_client_port(ends.conn);
        let mut delivered: Vec<_> = Vec::new();
        for (number, sent) in (0..8).zip(sends) {
            match world.status(sent) {
                NtStatus::SUCCESS => delivered.push(vec![number]),
                status => assert_eq!(status, NtStatus::PORT_DISCONNECTED),
            }
        }
        let mut received = Vec::new();
        for get in gets {
            match world.done(get) {
                Done::Got(got) => received.push(got.payload),
                end => assert_eq!(end, Done::GetFailed(DISC, 0)),
            }
        }
        received.sort();
        assert_eq!(received, delivered);
        world.close(ends.client);
        world.forget();
    }
}

fn n4(world: &mut World) {
    let mut port = world.create(&spec());
    let (full, absent) = (
        hresult(NtStatus::CONNECTION_COUNT_LIMIT),
        hresult(NtStatus::OBJECT_NAME_NOT_FOUND),
    );
    let (mut inside, mut rounds) = (0, 0);
    while rounds < world.rounds(300) || inside == 0 {
        rounds += 1;
        let before: Vec<_> = (0..3)
            .map(|_| world.backend.connect(Who::default(), NAME, b""))
            .collect();
        world.backend.close_port(port);
        let between = world.backend.connect(Who::default(), NAME, b"");
        port = world.create(&spec());
        let after = world.backend.connect(Who::default(), NAME, b"");
        let mut clients: Vec<ClientId> = Vec::new();
        for op in before.into_iter().chain([between, after]) {
            match world.done(op) {
                Done::Connected(Ok(client)) => clients.push(client),
                Done::Connected(Err(result)) => {
                    assert!(
                        result == full || result == absent,
                        "0x{result:08X}, round {rounds}"
                    );
                }
                other => panic!("a connect ended as {other:?}"),
            }
        }
        inside += clients.len();
        for client in clients {
            world.close(client);
        }
    }
    world.until("every connection is over", |world| {
        world.disconnects() == world.connects()
    });
}

fn n5(world: &mut World) {
    let port = world.create(&spec());
    let (blocked, free) = (world.join(port), world.join(port));
    let waiting = world.send(blocked.conn, b"blocked", Timeout::Never);
    world.sends_waiting(blocked.conn, 1);
    for _ in 0..100 {
        world.assert_alive(free);
    }
    assert_eq!(world.counts(blocked.conn).waiting, 1);
    assert_eq!(world.get(blocked.client, 80).payload, b"blocked");
    assert_eq!(world.status(waiting), NtStatus::SUCCESS);
}

fn n6(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, holds());
    let request = world.backend.request(ends.client, b"blocked", 16);
    let call = world.message_call();
    for _ in 0..10 {
        world.assert_alive(ends);
    }
    let sent = world.send(ends.conn, b"without reply", Timeout::Never);
    assert_eq!(world.get(ends.client, 80).payload, b"without reply");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.stays(request, ms(50));
    world.backend.release(call);
    assert_eq!(world.response(request), (OK, b"blocked".to_vec()));
}

fn n7(world: &mut World) {
    let ends = world.fixture();
    let sends: Vec<_> = (0..1000_u32)
        .map(|number| world.ask(ends.conn, &number.to_le_bytes(), 4, Timeout::Never))
        .collect();
    world.sends_waiting(ends.conn, 1000);
    let start = world.backend.now();
    let closing = world.backend.close(ends.client);
    for sent in sends {
        let Sent {
            status,
            reply,
            delivered,
        } = world.sent(sent);
        assert_eq!(NtStatus(status), NtStatus::PORT_DISCONNECTED);
        assert_eq!((reply, delivered), (None, Some(false)));
    }
    world.within(start, ms(1000));
    assert_eq!(world.done(closing), Done::Closed);
}

fn n8(world: &mut World) {
    let ends = world.fixture();
    // Sixty-four of them are kept at a time, by their senders.
    let payload = bytes(8, 1 << 20);
    let before = resident();
    for _ in 0..16 {
        let sends: Vec<_> = (0..64)
            .map(|_| world.send(ends.conn, &payload, after(20)))
            .collect();
        for sent in sends {
            assert_eq!(world.status(sent), NtStatus::TIMEOUT);
        }
        let counts = world.counts(ends.conn);
        assert_eq!((counts.gets, counts.waiting, counts.outstanding), (0, 0, 0));
    }
    // A gigabyte was sent. Other stories run beside this one and have memory too.
    let grown = resident().saturating_sub(before);
    assert!(grown < 512 << 20, "{} MiB more are in memory", grown >> 20);
    let sent = world.send(ends.conn, b"the only one", Timeout::Never);
    assert_eq!(world.get(ends.client, 16 + 16).payload, b"the only one");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel counts memory");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number of pages") * u64::try_from(rustix::param::page_size()).expect("a size")
}

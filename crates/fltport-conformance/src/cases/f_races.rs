//! F, from F19 on: replies that meet each other, their sender's sleep, or its deadline; and replies without room.

use std::collections::BTreeMap;
use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{Done, NOWAIT, Need, OK, Op, Sent, hresult};
use crate::case::{Case, case};
use crate::world::{Ends, LIMIT, World, after, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "F19",
        "X",
        &[Need::Parallel],
        "two threads reply to one id at once, 1,000 times: one succeeds, one finds nobody",
        f19,
    ),
    case(
        "F20",
        "S",
        &[Need::WindowsArguments],
        "one buffer for message and reply: the reply lands there, the receiver saw the message",
        super::elsewhere,
    ),
    case(
        "F21",
        "X",
        &[Need::Parallel],
        "a reply that comes before its sender sleeps is not lost, 10,000 times",
        f21,
    ),
    case(
        "F22",
        "D",
        &[],
        "64 senders at once and 8 repliers: every sender gets the reply made of its own message",
        f22,
    ),
    case(
        "F23",
        "S",
        &[Need::Overlapped],
        "a reply on a handle with a completion port posts no packet",
        super::elsewhere,
    ),
    case(
        "F24",
        "X",
        &[],
        "deadlines near the reply, 10,000 times: a reply succeeded exactly if its sender got it",
        f24,
    ),
    case(
        "F25",
        "I",
        &[],
        "with capacity 0 an empty reply succeeds, one byte is too long on both sides",
        f25,
    ),
];

fn f19(world: &mut World) {
    let ends = world.fixture();
    let twin = world.backend.duplicate(ends.client);
    for round in 0..1000 {
        let ask = world.ask(ends.conn, b"?", 1, Timeout::Never);
        let id = world.get(ends.client, 80).message_id;
        let replies = [(ends.client, b"a"), (twin, b"b")]
            .map(|(client, reply)| world.backend.reply(client, id, NtStatus::SUCCESS, reply));
        let results = replies.map(|reply| world.replied(reply));
        let winner = match results {
            [OK, NOWAIT] => b"a",
            [NOWAIT, OK] => b"b",
            other => panic!("round {round}: two replies came to {other:08X?}"),
        };
        let sent = world.sent(ask);
        assert_eq!(sent.status, 0, "round {round}");
        assert_eq!(sent.reply.as_deref(), Some(&winner[..]), "round {round}");
    }
}

/// Every bit turned over, as a serving client replies.
fn turned(payload: &[u8]) -> Vec<u8> {
    payload.iter().map(|byte| !byte).collect()
}

/// Ends a serving client and gives what it did, by the numbers of its messages.
fn stop_serving(world: &mut World, ends: Ends, serving: Op) -> BTreeMap<u64, u32> {
    let stop = world.ask(ends.conn, b"", 0, Timeout::After(LIMIT));
    assert_eq!(world.status(stop), NtStatus::SUCCESS);
    let Done::Served(served) = world.done(serving) else {
        panic!("serving ended as something else");
    };
    let count = served.len();
    let by_number: BTreeMap<_, _> = served.into_iter().collect();
    assert_eq!(by_number.len(), count, "a message was delivered twice");
    by_number
}

fn f21(world: &mut World) {
    let ends = world.fixture();
    let serving = world.backend.serve(ends.client);
    for round in 0..10_000_u64 {
        let ask = world.ask(ends.conn, &round.to_le_bytes(), 8, Timeout::After(LIMIT));
        let sent = world.sent(ask);
        assert_eq!(sent.status, 0, "round {round}");
        assert_eq!(
            sent.reply,
            Some(turned(&round.to_le_bytes())),
            "round {round}"
        );
    }
    let served = stop_serving(world, ends, serving);
    assert!(served.keys().copied().eq(0..10_000), "not each once");
    assert!(served.values().all(|result| *result == OK));
}

/// One of F22's threads that reply.
enum Replier {
    Getting(Op),
    Replying(Op),
}

fn f22(world: &mut World) {
    const SENDERS: u64 = 64;
    const MESSAGES: u64 = 10;
    let ends = world.fixture();
    let send = |world: &mut World, number: u64| {
        world.ask(ends.conn, &number.to_le_bytes(), 8, Timeout::Never)
    };
    let mut repliers: Vec<_> = (0..8)
        .map(|_| Replier::Getting(world.backend.get(ends.client, 80)))
        .collect();
    let mut senders: Vec<_> = (0..SENDERS)
        .map(|number| (number, send(world, number)))
        .collect();
    let mut answered = 0;
    let mut last = world.backend.now();
    while answered < SENDERS * MESSAGES {
        let mut busy = false;
        for replier in &mut repliers {
            busy |= go_on(world, ends, replier);
        }
        for (number, ask) in &mut senders {
            let Some(done) = world.backend.take(*ask, Duration::ZERO) else {
                continue;
            };
            let Done::Sent(Sent {
                status: 0, reply, ..
            }) = done
            else {
                panic!("a send ended as {done:?}");
            };
            assert_eq!(reply, Some(turned(&number.to_le_bytes())));
            answered += 1;
            busy = true;
            *number += SENDERS;
            if *number < SENDERS * MESSAGES {
                *ask = send(world, *number);
            }
        }
        if busy {
            last = world.backend.now();
        } else {
            assert!(world.backend.now() < last + LIMIT, "stuck at {answered}");
            world.backend.step();
        }
    }
}

/// The replier's next step, if the one before has ended; whether it had.
fn go_on(world: &mut World, ends: Ends, replier: &mut Replier) -> bool {
    let (Replier::Getting(op) | Replier::Replying(op)) = replier;
    let Some(done) = world.backend.take(*op, Duration::ZERO) else {
        return false;
    };
    *replier = match done {
        Done::Got(got) => {
            let reply = turned(&got.payload);
            let status = NtStatus::SUCCESS;
            let reply = world
                .backend
                .reply(ends.client, got.message_id, status, &reply);
            Replier::Replying(reply)
        }
        Done::Replied(OK) => Replier::Getting(world.backend.get(ends.client, 80)),
        other => panic!("a replier's call ended as {other:?}"),
    };
    true
}

fn f24(world: &mut World) {
    if world.can(Need::Parallel) {
        near_deadlines(world);
    } else {
        stepped_deadlines(world);
    }
}

/// The deadline follows the reply: later after a timeout, earlier after a reply.
fn near_deadlines(world: &mut World) {
    let ends = world.fixture();
    let serving = world.backend.serve(ends.client);
    let mut sends = BTreeMap::new();
    let mut timeout = ms(1);
    for round in 0..10_000_u64 {
        let ask = world.ask(ends.conn, &round.to_le_bytes(), 8, Timeout::After(timeout));
        let sent = world.sent(ask);
        timeout = if sent.status == 0 {
            timeout - timeout / 8
        } else {
            timeout + timeout / 7 + Duration::from_nanos(100)
        };
        sends.insert(round, sent);
    }
    let mut served = stop_serving(world, ends, serving);
    let (mut replied, mut late) = (0, 0);
    for (round, sent) in sends {
        let result = served.remove(&round);
        let reply = Some(turned(&round.to_le_bytes()));
        match result {
            Some(OK) => {
                assert_eq!((sent.status, sent.reply), (0, reply), "round {round}");
                replied += 1;
            }
            Some(NOWAIT) => {
                assert_eq!((sent.status, sent.reply), (0x102, None), "round {round}");
                assert_eq!(sent.delivered, Some(true), "round {round}");
                late += 1;
            }
            None => {
                assert_eq!((sent.status, sent.reply), (0x102, None), "round {round}");
                assert_eq!(sent.delivered, Some(false), "round {round}");
            }
            Some(other) => panic!("round {round}: a reply ended as {other:08X}"),
        }
    }
    assert!(served.is_empty(), "a message that nobody sent");
    assert!(replied > 0 && late > 0, "{replied} in time, {late} late");
}

/// Where time stands still: replies from well before the deadline to well after it.
fn stepped_deadlines(world: &mut World) {
    let ends = world.fixture();
    for round in 0..10_000_u64 {
        let (payload, thinks) = (round.to_le_bytes(), round % 7);
        let ask = world.ask(ends.conn, &payload, 8, after(3));
        let id = world.get(ends.client, 80).message_id;
        world.pass(ms(thinks));
        let replied = world.reply(ends.client, id, NtStatus::SUCCESS, &turned(&payload));
        let sent = world.sent(ask);
        let expected = match thinks {
            0..3 => (OK, NtStatus::SUCCESS.0, Some(turned(&payload))),
            _ => (NOWAIT, NtStatus::TIMEOUT.0, None),
        };
        assert_eq!((replied, sent.status, sent.reply), expected, "{thinks} ms");
    }
}

fn f25(world: &mut World) {
    let ends = world.fixture();
    let overflow = NtStatus::BUFFER_OVERFLOW;
    for (reply, replied, status) in [
        (&b""[..], OK, NtStatus::SUCCESS),
        (b"1", hresult(overflow), overflow),
    ] {
        let ask = world.ask(ends.conn, b"?", 0, Timeout::Never);
        let id = world.get(ends.client, 80).message_id;
        let result = world.reply(ends.client, id, NtStatus::SUCCESS, reply);
        assert_eq!(result, replied);
        let sent = world.sent(ask);
        assert_eq!((sent.status, sent.reply), (status.0, Some(Vec::new())));
    }
}

//! X. Extensions of this implementation: what a receiver is told of its sender, open files, identities, counters, and the
//! ends of sends, gets and connections that Windows leaves untold.

use fltport::{NtStatus, Timeout};

use super::random::Random;
use crate::backend::{
    CallId, Callback, ClientId, ConnId, Counts, Done, Event, NOWAIT, Need, OK, Who, hresult,
};
use crate::case::{Case, case};
use crate::world::{NAME, World, after, holds, ms, spec};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    case("X1", "ours", &[], "the receiver sees its sender's deadline, and none where there is none", x1),
    case("X2", "ours", &[], "of a message that had to wait, the receiver sees what is left of the deadline", x2),
    case("X3", "ours", &[], "the receiver learns that its sender has given up", x3),
    case("X4", "ours", &[Need::MessageState], "dropping a message tells its sender STATUS_CANCELLED at once", x4),
    case("X5", "ours", &[Need::Attachments], "an open file comes with its message, to the get that takes it", x5),
    case("X6", "ours", &[Need::Attachments], "the open file of a message that was withdrawn is never seen", x6),
    case("X7", "ours", &[Need::Identity], "the connect callback is told process and user of the client", x7),
    case("X8", "ours", &[Need::Identity], "each request says which process made it", x8),
    case("X9", "ours", &[], "a connection's counters say what happened", x9),
    case("X10", "ours", &[], "a send that its owner gives up says whether it was delivered", x10),
    case("X11", "ours", &[], "a timeout says whether the message was delivered", x11),
    case("X12", "ours", &[], "gets that are withdrawn lose no message", x12),
    case("X13", "ours", &[Need::HangingUp], "closing waits for the disconnect callback, hanging up does not", x13),
];

fn x1(world: &mut World) {
    let ends = world.fixture();
    let hurried = world.ask(ends.conn, b"soon", 4, after(20_000));
    let got = world.get(ends.client, 80);
    let left = got.remaining.expect("a deadline");
    assert!(
        left <= ms(20_000) && left + world.backend.tolerance() > ms(20_000),
        "{left:?}"
    );
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b""),
        OK
    );
    assert_eq!(world.status(hurried), NtStatus::SUCCESS);
    world.ask(ends.conn, b"whenever", 4, Timeout::Never);
    assert_eq!(world.get(ends.client, 80).remaining, None);
}

fn x2(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"soon", 4, after(20_000));
    world.sends_waiting(ends.conn, 1);
    let start = world.backend.now();
    world.stays(asked, ms(500));
    let got = world.get(ends.client, 80);
    let waited = world.backend.now() - start;
    let left = got.remaining.expect("a deadline");
    let tolerance = world.backend.tolerance();
    assert!(left <= ms(19_500), "{left:?} are left");
    assert!(
        left + waited + tolerance > ms(20_000),
        "{left:?} are left after {waited:?}"
    );
}

fn x3(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let asked = world.ask(ends.conn, b"question", 4, after(500));
    let message = world.got(get).message_id;
    let op = world.backend.is_abandoned(ends.client, message);
    assert_eq!(world.done(op), Done::Is(false));
    assert_eq!(world.status(asked), NtStatus::TIMEOUT);
    abandoned(world, ends.client, message);

    let asked = world
        .backend
        .send_for_cancel(ends.conn, b"another", 4, Timeout::Never);
    let message = world.get(ends.client, 80).message_id;
    let op = world.backend.is_abandoned(ends.client, message);
    assert_eq!(world.done(op), Done::Is(false));
    world.backend.cancel_send(asked);
    world.sent(asked);
    abandoned(world, ends.client, message);
}

fn x4(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"question", 4, Timeout::Never);
    let message = world.get(ends.client, 80).message_id;
    let start = world.backend.now();
    let dropped = world.backend.drop_message(ends.client, message);
    let sent = world.sent(asked);
    assert_eq!(NtStatus(sent.status), NtStatus::CANCELLED);
    assert_eq!(sent.reply, Some(Vec::new()));
    world.took(start, ms(0));
    world.done(dropped);
    assert_eq!(
        world.reply(ends.client, message, NtStatus::SUCCESS, b"late"),
        NOWAIT
    );
}

fn x5(world: &mut World) {
    let ends = world.fixture();
    let small = world.backend.get(ends.client, 16);
    world.gets_posted(ends.conn, 1);
    let asked = world
        .backend
        .send_file(ends.conn, "the content", 4, Timeout::Never);
    // The message is not for this get, nor is its file.
    assert_eq!(
        world.get_failed(small).0,
        hresult(NtStatus::BUFFER_TOO_SMALL)
    );
    let got = world.get(ends.client, 80);
    assert_eq!(got.attachment.as_deref(), Some("the content"));
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"read"),
        OK
    );
    assert_eq!(world.sent(asked).reply.as_deref(), Some(&b"read"[..]));
    world.send(ends.conn, b"bare", Timeout::Never);
    assert_eq!(world.get(ends.client, 80).attachment, None);
}

fn x6(world: &mut World) {
    let ends = world.fixture();
    let withdrawn = world
        .backend
        .send_file(ends.conn, "a secret", 4, after(200));
    let sent = world.sent(withdrawn);
    assert_eq!(
        (NtStatus(sent.status), sent.delivered),
        (NtStatus::TIMEOUT, Some(false))
    );
    world.send(ends.conn, b"bare", Timeout::Never);
    let got = world.get(ends.client, 80);
    assert_eq!((&got.payload[..], got.attachment), (&b"bare"[..], None));
    world
        .backend
        .send_file(ends.conn, "for all", 4, Timeout::Never);
    assert_eq!(
        world.get(ends.client, 80).attachment.as_deref(),
        Some("for all")
    );
}

fn x7(world: &mut World) {
    world.create(&spec());
    let user = world.can(Need::Users).then_some(65_534);
    for who in [
        Who {
            process: 1,
            user: None,
        },
        Who { process: 2, user },
    ] {
        let (_, conn) = world.connected(who, NAME, b"");
        let (pid, uid) = world.event("the connect callback", |event| match event {
            Event::Connect {
                conn: of, pid, uid, ..
            } if *of == conn => Some((*pid, *uid)),
            _ => None,
        });
        assert_eq!(pid, world.backend.pid(who));
        assert_eq!(
            uid,
            who.user
                .unwrap_or_else(|| rustix::process::geteuid().as_raw())
        );
    }
}

fn x8(world: &mut World) {
    world.create(&spec());
    let whos = [1, 2].map(|process| Who {
        process,
        user: None,
    });
    let clients = whos.map(|who| (who, world.connected(who, NAME, b"").0));
    for round in 0..3_u8 {
        for (who, client) in clients {
            let input = [round, who.process.to_le_bytes()[0]];
            assert_eq!(world.request(client, &input, 2), (OK, input.to_vec()));
            let pid = world.event("its callback", |event| match event {
                Event::Message {
                    input: seen, pid, ..
                } if *seen == input => Some(*pid),
                _ => None,
            });
            assert_eq!(pid, world.backend.pid(who));
        }
    }
}

fn x9(world: &mut World) {
    let ends = world.fixture();
    assert_eq!(world.counts(ends.conn), Counts::default());
    for _ in 0..3 {
        world.assert_alive(ends);
    }
    let lonely = world.send(ends.conn, b"nobody", after(50));
    assert_eq!(world.status(lonely), NtStatus::TIMEOUT);
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let unanswered = world.ask(ends.conn, b"question", 4, after(50));
    let message = world.got(get).message_id;
    assert_eq!(world.status(unanswered), NtStatus::TIMEOUT);
    assert_eq!(
        world.reply(ends.client, message, NtStatus::SUCCESS, b"late"),
        NOWAIT
    );
    assert_eq!(
        world.reply(ends.client, 0, NtStatus::SUCCESS, b"what"),
        NOWAIT
    );
    world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let expected = Counts {
        gets: 1,
        waiting: 0,
        outstanding: 0,
        delivered: 4,
        replied: 3,
        timed_out: 2,
        late_replies: 2,
    };
    assert_eq!(world.counts(ends.conn), expected);
}

fn x10(world: &mut World) {
    let ends = world.fixture();
    let given_up = world
        .backend
        .send_for_cancel(ends.conn, b"never seen", 4, Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.backend.cancel_send(given_up);
    let sent = world.sent(given_up);
    assert_eq!(NtStatus(sent.status), NtStatus::THREAD_IS_TERMINATING);
    assert_eq!((sent.reply, sent.delivered), (None, Some(false)));
    let given_up = world
        .backend
        .send_for_cancel(ends.conn, b"seen", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    assert_eq!(got.payload, b"seen");
    world.backend.cancel_send(given_up);
    let sent = world.sent(given_up);
    assert_eq!(NtStatus(sent.status), NtStatus::THREAD_IS_TERMINATING);
    assert_eq!((sent.reply, sent.delivered), (None, Some(true)));
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late"),
        NOWAIT
    );
    world.assert_alive(ends);
}

fn x11(world: &mut World) {
    let ends = world.fixture();
    let sent = world.ask(ends.conn, b"never seen", 4, after(100));
    let sent = world.sent(sent);
    assert_eq!(
        (NtStatus(sent.status), sent.delivered),
        (NtStatus::TIMEOUT, Some(false))
    );
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let sent = world.ask(ends.conn, b"seen", 4, after(100));
    assert_eq!(world.got(get).payload, b"seen");
    let sent = world.sent(sent);
    assert_eq!(
        (NtStatus(sent.status), sent.delivered),
        (NtStatus::TIMEOUT, Some(true))
    );
}

fn x12(world: &mut World) {
    let ends = world.fixture();
    let mut random = Random::new();
    for round in 0..world.rounds(1000) {
        // Several, so that one thread of the client reads what comes for another's get.
        let gets: Vec<_> = (0..4)
            .map(|_| world.backend.post(ends.client, 80))
            .collect();
        if random.below(2) == 0 {
            world.gets_posted(ends.conn, 4);
        }
        // A withdrawal and a message meet on the way in some rounds, whichever is told first.
        let sends = [0, 1, 2, 3].map(|number| {
            let payload = (round * 4 + number).to_be_bytes();
            let get = gets[usize::try_from(number).expect("few")];
            if random.below(2) == 0 {
                world.backend.cancel(get);
            }
            if random.below(4) == 0 {
                world.backend.step();
            }
            (payload, world.send(ends.conn, &payload, Timeout::Never))
        });
        for get in &gets {
            world.backend.cancel(*get);
        }
        let mut received = Vec::new();
        for get in gets {
            match world.done(get) {
                Done::Got(got) => received.push(got.payload),
                end => assert_eq!(end, Done::GetFailed(hresult(NtStatus::CANCELLED), 0)),
            }
        }
        while received.len() < sends.len() {
            received.push(world.get(ends.client, 80).payload);
        }
        received.sort();
        assert_eq!(received, sends.map(|(payload, _)| payload));
        for (_, sent) in sends {
            assert_eq!(world.status(sent), NtStatus::SUCCESS);
        }
    }
}

fn x13(world: &mut World) {
    let port = world.create(&spec());
    world.script(port, Callback::Disconnect, holds());
    let patient = world.join(port);
    let closing = world.backend.close(patient.client);
    let call = disconnect_call(world, patient.conn);
    world.stays(closing, ms(300));
    world.backend.release(call);
    assert_eq!(world.done(closing), Done::Closed);

    let hasty = world.join(port);
    let hanging_up = world.backend.hang_up(hasty.client);
    assert_eq!(world.done(hanging_up), Done::Closed);
    // The callback still runs.
    let call = disconnect_call(world, hasty.conn);
    assert_eq!(world.count(|event| *event == Event::Returned { call }), 0);
    world.backend.release(call);
}

/// Waits until the client knows that nobody waits for its reply.
fn abandoned(world: &mut World, client: ClientId, message: u64) {
    world.until("the client knows", |world| {
        let op = world.backend.is_abandoned(client, message);
        world.done(op) == Done::Is(true)
    });
    assert_eq!(
        world.reply(client, message, NtStatus::SUCCESS, b"late"),
        NOWAIT
    );
}

fn disconnect_call(world: &mut World, conn: ConnId) -> CallId {
    world.event("the disconnect callback", |event| match event {
        Event::Disconnect { call, conn: of, .. } if *of == conn => Some(*call),
        _ => None,
    })
}

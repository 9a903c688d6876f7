//! P. Misuse: of the interface by its users, of the wire by a peer.

use fltport::{NtStatus, Timeout};

use crate::backend::{Callback, DISC, Done, Event, Inside, NOWAIT, Need, OK, Who};
use crate::case::{Case, case};
use crate::world::{NAME, World, after, bytes, does, ms, returns, spec};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    case("P1", "I", &[Need::WindowsArguments], "a server port where a client's is wanted", super::elsewhere),
    case("P2", "I", &[], "closing a server port again is noticed and has no effect, whoever has its name by then", p2),
    case("P3", "I", &[], "a reply after closing the handle is DISC", p3),
    case("P4", "I", &[Need::Addresses], "a get whose buffer is freed before it completes", super::elsewhere),
    case("P5", "I", &[], "a send from inside the connect callback times out, and the connect succeeds", p5),
    case("P6", "I", &[], "a connect callback that closes its port and accepts: the connect is DISC", p6),
    case("P7", "X", &[], "a reply to the number of a message that is not delivered yet finds nobody", p7),
    case("P8", "D", &[], "a reply to a message that timed out finds nobody, and leaves a newer one alone", p8),
    case("P9", "I", &[Need::Bytes], "a client that sends garbage loses its own connection, once, and no other", p9),
    case("P10", "I", &[Need::NotReading], "sends to a client that stops reading still time out", p10),
];

fn p2(world: &mut World) {
    let ends = world.fixture();
    assert!(world.backend.close_port(ends.port));
    assert!(!world.backend.close_port(ends.port));
    world.assert_alive(ends);
    let newer = world.create(&spec());
    assert!(!world.backend.close_port(ends.port));
    let other = world.join(newer);
    world.assert_alive(other);
    world.assert_alive(ends);
}

fn p3(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"question", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    world.close(ends.client);
    assert_eq!(world.status(asked), NtStatus::PORT_DISCONNECTED);
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late"),
        DISC
    );
}

fn p5(world: &mut World) {
    let port = world.create(&spec());
    world.script(
        port,
        Callback::Connect,
        does(Inside::Send(b"first!".to_vec(), after(100))),
    );
    let start = world.backend.now();
    let ends = world.join(port);
    world.took(start, ms(100));
    let status = world.event("the end of the send inside", |event| match event {
        Event::Inside { status, .. } => Some(*status),
        _ => None,
    });
    assert_eq!(status, NtStatus::TIMEOUT);
    world.assert_alive(ends);
}

fn p6(world: &mut World) {
    let port = world.create(&spec());
    world.script(port, Callback::Connect, does(Inside::Close));
    assert_eq!(world.connect(Who::default(), NAME, b""), Err(DISC));
    world.new_conn();
    world.script(port, Callback::Connect, returns(NtStatus::SUCCESS));
    let ends = world.join(port);
    world.assert_alive(ends);
}

fn p7(world: &mut World) {
    let ends = world.fixture();
    let first = world.ask(ends.conn, b"first", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    let second = world.ask(ends.conn, b"second", 4, Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    let guess = world.reply(ends.client, got.message_id + 1, NtStatus::SUCCESS, b"bad");
    assert_eq!(guess, NOWAIT);
    world.stays(second, ms(50));
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"one"),
        OK
    );
    let got = world.get(ends.client, 80);
    assert_eq!(got.payload, b"second");
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"two"),
        OK
    );
    assert_eq!(world.sent(first).reply.as_deref(), Some(&b"one"[..]));
    assert_eq!(world.sent(second).reply.as_deref(), Some(&b"two"[..]));
}

fn p8(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let old = world.ask(ends.conn, b"old", 4, after(200));
    let old_message = world.got(get);
    assert_eq!(world.status(old), NtStatus::TIMEOUT);
    let new = world.ask(ends.conn, b"new", 4, Timeout::Never);
    let new_message = world.get(ends.client, 80);
    let late = world.reply(
        ends.client,
        old_message.message_id,
        NtStatus::SUCCESS,
        b"late",
    );
    assert_eq!(late, NOWAIT);
    world.stays(new, ms(50));
    let reply = world.reply(
        ends.client,
        new_message.message_id,
        NtStatus::SUCCESS,
        b"now",
    );
    assert_eq!(reply, OK);
    assert_eq!(world.sent(new).reply.as_deref(), Some(&b"now"[..]));
}

fn p9(world: &mut World) {
    let ends = world.fixture();
    let liar = Who {
        process: 1,
        user: None,
    };
    let garbage = world.backend.garbage(liar, NAME);
    let hung_up = world.done(garbage);
    assert_eq!(hung_up, Done::Is(true), "the host does not hang up");
    assert_eq!(world.connects(), 2);
    let conn = world.new_conn();
    world.disconnected(1);
    world.event("its disconnect callback", |event| {
        matches!(event, Event::Disconnect { conn: of, .. } if *of == conn).then_some(())
    });
    world.assert_alive(ends);
    assert_eq!(world.disconnects(), 1);
}

fn p10(world: &mut World) {
    const GETS: usize = 192;
    let port = world.create(&spec());
    let (client, conn) = world.connected(
        Who {
            process: 1,
            user: None,
        },
        NAME,
        b"",
    );
    let other = world.join(port);
    // More gets than a socket, or memory that both sides have, holds messages.
    let size = 64 << 10;
    for _ in 0..GETS {
        world.backend.get(client, 16 + size);
    }
    world.gets_posted(conn, GETS);
    world.backend.stop_reading(client);
    let payload = bytes(1, usize::try_from(size).expect("a size"));
    let start = world.backend.now();
    let asks: Vec<_> = (0..GETS)
        .map(|_| world.ask(conn, &payload, 4, after(300)))
        .collect();
    world.assert_alive(other);
    let mut kept = 0;
    for ask in asks {
        let sent = world.sent(ask);
        assert_eq!(NtStatus(sent.status), NtStatus::TIMEOUT);
        kept += usize::from(sent.delivered == Some(false));
    }
    world.took(start, ms(300));
    assert!(kept > 0, "no message stayed with its sender");
    world.assert_alive(other);
}

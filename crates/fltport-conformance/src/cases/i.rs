//! I. Disconnect: who ends a connection, what that ends with it, and when the disconnect callback runs.

use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{
    Answer, Callback, ConnId, DISC, Done, Event, Inside, OK, PortSpec, Script, Who, hresult,
};
use crate::case::{Case, case};
use crate::world::{Death, Ends, NAME, World, bytes, does, holds, ms, returns, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "I1",
        "D",
        &[],
        "closing the handle runs the disconnect callback once, with the cookie, and waits for it",
        i1,
    ),
    case(
        "I2",
        "D",
        &[],
        "a client that is killed: the disconnect callback runs once, within a second",
        i2,
    ),
    case(
        "I3",
        "D",
        &[],
        "the handle is closed while a sender waits for a get: disconnected",
        i3,
    ),
    case(
        "I4",
        "D",
        &[],
        "the handle is closed after delivery and without a reply: disconnected",
        i4,
    ),
    case(
        "I5",
        "S-SI",
        &[],
        "after the disconnect, and before the filter closes its end, a send fails at once",
        i5,
    ),
    case(
        "I6",
        "D",
        &[],
        "closing one of two duplicates does nothing, closing the other disconnects",
        i6,
    ),
    case(
        "I7",
        "S",
        &[],
        "the filter closes a live connection: every get that is pending ends as disconnected",
        i7,
    ),
    case(
        "I8",
        "S",
        &[],
        "after that gets, requests and replies fail as disconnected",
        i8,
    ),
    case(
        "I9",
        "D",
        &[],
        "after that the filter's end is spent: every send fails at once",
        i9,
    ),
    case(
        "I10",
        "D",
        &[],
        "after that senders that were blocked have returned, disconnected",
        i10,
    ),
    case(
        "I11",
        "open",
        &[],
        "after that the handle can be closed; the disconnect callback runs then, once",
        i11,
    ),
    case(
        "I12",
        "S-ROS",
        &[],
        "closing a filter's end that is closed has no effect",
        i12,
    ),
    case(
        "I13",
        "I",
        &[],
        "closed from inside a message callback: its status still arrives, the next call is disconnected",
        i13,
    ),
    case(
        "I14",
        "D",
        &[],
        "closed from inside the disconnect callback: no second one",
        i14,
    ),
    case(
        "I15",
        "S-SI,I",
        &[],
        "a disconnect callback that closes nothing frees the slot all the same",
        i15,
    ),
    case(
        "I16",
        "S-SI",
        &[],
        "the filter may close its end a second after the disconnect callback",
        i16,
    ),
    case(
        "I17",
        "S-ROS,I",
        &[],
        "the disconnect callback starts only after running message callbacks have returned",
        i17,
    ),
    case(
        "I18",
        "I",
        &[],
        "a reply and a close right behind it: a reply that succeeded has reached its sender",
        i18,
    ),
    case(
        "I19",
        "WIN32",
        &[],
        "a client that exits, or becomes another program, without closing is disconnected",
        i19,
    ),
    case(
        "I20",
        "D",
        &[],
        "a client that never gets exits: a sender without a timeout returns, disconnected",
        i20,
    ),
    case(
        "I21",
        "D",
        &[],
        "the disconnect callback of one connection does not disturb another",
        i21,
    ),
    case(
        "I22",
        "D",
        &[],
        "a connection that nobody used has its disconnect callback, too",
        i22,
    ),
];

/// The process that dies in a story.
const VICTIM: Who = Who {
    process: 1,
    user: None,
};

const SECOND: Duration = Duration::from_secs(1);

fn i1(world: &mut World) {
    let port = world.create(&spec());
    let accepts = Answer::Is {
        status: NtStatus::SUCCESS,
        output: Vec::new(),
        claimed: None,
        cookie: Some(0xC0_0C1E),
    };
    let accepts = Script {
        inside: None,
        hold: false,
        answer: accepts,
    };
    world.script(port, Callback::Connect, accepts);
    world.script(port, Callback::Disconnect, holds());
    let ends = world.join(port);
    let close = world.backend.close(ends.client);
    let (call, conn, cookie) = world.event("a disconnect callback", |event| match event {
        Event::Disconnect { call, conn, cookie } => Some((*call, *conn, *cookie)),
        _ => None,
    });
    assert_eq!((conn, cookie), (ends.conn, Some(0xC0_0C1E)));
    world.stays(close, ms(300));
    world.backend.release(call);
    assert_eq!(world.done(close), Done::Closed);
    assert!(world.has_returned(call));
    once(world, ends);
}

fn i2(world: &mut World) {
    let ends = victim(world);
    let start = world.backend.now();
    world.dies(VICTIM, ends.client, Death::Kill);
    world.disconnected(1);
    world.within(start, SECOND);
    once(world, ends);
}

fn i3(world: &mut World) {
    let ends = world.fixture();
    let sent = world.send(ends.conn, b"nobody gets", Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.close(ends.client);
    assert_eq!(world.status(sent), NtStatus::PORT_DISCONNECTED);
}

fn i4(world: &mut World) {
    let ends = world.fixture();
    let ask = world.ask(ends.conn, b"nobody replies", 4, Timeout::Never);
    assert_eq!(world.get(ends.client, 80).payload, b"nobody replies");
    world.replies_awaited(ends.conn, 1);
    world.close(ends.client);
    let sent = world.sent(ask);
    assert_eq!(sent.status, NtStatus::PORT_DISCONNECTED.0);
    assert_eq!(sent.reply, None);
}

fn i5(world: &mut World) {
    let ends = world.fixture();
    world.close(ends.client);
    fails_at_once(world, ends.conn);
}

fn i6(world: &mut World) {
    let ends = world.fixture();
    let client = world.backend.duplicate(ends.client);
    world.close(ends.client);
    let other = Ends { client, ..ends };
    world.assert_alive(other);
    let get = world.backend.get(client, 80);
    world.gets_posted(ends.conn, 1);
    world.stays(get, ms(100));
    assert_eq!(world.disconnects(), 0);
    world.close(client);
    assert_eq!(world.get_failed(get).0, DISC);
    once(world, ends);
}

fn i7(world: &mut World) {
    let ends = world.fixture();
    let mut gets = vec![world.backend.get(ends.client, 80)];
    gets.extend((0..3).map(|_| world.backend.post(ends.client, 80)));
    world.gets_posted(ends.conn, gets.len());
    world.backend.close_client_port(ends.conn);
    for get in gets {
        assert_eq!(world.get_failed(get).0, DISC);
    }
}

fn i8(world: &mut World) {
    let ends = world.fixture();
    let ask = world.ask(ends.conn, b"never answered", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    world.backend.close_client_port(ends.conn);
    assert_eq!(world.status(ask), NtStatus::PORT_DISCONNECTED);
    world.assert_dead(ends.client);
    let reply = world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"late");
    assert_eq!(reply, DISC);
    assert_eq!(world.request(ends.client, b"hello?", 16).0, DISC);
    assert_eq!(world.messages(), 0);
}

fn i9(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.backend.close_client_port(ends.conn);
    fails_at_once(world, ends.conn);
    assert_eq!(world.get_failed(get).0, DISC);
    let counts = world.counts(ends.conn);
    assert_eq!((counts.gets, counts.waiting, counts.outstanding), (0, 0, 0));
    assert_eq!(counts.delivered, 0);
}

fn i10(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"delivered", 4, Timeout::Never);
    world.get(ends.client, 80);
    world.replies_awaited(ends.conn, 1);
    let waits = world.send(ends.conn, b"not delivered", Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.backend.close_client_port(ends.conn);
    assert_eq!(world.status(asked), NtStatus::PORT_DISCONNECTED);
    assert_eq!(world.status(waits), NtStatus::PORT_DISCONNECTED);
}

fn i11(world: &mut World) {
    let ends = world.fixture();
    world.backend.close_client_port(ends.conn);
    world.assert_dead(ends.client);
    assert_eq!(world.disconnects(), 0);
    world.close(ends.client);
    once(world, ends);
}

fn i12(world: &mut World) {
    let ends = world.fixture();
    let other = world.join(ends.port);
    world.backend.close_client_port(ends.conn);
    world.backend.close_client_port(ends.conn);
    world.close(ends.client);
    world.backend.close_client_port(ends.conn);
    assert_eq!(world.disconnects(), 1);
    world.assert_alive(other);
    world.unload(ends.port);
    world.backend.close_client_port(other.conn);
    assert_eq!(world.disconnects(), 2);
}

fn i13(world: &mut World) {
    let ends = world.fixture();
    let script = Script {
        inside: Some(Inside::Close),
        ..returns(NtStatus::NO_MORE_ENTRIES)
    };
    world.script(ends.port, Callback::Message, script);
    let (result, _) = world.request(ends.client, b"close yourself", 16);
    assert_eq!(result, hresult(NtStatus::NO_MORE_ENTRIES));
    assert_eq!(world.request(ends.client, b"again", 16).0, DISC);
    assert_eq!(world.messages(), 1);
    assert_eq!(world.disconnects(), 0);
}

fn i14(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Disconnect, does(Inside::Close));
    world.close(ends.client);
    let closed = |event: &Event| matches!(event, Event::Inside { .. });
    assert_eq!(world.count(closed), 1);
    once(world, ends);
}

fn i15(world: &mut World) {
    let one = PortSpec {
        max_connections: 1,
        ..spec()
    };
    let port = world.create(&one);
    let first = world.join(port);
    world.close(first.client);
    let second = world.join(port);
    world.assert_alive(second);
    world.unload(port);
    assert_eq!(world.disconnects(), 2);
    for conn in [first.conn, second.conn] {
        fails_at_once(world, conn);
    }
}

fn i16(world: &mut World) {
    let ends = world.fixture();
    world.close(ends.client);
    assert_eq!(world.disconnects(), 1);
    world.pass(SECOND);
    world.backend.close_client_port(ends.conn);
    fails_at_once(world, ends.conn);
    let other = world.join(ends.port);
    world.assert_alive(other);
    assert_eq!(world.disconnects(), 1);
}

fn i17(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, holds());
    let request = world.backend.request(ends.client, b"hold", 16);
    let call = world.message_call();
    let close = world.backend.close(ends.client);
    world.stays(close, ms(500));
    assert_eq!(world.disconnects(), 0);
    world.backend.release(call);
    assert_eq!(world.done(close), Done::Closed);
    world.done(request);
    let events = world.backend.events();
    let returned = events
        .iter()
        .position(|event| *event == Event::Returned { call });
    let disconnect = events
        .iter()
        .position(|event| matches!(event, Event::Disconnect { .. }));
    assert!(returned.is_some() && returned < disconnect, "{events:?}");
    once(world, ends);
}

fn i18(world: &mut World) {
    let port = world.create(&spec());
    for round in 0..world.rounds(10_000) {
        let ends = world.join(port);
        let ask = world.ask(ends.conn, b"?", 8, Timeout::Never);
        let message = world.get(ends.client, 80).message_id;
        let answer = bytes(round, 8);
        let reply = world
            .backend
            .reply(ends.client, message, NtStatus::SUCCESS, &answer);
        // One after the other, or both at once.
        let first = (round % 2 == 0).then(|| world.replied(reply));
        let close = world.backend.close(ends.client);
        let reply = first.unwrap_or_else(|| world.replied(reply));
        assert_eq!(world.done(close), Done::Closed);
        let sent = world.sent(ask);
        if reply == OK {
            assert_eq!(sent.status, NtStatus::SUCCESS.0, "in round {round}");
            assert_eq!(sent.reply, Some(answer), "in round {round}");
        } else {
            assert_eq!(reply, DISC, "in round {round}");
            assert!(round % 2 == 1, "refused before the close, in round {round}");
        }
        if round % 64 == 63 {
            world.forget();
        }
    }
}

fn i19(world: &mut World) {
    let port = world.create(&spec());
    for (how, count) in [(Death::Exec, 1), (Death::Exit, 2)] {
        // The same process: it lives on as another program.
        let (client, conn) = world.connected(VICTIM, NAME, b"");
        let start = world.backend.now();
        world.dies(VICTIM, client, how);
        world.disconnected(count);
        world.within(start, SECOND);
        fails_at_once(world, conn);
    }
    world.unload(port);
    assert_eq!(world.disconnects(), 2);
}

fn i20(world: &mut World) {
    let ends = victim(world);
    let sent = world.send(ends.conn, b"nobody gets", Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.dies(VICTIM, ends.client, Death::Exit);
    assert_eq!(world.status(sent), NtStatus::PORT_DISCONNECTED);
}

fn i21(world: &mut World) {
    let ends = world.fixture();
    let other = world.join(ends.port);
    let get = world.backend.get(other.client, 80);
    world.gets_posted(other.conn, 1);
    world.script(ends.port, Callback::Disconnect, holds());
    let close = world.backend.close(ends.client);
    let call = world.disconnect_call();
    world.stays(get, ms(100));
    let sent = world.send(other.conn, b"undisturbed", Timeout::Never);
    assert_eq!(world.got(get).payload, b"undisturbed");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.assert_alive(other);
    assert_eq!(
        world.request(other.client, b"echo", 16),
        (OK, b"echo".to_vec())
    );
    assert!(!world.has_returned(call));
    world.backend.release(call);
    assert_eq!(world.done(close), Done::Closed);
    world.assert_alive(other);
    assert_eq!(world.disconnects(), 1);
}

fn i22(world: &mut World) {
    let ends = world.fixture();
    world.close(ends.client);
    assert_eq!(world.disconnects(), 1);
    once(world, ends);
}

/// The fixture, with a client in a process that is going to die.
fn victim(world: &mut World) -> Ends {
    let port = world.create(&spec());
    let (client, conn) = world.connected(VICTIM, NAME, b"");
    Ends { port, client, conn }
}

/// A send without a timeout does not wait.
fn fails_at_once(world: &mut World, conn: ConnId) {
    let start = world.backend.now();
    let sent = world.send(conn, b"nobody", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::PORT_DISCONNECTED);
    let ask = world.ask(conn, b"nobody", 4, Timeout::Never);
    assert_eq!(world.status(ask), NtStatus::PORT_DISCONNECTED);
    world.took(start, Duration::ZERO);
}

/// There has been one disconnect callback, of this connection, and there will be no second.
fn once(world: &mut World, ends: Ends) {
    world.unload(ends.port);
    let of: Vec<_> = world
        .backend
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Disconnect { conn, .. } => Some(conn),
            _ => None,
        })
        .collect();
    assert_eq!(of, [ends.conn]);
}

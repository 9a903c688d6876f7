//! J. Server port close and unregister: a closed port keeps its connections, an unregistered filter ends them all and
//! waits for their last callback.

use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{
    Callback, ConnId, DISC, Done, Event, Need, OK, PortId, PortSpec, Who, hresult,
};
use crate::case::{Case, case};
use crate::world::{Death, Ends, NAME, World, holds, ms, spec, writes};

pub(super) const CASES: &[Case] = &[
    case(
        "J1",
        "D",
        &[],
        "closing the server port leaves live connections working, and runs no disconnect callback",
        j1,
    ),
    case(
        "J2",
        "D",
        &[],
        "a connect to a closed server port finds no such name",
        j2,
    ),
    case(
        "J3",
        "I",
        &[],
        "a new port may take the name at once; old connections keep the old callbacks",
        j3,
    ),
    case(
        "J4",
        "D",
        &[],
        "unregister runs the disconnect callback of a live connection, and its client is disconnected",
        j4,
    ),
    case(
        "J5",
        "D,S",
        &[Need::FilterObject],
        "unregister does not return before the server port is closed",
        j5,
    ),
    case(
        "J6",
        "S",
        &[],
        "unregister ends a client's pending get as disconnected",
        j6,
    ),
    case(
        "J7",
        "I",
        &[],
        "unregister with a blocked sender: the sender is disconnected, unregister returns",
        j7,
    ),
    case(
        "J8",
        "I",
        &[],
        "unregister waits for a message callback that runs",
        j8,
    ),
    case(
        "J9",
        "D",
        &[],
        "after unregister no callback runs, whatever the client calls",
        j9,
    ),
    case(
        "J10",
        "S",
        &[],
        "unloading with a last question to a client that answers, closes and exits",
        j10,
    ),
    case(
        "J11",
        "S",
        &[],
        "unloading with a last question that has no client to go to",
        j11,
    ),
    case(
        "J12",
        "I",
        &[Need::HostProcess],
        "the host is killed: the pending gets of every client end as disconnected within a second",
        j12,
    ),
    case(
        "J13",
        "I",
        &[],
        "closing the server port does not wait for a connect callback; that connect ends either way",
        j13,
    ),
    case(
        "J14",
        "I",
        &[],
        "a hundred loads and unloads with a client that comes back leave nothing behind",
        j14,
    ),
    case(
        "J15",
        "D",
        &[],
        "one of two filters unregisters: the other's connections are not touched",
        j15,
    ),
];

fn j1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    world.backend.close_port(ends.port);
    world.stays(get, ms(100));
    let sent = world.send(ends.conn, b"still", Timeout::Never);
    assert_eq!(world.got(get).payload, b"still");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.assert_alive(ends);
    let echo = world.request(ends.client, b"echo", 16);
    assert_eq!(echo, (OK, b"echo".to_vec()));
    assert_eq!(world.disconnects(), 0);
}

fn j2(world: &mut World) {
    let ends = world.fixture();
    world.backend.close_port(ends.port);
    assert_eq!(
        world.connect(Who::default(), NAME, b""),
        Err(no_such_name())
    );
    assert_eq!(world.connects(), 1);
}

fn j3(world: &mut World) {
    let old = world.fixture();
    world.script(
        old.port,
        Callback::Message,
        writes(NtStatus::SUCCESS, b"old"),
    );
    world.backend.close_port(old.port);
    let again = PortSpec {
        cookie: 8,
        ..spec()
    };
    let port = world.create(&again);
    world.script(port, Callback::Message, writes(NtStatus::SUCCESS, b"new"));
    let new = world.join(port);
    for (ends, cookie, name) in [(old, 7, b"old"), (new, 8, b"new")] {
        assert_eq!(cookie_of(world, ends.conn), cookie);
        let answer = world.request(ends.client, b"who is there?", 16);
        assert_eq!(answer, (OK, name.to_vec()));
        world.assert_alive(ends);
    }
    world.close(old.client);
    assert_eq!(world.disconnects(), 1);
    world.assert_alive(new);
}

fn j4(world: &mut World) {
    let ends = world.fixture();
    world.unload(ends.port);
    assert_eq!(world.disconnects(), 1);
    let disconnect = world.disconnect_call();
    assert!(world.has_returned(disconnect));
    world.assert_dead(ends.client);
    world.close(ends.client);
    assert_eq!(world.disconnects(), 1);
}

fn j5(world: &mut World) {
    let ends = world.fixture();
    let unregister = world.backend.unregister(0);
    world.stays(unregister, Duration::from_secs(1));
    world.backend.close_port(ends.port);
    assert_eq!(world.done(unregister), Done::Unregistered);
    assert_eq!(world.disconnects(), 1);
}

fn j6(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    let posted = world.backend.post(ends.client, 80);
    world.gets_posted(ends.conn, 2);
    world.unload(ends.port);
    assert_eq!(world.get_failed(get).0, DISC);
    assert_eq!(world.get_failed(posted).0, DISC);
}

fn j7(world: &mut World) {
    let ends = world.fixture();
    let ask = world.ask(ends.conn, b"delivered", 4, Timeout::Never);
    world.get(ends.client, 80);
    world.replies_awaited(ends.conn, 1);
    let sent = world.send(ends.conn, b"not delivered", Timeout::Never);
    world.sends_waiting(ends.conn, 1);
    world.unload(ends.port);
    assert_eq!(world.status(ask), NtStatus::PORT_DISCONNECTED);
    assert_eq!(world.status(sent), NtStatus::PORT_DISCONNECTED);
}

fn j8(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, holds());
    let request = world.backend.request(ends.client, b"hold", 16);
    let call = world.message_call();
    world.backend.close_port(ends.port);
    let unregister = world.backend.unregister(0);
    world.stays(unregister, ms(500));
    assert!(!world.has_returned(call));
    world.backend.release(call);
    assert_eq!(world.done(unregister), Done::Unregistered);
    assert!(world.has_returned(call));
    world.done(request);
}

fn j9(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"delivered", 4, Timeout::Never);
    let message = world.get(ends.client, 80).message_id;
    // The client calls all the time, before, meanwhile and after.
    let mut calls: Vec<_> = (0..20)
        .map(|_| world.backend.request(ends.client, b"call", 16))
        .collect();
    world.backend.close_port(ends.port);
    let unregister = world.backend.unregister(0);
    calls.extend((0..20).map(|_| world.backend.request(ends.client, b"call", 16)));
    assert_eq!(world.done(unregister), Done::Unregistered);
    let events = world.backend.events();
    let returned = |event: &&Event| matches!(event, Event::Returned { .. });
    // As many have returned as have begun.
    assert_eq!(events.iter().filter(returned).count() * 2, events.len());

    assert_eq!(world.status(asked), NtStatus::PORT_DISCONNECTED);
    assert_eq!(world.request(ends.client, b"call", 16).0, DISC);
    world.assert_dead(ends.client);
    let reply = world.reply(ends.client, message, NtStatus::SUCCESS, b"late");
    assert_eq!(reply, DISC);
    let deleting = hresult(NtStatus::FLT_DELETING_OBJECT);
    let again = world.connect(Who::default(), NAME, b"");
    assert!(
        again == Err(no_such_name()) || again == Err(deleting),
        "{again:?}"
    );
    world.close(ends.client);
    for call in calls {
        let (result, _) = world.response(call);
        assert!(result == OK || result == DISC, "{result:#x}");
    }
    world.pass(ms(100));
    assert_eq!(world.backend.events(), events);
}

fn j10(world: &mut World) {
    let [scan, abort, query] = [r"\Scan", r"\Abort", r"\Query"].map(|name| one_at(world, 0, name));
    let who = Who {
        process: 1,
        user: None,
    };
    let scanner = world.connected(who, r"\Scan", b"\x01");
    let aborter = world.connected(who, r"\Abort", b"\x02");
    let querier = world.connected(who, r"\Query", b"\x03");
    let waits: Vec<_> = [scanner, aborter]
        .map(|(client, conn)| {
            let get = world.backend.get(client, 40);
            world.gets_posted(conn, 1);
            get
        })
        .into();

    let last = world.ask(aborter.1, b"unloading", 4, Timeout::Never);
    let got = world.got(waits[1]);
    let reply = world.reply(aborter.0, got.message_id, NtStatus::SUCCESS, b"bye");
    assert_eq!(reply, OK);
    assert_eq!(world.sent(last).reply.as_deref(), Some(&b"bye"[..]));
    for (client, _) in [scanner, aborter] {
        world.close(client);
    }
    assert_eq!(world.get_failed(waits[0]).0, DISC);
    // The last one is left to the end of the process.
    world.dies(who, querier.0, Death::Exit);
    for port in [scan, abort, query] {
        world.backend.close_port(port);
    }
    world.unregister(0);
    assert_eq!(world.disconnects(), 3);
}

fn j11(world: &mut World) {
    // A client that has been, whose end is closed: the question fails at once.
    let ends = world.fixture();
    world.close(ends.client);
    let start = world.backend.now();
    let last = world.ask(ends.conn, b"unloading", 4, Timeout::Never);
    assert_eq!(world.status(last), NtStatus::PORT_DISCONNECTED);
    world.took(start, Duration::ZERO);
    world.unload(ends.port);
    // And a filter that never had one.
    let lonely = PortSpec {
        filter: 1,
        ..spec()
    };
    let port = world.create(&lonely);
    world.backend.close_port(port);
    world.unregister(1);
    assert_eq!((world.connects(), world.disconnects()), (1, 1));
}

fn j12(world: &mut World) {
    let [host, one, other] = [7, 1, 2].map(|process| Who {
        process,
        user: None,
    });
    let serves = world.backend.foreign_host(host, r"\Foreign");
    assert_eq!(world.done(serves), Done::Is(true));
    let mut gets = Vec::new();
    for who in [one, one, other] {
        let client = world.connect(who, r"\Foreign", b"").expect("connected");
        gets.push(world.backend.get(client, 80));
        gets.push(world.backend.post(client, 80));
    }
    for get in &gets {
        world.stays(*get, ms(50));
    }
    let start = world.backend.now();
    world.backend.kill(host);
    for get in gets {
        assert_eq!(world.get_failed(get).0, DISC);
    }
    world.within(start, Duration::from_secs(1));
}

fn j13(world: &mut World) {
    let port = world.create(&spec());
    world.script(port, Callback::Connect, holds());
    let connect = world.backend.connect(Who::default(), NAME, b"");
    let conn = world.new_conn();
    let call = world.event("a connect callback", |event| match event {
        Event::Connect { call, .. } => Some(*call),
        _ => None,
    });
    let start = world.backend.now();
    world.backend.close_port(port);
    world.took(start, Duration::ZERO);
    assert!(!world.has_returned(call));
    world.stays(connect, ms(100));
    world.backend.release(call);
    match world.done(connect) {
        Done::Connected(Ok(client)) => world.assert_alive(Ends { port, client, conn }),
        Done::Connected(Err(error)) => assert_eq!(error, no_such_name()),
        other => panic!("a connect ended as {other:?}"),
    }
    world.unregister(0);
}

fn j14(world: &mut World) {
    let at_first = world.backend.handles();
    let mut after_one = None;
    for load in 0..100 {
        if load == 1 && world.can(Need::Processes) {
            after_one = Some(descriptors(world));
        }
        // Each load is a filter of its own.
        let port = one_at(world, load, NAME);
        let ends = world.join(port);
        world.assert_alive(ends);
        // The slot is free again for one who comes back to the same load.
        world.close(ends.client);
        let ends = world.join(port);
        let get = world.backend.get(ends.client, 80);
        world.gets_posted(ends.conn, 1);
        world.backend.close_port(port);
        world.unregister(load);
        assert_eq!(world.get_failed(get).0, DISC);
        world.close(ends.client);
        assert_eq!((world.connects(), world.disconnects()), (2, 2));
        world.forget();
        world.until("the host has let go of its handles", |world| {
            world.backend.handles() == at_first
        });
    }
    if let Some(after_one) = after_one {
        world.until(
            "the client has no more descriptors than after one load",
            |world| descriptors(world) <= after_one,
        );
    }
}

fn j15(world: &mut World) {
    let one = world.fixture();
    let others = PortSpec {
        filter: 1,
        name: r"\U".into(),
        ..spec()
    };
    let port = world.create(&others);
    let (client, conn) = world.connected(Who::default(), r"\U", b"");
    let other = Ends { port, client, conn };
    let get = world.backend.get(client, 80);
    world.gets_posted(conn, 1);
    world.unload(one.port);
    world.assert_dead(one.client);
    world.stays(get, ms(100));
    let sent = world.send(conn, b"not you", Timeout::Never);
    assert_eq!(world.got(get).payload, b"not you");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.assert_alive(other);
    let (another, _) = world.connected(Who::default(), r"\U", b"");
    world.close(another);
    assert_eq!(world.disconnects(), 2);
}

/// A port for one connection at a time.
fn one_at(world: &mut World, filter: u32, name: &str) -> PortId {
    world.create(&PortSpec {
        filter,
        name: name.into(),
        max_connections: 1,
        ..spec()
    })
}

fn no_such_name() -> u32 {
    hresult(NtStatus::OBJECT_NAME_NOT_FOUND)
}

fn cookie_of(world: &mut World, of: ConnId) -> u64 {
    world.event("its connect callback", |event| match event {
        Event::Connect {
            conn, port_cookie, ..
        } if *conn == of => Some(*port_cookie),
        _ => None,
    })
}

/// Descriptors of the client process.
fn descriptors(world: &mut World) -> usize {
    let pid = world.backend.pid(Who::default());
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process");
    open.count()
}

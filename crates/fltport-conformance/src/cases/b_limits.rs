//! B. Connect, continued: how many may, and what happens to a connect whose client or filter goes away.

use fltport::NtStatus;

use crate::backend::{CallId, Callback, Done, Event, Need, Op, PortSpec, Who, hresult};
use crate::case::{Case, case};
use crate::world::{LIMIT, NAME, World, holds, returns, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "B16",
        "S,X",
        &[],
        "a connect beyond the limit is refused, its callback does not run",
        b16,
    ),
    case(
        "B17",
        "S",
        &[],
        "a client that has closed its handle can connect again at once, with room for one",
        b17,
    ),
    case(
        "B18",
        "S",
        &[],
        "a connection counts until its disconnect callback has returned",
        b18,
    ),
    case(
        "B19",
        "I",
        &[],
        "of ten that connect at once to a port with room for three, three succeed",
        b19,
    ),
    case(
        "B20",
        "S-ROS",
        &[],
        "a thousand refusals leave the one slot free",
        b20,
    ),
    case(
        "B29",
        "I",
        &[Need::DyingConnect],
        "a client dies in its connect: the callback ends, then disconnect if it had accepted",
        b29,
    ),
    case(
        "B30",
        "I",
        &[],
        "a connect that races with unregister succeeds and is over, or is refused",
        b30,
    ),
];

/// The limit is reached.
const FULL: u32 = 0x8007_04D6;

fn room_for(max_connections: u32) -> PortSpec {
    PortSpec {
        max_connections,
        ..spec()
    }
}

const fn process(process: u32) -> Who {
    Who {
        process,
        user: None,
    }
}

/// The connect callback that runs or ran last.
fn connect_call(world: &mut World, count: usize) -> CallId {
    world.until("the connect callback runs", |world| {
        world.connects() == count
    });
    let events = world.backend.events();
    let mut calls = events.iter().rev().filter_map(|event| match event {
        Event::Connect { call, .. } => Some(*call),
        _ => None,
    });
    calls.next().expect("a connect callback")
}

fn ended(world: &mut World, connect: Op) -> Result<crate::backend::ClientId, u32> {
    match world.done(connect) {
        Done::Connected(result) => result,
        other => panic!("a connect ended as {other:?}"),
    }
}

fn b16(world: &mut World) {
    let port = world.create(&room_for(1));
    let ends = world.join(port);
    assert_eq!(FULL, hresult(NtStatus::CONNECTION_COUNT_LIMIT));
    for _ in 0..3 {
        assert_eq!(world.connect(process(1), NAME, b""), Err(FULL));
    }
    assert_eq!(world.connects(), 1);
    world.assert_alive(ends);
}

fn b17(world: &mut World) {
    let port = world.create(&room_for(1));
    for _ in 0..50 {
        let ends = world.join(port);
        world.close(ends.client);
    }
    assert_eq!((world.connects(), world.disconnects()), (50, 50));
}

fn b18(world: &mut World) {
    let port = world.create(&room_for(1));
    let ends = world.join(port);
    world.script(port, Callback::Disconnect, holds());
    let close = world.backend.close(ends.client);
    let call = world.event("the disconnect callback", |event| match event {
        Event::Disconnect { call, .. } => Some(*call),
        _ => None,
    });
    for _ in 0..3 {
        assert_eq!(world.connect(process(1), NAME, b""), Err(FULL));
        world.pass(crate::world::ms(300));
    }
    world.script(port, Callback::Disconnect, returns(NtStatus::SUCCESS));
    world.backend.release(call);
    assert_eq!(world.done(close), Done::Closed);
    let next = world.connect(process(1), NAME, b"");
    next.expect("the slot is free");
}

fn b19(world: &mut World) {
    let port = world.create(&room_for(3));
    for round in 1..=20 {
        let connects: Vec<_> = (0..10)
            .map(|number| world.backend.connect(process(number % 2), NAME, b""))
            .collect();
        let mut clients = Vec::new();
        for connect in connects {
            match ended(world, connect) {
                Ok(client) => clients.push(client),
                Err(result) => assert_eq!(result, FULL),
            }
        }
        assert_eq!(clients.len(), 3);
        assert_eq!(world.connects(), 3 * round);
        clients.into_iter().for_each(|client| world.close(client));
    }
    // The slot is counted before the callback runs: none is left while three of them do.
    world.script(port, Callback::Connect, holds());
    let before = world.connects();
    let held: Vec<_> = (0..3)
        .map(|number| world.backend.connect(process(number % 2), NAME, b""))
        .collect();
    connect_call(world, before + 3);
    assert_eq!(world.connect(process(1), NAME, b""), Err(FULL));
    for event in world.backend.events() {
        if let Event::Connect { call, .. } = event {
            world.backend.release(call);
        }
    }
    for connect in held {
        ended(world, connect).expect("it has its slot");
    }
}

fn b20(world: &mut World) {
    let port = world.create(&room_for(1));
    world.script(port, Callback::Connect, returns(NtStatus::ACCESS_DENIED));
    for _ in 0..1_000 {
        let refused = world.connect(process(0), NAME, b"");
        assert_eq!(refused, Err(hresult(NtStatus::ACCESS_DENIED)));
    }
    world.script(port, Callback::Connect, returns(NtStatus::SUCCESS));
    world
        .connect(process(0), NAME, b"")
        .expect("the slot is free");
    assert_eq!(world.connects(), 1_001);
}

/// A client dies while its connect callback runs, which then says `verdict`.
fn dies(world: &mut World, verdict: NtStatus, disconnects: usize) {
    let port = world.create(&room_for(1));
    let mut script = returns(verdict);
    script.hold = true;
    world.script(port, Callback::Connect, script);
    world.script(port, Callback::Disconnect, returns(NtStatus::SUCCESS));
    let before = (world.connects(), world.disconnects());
    world.backend.connect(process(1), NAME, b"");
    let call = connect_call(world, before.0 + 1);
    world.backend.kill(process(1));
    assert_eq!(world.connect(process(2), NAME, b""), Err(FULL), "it runs");
    assert_eq!(world.disconnects(), before.1);
    world.backend.release(call);
    world.event("the callback's end", |event| {
        let ended = matches!(event, Event::Returned { call: of } if *of == call);
        ended.then_some(())
    });
    // Torn down: its slot is free again.
    world.script(port, Callback::Connect, returns(NtStatus::SUCCESS));
    let mut next = Err(FULL);
    world.until("the slot is free", |world| {
        next = world.connect(process(2), NAME, b"");
        next != Err(FULL)
    });
    let next = next.expect("a connect after it");
    assert_eq!(world.disconnects(), before.1 + disconnects);
    world.close(next);
    world.backend.close_port(port);
    assert_eq!(world.disconnects(), before.1 + disconnects + 1);
}

fn b29(world: &mut World) {
    dies(world, NtStatus::SUCCESS, 1);
    dies(world, NtStatus::ACCESS_DENIED, 0);
}

/// Unregisters a filter with a port. Its ports are closed first where the library does that by itself, and last where the
/// filter has to.
fn tear_down(world: &mut World, spec: &PortSpec, port: crate::backend::PortId) -> Op {
    let unregister = world.backend.unregister(spec.filter);
    if world.can(Need::FilterObject) {
        let late = world.connect(process(0), &spec.name, b"");
        assert_eq!(late, Err(hresult(NtStatus::FLT_DELETING_OBJECT)));
        world.backend.close_port(port);
    }
    unregister
}

/// What B30 allows; whether the connect succeeded.
fn judge(world: &mut World, connect: Op) -> bool {
    match ended(world, connect) {
        Ok(client) => {
            world.assert_dead(client);
            true
        }
        Err(0x8007_0002 | 0x801F_000B) => false,
        Err(other) => panic!("a connect ended as {other:08x}"),
    }
}

fn b30(world: &mut World) {
    // Unregister overtakes a connect whose callback runs.
    let port_spec = room_for(4);
    let port = world.create(&port_spec);
    world.script(port, Callback::Connect, holds());
    let connect = world.backend.connect(process(1), NAME, b"");
    let call = connect_call(world, 1);
    let unregister = tear_down(world, &port_spec, port);
    world.stays(unregister, crate::world::ms(100));
    world.backend.release(call);
    assert_eq!(world.done(unregister), Done::Unregistered);
    judge(world, connect);
    assert_eq!(world.disconnects(), 1, "it was accepted");

    // Whichever comes first.
    let (mut connects, mut disconnects) = (world.connects(), world.disconnects());
    for round in 1..=200 {
        let port_spec = PortSpec {
            filter: round,
            ..room_for(4)
        };
        let port = world.create(&port_spec);
        let racing: Vec<_> = (0..round % 4)
            .map(|number| world.backend.connect(process(number % 2), NAME, b""))
            .collect();
        let unregister = tear_down(world, &port_spec, port);
        let late = world.backend.connect(process(0), NAME, b"");
        assert_eq!(
            world.backend.take(unregister, LIMIT),
            Some(Done::Unregistered)
        );
        let mut succeeded = usize::from(judge(world, late));
        for connect in racing {
            succeeded += usize::from(judge(world, connect));
        }
        let now = (world.connects(), world.disconnects());
        assert_eq!(now.0 - connects, now.1 - disconnects);
        assert!(succeeded <= now.0 - connects);
        (connects, disconnects) = now;
    }
}

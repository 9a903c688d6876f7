//! A. Create: what a server port is made of, and what refuses it.

use fltport::{NtStatus, Timeout};

use super::elsewhere;
use crate::backend::{Allow, Event, Need, PortSpec, Who, hresult};
use crate::case::{Case, case};
use crate::world::{LIMIT, NAME, World, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "A1",
        "D",
        &[],
        "a port is made of valid arguments, and can be used",
        a1,
    ),
    case(
        "A2",
        "D",
        &[Need::WindowsArguments],
        "attributes without OBJ_KERNEL_HANDLE are an invalid parameter, no name appears",
        elsewhere,
    ),
    case(
        "A3",
        "D,X",
        &[],
        "room for no connection is an invalid parameter",
        a3,
    ),
    case(
        "A4",
        "X",
        &[Need::WindowsArguments],
        "room for a negative number of connections is an invalid parameter",
        elsewhere,
    ),
    case(
        "A5",
        "D",
        &[Need::Names],
        "a second port of the same name and filter collides; the first still accepts",
        a5,
    ),
    case(
        "A6",
        "D",
        &[Need::Names],
        "a port of the same name of another filter, or another host, collides",
        a6,
    ),
    case(
        "A7",
        "D",
        &[Need::Names],
        "a port whose name differs in case alone collides",
        a7,
    ),
    case(
        "A8",
        "D",
        &[Need::FilterObject],
        "a filter that is being torn down makes no port",
        a8,
    ),
    case(
        "A9",
        "I",
        &[Need::NameSyntax],
        "a name without leading backslash is bad path syntax",
        a9,
    ),
    case(
        "A10",
        "I",
        &[Need::FoldersApart],
        "a name in a folder that does not exist has no path",
        elsewhere,
    ),
    case(
        "A11",
        "D,S",
        &[],
        "a port without message callback can be made",
        a11,
    ),
    case(
        "A12",
        "I",
        &[Need::WindowsArguments],
        "a port without connect callback is an invalid parameter",
        elsewhere,
    ),
    case(
        "A13",
        "I",
        &[Need::WindowsArguments],
        "a port without disconnect callback is an invalid parameter",
        elsewhere,
    ),
    case(
        "A14",
        "S,I",
        &[],
        "a client is accepted as soon as the port is made, whatever its filter does not do yet",
        a14,
    ),
    case(
        "A15",
        "D,S",
        &[],
        "of three ports each connect callback gets its own port's cookie",
        a15,
    ),
    case(
        "A16",
        "D",
        &[Need::Access],
        "access that was said at create still applies when that description is gone",
        a16,
    ),
    case(
        "A17",
        "I",
        &[],
        "a create that failed holds up no unregister",
        a17,
    ),
    case(
        "A18",
        "KMT,I",
        &[Need::WindowsArguments],
        "attributes with OBJ_OPENLINK are an invalid parameter",
        elsewhere,
    ),
    case(
        "A19",
        "I",
        &[],
        "a name is free again at once: 100 ports of one name, made and closed",
        a19,
    ),
];

/// Why a port is not made.
fn refused(world: &mut World, spec: &PortSpec) -> NtStatus {
    let result = world.backend.create(spec);
    result.expect_err("the port is not made")
}

fn named(name: &str) -> PortSpec {
    PortSpec {
        name: name.into(),
        ..spec()
    }
}

fn a1(world: &mut World) {
    let ends = world.fixture();
    world.assert_alive(ends);
}

fn a3(world: &mut World) {
    let none = PortSpec {
        max_connections: 0,
        ..spec()
    };
    assert_eq!(refused(world, &none), NtStatus::INVALID_PARAMETER);
}

fn a5(world: &mut World) {
    let port = world.create(&spec());
    assert_eq!(refused(world, &spec()), NtStatus::OBJECT_NAME_COLLISION);
    let ends = world.join(port);
    world.assert_alive(ends);
}

fn a6(world: &mut World) {
    let port = world.create(&spec());
    let other = PortSpec {
        filter: 1,
        ..spec()
    };
    assert_eq!(refused(world, &other), NtStatus::OBJECT_NAME_COLLISION);
    let ends = world.join(port);
    world.assert_alive(ends);
    if world.can(Need::HostProcess) {
        let host = Who {
            process: 1,
            user: None,
        };
        let serves = world.backend.foreign_host(host, r"\Theirs");
        world.done(serves);
        let status = refused(world, &named(r"\Theirs"));
        assert_eq!(status, NtStatus::OBJECT_NAME_COLLISION);
    }
}

fn a7(world: &mut World) {
    world.create(&spec());
    let status = refused(world, &named(&NAME.to_lowercase()));
    assert_eq!(status, NtStatus::OBJECT_NAME_COLLISION);
}

fn a8(world: &mut World) {
    let port = world.create(&spec());
    let unregister = world.backend.unregister(0);
    let status = refused(world, &named(r"\Late"));
    assert_eq!(status, NtStatus::FLT_DELETING_OBJECT);
    world.backend.close_port(port);
    world.done(unregister);
}

fn a9(world: &mut World) {
    let status = refused(world, &named(NAME.trim_start_matches('\\')));
    assert_eq!(status, NtStatus::OBJECT_PATH_SYNTAX_BAD);
}

fn a11(world: &mut World) {
    let spec = PortSpec {
        message_callback: false,
        ..spec()
    };
    let port = world.create(&spec);
    let ends = world.join(port);
    world.assert_alive(ends);
}

fn a14(world: &mut World) {
    // Nothing but the create comes before it: there is no call that would start the filter.
    world.create(&spec());
    let connected = world.connect(Who::default(), NAME, b"");
    connected.expect("the client is accepted");
}

fn a15(world: &mut World) {
    let ports = [(r"\One", 101), (r"\Two", 102), (r"\Three", 103)];
    for (name, cookie) in ports {
        world.create(&PortSpec {
            cookie,
            ..named(name)
        });
    }
    for (name, cookie) in ports.into_iter().rev() {
        let (_, conn) = world.connected(Who::default(), name, b"");
        let seen = world.event("the connect callback", |event| match event {
            Event::Connect {
                conn: other,
                port_cookie,
                ..
            } if *other == conn => Some(*port_cookie),
            _ => None,
        });
        assert_eq!(seen, cookie, "{name}");
    }
}

fn a16(world: &mut World) {
    let nobody = PortSpec {
        access: Allow::Nobody,
        ..named(r"\Shut")
    };
    world.create(&nobody);
    drop(nobody);
    let open = spec();
    let port = world.create(&open);
    drop(open);
    for _ in 0..2 {
        let shut = world.connect(Who::default(), r"\Shut", b"");
        assert_eq!(shut, Err(hresult(NtStatus::ACCESS_DENIED)));
        let ends = world.join(port);
        world.assert_alive(ends);
    }
}

fn a17(world: &mut World) {
    let none = PortSpec {
        max_connections: 0,
        ..spec()
    };
    refused(world, &none);
    if world.can(Need::NameSyntax) {
        refused(world, &named("NoBackslash"));
    }
    if world.can(Need::Names) {
        let other = PortSpec {
            filter: 1,
            ..named(r"\Taken")
        };
        world.create(&other);
        refused(world, &named(r"\Taken"));
    }
    let port = world.create(&spec());
    let ends = world.join(port);
    let pending = world.ask(ends.conn, b"pending", 4, Timeout::After(2 * LIMIT));
    world.close(ends.client);
    assert_eq!(world.status(pending), NtStatus::PORT_DISCONNECTED);
    world.backend.close_port(port);
    world.unregister(0);
}

fn a19(world: &mut World) {
    for round in 0..100 {
        let made = world.backend.create(&spec());
        let port = made.unwrap_or_else(|status| panic!("round {round}: {status}"));
        world.backend.close_port(port);
    }
}

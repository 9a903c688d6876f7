//! C. Security: who may connect, decided once, by what the system says of the client.

use fltport::{NtStatus, Timeout};

use super::elsewhere;
use crate::backend::{Allow, Done, Need, OK, PortId, PortSpec, Who, hresult};
use crate::case::{Case, case};
use crate::world::{Ends, LIMIT, NAME, World, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "C1",
        "D",
        &[Need::Access],
        "the built access lets in the system and administrators: root and the host's user",
        c1,
    ),
    case(
        "C2",
        "D",
        &[Need::Access, Need::Users],
        "the built access refuses an ordinary user; the connect callback does not run",
        c2,
    ),
    case(
        "C3",
        "I",
        &[Need::Access, Need::Users],
        "a connect that access refused takes no slot",
        c3,
    ),
    case(
        "C4",
        "S-ROS,X,3P",
        &[Need::AccessMasks],
        "a descriptor that grants FLT_PORT_CONNECT alone refuses even an administrator",
        elsewhere,
    ),
    case(
        "C5",
        "3P",
        &[Need::Access, Need::Users],
        "access for everyone lets in an ordinary user",
        c5,
    ),
    case(
        "C6",
        "I",
        &[Need::Access, Need::Users],
        "access for one user lets in that user and refuses another",
        c6,
    ),
    case(
        "C7",
        "3P",
        &[Need::AccessMasks],
        "an entry that grants everyone the connect right alone lets in nobody",
        elsewhere,
    ),
    case(
        "C8",
        "I",
        &[Need::Access],
        "access for nobody refuses everyone, the port's own user too",
        c8,
    ),
    case(
        "C9",
        "I",
        &[Need::Processes, Need::Users],
        "a client that drops its rights once connected goes on as before",
        c9,
    ),
    case(
        "C10",
        "I",
        &[Need::PassedHandles, Need::Users],
        "a connected handle works in an unprivileged process that it was passed to",
        c10,
    ),
    case(
        "C11",
        "3P",
        &[Need::AccessMasks],
        "the built descriptor has two entries, administrators and system, with the mask",
        elsewhere,
    ),
    case(
        "C12",
        "I,O-6",
        &[Need::Access, Need::Users, Need::UnsaidAccess],
        "a port whose access nobody has said refuses an ordinary user",
        c12,
    ),
];

/// An ordinary user, and another.
const A: u32 = 65_534;
const B: u32 = 65_533;

const fn user(user: u32) -> Who {
    Who {
        process: 1,
        user: Some(user),
    }
}

fn open_to(world: &mut World, access: Allow) -> PortId {
    world.create(&PortSpec { access, ..spec() })
}

fn enters(world: &mut World, port: PortId, who: Who) {
    let (client, conn) = world.connected(who, NAME, b"");
    world.assert_alive(Ends { port, client, conn });
}

fn stays_out(world: &mut World, who: Who) {
    let connects = world.connects();
    let refused = world.connect(who, NAME, b"");
    assert_eq!(refused, Err(hresult(NtStatus::ACCESS_DENIED)), "{who:?}");
    assert_eq!(world.connects(), connects, "the callback ran");
}

fn c1(world: &mut World) {
    let port = open_to(world, Allow::Default);
    enters(world, port, Who::default());
}

fn c2(world: &mut World) {
    let port = open_to(world, Allow::Default);
    stays_out(world, user(A));
    enters(world, port, Who::default());
    assert_eq!(world.connects(), 1);
}

fn c3(world: &mut World) {
    // The built access, and one that the port itself has to decide because some users may reach it.
    for access in [Allow::Default, Allow::Users(vec![B])] {
        let port = world.create(&PortSpec {
            access,
            max_connections: 1,
            ..spec()
        });
        for _ in 0..3 {
            stays_out(world, user(A));
        }
        enters(world, port, Who::default());
        world.backend.close_port(port);
    }
}

fn c5(world: &mut World) {
    let port = open_to(world, Allow::Everyone);
    enters(world, port, user(A));
}

fn c6(world: &mut World) {
    let port = open_to(world, Allow::Users(vec![A]));
    enters(world, port, user(A));
    stays_out(world, user(B));
    enters(world, port, user(A));
}

fn c8(world: &mut World) {
    open_to(world, Allow::Nobody);
    stays_out(world, Who::default());
    if world.can(Need::Users) {
        stays_out(world, user(A));
    }
}

fn c9(world: &mut World) {
    let port = open_to(world, Allow::Default);
    let who = Who::default();
    let (client, conn) = world.connected(who, NAME, b"");
    let dropped = world.backend.become_user(who, A);
    world.done(dropped);
    world.assert_alive(Ends { port, client, conn });
    assert_eq!(world.request(client, b"still", 5), (OK, b"still".to_vec()));
    // What it was at connect does not count for the next one.
    stays_out(world, who);
}

fn c10(world: &mut World) {
    open_to(world, Allow::Default);
    // As the user that the handle goes to, nobody gets in.
    stays_out(world, user(A));
    let used = world.backend.bequeath(Who::default(), NAME, Some(A));
    let conn = world.new_conn();
    let ask = world.ask(conn, b"for the heir", 4, Timeout::After(LIMIT));
    assert_eq!(world.status(ask), NtStatus::SUCCESS);
    assert_eq!(world.done(used), Done::Is(true));
}

fn c12(world: &mut World) {
    let port = open_to(world, Allow::Unsaid);
    stays_out(world, user(A));
    enters(world, port, Who::default());
}

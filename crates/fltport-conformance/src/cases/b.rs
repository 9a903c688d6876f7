//! B. Connect: what a connect gives and refuses, and when its callback runs. Limits and races are in the file beside this.

use fltport::{NtStatus, Timeout};

use super::elsewhere;
use crate::backend::{
    Answer, Callback, ClientId, ConnId, Done, Event, Need, OK, Script, Who, hresult,
};
use crate::case::{Case, case};
use crate::world::{Ends, LIMIT, NAME, World, bytes, holds, ms, returns, spec};

pub(super) const CASES: &[Case] = &[
    case(
        "B1",
        "D",
        &[],
        "a connect gives a handle that works; the callback ran once, before it returned",
        b1,
    ),
    case(
        "B2",
        "D,3P",
        &[Need::Names],
        "a name that no port has is not found",
        b2,
    ),
    case(
        "B3",
        "I",
        &[Need::NameSyntax],
        "a name without leading backslash is bad path syntax",
        b3,
    ),
    case(
        "B4",
        "I",
        &[Need::Names],
        "a name of something that is no port is an invalid handle",
        b4,
    ),
    case(
        "B5",
        "D,S",
        &[],
        "the callback gets the bytes of the context, and how many they are",
        b5,
    ),
    case(
        "B6",
        "D",
        &[],
        "without a context the callback gets a size of zero",
        b6,
    ),
    case(
        "B7",
        "S-SI",
        &[Need::WindowsArguments],
        "an absent context with a size is an invalid parameter, the callback does not run",
        elsewhere,
    ),
    case(
        "B8",
        "S-SI",
        &[Need::WindowsArguments],
        "a context of size zero that is not absent is an invalid parameter",
        elsewhere,
    ),
    case(
        "B9",
        "S-SI",
        &[Need::ContextChecks],
        "a context of 65,000 bytes arrives whole",
        b9,
    ),
    case(
        "B10",
        "S-SI",
        &[Need::ContextChecks],
        "a context of 65,535 bytes overflows",
        b10,
    ),
    case(
        "B11",
        "3P",
        &[Need::WindowsArguments],
        "an unknown option is an invalid parameter",
        elsewhere,
    ),
    case(
        "B12",
        "D",
        &[Need::SyncHandles],
        "a synchronous handle can be asked for",
        elsewhere,
    ),
    case(
        "B13",
        "D-ish,S-ROS",
        &[],
        "a refusal reaches the client, has no disconnect callback, and takes no slot",
        b13,
    ),
    case(
        "B14",
        "S",
        &[],
        "a refusal with STATUS_INVALID_PARAMETER_3 is an invalid parameter to the client",
        b14,
    ),
    case(
        "B15",
        "S-SI",
        &[],
        "a refusal with a status of a foreign facility is E_FAIL",
        b15,
    ),
    case(
        "B21",
        "D",
        &[],
        "a connect lasts as long as its callback",
        b21,
    ),
    case(
        "B22",
        "S",
        &[Need::Identity],
        "the callback sees which process connects; threads are not told here",
        b22,
    ),
    case(
        "B23",
        "D,I",
        &[],
        "disconnect and message callbacks get the cookie that was written, or none",
        b23,
    ),
    case(
        "B24",
        "D",
        &[],
        "two connections of one process have a port and a queue each",
        b24,
    ),
    case(
        "B25",
        "D",
        &[Need::Names],
        "a port that was closed is not found",
        b25,
    ),
    case(
        "B26",
        "open",
        &[Need::Names],
        "open on Windows: here a name that differs in case is not found",
        b26,
    ),
    case(
        "B27",
        "D",
        &[Need::PassedHandles],
        "a child process that inherits the handle can request, get and reply on it",
        b27,
    ),
    case(
        "B28",
        "D",
        &[Need::PassedHandles],
        "a program that a client starts does not inherit the handle by itself",
        b28,
    ),
];

fn connects(world: &mut World, name: &str, context: &[u8]) -> Result<ClientId, u32> {
    world.connect(Who::default(), name, context)
}

/// The context as a connect callback got it.
fn context_of(world: &mut World, wanted: ConnId) -> Vec<u8> {
    world.event("the connect callback", |event| match event {
        Event::Connect { conn, context, .. } if *conn == wanted => Some(context.clone()),
        _ => None,
    })
}

fn b1(world: &mut World) {
    let port = world.create(&spec());
    let client = connects(world, NAME, b"").expect("the client is connected");
    assert_eq!(world.connects(), 1);
    let returned = world.count(|event| matches!(event, Event::Returned { .. }));
    assert_eq!(returned, 1);
    let conn = world.new_conn();
    world.assert_alive(Ends { port, client, conn });
    assert_eq!(world.connects(), 1);
}

fn b2(world: &mut World) {
    let missing = Err(hresult(NtStatus::OBJECT_NAME_NOT_FOUND));
    assert_eq!(missing, Err(0x8007_0002));
    assert_eq!(connects(world, NAME, b""), missing);
    world.create(&spec());
    assert_eq!(connects(world, r"\Other", b""), missing);
    if world.can(Need::HostProcess) {
        // Of a host that is no more, its socket is left.
        let host = Who {
            process: 1,
            user: None,
        };
        let serves = world.backend.foreign_host(host, r"\Dead");
        world.done(serves);
        connects(world, r"\Dead", b"").expect("the port is there");
        world.backend.kill(host);
        assert_eq!(connects(world, r"\Dead", b""), missing);
    }
}

fn b3(world: &mut World) {
    world.create(&spec());
    let bare = NAME.trim_start_matches('\\');
    assert_eq!(connects(world, bare, b""), Err(0x8007_00A1));
}

fn b4(world: &mut World) {
    world.backend.occupy(r"\NoPort");
    assert_eq!(connects(world, r"\NoPort", b""), Err(0x8007_0006));
}

fn b5(world: &mut World) {
    world.create(&spec());
    let (_, conn) = world.connected(Who::default(), NAME, &[1, 2, 3]);
    assert_eq!(context_of(world, conn), [1, 2, 3]);
}

fn b6(world: &mut World) {
    world.create(&spec());
    let (_, conn) = world.connected(Who::default(), NAME, b"");
    assert_eq!(context_of(world, conn), b"");
}

fn b9(world: &mut World) {
    world.create(&spec());
    let sent = bytes(9, 65_000);
    let (_, conn) = world.connected(Who::default(), NAME, &sent);
    assert!(context_of(world, conn) == sent, "the context differs");
}

fn b10(world: &mut World) {
    world.create(&spec());
    let long = bytes(10, 65_535);
    assert_eq!(connects(world, NAME, &long), Err(0x8007_0216));
}

fn b13(world: &mut World) {
    let port = world.create(&crate::backend::PortSpec {
        max_connections: 1,
        ..spec()
    });
    world.script(port, Callback::Connect, returns(NtStatus::ACCESS_DENIED));
    assert_eq!(connects(world, NAME, b""), Err(0x8007_0005));
    let refused = world.new_conn();
    world.script(port, Callback::Connect, returns(NtStatus::SUCCESS));
    let ends = world.join(port);
    world.close(ends.client);
    // Everything that could still come has come when the filter is gone.
    world.backend.close_port(port);
    world.unregister(0);
    assert_eq!(world.disconnects(), 1);
    let of_refused =
        |event: &Event| matches!(event, Event::Disconnect { conn, .. } if *conn == refused);
    assert_eq!(world.count(of_refused), 0);
}

fn refused_with(world: &mut World, status: NtStatus) -> Result<ClientId, u32> {
    let port = world.create(&spec());
    world.script(port, Callback::Connect, returns(status));
    connects(world, NAME, b"")
}

fn b14(world: &mut World) {
    let told = refused_with(world, NtStatus::INVALID_PARAMETER_3);
    assert_eq!(told, Err(0x8007_0057));
}

fn b15(world: &mut World) {
    let told = refused_with(world, NtStatus(0xC019_0001));
    assert_eq!(told, Err(0x8000_4005));
}

fn b21(world: &mut World) {
    let port = world.create(&spec());
    world.script(port, Callback::Connect, holds());
    let start = world.backend.now();
    let connect = world.backend.connect(Who::default(), NAME, b"");
    world.stays(connect, ms(500));
    let call = world.event("the connect callback", |event| match event {
        Event::Connect { call, .. } => Some(*call),
        _ => None,
    });
    world.backend.release(call);
    assert!(matches!(world.done(connect), Done::Connected(Ok(_))));
    world.took(start, ms(500));
}

fn b22(world: &mut World) {
    world.create(&spec());
    for process in 0..2 {
        let who = Who {
            process,
            user: None,
        };
        let pid = world.backend.pid(who);
        let (_, conn) = world.connected(who, NAME, b"");
        let seen = world.event("the connect callback", |event| match event {
            Event::Connect { conn: of, pid, .. } if *of == conn => Some(*pid),
            _ => None,
        });
        assert_eq!(seen, pid);
    }
}

/// The cookies that the message and disconnect callbacks of a connection get.
fn cookies(world: &mut World, written: Option<u64>) -> (Option<u64>, Option<u64>) {
    let port = world.create(&spec());
    let answer = Answer::Is {
        status: NtStatus::SUCCESS,
        output: Vec::new(),
        claimed: None,
        cookie: written,
    };
    let script = Script {
        inside: None,
        hold: false,
        answer,
    };
    world.script(port, Callback::Connect, script);
    let ends = world.join(port);
    assert_eq!(world.request(ends.client, b"?", 1).0, OK);
    world.close(ends.client);
    world.backend.close_port(port);
    let seen = world.event("a request", |event| match event {
        Event::Message { conn, cookie, .. } if *conn == ends.conn => Some(*cookie),
        _ => None,
    });
    let last = world.event("the end", |event| match event {
        Event::Disconnect { conn, cookie, .. } if *conn == ends.conn => Some(*cookie),
        _ => None,
    });
    (seen, last)
}

fn b23(world: &mut World) {
    for written in [Some(0xC0_FFEE), None] {
        assert_eq!(cookies(world, written), (written, written));
    }
}

fn b24(world: &mut World) {
    let port = world.create(&spec());
    let (a, b) = (world.join(port), world.join(port));
    assert_ne!(a.conn, b.conn);
    let gets = [a, b].map(|ends| {
        let get = world.backend.get(ends.client, 64);
        world.gets_posted(ends.conn, 1);
        get
    });
    let to_b = world.send(b.conn, b"for b", Timeout::After(LIMIT));
    assert_eq!(world.status(to_b), NtStatus::SUCCESS);
    assert_eq!(world.got(gets[1]).payload, b"for b");
    assert_eq!(
        (world.counts(a.conn).gets, world.counts(b.conn).gets),
        (1, 0)
    );
    let to_a = world.send(a.conn, b"for a", Timeout::After(LIMIT));
    assert_eq!(world.status(to_a), NtStatus::SUCCESS);
    assert_eq!(world.got(gets[0]).payload, b"for a");
    // The end of one is not the other's.
    world.close(a.client);
    world.assert_alive(b);
}

fn b25(world: &mut World) {
    let port = world.create(&spec());
    connects(world, NAME, b"").expect("the port is there");
    world.backend.close_port(port);
    assert_eq!(connects(world, NAME, b""), Err(0x8007_0002));
}

fn b26(world: &mut World) {
    world.create(&spec());
    let outcome = connects(world, &NAME.to_lowercase(), b"");
    assert_eq!(outcome, Err(0x8007_0002));
}

fn b27(world: &mut World) {
    world.create(&spec());
    let who = Who::default();
    let parent = world.backend.pid(who);
    let used = world.backend.bequeath(who, NAME, None);
    let conn = world.new_conn();
    let ask = world.ask(conn, b"who are you?", 4, Timeout::After(LIMIT));
    let sent = world.sent(ask);
    assert_eq!(NtStatus(sent.status), NtStatus::SUCCESS);
    assert_eq!(world.done(used), Done::Is(true));
    let reply = sent.reply.expect("a reply");
    let child = u32::from_le_bytes(reply.try_into().expect("a process id"));
    assert_ne!(child, parent);
    // One connection, of the parent.
    let connected = world.event("the connect callback", |event| match event {
        Event::Connect { pid, .. } => Some(*pid),
        _ => None,
    });
    assert_eq!((connected, world.connects()), (parent, 1));
}

fn b28(world: &mut World) {
    let ends = world.fixture();
    let left = world.backend.leave_nothing(ends.client);
    assert_eq!(world.done(left), Done::Is(true));
    world.assert_alive(ends);
}

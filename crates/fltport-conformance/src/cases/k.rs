//! K. Requests of the client: its call is a callback of the filter, and nothing else.

use fltport::{NtStatus, Timeout};

use crate::backend::{Answer, Callback, DISC, Done, Event, Inside, Need, OK, Script, Who};
use crate::case::{Case, case};
use crate::world::{NAME, World, after, bytes, does, holds, ms, returns, writes};

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    case("K1", "D", &[], "the callback sees input and room, and what it writes comes back", k1),
    case("K2", "S", &[], "without an output buffer the callback has no room, and nothing comes back", k2),
    case("K3", "D", &[Need::WindowsArguments], "an absent output buffer makes its size meaningless", super::elsewhere),
    case("K4", "I", &[], "a callback that names no length returns no bytes", k4),
    case("K5", "X,D", &[], "without a message callback a request is not supported", k5),
    case("K6", "S", &[], "a callback's STATUS_NO_MORE_ENTRIES becomes 0x80070103", k6),
    case("K7", "S", &[], "a callback's STATUS_INVALID_PARAMETER becomes 0x80070057", k7),
    case("K8", "S", &[], "a callback's STATUS_BUFFER_TOO_SMALL becomes 0x8007007A", k8),
    case("K9", "I", &[], "a callback's STATUS_BUFFER_OVERFLOW becomes 0x800700EA, and its bytes come along", k9),
    case("K10", "I", &[], "a callback's STATUS_PENDING is final: 0x800703E5, and the client does not hang", k10),
    case("K11", "S-SI", &[], "a callback's STATUS_TIMEOUT becomes 0x80070102, a failure", k11),
    case("K12", "S-SI", &[], "a filter manager's status keeps its facility: 0xC01C0020 becomes 0x801F0020", k12),
    case("K13", "WIN32", &[], "a customer's status passes unchanged; an unknown one becomes 0x8007013D", k13),
    case("K14", "S-SI", &[], "a foreign facility's status becomes E_FAIL", k14),
    case("K15", "X", &[], "an empty input fails with 0x80070057, and no callback is called", k15),
    case("K16", "D", &[Need::Addresses], "an invalid input address fails, and no callback is called", super::elsewhere),
    case("K17", "D", &[Need::Addresses], "an invalid output address fails, and no callback is called", super::elsewhere),
    case("K18", "D", &[Need::OddAddresses], "input at an odd address arrives whole", k18),
    case("K19", "3P", &[Need::WindowsArguments], "one buffer for input and output", super::elsewhere),
    case("K20", "D,I", &[], "thousands of requests of 16 callers all succeed; 16 callbacks run at once", k20),
    case("K21", "S", &[], "a request goes through while a get waits", k21),
    case("K22", "S", &[], "a request goes through between a get and its reply", k22),
    case("K23", "I", &[Need::Identity], "the callback is told the process that calls, not the one that connected", k23),
    case("K24", "I", &[], "a callback that sends to the client that calls it times out, without a deadlock", k24),
    case("K25", "I", &[], "a callback that sends while the client has a get posted delivers", k25),
    case("K26", "S", &[], "on a closed connection a request is DISC, and no callback is called", k26),
    case("K27", "I", &[], "a callback that claims more than there is room for is held to the room", k27),
    case("K28", "D", &[], "a request takes as long as its callback, with no timeout", k28),
    case("K29", "I", &[], "1 MiB in and out arrives whole", k29),
    case("K30", "S-SI", &[Need::Overlapped], "a request posts no completion packet", super::elsewhere),
];

fn k1(world: &mut World) {
    let ends = world.fixture();
    let script = writes(NtStatus::SUCCESS, &bytes(2, 5));
    world.script(ends.port, Callback::Message, script);
    let (result, output) = world.request(ends.client, &bytes(1, 8), 16);
    assert_eq!((result, output), (OK, bytes(2, 5)));
    assert_eq!(seen(world), vec![(bytes(1, 8), 16)]);
}

fn k2(world: &mut World) {
    let ends = world.fixture();
    let script = writes(NtStatus::SUCCESS, &bytes(2, 5));
    world.script(ends.port, Callback::Message, script);
    let response = world.request(ends.client, &bytes(1, 8), 0);
    assert_eq!(response, (OK, Vec::new()));
    assert_eq!(seen(world), vec![(bytes(1, 8), 0)]);
}

fn k4(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, claims(&bytes(2, 5), 0));
    let response = world.request(ends.client, &bytes(1, 8), 16);
    assert_eq!(response, (OK, Vec::new()));
}

fn k5(world: &mut World) {
    let mut spec = crate::world::spec();
    spec.message_callback = false;
    let port = world.create(&spec);
    let ends = world.join(port);
    let response = world.request(ends.client, b"anybody?", 16);
    assert_eq!(response, (0x8007_0032, Vec::new()));
    assert_eq!(world.messages(), 0);
    world.assert_alive(ends);
}

fn k6(world: &mut World) {
    becomes(world, &[(NtStatus::NO_MORE_ENTRIES, 0x8007_0103)]);
}

fn k7(world: &mut World) {
    becomes(world, &[(NtStatus::INVALID_PARAMETER, 0x8007_0057)]);
}

fn k8(world: &mut World) {
    becomes(world, &[(NtStatus::BUFFER_TOO_SMALL, 0x8007_007A)]);
}

fn k9(world: &mut World) {
    let ends = world.fixture();
    let script = writes(NtStatus::BUFFER_OVERFLOW, &bytes(2, 16));
    world.script(ends.port, Callback::Message, script);
    let response = world.request(ends.client, b"all of it", 16);
    assert_eq!(response, (0x8007_00EA, bytes(2, 16)));
}

fn k10(world: &mut World) {
    becomes(world, &[(NtStatus::PENDING, 0x8007_03E5)]);
}

fn k11(world: &mut World) {
    becomes(world, &[(NtStatus::TIMEOUT, 0x8007_0102)]);
}

fn k12(world: &mut World) {
    becomes(world, &[(NtStatus::FLT_NO_WAITER_FOR_REPLY, 0x801F_0020)]);
}

fn k13(world: &mut World) {
    let customers = (NtStatus(0xE000_1234), 0xE000_1234);
    becomes(world, &[customers, (NtStatus(0xC000_7FFF), 0x8007_013D)]);
}

fn k14(world: &mut World) {
    becomes(world, &[(NtStatus(0xC0FF_0001), 0x8000_4005)]);
}

fn k15(world: &mut World) {
    let ends = world.fixture();
    let (result, output) = world.request(ends.client, b"", 16);
    assert_eq!((result, output), (0x8007_0057, Vec::new()));
    assert_eq!(world.messages(), 0);
}

fn k18(world: &mut World) {
    let ends = world.fixture();
    for length in [1, 2, 7, 64, 4099] {
        let input = bytes(1, length);
        let room = u32::try_from(length).expect("a size");
        assert_eq!(world.request(ends.client, &input, room), (OK, input));
    }
}

fn k20(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, holds());
    let calls: Vec<_> = (0..16)
        .map(|lane| world.backend.request(ends.client, &[lane], 1))
        .collect();
    world.until("16 callbacks run at once", |world| world.messages() == 16);
    let returned = world.count(|event| matches!(event, Event::Returned { .. }));
    assert_eq!(returned, 1, "the connect callback, and no other");
    world.script(
        ends.port,
        Callback::Message,
        Script {
            hold: false,
            ..holds()
        },
    );
    for event in world.backend.events() {
        if let Event::Message { call, .. } = event {
            world.backend.release(call);
        }
    }
    let mut lanes: Vec<_> = (0_u8..)
        .zip(calls)
        .map(|(lane, call)| (vec![lane], call))
        .collect();
    for round in 1..=world.rounds(1000) {
        for (lane, (input, call)) in lanes.iter_mut().enumerate() {
            assert_eq!(world.response(*call), (OK, std::mem::take(input)));
            *input = [&round.to_le_bytes()[..], &lane.to_le_bytes()].concat();
            *call = world.backend.request(ends.client, input, 64);
        }
    }
    for (input, call) in lanes {
        assert_eq!(world.response(call), (OK, input));
    }
}

fn k21(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    assert_eq!(
        world.request(ends.client, b"meanwhile", 16),
        (OK, b"meanwhile".to_vec())
    );
    world.stays(get, ms(50));
    let sent = world.send(ends.conn, b"now", Timeout::Never);
    assert_eq!(world.got(get).payload, b"now");
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

fn k22(world: &mut World) {
    let ends = world.fixture();
    let asked = world.ask(ends.conn, b"question", 4, Timeout::Never);
    let got = world.get(ends.client, 80);
    assert_eq!(
        world.request(ends.client, b"in between", 16),
        (OK, b"in between".to_vec())
    );
    world.stays(asked, ms(50));
    assert_eq!(
        world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"yes"),
        OK
    );
    assert_eq!(world.sent(asked).reply.as_deref(), Some(&b"yes"[..]));
}

fn k23(world: &mut World) {
    world.create(&crate::world::spec());
    for process in [1, 2] {
        let who = Who {
            process,
            user: None,
        };
        let (client, _) = world.connected(who, NAME, b"");
        let input = process.to_le_bytes();
        assert_eq!(world.request(client, &input, 4).0, OK);
        let pid = world.event("its callback", |event| match event {
            Event::Message {
                input: seen, pid, ..
            } if *seen == input => Some(*pid),
            _ => None,
        });
        assert_eq!(pid, world.backend.pid(who));
    }
    if world.can(Need::PassedHandles) {
        heirs_are_callers(world);
    }
}

/// A process that was given a connection is the caller, and not the one that has connected.
fn heirs_are_callers(world: &mut World) {
    let who = Who {
        process: 3,
        user: None,
    };
    let before = world.messages();
    let inheriting = world.backend.bequeath(who, NAME, None);
    let conn = world.new_conn();
    let asked = world.ask(conn, b"who are you?", 4, Timeout::Never);
    let heir = world.sent(asked).reply.expect("a reply");
    let heir = u32::from_ne_bytes(heir.try_into().expect("a process id"));
    assert_eq!(world.done(inheriting), Done::Is(true));
    let events = world.backend.events().into_iter();
    let callers: Vec<_> = events
        .filter_map(|event| match event {
            Event::Message { pid, .. } => Some(pid),
            _ => None,
        })
        .collect();
    assert_eq!(callers[before..], [heir]);
    assert_ne!(heir, world.backend.pid(who));
}

fn k24(world: &mut World) {
    let ends = world.fixture();
    let inside = Inside::Send(b"are you there?".to_vec(), after(200));
    world.script(ends.port, Callback::Message, does(inside));
    let start = world.backend.now();
    assert_eq!(
        world.request(ends.client, b"hello", 16),
        (OK, b"hello".to_vec())
    );
    world.took(start, ms(200));
    assert_eq!(inside_status(world), NtStatus::TIMEOUT);
}

fn k25(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let inside = Inside::Send(b"are you there?".to_vec(), Timeout::Never);
    world.script(ends.port, Callback::Message, does(inside));
    assert_eq!(
        world.request(ends.client, b"hello", 16),
        (OK, b"hello".to_vec())
    );
    assert_eq!(inside_status(world), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, b"are you there?");
}

fn k26(world: &mut World) {
    let ends = world.fixture();
    world.backend.close_client_port(ends.conn);
    assert_eq!(world.request(ends.client, b"hello", 16), (DISC, Vec::new()));
    assert_eq!(world.messages(), 0);
}

fn k27(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, claims(&bytes(2, 16), 100));
    assert_eq!(world.request(ends.client, b"hello", 16), (OK, bytes(2, 16)));
}

fn k28(world: &mut World) {
    let ends = world.fixture();
    world.script(ends.port, Callback::Message, holds());
    let start = world.backend.now();
    let request = world.backend.request(ends.client, b"hello", 16);
    let call = world.message_call();
    world.stays(request, ms(2000));
    world.backend.release(call);
    assert_eq!(world.response(request), (OK, b"hello".to_vec()));
    world.took(start, ms(2000));
}

fn k29(world: &mut World) {
    let ends = world.fixture();
    let input = bytes(29, 1 << 20);
    let (result, output) = world.request(ends.client, &input, 1 << 20);
    assert_eq!(result, OK);
    assert!(output == input, "the output is another");
    assert!(seen(world) == [(input, 1 << 20)], "the input was another");
}

/// A callback that writes `output` and says that it wrote `claimed` bytes.
fn claims(output: &[u8], claimed: usize) -> Script {
    let answer = Answer::Is {
        status: NtStatus::SUCCESS,
        output: output.to_vec(),
        claimed: Some(claimed),
        cookie: None,
    };
    Script {
        inside: None,
        hold: false,
        answer,
    }
}

/// What message callbacks were given: input, and bytes of room.
fn seen(world: &mut World) -> Vec<(Vec<u8>, usize)> {
    let calls = world.backend.events().into_iter();
    calls
        .filter_map(|event| match event {
            Event::Message {
                input, capacity, ..
            } => Some((input, capacity)),
            _ => None,
        })
        .collect()
}

/// What a callback's send inside came to.
fn inside_status(world: &mut World) -> NtStatus {
    world.event("the end of the send inside", |event| match event {
        Event::Inside { status, .. } => Some(*status),
        _ => None,
    })
}

/// Each of these statuses of a callback is that result for the client.
fn becomes(world: &mut World, table: &[(NtStatus, u32)]) {
    let ends = world.fixture();
    for (status, result) in table {
        world.script(ends.port, Callback::Message, returns(*status));
        let response = world.request(ends.client, b"hello", 16);
        assert_eq!(response, (*result, Vec::new()), "{status}");
    }
    assert_eq!(world.messages(), table.len());
    world.assert_alive(ends);
}

//! D. Send without reply: a message is delivered inside its sender's call, or not at all.

use std::collections::VecDeque;
use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{Done, Need, Op};
use crate::case::{Case, case};
use crate::world::{Ends, LIMIT, World, after, bytes, ms};

pub(super) const CASES: &[Case] = &[
    case(
        "D1",
        "D",
        &[],
        "a pending get takes the message, bytes after the header",
        d1,
    ),
    case(
        "D2",
        "D,X",
        &[],
        "its header has reply length 0, message id 0 and zeroed padding",
        d2,
    ),
    case(
        "D3",
        "D",
        &[],
        "without a get the sender waits until there is one",
        d3,
    ),
    case(
        "D4",
        "D",
        &[],
        "a message that timed out without a get is never seen by a later one",
        d4,
    ),
    case(
        "D5",
        "D",
        &[],
        "two gets and two sends: each get takes one message, each message once",
        d5,
    ),
    case(
        "D6",
        "D",
        &[],
        "one get and two sends: one returns, the other waits for a second get",
        d6,
    ),
    case(
        "D7",
        "S",
        &[Need::WindowsArguments],
        "a reply length given without a reply buffer is ignored",
        super::elsewhere,
    ),
    case(
        "D8",
        "I",
        &[],
        "an empty message is a header alone, for a get and for a posted get",
        d8,
    ),
    case("D9", "I", &[], "a message of 1 MiB arrives whole", d9),
    case(
        "D10",
        "I",
        &[],
        "a message longer than any get may be is refused at once (here: above the port's limit)",
        d10,
    ),
    case(
        "D11",
        "S,I",
        &[],
        "a send on a client port that the filter has closed ends at once, even without a timeout",
        d11,
    ),
    case(
        "D12",
        "D",
        &[],
        "what the sender does to its buffer after the call changes no message, delivered or still waiting",
        d12,
    ),
    case(
        "D13",
        "I",
        &[Need::Addresses],
        "bytes of a big buffer behind a short message are untouched",
        super::elsewhere,
    ),
    case(
        "D14",
        "D",
        &[],
        "8 senders with 1,000 messages each, 4 getters: every message arrives exactly once",
        d14,
    ),
    case(
        "D15",
        "D",
        &[],
        "a send on one connection completes no get of another",
        d15,
    ),
    case(
        "D16",
        "I",
        &[],
        "one sender's messages reach one getter in their order",
        d16,
    ),
];

fn d1(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 64);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(1, 64), Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, bytes(1, 64));
}

fn d2(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 16 + 64);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &bytes(2, 64), Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    let got = world.got(get);
    assert_eq!((got.reply_length, got.message_id), (0, 0));
    assert_eq!(got.header, [0; 16]);
}

fn d3(world: &mut World) {
    let ends = world.fixture();
    let start = world.backend.now();
    let sent = world.send(ends.conn, &bytes(3, 64), Timeout::Never);
    world.stays(sent, ms(300));
    world.get(ends.client, 80);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    world.took(start, ms(300));
}

fn d4(world: &mut World) {
    let ends = world.fixture();
    let start = world.backend.now();
    let sent = world.send(ends.conn, &bytes(4, 64), after(200));
    assert_eq!(world.status(sent), NtStatus::TIMEOUT);
    world.took(start, ms(200));
    let get = world.backend.get(ends.client, 80);
    world.stays(get, ms(200));
    let sent = world.send(ends.conn, b"another", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(get).payload, b"another");
}

fn d5(world: &mut World) {
    let ends = world.fixture();
    let gets = [80, 80].map(|size| world.backend.get(ends.client, size));
    world.gets_posted(ends.conn, 2);
    let payloads = [bytes(51, 64), bytes(52, 64)];
    let sends = payloads
        .each_ref()
        .map(|payload| world.send(ends.conn, payload, Timeout::Never));
    for sent in sends {
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
    }
    let mut taken = gets.map(|get| world.got(get).payload);
    if taken[0] != payloads[0] {
        taken.reverse();
    }
    assert_eq!(taken, payloads);
}

fn d6(world: &mut World) {
    let ends = world.fixture();
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let payloads = [bytes(61, 64), bytes(62, 64)];
    let sends = payloads
        .each_ref()
        .map(|payload| world.send(ends.conn, payload, Timeout::Never));
    let first = world.got(get).payload;
    let first = usize::from(first != payloads[0]);
    assert_eq!(world.status(sends[first]), NtStatus::SUCCESS);
    let second = 1 - first;
    world.stays(sends[second], ms(200));
    assert_eq!(world.get(ends.client, 80).payload, payloads[second]);
    assert_eq!(world.status(sends[second]), NtStatus::SUCCESS);
}

fn d8(world: &mut World) {
    let ends = world.fixture();
    for posted in [false, true] {
        let get = if posted {
            world.backend.post(ends.client, 80)
        } else {
            world.backend.get(ends.client, 80)
        };
        world.gets_posted(ends.conn, 1);
        let sent = world.send(ends.conn, b"", Timeout::Never);
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
        let got = world.got(get);
        assert_eq!((got.header.len(), got.payload.len()), (16, 0));
    }
}

fn d9(world: &mut World) {
    let ends = world.fixture();
    let payload = bytes(9, 1 << 20);
    let get = world.backend.get(ends.client, 16 + (1 << 20));
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &payload, Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    // Not with assert_eq, which would print two megabytes.
    assert!(world.got(get).payload == payload, "bytes differ");
}

fn d10(world: &mut World) {
    let ends = world.fixture();
    // More than any backend's fixture takes. Lengths that overflow with their header would first need that much memory.
    let payload = vec![10; (2 << 20) + 1];
    let start = world.backend.now();
    let sent = world.send(ends.conn, &payload, Timeout::Never);
    let status = world.status(sent);
    assert!(status.0 >> 30 == 3, "{status} is no error");
    world.took(start, ms(0));
    world.assert_alive(ends);
}

fn d11(world: &mut World) {
    let ends = world.fixture();
    world.backend.close_client_port(ends.conn);
    let start = world.backend.now();
    let sent = world.send(ends.conn, &bytes(11, 64), Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::PORT_DISCONNECTED);
    world.took(start, ms(0));
}

fn d12(world: &mut World) {
    let ends = world.fixture();
    let mut buffer = bytes(12, 64);
    let get = world.backend.get(ends.client, 80);
    world.gets_posted(ends.conn, 1);
    let sent = world.send(ends.conn, &buffer, Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    buffer.fill(0xEE);
    assert_eq!(world.got(get).payload, bytes(12, 64));
    // A send that is started returns before its message is taken.
    let mut buffer = bytes(13, 64);
    let started = world
        .backend
        .send_for_cancel(ends.conn, &buffer, 0, Timeout::Never);
    buffer.fill(0xEE);
    let got = world.get(ends.client, 80);
    assert_eq!(got.payload, bytes(13, 64));
    world.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"");
    assert_eq!(world.status(started), NtStatus::SUCCESS);
}

/// A thread of D14 that sends its messages one after the other.
struct Sender {
    call: Option<Op>,
    left: VecDeque<u64>,
}

impl Sender {
    /// The next message, if the one before has ended; whether anything happened.
    fn go_on(&mut self, world: &mut World, ends: Ends) -> bool {
        if let Some(call) = self.call {
            let Some(done) = world.backend.take(call, Duration::ZERO) else {
                return false;
            };
            let sent = matches!(done, Done::Sent(ref sent) if sent.status == 0);
            assert!(sent, "a send ended as {done:?}");
            self.call = None;
        }
        let Some(number) = self.left.pop_front() else {
            return false;
        };
        let payload = number.to_le_bytes();
        self.call = Some(world.send(ends.conn, &payload, Timeout::Never));
        true
    }
}

fn d14(world: &mut World) {
    let ends = world.fixture();
    let mut senders: Vec<_> = (0..8)
        .map(|sender| Sender {
            call: None,
            left: (sender * 1000..(sender + 1) * 1000).collect(),
        })
        .collect();
    let mut gets: Vec<_> = (0..4).map(|_| world.backend.get(ends.client, 80)).collect();
    let mut taken = Vec::new();
    let mut last = world.backend.now();
    // Past the last message too: one that came twice would still be there.
    while taken.len() < 8000 || senders.iter().any(|sender| sender.call.is_some()) {
        let mut busy = false;
        for get in &mut gets {
            if let Some(done) = world.backend.take(*get, Duration::ZERO) {
                let Done::Got(got) = done else {
                    panic!("a get ended as {done:?}");
                };
                taken.push(number(&got.payload));
                *get = world.backend.get(ends.client, 80);
                busy = true;
            }
        }
        for sender in &mut senders {
            busy |= sender.go_on(world, ends);
        }
        if busy {
            last = world.backend.now();
        } else {
            let taken = taken.len();
            assert!(world.backend.now() < last + LIMIT, "stuck after {taken}");
            world.backend.step();
        }
    }
    for get in gets {
        world.stays(get, ms(50));
    }
    taken.sort_unstable();
    assert!(taken.iter().copied().eq(0..8000), "lost or doubled");
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().expect("eight bytes"))
}

fn d15(world: &mut World) {
    let a = world.fixture();
    let b = world.join(a.port);
    let (of_a, of_b) = (
        world.backend.get(a.client, 80),
        world.backend.get(b.client, 80),
    );
    world.gets_posted(a.conn, 1);
    world.gets_posted(b.conn, 1);
    let sent = world.send(a.conn, b"for a", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(of_a).payload, b"for a");
    world.stays(of_b, ms(200));
    let sent = world.send(b.conn, b"for b", Timeout::Never);
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
    assert_eq!(world.got(of_b).payload, b"for b");
}

fn d16(world: &mut World) {
    let ends = world.fixture();
    let mut get = world.backend.get(ends.client, 80);
    for number in 1..=100_u8 {
        let sent = world.send(ends.conn, &[number], Timeout::Never);
        assert_eq!(world.status(sent), NtStatus::SUCCESS);
        assert_eq!(world.got(get).payload, [number]);
        get = world.backend.get(ends.client, 80);
    }
}

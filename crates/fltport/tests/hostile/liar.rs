//! A host that lies to the library's client: each frame altered, cut, in the wrong place, or with files attached. The
//! client's call ends with an error, nothing panics or hangs, and what was attached is closed.

use std::path::Path;
use std::time::Duration;

use fltport::{CallError, Client, Connector, NtStatus};
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, MessageHeader, ToClient, ToHost};
use zerocopy::IntoBytes;

use super::common::child::{Process, alone, say};
use super::common::raw::{PART, Raw};
use super::common::stage::PROGRAMS;
use super::common::{LIMIT, NAME, descriptors, threads, until, watchdog_of};

#[test]
fn a_lying_host_gets_an_end_and_nothing_else() {
    let _watchdog = watchdog_of("a_lying_host", Duration::from_secs(150));
    alone("liar::a_lying_host_gets_an_end_and_nothing_else", || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let liar = Process::start(PROGRAMS, "liar", &[path], |_| ()).unwrap();
        liar.hear("listening");
        let before = (descriptors(), threads());
        let lies = lies();
        println!("{} lies", lies.len());
        for (number, lie) in lies.iter().enumerate() {
            let client = Connector::new().directory(path).connect(NAME, b"").unwrap();
            let ended = call(&client, lie.call);
            let heard = liar.hear(&format!("lie {number} "));
            if lie.must_end() {
                assert_eq!(ended, Err(CallError::Disconnected), "{lie:?}");
                assert_eq!(heard, "ended", "{lie:?}");
            }
            // Whatever it was, the connection is over by now, and every other call finds that.
            for other in [Call::Get, Call::Request] {
                assert_eq!(
                    call(&client, other),
                    Err(CallError::Disconnected),
                    "{lie:?}"
                );
            }
        }
        until("nothing is left", || {
            descriptors() <= before.0 && threads() <= before.1
        });
    });
}

/// What the client does while it is lied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Get,
    /// A get of 64 bytes.
    SmallGet,
    Request,
    Reply,
}

fn call(client: &Client, call: Call) -> Result<(), CallError> {
    match call {
        Call::Get => client.next_message_within(LIMIT).map(|message| {
            // The reply that it owes goes nowhere.
            assert!(message.payload().len() <= 1 << 20);
        }),
        Call::SmallGet => client.get(64).map(|message| {
            assert!(message.payload().len() <= 48, "more than there is room for");
        }),
        Call::Request => client.send(b"request", 8).map(drop),
        Call::Reply => client.next_message_within(LIMIT)?.reply(b"reply"),
    }
}

/// Packets that answer a call, each with so many files.
#[derive(Clone, Debug)]
struct Lie {
    call: Call,
    packets: Vec<Vec<u8>>,
    files: usize,
    /// It is a lie although each of its packets is a frame.
    out_of_place: bool,
}

impl Lie {
    fn must_end(&self) -> bool {
        let is_frame =
            |packet: &Vec<u8>| packet.len() <= FRAME_MAX && ToClient::parse(packet).is_ok();
        self.out_of_place || !self.packets.iter().all(is_frame)
    }
}

/// Plays the liar. The first call of each connection is lied to; then the client hangs up, or this side does.
pub(crate) fn play(told: &[String]) {
    let listener = Raw::listen_below(Path::new(&told[0]));
    say("listening");
    let file = std::fs::File::open("/proc/self/status").unwrap();
    for (number, lie) in lies().iter().enumerate() {
        let raw = listener.accept();
        raw.packet().unwrap();
        assert!(raw.tell(&accepted(), b""));
        let mut question = raw.question().unwrap();
        if lie.call == Call::Reply {
            // A true message first: the lie is about its reply.
            assert!(raw.tell(&message(1, 5), b"four?"));
            question = raw.question().unwrap();
        }
        assert!(ToHost::parse(&question).is_ok());
        let files = vec![std::os::fd::AsFd::as_fd(&file); lie.files];
        for packet in &lie.packets {
            if files.is_empty() {
                raw.bytes(packet);
            } else {
                raw.bytes_with(packet, &files);
            }
        }
        if lie.must_end() {
            raw.assert_ended();
        }
        drop(raw);
        say(&format!("lie {number} ended"));
    }
}

/// Frames for a client whose first call has the number 1, and a reply to its message the number 2.
fn truths(call: Call) -> Vec<(ToClient, &'static [u8])> {
    let (get, other) = match call {
        Call::Get | Call::SmallGet => (1, 7),
        Call::Request => (7, 1),
        Call::Reply => (7, 2),
    };
    vec![
        (message(get, 4), b"four"),
        (
            ToClient::GetFailed {
                get,
                status: NtStatus::BUFFER_TOO_SMALL,
                needed: 100,
            },
            b"",
        ),
        (
            ToClient::ReplyDone {
                reply: other,
                status: NtStatus::SUCCESS,
            },
            b"",
        ),
        (
            ToClient::RequestDone {
                request: other,
                status: NtStatus::SUCCESS,
                length: 4,
            },
            b"four",
        ),
        (ToClient::Abandoned { message_id: 1 }, b""),
        (ToClient::Disconnected, b""),
        (accepted(), b""),
        (ToClient::Chunk { length: 4 }, b"four"),
    ]
}

fn lies() -> Vec<Lie> {
    let mut all = Vec::new();
    for call in [Call::Get, Call::SmallGet, Call::Request, Call::Reply] {
        for (frame, payload) in truths(call) {
            let right = [frame.header().as_bytes(), payload].concat();
            let lie = |packets: Vec<Vec<u8>>, files| Lie {
                call,
                packets,
                files,
                out_of_place: false,
            };
            all.extend((1..right.len()).map(|length| lie(vec![right[..length].to_vec()], 0)));
            for at in 0..FRAME_HEADER {
                for flip in [0x01, 0xFF] {
                    let mut altered = right.clone();
                    altered[at] ^= flip;
                    all.push(lie(vec![altered], 0));
                }
            }
            for length in [
                0,
                1,
                3,
                5,
                PART,
                PART + 1,
                1 << 20,
                1 << 21,
                u32::MAX as usize,
            ] {
                for carried in [0, 4, PART, PART + 1] {
                    let mut altered = right[..FRAME_HEADER].to_vec();
                    altered[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                    altered.resize(FRAME_HEADER + carried, 1);
                    all.push(lie(vec![altered], 0));
                }
            }
            // Files with a right frame, with a wrong one, and with each part of one.
            for files in [1, 2, 253] {
                all.push(lie(vec![right.clone()], files));
                all.push(lie(vec![right[..FRAME_HEADER - 1].to_vec()], files));
                all.push(lie(vec![right.clone(), right.clone()], files));
            }
            all.push(lie(vec![Vec::new()], 0));
            all.push(lie(vec![vec![0xFF; 2 * FRAME_MAX]], 0));
        }
        for kind in (0..48u16).chain([u16::MAX]) {
            let mut altered = vec![0; FRAME_HEADER];
            altered[..2].copy_from_slice(&kind.to_ne_bytes());
            all.push(Lie {
                call,
                packets: vec![altered],
                files: 0,
                out_of_place: false,
            });
        }
        all.extend(out_of_place(call));
    }
    all
}

/// Right frames that no host may send now.
fn out_of_place(call: Call) -> Vec<Lie> {
    let bytes = |frame: ToClient, payload: &[u8]| [frame.header().as_bytes(), payload].concat();
    let number = if call == Call::Reply { 2 } else { 1 };
    let done = |request, length| ToClient::RequestDone {
        request,
        status: NtStatus::SUCCESS,
        length,
    };
    let answers = [
        // Numbers that were never given out, or are over.
        vec![bytes(message(99, 4), b"four")],
        vec![bytes(message(0, 4), b"four")],
        vec![bytes(message(u64::MAX, 4), b"four")],
        vec![bytes(done(99, 0), b"")],
        // A second greeting, a part of nothing, a frame inside another, a part of the wrong length.
        vec![bytes(accepted(), b"")],
        vec![bytes(ToClient::Chunk { length: 4 }, b"four")],
        vec![
            bytes(message(number, 2 * length(PART)), &[1; PART]),
            bytes(ToClient::Abandoned { message_id: 1 }, b""),
        ],
        vec![
            bytes(message(number, 2 * length(PART)), &[1; PART]),
            bytes(ToClient::Chunk { length: 9 }, b"part of 9"),
        ],
        // More than the port's limit, and more than was asked for.
        vec![bytes(message(number, (1 << 20) + 1), &[1; PART])],
        vec![bytes(done(number, 9), b"nine byte")],
    ];
    let small = vec![bytes(message(1, 49), &[1; 49])];
    let small = (call == Call::SmallGet).then_some(small);
    let lies = answers.into_iter().chain(small).map(|packets| Lie {
        call,
        packets,
        files: 0,
        out_of_place: true,
    });
    lies.collect()
}

const fn message(get: u64, length: u32) -> ToClient {
    ToClient::Message {
        get,
        header: MessageHeader::new(20, 1),
        remaining: None,
        attachment: false,
        length,
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

const fn accepted() -> ToClient {
    ToClient::Connected {
        status: NtStatus::SUCCESS,
        max_message: 1 << 20,
    }
}

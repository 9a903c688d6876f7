//! Half a connection: a half that is closed, a side that never reads, or reads too little.

use std::path::Path;
use std::time::{Duration, Instant};

use fltport_engine::wire::{ToClient, ToHost};
use rustix::net::{RecvFlags, Shutdown};

use super::client::{Story, twice};
use super::common::raw::{PART, Raw, hello, request};
use super::common::stage::Stage;
use super::common::{LIMIT, until, watchdog_of};
use super::sequence::{answer, asked, ends};

#[test]
fn half_a_connection_costs_little_and_ends() {
    let _watchdog = watchdog_of("half_a_connection", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    twice(&stage, STORIES);
    stage.finish();
}

/// Makes a connection at the port in a directory.
type Open = fn(&Path) -> Raw;

/// How a connection can be before something happens to it.
pub(crate) const STATES: &[(&str, Open)] = &[
    ("not greeted", |at| Raw::connect_below(at)),
    ("half a greeting", |at| {
        let raw = Raw::connect_below(at);
        assert!(raw.frame(&hello(60_000), &[0; PART]));
        raw
    }),
    ("the connect callback runs", |at| {
        Raw::greeting_below(at, b"slow")
    }),
    ("connected", |at| Raw::greeted_below(at, b"")),
    ("a message taken", |at| {
        let raw = asked(at);
        raw.message();
        raw
    }),
    ("half a request", |at| {
        let raw = Raw::greeted_below(at, b"");
        let length = u32::try_from(2 * PART).unwrap();
        assert!(raw.frame(&request(1, length), &[0; PART]));
        raw
    }),
    ("closing", |at| {
        let raw = Raw::greeted_below(at, b"");
        assert!(raw.ask(1, "ask 8 200"));
        assert!(raw.frame(&ToHost::Close, b""));
        raw
    }),
    ("closed by the filter", |at| {
        let raw = Raw::greeted_below(at, b"");
        assert!(raw.ask(1, "close"));
        raw.next(|frame| matches!(frame, ToClient::Disconnected).then_some(()));
        raw
    }),
];

pub(crate) const STORIES: &[Story] = &[
    ("the writing half closed in every state", |at| {
        let closed = STATES
            .iter()
            .map(|(_, open)| ends(open(at), |raw| shutdown(raw, Shutdown::Write)));
        closed.flatten().collect()
    }),
    ("both halves closed in every state", |at| {
        let closed = STATES
            .iter()
            .map(|(_, open)| ends(open(at), |raw| shutdown(raw, Shutdown::Both)));
        closed.flatten().collect()
    }),
    ("the reading half closed in every state", |at| {
        // The host finds it when it has something to say.
        let closed = STATES.iter().map(|(state, open)| {
            let raw = open(at);
            shutdown(&raw, Shutdown::Read);
            if *state == "half a request" {
                let length = u32::try_from(PART).unwrap();
                raw.frame(&ToHost::Chunk { length }, &[0; PART]);
            }
            until("the host hangs up", || !raw.ask(9, "who"));
            raw
        });
        closed.collect()
    }),
    ("never reading while the filter asks", |at| {
        let raw = Raw::greeted_below(at, b"");
        ask_much(&raw, 262_144, 200);
        vec![raw]
    }),
    (
        "never reading while the filter asks, on many connections",
        |at| {
            let open = || {
                let raw = Raw::greeted_below(at, b"");
                ask_much(&raw, 65_536, 200);
                raw
            };
            (0..30).map(|_| open()).collect()
        },
    ),
    ("reading one byte of each packet", |at| {
        let raw = Raw::greeted_below(at, b"");
        ask_much(&raw, 65_536, 200);
        let end = Instant::now() + LIMIT;
        // The rest of a packet is lost to it. The host answers requests all the same.
        for _ in 0..16 {
            let mut byte = [0; 1];
            let (_, length) = rustix::net::recv(&raw, &mut byte[..], RecvFlags::TRUNC).unwrap();
            assert!(length > 1 && Instant::now() < end);
        }
        vec![raw]
    }),
    ("reading one packet and no more", |at| {
        let raw = Raw::greeted_below(at, b"");
        ask_much(&raw, 262_144, 15_000);
        raw.packet().unwrap();
        vec![raw]
    }),
    ("reading again after a long silence", |at| {
        let raw = Raw::greeted_below(at, b"");
        ask_much(&raw, 262_144, 50);
        // Everything that was promised comes, and the connection works.
        let mut answered = 0;
        while answered < REQUESTS {
            let answer = raw.answer().expect("it lives");
            answered += u64::from(matches!(answer, ToClient::RequestDone { .. }));
        }
        assert!(raw.ask(9_999, "who"));
        answer(&raw, 9_999);
        vec![raw]
    }),
];

const REQUESTS: u64 = 40;

/// Posts gets, and makes the filter ask with this many bytes and this many milliseconds.
fn ask_much(raw: &Raw, bytes: usize, wait: u64) {
    for get in 1..=500 {
        assert!(raw.frame(&ToHost::Get { get, size: 1 << 20 }, b""));
    }
    for number in 1..=REQUESTS {
        assert!(raw.ask(number, &format!("ask {bytes} {wait}")));
    }
}

fn shutdown(raw: &Raw, how: Shutdown) {
    rustix::net::shutdown(raw, how).unwrap();
}

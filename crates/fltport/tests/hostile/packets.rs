//! Every frame of a client, altered in each byte, cut at each length, and with each lie about its length, in every state.
//!
//! What must come of it is decided here by parsing alone: what is no frame ends the connection; anything else ends it or
//! leaves it as good as it was.

use std::time::Duration;

use fltport::{NtStatus, limits};
use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, ToClient, ToHost};
use zerocopy::IntoBytes;

use super::client::{Story, twice};
use super::common::random::Random;
use super::common::raw::{PART, Raw, hello, request};
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::quiet::STATES;

#[test]
fn altered_frames_in_every_state_end_one_connection_or_nothing() {
    let _watchdog = watchdog_of("altered_frames_in_every_state", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    twice(&stage, STORIES);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("every altered frame on a connection", |at| {
        packets().iter().for_each(|packet| {
            play_one(Raw::greeted_below(at, b""), packet, "connected");
        });
        Vec::new()
    }),
    ("altered frames in every state", |at| {
        let mut random = Random::new();
        let packets = packets();
        for (state, open) in STATES {
            // A callback that waits for its client takes its time where that stays.
            let rounds = if state.contains("callback") { 40 } else { 200 };
            for _ in 0..rounds {
                play_one(open(at), random.one_of::<Vec<u8>>(&packets), state);
            }
        }
        Vec::new()
    }),
];

fn play_one(raw: Raw, packet: &[u8], state: &str) {
    const PROBE: u64 = 1 << 60;
    // The host may have hung up already, and says so by what it does next.
    raw.bytes(packet);
    let is_frame = packet.len() <= FRAME_MAX && ToHost::parse(packet).is_ok();
    if !is_frame {
        return raw.assert_ended();
    }
    raw.ask(PROBE, "who");
    while let Some(answer) = raw.packet() {
        let (frame, _) = ToClient::parse(&answer).unwrap();
        match frame {
            ToClient::RequestDone { request: PROBE, .. } => return,
            // Accepted, or closed by this packet while its callback ran.
            ToClient::Connected {
                status: NtStatus::SUCCESS | NtStatus::PORT_DISCONNECTED,
                ..
            } => {}
            ToClient::Connected { status, .. } => panic!("{state}: {status:?}"),
            _ => {}
        }
    }
}

/// Altered frames, all of them.
fn packets() -> Vec<Vec<u8>> {
    let part = u32::try_from(PART).unwrap();
    let reply = ToHost::Reply {
        reply: 3,
        message_id: 1,
        status: NtStatus::SUCCESS,
        length: 4,
    };
    let whole: [(ToHost, &[u8]); 7] = [
        (hello(4), b"four"),
        (ToHost::Get { get: 5, size: 64 }, b""),
        (ToHost::CancelGet { get: 1 }, b""),
        (reply, b"four"),
        (request(6, 4), b"four"),
        (ToHost::Close, b""),
        (ToHost::Chunk { length: 4 }, b"four"),
    ];
    let mut all = Vec::new();
    for (frame, payload) in whole {
        let right = [frame.header().as_bytes(), payload].concat();
        all.extend((1..right.len()).map(|length| right[..length].to_vec()));
        for at in 0..FRAME_HEADER {
            for flip in [0x01, 0x80, 0xFF] {
                let mut altered = right.clone();
                altered[at] ^= flip;
                all.push(altered);
            }
        }
        // The length field, against payloads of several sizes.
        let lengths = [0, 1, 3, 5, part - 1, part, part + 1];
        let lengths = lengths.into_iter().chain([
            limits::CONTEXT_MAX + 1,
            limits::MESSAGE_DEFAULT,
            limits::MESSAGE_DEFAULT + 1,
            limits::MESSAGE_MAX + 1,
            i32::MAX as u32,
            u32::MAX,
        ]);
        for length in lengths {
            for carried in [0, 4, PART - 1, PART, PART + 1] {
                let mut altered = right[..FRAME_HEADER].to_vec();
                altered[4..8].copy_from_slice(&length.to_ne_bytes());
                altered.resize(FRAME_HEADER + carried, 1);
                all.push(altered);
            }
        }
    }
    // Every kind there is and might be, and nothing at all.
    for kind in (0..48u16).chain([0x100, u16::MAX]) {
        let mut altered = vec![0; FRAME_HEADER];
        altered[..2].copy_from_slice(&kind.to_ne_bytes());
        all.push(altered);
    }
    all.push(Vec::new());
    all.push(vec![0xFF; FRAME_MAX + 1]);
    all
}

//! Frames about memory where there is none, twice, or of the wrong kind, and frames beside it.

use fltport::NtStatus;
use fltport_engine::wire::{ToClient, ToHost};

use super::client::Story;
use super::common::memory_layout as layout;
use super::common::memory_raw::Memory;
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::watchdog_of;
use super::memory::every;
use super::sequence::{answer, ends};
use std::time::Duration;

#[test]
fn frames_about_memory_in_the_wrong_place_hurt_nobody() {
    let _watchdog = watchdog_of("frames_about_memory", Duration::from_secs(60));
    let stage = Stage::new(&[]);
    every(&stage, STORIES);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("memory asked for twice", |at| {
        let mut memory = Memory::at(at);
        let Memory { raw, .. } = &memory;
        for _ in 0..100 {
            assert!(raw.frame(&ToHost::Attach, b""));
            assert_eq!(refused(raw), NtStatus::INSUFFICIENT_RESOURCES);
        }
        // What there is works on.
        serve(&mut memory);
        vec![memory.raw]
    }),
    ("memory asked for before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.frame(&ToHost::Attach, b"");
        })
    }),
    ("memory asked for while the connect callback runs", |at| {
        let raw = Raw::greeting_below(at, b"door");
        assert!(raw.frame(&ToHost::Attach, b""));
        assert_eq!(refused(&raw), NtStatus::INSUFFICIENT_RESOURCES);
        let other = Raw::greeted_below(at, b"");
        assert!(other.ask(1, "open"));
        assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
        // It has not been given any: it may ask again.
        let mut memory = Memory::of(raw).unwrap();
        serve(&mut memory);
        vec![memory.raw, other]
    }),
    ("memory asked for after the filter has closed", |at| {
        let raw = Raw::greeted_below(at, b"");
        assert!(raw.ask(1, "close"));
        raw.next(|frame| matches!(frame, ToClient::Disconnected).then_some(()));
        answer(&raw, 1);
        assert!(raw.frame(&ToHost::Attach, b""));
        assert_eq!(refused(&raw), NtStatus::INSUFFICIENT_RESOURCES);
        vec![raw]
    }),
    ("a kick without memory", |at| {
        ends(Raw::greeted_below(at, b""), |raw| {
            raw.frame(&ToHost::Kick, b"");
        })
    }),
    ("a kick before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.frame(&ToHost::Kick, b"");
        })
    }),
    ("kicks in a flood", |at| {
        let mut memory = Memory::at(at);
        // Somebody waits for a get, and somebody for a reply, so that there is something to look for.
        memory.post(0);
        memory.raw.ask(1, "then 8 5000");
        let id = memory.message(0);
        memory.raw.ask(2, "ask 8 5000");
        for _ in 0..20_000 {
            assert!(memory.raw.frame(&ToHost::Kick, b""));
        }
        assert!(memory.reply(id, b"first"));
        assert_eq!(memory.answers(vec![1]).unwrap(), ["first"]);
        memory.post(1);
        let id = memory.message(1);
        assert!(memory.reply(id, b"second"));
        assert_eq!(memory.answers(vec![2]).unwrap(), ["second"]);
        vec![memory.raw]
    }),
    ("gets in memory posted by frames", |at| {
        let mut kept = Vec::new();
        for get in [1 << 63, u64::MAX, layout::token(0, 1), layout::token(63, 9)] {
            kept.extend(ends(Memory::at(at).raw, |raw| {
                raw.frame(&ToHost::Get { get, size: 4096 }, b"");
            }));
            // Also where there is no memory.
            kept.extend(ends(Raw::greeted_below(at, b""), |raw| {
                raw.frame(&ToHost::Get { get, size: 4096 }, b"");
            }));
        }
        kept
    }),
    ("gets in memory withdrawn by frames", |at| {
        let mut memory = Memory::at(at);
        memory.post(0);
        for get in [1 << 63, u64::MAX, layout::token(0, 1), layout::token(63, 9)] {
            assert!(memory.raw.frame(&ToHost::CancelGet { get }, b""));
        }
        memory.raw.ask(1, "ask 8 15000");
        let id = memory.message(0);
        assert!(memory.reply(id, b"answer"));
        assert_eq!(memory.answers(vec![1]).unwrap(), ["answer"]);
        vec![memory.raw]
    }),
    ("replies by frames to messages in memory", |at| {
        let mut memory = Memory::at(at);
        for (round, question) in ["ask 8 15000", "then 8 15000"].iter().enumerate() {
            for claimed in [false, true] {
                memory.post(0);
                memory.raw.ask(1, question);
                let id = memory.message(0);
                assert!(!claimed || memory.claim(id));
                // Those of nobody: another waiter, another use of this one.
                for wrong in [
                    id ^ 1,
                    id ^ 1 << 16,
                    id ^ 1 << 17,
                    id | 1 << 61,
                    id & 0x1_FFFF,
                ] {
                    if wrong != id {
                        assert_eq!(frame_reply(&memory, wrong), NO_WAITER, "{round}");
                    }
                }
                if claimed {
                    // Whoever has claimed it writes it.
                    assert_eq!(frame_reply(&memory, id), NO_WAITER);
                    assert!(memory.finish(id, b"in memory"));
                } else {
                    assert_eq!(frame_reply(&memory, id), NtStatus::SUCCESS);
                }
                let answer = if claimed { "in memory" } else { "by a frame" };
                assert_eq!(memory.answers(vec![1]).unwrap(), [answer]);
                assert_eq!(frame_reply(&memory, id), NO_WAITER);
                assert!(!memory.reply(id, b"again"));
            }
        }
        vec![memory.raw]
    }),
    ("replies in memory and by frames at once", |at| {
        let mut memory = Memory::at(at);
        for round in 0..400 {
            let question = if round % 2 == 0 {
                "ask 8 15000"
            } else {
                "then 8 15000"
            };
            memory.post(0);
            memory.raw.ask(1, question);
            let id = memory.message(0);
            let frame = reply_frame(id);
            let claimed = round % 4 < 2 && memory.claim(id);
            assert!(memory.raw.frame(&frame, b"by a frame"));
            let here = (claimed || memory.claim(id)) && memory.finish(id, b"in memory");
            let (told, answers) = told(&memory, 1, 1);
            // One of the two has it, and the sender has that one's.
            let expected = if here { "in memory" } else { "by a frame" };
            assert_eq!(here, told == [NO_WAITER]);
            assert_eq!(answers, [expected]);
        }
        vec![memory.raw]
    }),
    ("gets by frames beside gets in memory", |at| {
        let mut memory = Memory::at(at);
        for round in 1..50 {
            let get = ToHost::Get {
                get: round,
                size: 4096,
            };
            assert!(memory.raw.frame(&get, b""));
            // It is there when this is answered, and the one in memory after it.
            memory.answer(1, "who").unwrap();
            memory.post(0);
            memory.raw.ask(2, "ask 8 15000");
            let id = memory.raw.message();
            memory.raw.ask(3, "ask 8 15000");
            let other = memory.message(0);
            if round % 2 == 0 {
                assert!(memory.reply(id, b"one") && memory.reply(other, b"two"));
                told(&memory, 0, 2);
            } else {
                for id in [other, id] {
                    assert!(memory.raw.frame(&reply_frame(id), b"by a frame"));
                }
                assert_eq!(told(&memory, 2, 2).0, [NtStatus::SUCCESS; 2]);
            }
        }
        vec![memory.raw]
    }),
    ("everything after a close, with memory", |at| {
        let mut memory = Memory::at(at);
        memory.post(0);
        memory.raw.ask(1, "ask 8 15000");
        let id = memory.message(0);
        assert!(memory.raw.frame(&ToHost::Close, b""));
        memory.reply(id, b"late");
        memory.post(1);
        for frame in [ToHost::Kick, ToHost::Attach, reply_frame(id)] {
            memory.raw.frame(&frame, b"");
        }
        memory.raw.assert_ended();
        vec![memory.raw]
    }),
];

const NO_WAITER: NtStatus = NtStatus::FLT_NO_WAITER_FOR_REPLY;

fn reply_frame(message_id: u64) -> ToHost {
    ToHost::Reply {
        reply: 1,
        message_id,
        status: NtStatus::SUCCESS,
        length: 10,
    }
}

/// Replies by a frame; what the host says to that comes before the answer of its request.
fn frame_reply(memory: &Memory, id: u64) -> NtStatus {
    assert!(memory.raw.frame(&reply_frame(id), b"by a frame"));
    memory.raw.next(|frame| match frame {
        ToClient::ReplyDone { status, .. } => Some(status),
        _ => None,
    })
}

/// What the host says to so many replies, while it answers so many requests.
fn told(memory: &Memory, replies: usize, requests: usize) -> (Vec<NtStatus>, Vec<String>) {
    let (mut told, mut answers) = (Vec::new(), Vec::new());
    while told.len() < replies || answers.len() < requests {
        let packet = memory.raw.packet().expect("it lives");
        match ToClient::parse(&packet).unwrap() {
            (ToClient::ReplyDone { status, .. }, _) => told.push(status),
            (ToClient::RequestDone { .. }, text) => {
                answers.push(String::from_utf8_lossy(text).into_owned());
            }
            _ => {}
        }
    }
    (told, answers)
}

/// Why there is no memory.
fn refused(raw: &Raw) -> NtStatus {
    raw.next(|frame| match frame {
        ToClient::Attached { status, .. } => Some(status),
        _ => None,
    })
}

/// A question and its answer in memory.
fn serve(memory: &mut Memory) {
    memory.post(0);
    memory.raw.ask(77, "ask 8 15000");
    let id = memory.message(0);
    assert_eq!(memory.payload(0), [7; 8]);
    assert!(memory.reply(id, b"answer"));
    assert_eq!(memory.answers(vec![77]).unwrap(), ["answer"]);
}

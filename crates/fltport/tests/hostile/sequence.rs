//! Right frames in the wrong order, and numbers of others: the story ends with the connection, or finds nobody.

use std::path::Path;
use std::time::Duration;

use fltport::{NtStatus, limits};
use fltport_engine::wire::{ToClient, ToHost};

use super::client::{Story, twice};
use super::common::raw::{PART, Raw, hello, request};
use super::common::stage::Stage;
use super::common::watchdog_of;

#[test]
fn frames_out_of_order_and_foreign_numbers_hurt_nobody_else() {
    let _watchdog = watchdog_of("frames_out_of_order", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    twice(&stage, STORIES);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("a second greeting", |at| {
        ends(Raw::greeted_below(at, b""), |raw| {
            raw.frame(&hello(0), b"");
        })
    }),
    ("two greetings at once, before the answer", |at| {
        ends(Raw::greeting_below(at, b"slow"), |raw| {
            raw.frame(&hello(0), b"");
        })
    }),
    ("a reply before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.frame(&reply(1), b"");
        })
    }),
    ("a request before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.ask(1, "who");
        })
    }),
    ("a withdrawal before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.frame(&ToHost::CancelGet { get: 1 }, b"");
        })
    }),
    ("everything while the connect callback runs", |at| {
        let raw = Raw::greeting_below(at, b"door");
        raw.frame(&ToHost::CancelGet { get: 1 }, b"");
        raw.frame(&ToHost::Get { get: 1, size: 100 }, b"");
        raw.frame(&reply(1), b"");
        raw.ask(1, "who");
        for _ in 0..3 {
            let answer = raw.answer();
            let Some(
                ToClient::GetFailed { status, .. }
                | ToClient::ReplyDone { status, .. }
                | ToClient::RequestDone { status, .. },
            ) = answer
            else {
                panic!("{answer:?}");
            };
            assert_eq!(status, NtStatus::PORT_DISCONNECTED);
        }
        let other = Raw::greeted_below(at, b"");
        assert!(other.ask(1, "open"));
        assert_eq!(raw.status(), Some(NtStatus::SUCCESS));
        vec![raw, other]
    }),
    ("a close before the greeting", |at| {
        ends(Raw::connect_below(at), |raw| {
            raw.frame(&ToHost::Close, b"");
        })
    }),
    ("everything after a close", |at| {
        ends(Raw::greeted_below(at, b""), |raw| {
            raw.ask(1, "ask 8 15000");
            raw.frame(&ToHost::Close, b"");
            raw.frame(&ToHost::Get { get: 1, size: 100 }, b"");
            raw.frame(&reply(1), b"");
            raw.ask(2, "who");
            raw.frame(&ToHost::Close, b"");
            raw.frame(&hello(0), b"");
        })
    }),
    ("a close while the connect callback runs", |at| {
        let raw = Raw::greeting_below(at, b"slow");
        raw.frame(&ToHost::Close, b"");
        raw.frame(&ToHost::Close, b"");
        ends(raw, |_| ())
    }),
    ("a part without a beginning", |at| {
        ends(Raw::greeted_below(at, b""), |raw| {
            raw.frame(&ToHost::Chunk { length: 4 }, b"part");
        })
    }),
    ("get numbers that do not grow", |at| {
        let mut kept = Vec::new();
        for next in [7, 6, 0] {
            kept.extend(ends(Raw::greeted_below(at, b""), |raw| {
                raw.frame(&ToHost::Get { get: 7, size: 100 }, b"");
                raw.frame(&ToHost::Get { get: next, size: 9 }, b"");
            }));
        }
        kept
    }),
    ("a get number used again after its end", |at| {
        let raw = Raw::greeted_below(at, b"");
        raw.frame(&ToHost::Get { get: 7, size: 100 }, b"");
        raw.frame(&ToHost::CancelGet { get: 7 }, b"");
        assert!(matches!(
            raw.answer(),
            Some(ToClient::GetFailed { get: 7, .. })
        ));
        ends(raw, |raw| {
            raw.frame(&ToHost::Get { get: 7, size: 100 }, b"");
        })
    }),
    (
        "withdrawals of gets that are unknown, over, or taken",
        |at| {
            let raw = asked(at);
            raw.message();
            for get in [0, 1, 2, u64::MAX].repeat(200) {
                assert!(raw.frame(&ToHost::CancelGet { get }, b""));
            }
            raw.ask(2, "who");
            answer(&raw, 2);
            vec![raw]
        },
    ),
    ("the same reply a thousand times", |at| {
        let raw = asked(at);
        let id = raw.message();
        assert_eq!(raw.reply(id, b"first"), NtStatus::SUCCESS);
        answer(&raw, 1);
        for _ in 0..1_000 {
            assert_eq!(raw.reply(id, b"again"), NtStatus::FLT_NO_WAITER_FOR_REPLY);
        }
        vec![raw]
    }),
    ("replies to the messages of other connections", |at| {
        let victims: Vec<_> = (0..4).map(|_| asked(at)).collect();
        let ids: Vec<_> = victims.iter().map(Raw::message).collect();
        let raw = Raw::greeted_below(at, b"");
        for id in &ids {
            assert_eq!(raw.reply(*id, b"fake"), NtStatus::FLT_NO_WAITER_FOR_REPLY);
        }
        for (victim, id) in victims.iter().zip(&ids) {
            assert_eq!(victim.reply(*id, b"true"), NtStatus::SUCCESS);
            answer(victim, 1);
        }
        victims.into_iter().chain([raw]).collect()
    }),
    ("guessing ids", |at| {
        let victim = asked(at);
        let id = victim.message();
        let raw = Raw::greeted_below(at, b"");
        let near = (0..2_000).chain(id.saturating_sub(500)..id.saturating_add(500));
        let far = (0..64).map(|bit| 1 << bit).chain([u64::MAX]);
        for guess in near.chain(far) {
            assert_eq!(raw.reply(guess, b"fake"), NtStatus::FLT_NO_WAITER_FOR_REPLY);
        }
        assert_eq!(victim.reply(id, b"true"), NtStatus::SUCCESS);
        vec![raw, victim]
    }),
    ("requests that can take back four gibibytes", |at| {
        let raw = Raw::greeted_below(at, b"");
        for number in 1..=40 {
            let frame = ToHost::Request {
                request: number,
                capacity: u32::MAX,
                length: 4,
            };
            assert!(raw.frame(&frame, b"wait"));
        }
        vec![raw]
    }),
    ("a request number used for many at once", |at| {
        let raw = Raw::greeted_below(at, b"");
        for _ in 0..100 {
            assert!(raw.frame(&request(7, 4), b"same"));
        }
        for _ in 0..100 {
            assert!(matches!(
                raw.answer(),
                Some(ToClient::RequestDone { request: 7, .. })
            ));
        }
        vec![raw]
    }),
    ("a frame of the greatest length, then one byte more", |at| {
        let raw = Raw::greeted_below(at, b"");
        let most = usize::try_from(limits::MESSAGE_DEFAULT).unwrap();
        send_long(&raw, most, 16);
        answer(&raw, 1);
        ends(raw, |raw| send_long(raw, most + 1, 16))
    }),
];

/// Does this; the host ends the connection.
pub(crate) fn ends(raw: Raw, act: impl FnOnce(&Raw)) -> Vec<Raw> {
    act(&raw);
    raw.assert_ended();
    vec![raw]
}

/// A connection that has a get posted and makes its filter ask.
pub(crate) fn asked(at: &Path) -> Raw {
    let raw = Raw::greeted_below(at, b"");
    assert!(raw.frame(
        &ToHost::Get {
            get: 1,
            size: 4_096
        },
        b""
    ));
    assert!(raw.ask(1, "ask 8 15000"));
    raw
}

/// Waits for the answer to a request.
pub(crate) fn answer(raw: &Raw, number: u64) {
    raw.next(|frame| {
        matches!(frame, ToClient::RequestDone { request, .. } if request == number).then_some(())
    });
}

/// Sends a request of this length that can take back so much, in parts, as far as the host takes them.
pub(crate) fn send_long(raw: &Raw, length: usize, capacity: u32) {
    let bytes = vec![1; length];
    let frame = ToHost::Request {
        request: 1,
        capacity,
        length: u32::try_from(length).unwrap(),
    };
    raw.frame(&frame, &bytes[..PART.min(length)]);
    for part in bytes.get(PART..).unwrap_or_default().chunks(PART) {
        let length = u32::try_from(part.len()).unwrap();
        raw.frame(&ToHost::Chunk { length }, part);
    }
}

const fn reply(message_id: u64) -> ToHost {
    ToHost::Reply {
        reply: 1,
        message_id,
        status: NtStatus::SUCCESS,
        length: 0,
    }
}

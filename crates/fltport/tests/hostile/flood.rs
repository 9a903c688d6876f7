//! Too much of what is allowed: what one client can make its host keep is bounded, and gone with it.

use std::path::Path;
use std::time::Duration;

use fltport::{NtStatus, limits};
use fltport_engine::wire::{ToClient, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::client::{Story, twice};
use super::common::raw::{PART, Raw, hello, request};
use super::common::stage::Stage;
use super::common::watchdog_of;

#[test]
fn floods_are_bounded_and_gone_with_the_client() {
    let _watchdog = watchdog_of("floods_are_bounded", Duration::from_secs(120));
    let stage = Stage::new(&[]);
    twice(&stage, STORIES);
    stage.finish();
}

pub(crate) const STORIES: &[Story] = &[
    ("gets, with the refusals read", |at| {
        let raw = Raw::greeted_below(at, b"");
        let most = u64::try_from(limits::GETS_PER_CONNECTION).unwrap();
        for get in 1..=most + 100 {
            assert!(raw.frame(&ToHost::Get { get, size: 100 }, b""));
        }
        for _ in 0..100 {
            let refused = raw.answer();
            assert!(
                matches!(
                    refused,
                    Some(ToClient::GetFailed {
                        status: NtStatus::INSUFFICIENT_RESOURCES,
                        ..
                    })
                ),
                "{refused:?}"
            );
        }
        vec![raw]
    }),
    ("gets, and nothing is read", |at| {
        unread(at, |get| (ToHost::Get { get, size: 1 }, 0))
    }),
    ("gets and their withdrawals, and nothing is read", |at| {
        unread(at, |number| {
            let get = number.div_ceil(2);
            let frame = if number % 2 == 1 {
                ToHost::Get { get, size: 100 }
            } else {
                ToHost::CancelGet { get }
            };
            (frame, 0)
        })
    }),
    ("replies, and nothing is read", |at| {
        unread(at, |reply| {
            let frame = ToHost::Reply {
                reply,
                message_id: 77,
                status: NtStatus::SUCCESS,
                length: u32::try_from(PART).unwrap(),
            };
            (frame, PART)
        })
    }),
    ("requests, and nothing is read", |at| {
        unread(at, |number| {
            let frame = ToHost::Request {
                request: number,
                capacity: u32::MAX,
                length: u32::try_from(PART).unwrap(),
            };
            (frame, PART)
        })
    }),
    ("requests whose callbacks take their time", |at| {
        let raw = Raw::greeted_below(at, b"");
        let most = limits::RUNNING_PER_CONNECTION + limits::QUEUED_PER_CONNECTION;
        for _ in 0..most + 100 {
            assert!(raw.frame(&request(1, 4), b"wait"));
        }
        for _ in 0..100 {
            let refused = raw.answer();
            assert!(
                matches!(
                    refused,
                    Some(ToClient::RequestDone {
                        status: NtStatus::INSUFFICIENT_RESOURCES,
                        ..
                    })
                ),
                "{refused:?}"
            );
        }
        vec![raw]
    }),
    ("long requests whose callbacks take their time", |at| {
        // As many bytes as one connection may have waiting; the last few are refused.
        let raw = Raw::greeted_below(at, b"");
        let mut text = b"wait".to_vec();
        text.resize(PART, b' ');
        for number in 1..=1_080 {
            let frame = ToHost::Request {
                request: number,
                capacity: 0,
                length: u32::try_from(PART).unwrap(),
            };
            assert!(raw.frame(&frame, &text));
        }
        vec![raw]
    }),
    (
        "frames that are never finished, on many connections",
        |at| {
            let begin = |context: &[u8]| {
                let raw = Raw::greeted_below(at, context);
                raw.frame(&request(1, limits::MESSAGE_DEFAULT), &[1; PART]);
                for _ in 1..30 {
                    let length = u32::try_from(PART).unwrap();
                    assert!(raw.frame(&ToHost::Chunk { length }, &[1; PART]));
                }
                raw
            };
            (0..50).map(|_| begin(b"")).collect()
        },
    ),
    ("greetings that are never finished", |at| {
        let begin = || {
            let raw = Raw::connect_below(at);
            assert!(raw.frame(&hello(limits::CONTEXT_MAX), &[1; PART]));
            raw
        };
        (0..limits::HANDSHAKES_PER_USER - 2)
            .map(|_| begin())
            .collect()
    }),
    ("connects that are refused", |at| {
        for _ in 0..500 {
            let raw = Raw::greeting_below(at, b"refused");
            assert_eq!(raw.status(), Some(NtStatus::ACCESS_DENIED));
        }
        Vec::new()
    }),
    ("connects that leave at once", |at| {
        for _ in 0..500 {
            drop(Raw::connect_below(at));
            drop(Raw::greeting_below(at, b""));
        }
        Vec::new()
    }),
];

/// Sends frames until the host takes none for a while, and never reads.
fn unread(at: &Path, mut next: impl FnMut(u64) -> (ToHost, usize)) -> Vec<Raw> {
    let raw = Raw::greeted_below(at, b"");
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    for number in 1..200_000 {
        let (frame, length) = next(number);
        let payload = vec![1; length];
        while raw.try_frame(&frame, &payload).is_none() {
            let mut fds = [PollFd::new(&raw, PollFlags::OUT)];
            if rustix::event::poll(&mut fds, Some(&patience)).unwrap() == 0 {
                return vec![raw];
            }
        }
    }
    panic!("the host takes everything from a client that reads nothing");
}

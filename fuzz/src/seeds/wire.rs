//! Seeds of the target `wire`: each kind of frame, names, and sessions of either side.

use fltport_engine::wire::{FRAME_HEADER, FRAME_MAX, MessageHeader, ToClient, ToHost};
use fltport_engine::{NtStatus, limits};
use zerocopy::IntoBytes;

use super::Seed;

/// Packets as the target `wire` reads them.
fn packets(room: u8, packets: &[(&[u8], usize)]) -> Vec<u8> {
    let mut bytes = vec![room];
    for (header, length) in packets {
        bytes.extend(*header);
        bytes.extend(u16::try_from(*length).unwrap_or(u16::MAX).to_le_bytes());
        bytes.push(0x5A);
    }
    bytes
}

/// Seeds of the target `wire`.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    const PART: usize = FRAME_MAX - FRAME_HEADER;
    let one = |header: &[u8]| [&[0], header, b"payload"].concat();
    let name = |text: &str| [&[1], text.as_bytes()].concat();
    let hello = ToHost::Hello {
        bits: 64,
        length: 5,
    }
    .header();
    let get = ToHost::Get { get: 7, size: 80 }.header();
    let cancel = ToHost::CancelGet { get: 7 }.header();
    let reply = |length| {
        let status = NtStatus::ACCESS_DENIED;
        ToHost::Reply {
            reply: 1,
            message_id: 1,
            status,
            length,
        }
        .header()
    };
    let request = |length| {
        ToHost::Request {
            request: 2,
            capacity: 16,
            length,
        }
        .header()
    };
    let part = |length| ToHost::Chunk { length }.header();
    let message = |remaining, attachment| {
        let header = MessageHeader::new(20, 1);
        ToClient::Message {
            get: 1,
            header,
            remaining,
            attachment,
            length: 7,
        }
        .header()
    };
    let limited = message(Some(std::time::Duration::from_millis(9)), true);
    let status = NtStatus::SUCCESS;
    let connected = ToClient::Connected {
        status,
        max_message: limits::MESSAGE_DEFAULT,
    }
    .header();
    let failed = ToClient::GetFailed {
        get: 1,
        status: NtStatus::BUFFER_TOO_SMALL,
        needed: 80,
    }
    .header();
    let replied = ToClient::ReplyDone { reply: 2, status }.header();
    let done = ToClient::RequestDone {
        request: 3,
        status,
        length: 7,
    }
    .header();
    let abandoned = ToClient::Abandoned { message_id: 1 }.header();
    let over = ToClient::Disconnected.header();
    let attached = ToClient::Attached {
        status: NtStatus::SUCCESS,
        layout: 1,
        first_id: 0,
    }
    .header();
    let whole = PART * 2 + 5;
    let whole_length = u32::try_from(whole).unwrap_or(0);
    let part_length = u32::try_from(PART).unwrap_or(0);
    vec![
        ("frame-hello", one(hello.as_bytes())),
        ("frame-get", one(get.as_bytes())),
        ("frame-cancel-get", one(cancel.as_bytes())),
        ("frame-reply", one(reply(7).as_bytes())),
        ("frame-request", one(request(7).as_bytes())),
        ("frame-part", one(part(7).as_bytes())),
        ("frame-connected", one(connected.as_bytes())),
        ("frame-message", one(message(None, false).as_bytes())),
        ("frame-message-with-deadline", one(limited.as_bytes())),
        ("frame-get-failed", one(failed.as_bytes())),
        ("frame-request-done", one(done.as_bytes())),
        ("frame-abandoned", one(abandoned.as_bytes())),
        ("frame-disconnected", one(over.as_bytes())),
        ("frame-attach", one(ToHost::Attach.header().as_bytes())),
        ("frame-kick", one(ToHost::Kick.header().as_bytes())),
        ("frame-attached", one(attached.as_bytes())),
        (
            "frame-ring",
            one(ToClient::Ring { get: 1 << 63 }.header().as_bytes()),
        ),
        (
            "frame-files",
            one(ToClient::Files { length: 8 }.header().as_bytes()),
        ),
        ("name", name(r"\fltport\Control")),
        ("name-longest", name(&format!("\\{}", "ä".repeat(119)))),
        ("name-up", name(r"\a\..\b")),
        ("name-sharp-s", name("\\Stra\u{1E9E}e")),
        ("name-kelvin", name("\\\u{212A}\u{3A3}\u{3C2}")),
        (
            "host-session",
            packets(
                2,
                &[
                    (hello.as_bytes(), 5),
                    (get.as_bytes(), 0),
                    (ToHost::Get { get: 8, size: 80 }.header().as_bytes(), 0),
                    (cancel.as_bytes(), 0),
                    (reply(4).as_bytes(), 4),
                    (request(9).as_bytes(), 9),
                ],
            ),
        ),
        (
            "host-long-request",
            packets(
                2,
                &[
                    (hello.as_bytes(), 5),
                    (request(whole_length).as_bytes(), PART),
                    (part(part_length).as_bytes(), PART),
                    (part(5).as_bytes(), 5),
                    (get.as_bytes(), 0),
                ],
            ),
        ),
        (
            "host-frame-inside-unfinished",
            packets(
                2,
                &[
                    (hello.as_bytes(), 5),
                    (request(whole_length).as_bytes(), PART),
                    (get.as_bytes(), 0),
                ],
            ),
        ),
        (
            "client-session",
            packets(
                3,
                &[
                    (message(None, false).as_bytes(), 7),
                    (replied.as_bytes(), 0),
                    (done.as_bytes(), 7),
                    (abandoned.as_bytes(), 0),
                    (over.as_bytes(), 0),
                ],
            ),
        ),
        (
            "client-get-failed",
            packets(3, &[(failed.as_bytes(), 0), (over.as_bytes(), 0)]),
        ),
        ("cut-and-join", vec![4, 0xFF, 0x80, 1, 7, 8]),
    ]
}

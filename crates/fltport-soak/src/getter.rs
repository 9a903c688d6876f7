//! A thread of a client that gets messages and replies to them, well and badly.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use fltport::{CallError, Client, Message, NtStatus, limits};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::bytes::{self, Said, Salt};
use crate::client::Shared;
use crate::random::Random;
use crate::record::Event;
use crate::request::NEGATIVE;
use crate::sender::FILE_LENGTH;

/// Gets until the connection is over.
pub(crate) fn run(client: &Client, shared: &Shared, mut random: Random) {
    loop {
        let got = match random.weighted(&[700, 120, 80, 50, 50]) {
            0 => client.next_message(),
            1 => client.next_message_within(random.millis(1, 500)),
            2 => client.next_message_within(random.micros(0, 3_000)),
            3 => {
                let size = limits::HEADER + u32::try_from(random.below(2_000)).unwrap_or(0);
                client.get(size)
            }
            _ => posted(client, random.micros(0, 20_000), random.per_mille(500)),
        };
        match got {
            Ok(message) => handle(client, message, shared, &mut random),
            Err(CallError::TimedOut) => shared.journal.note(Event::GetTimedOut, 0, 0),
            Err(CallError::Cancelled) => shared.journal.note(Event::GetWithdrawn, 0, 0),
            Err(CallError::TooSmall { .. }) => shared.journal.note(Event::GetTooSmall, 0, 0),
            Err(CallError::Disconnected) => {
                return shared.journal.note(Event::GetEnded, 0, 0);
            }
            Err(other) => return shared.broken(&format!("a get failed: {other:?}")),
        }
    }
}

/// Posts a get, and withdraws it when nothing comes.
fn posted(client: &Client, wait: Duration, explicitly: bool) -> Result<Message, CallError> {
    let size = limits::HEADER + client.max_message();
    let mut get = client.post_get(size);
    match get.wait_within(wait) {
        Some(ended) => ended,
        None if explicitly => get.cancel(),
        None => Err(CallError::Cancelled),
    }
}

/// Takes messages as a program with an event loop does.
pub(crate) fn poll(client: &Client, shared: &Shared) {
    let mut random = Random::new(1);
    loop {
        match client.try_next_message() {
            Ok(Some(message)) => {
                shared.journal.note(Event::Polled, 0, 0);
                handle(client, message, shared, &mut random);
            }
            Ok(None) => {
                let wait = Timespec {
                    tv_sec: 0,
                    tv_nsec: 50_000_000,
                };
                let mut fds = [PollFd::new(client, PollFlags::IN)];
                rustix::event::poll(&mut fds, Some(&wait)).ok();
                // Another thread may have read what made it readable.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(CallError::Disconnected) => return,
            Err(other) => return shared.broken(&format!("a poll failed: {other:?}")),
        }
    }
}

fn handle(client: &Client, mut message: Message, shared: &Shared, random: &mut Random) {
    let journal = &shared.journal;
    let number = match bytes::read(Salt::Message, message.payload()) {
        Said::Numbered { number, second } => {
            journal.note(Event::Got, number, message.payload().len());
            check_attachment(&mut message, second, shared);
            number
        }
        Said::Tiny => {
            journal.note(Event::GotTiny, 0, message.payload().len());
            0
        }
        Said::Broken => {
            let length = message.payload().len();
            return shared.broken(&format!("a message of {length} bytes came broken"));
        }
    };
    let Some(capacity) = message.reply_capacity() else {
        return;
    };
    linger(&message, random);
    let length = usize::try_from(random.below(u64::from(capacity) + 1)).unwrap_or(0);
    let reply = |length| bytes::make(Salt::Reply, number, length);
    let (length, result) = match random.weighted(&[760, 80, 40, 40, 40, 30, 10]) {
        0 => (length, message.reply(&reply(length))),
        1 => (length, message.reply_with(NEGATIVE, &reply(length))),
        2 if capacity < limits::MESSAGE_DEFAULT => {
            let room = usize::try_from(capacity).unwrap_or(0);
            (room, message.reply(&reply(room + 1)))
        }
        3 => {
            journal.note(Event::ReplyForgotten, number, length);
            return message.reply_and_forget(&reply(length));
        }
        4 => (length, by_number(client, message, shared, &reply(length))),
        5 => {
            message.detach();
            return journal.note(Event::Detached, number, 0);
        }
        _ => return journal.note(Event::Dropped, number, 0),
    };
    let event = match result {
        Ok(()) if number == 0 => Event::ReplyOkTiny,
        Ok(()) => Event::ReplyOk,
        Err(CallError::ReplyTooLong) => Event::ReplyTooLong,
        Err(CallError::NoWaiter) => Event::ReplyNoWaiter,
        Err(CallError::Disconnected) => Event::ReplyGone,
        Err(other) => return shared.broken(&format!("a reply failed: {other:?}")),
    };
    // A cut reply to a tiny message cannot be told from others.
    if event != Event::ReplyTooLong || number != 0 {
        journal.note(event, number, length);
    }
}

/// Replies by the number of the message, twice.
fn by_number(
    client: &Client,
    message: Message,
    shared: &Shared,
    bytes: &[u8],
) -> Result<(), CallError> {
    let id = message.detach();
    let first = client.reply_to(id, NtStatus::SUCCESS, bytes);
    match client.reply_to(id, NtStatus::SUCCESS, b"again") {
        Err(CallError::NoWaiter) => shared.journal.note(Event::ReplySecond, 0, 0),
        Err(CallError::Disconnected) => {}
        second => shared.broken(&format!("after {first:?} a second reply gave {second:?}")),
    }
    first
}

/// Takes its time, sometimes too much.
fn linger(message: &Message, random: &mut Random) {
    match random.weighted(&[880, 80, 40]) {
        0 => {}
        1 => std::thread::sleep(random.micros(10, 30_000)),
        _ => {
            let left = message
                .deadline()
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let short = left.filter(|left| *left < Duration::from_millis(100));
            std::thread::sleep(short.unwrap_or_default() + random.micros(0, 400));
        }
    }
    if random.per_mille(50) && message.is_abandoned() {
        std::thread::yield_now();
    }
}

fn check_attachment(message: &mut Message, number: u64, shared: &Shared) {
    let Some(file) = message.take_attachment() else {
        if number != 0 {
            shared.broken("a message came without its file");
        }
        return;
    };
    shared.journal.note(Event::GotAttachment, number, 0);
    let mut start = vec![0; 4_096];
    let file = File::from(file);
    let whole = file
        .metadata()
        .is_ok_and(|of| of.len() == FILE_LENGTH as u64);
    let read = file.read_exact_at(&mut start, 0).is_ok();
    if !whole || !read || !bytes::are(Salt::File, number, &start) {
        shared.broken("a message came with another file");
    }
}

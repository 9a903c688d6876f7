//! N2. A random mix of what both sides can do on one connection, and what each of them was told of it.

use std::collections::{BTreeMap, BTreeSet};

use fltport::{NtStatus, Timeout};

use super::random::Random;
use crate::backend::{Done, NOWAIT, OK, Op, Sent, hresult};
use crate::world::{Ends, World, after, ms};

/// Sends, gets and replies that may be under way.
const AT_ONCE: usize = 24;

/// What both sides did, by the number in each message.
#[derive(Debug, Default)]
struct Books {
    next: u64,
    sends: Vec<(u64, Op)>,
    gets: Vec<Op>,
    /// Messages that want a reply, with their header's number, while none was given.
    open: Vec<(u64, u64)>,
    replies: Vec<(u64, Op)>,
    sent: BTreeMap<u64, (bool, Sent)>,
    wants: BTreeSet<u64>,
    received: BTreeSet<u64>,
    replied: BTreeMap<u64, Vec<u32>>,
}

pub(super) fn n2(world: &mut World) {
    let ends = world.fixture();
    let (mut random, mut books) = (Random::new(), Books::default());
    let (time, start) = (world.lasts(ms(60_000)), world.backend.now());
    while world.backend.now() < start + time {
        for _ in 0..random.below(6) {
            act(world, ends, &mut random, &mut books);
        }
        collect(world, &mut books);
        world.backend.step();
    }
    finish(world, ends, &mut books);
    judge(&books);
}

/// One thing that one side does.
fn act(world: &mut World, ends: Ends, random: &mut Random, books: &mut Books) {
    match random.below(8) {
        0..3 if books.sends.len() < AT_ONCE => {
            books.next += 1;
            let number = books.next;
            let timeout = after(u64::try_from(1 + random.below(5)).expect("a number"));
            let wants = random.below(2) == 0;
            let capacity = wants.then_some(8);
            let op = world
                .backend
                .send(ends.conn, &number.to_le_bytes(), capacity, timeout);
            books.wants.extend(wants.then_some(number));
            books.sends.push((number, op));
        }
        3..5 if books.gets.len() < AT_ONCE => {
            books.gets.push(world.backend.post(ends.client, 16 + 8));
        }
        5 if !books.gets.is_empty() => {
            let get = books.gets[random.below(books.gets.len())];
            world.backend.cancel(get);
        }
        6 if !books.open.is_empty() => {
            let (number, id) = books.open.swap_remove(random.below(books.open.len()));
            // Some twice: one of the two is nobody's.
            for _ in 0..1 + random.below(2) {
                let reply = (!number).to_le_bytes();
                let op = world
                    .backend
                    .reply(ends.client, id, NtStatus::SUCCESS, &reply);
                books.replies.push((number, op));
            }
        }
        _ => {}
    }
}

/// Takes what has ended.
fn collect(world: &mut World, books: &mut Books) {
    let mut look = |op: Op| world.backend.take(op, ms(0));
    let sends = std::mem::take(&mut books.sends);
    for (number, op) in sends {
        match look(op) {
            None => books.sends.push((number, op)),
            Some(done) => books.send_ended(number, done),
        }
    }
    let gets = std::mem::take(&mut books.gets);
    for op in gets {
        match look(op) {
            None => books.gets.push(op),
            Some(done) => books.get_ended(done),
        }
    }
    let replies = std::mem::take(&mut books.replies);
    for (number, op) in replies {
        match look(op) {
            None => books.replies.push((number, op)),
            Some(done) => books.reply_ended(number, done),
        }
    }
}

/// Lets everything end: sends by their deadlines, gets because they are withdrawn.
fn finish(world: &mut World, ends: Ends, books: &mut Books) {
    for (number, op) in std::mem::take(&mut books.sends) {
        let done = world.done(op);
        books.send_ended(number, done);
    }
    for op in std::mem::take(&mut books.gets) {
        world.backend.cancel(op);
        let done = world.done(op);
        books.get_ended(done);
    }
    drain(world, ends, books);
    for (number, id) in std::mem::take(&mut books.open) {
        let op = world
            .backend
            .reply(ends.client, id, NtStatus::SUCCESS, b"late");
        books.replies.push((number, op));
    }
    for (number, op) in std::mem::take(&mut books.replies) {
        let done = world.done(op);
        books.reply_ended(number, done);
    }
    let counts = world.counts(ends.conn);
    assert_eq!((counts.gets, counts.waiting, counts.outstanding), (0, 0, 0));
}

/// Gets what had been delivered to a get that was withdrawn at that moment: it is for the next.
fn drain(world: &mut World, ends: Ends, books: &mut Books) {
    let sent = world.send(ends.conn, b"the last", Timeout::Never);
    loop {
        let got = world.get(ends.client, 16 + 8);
        if got.payload == b"the last" {
            break;
        }
        books.get_ended(Done::Got(got));
    }
    assert_eq!(world.status(sent), NtStatus::SUCCESS);
}

impl Books {
    fn send_ended(&mut self, number: u64, done: Done) {
        let Done::Sent(sent) = done else {
            panic!("a send ended as {done:?}");
        };
        let wants = self.wants.contains(&number);
        assert!(self.sent.insert(number, (wants, sent)).is_none());
    }

    fn get_ended(&mut self, done: Done) {
        match done {
            Done::Got(got) => {
                let number = u64::from_le_bytes(got.payload.try_into().expect("a number"));
                assert!(self.received.insert(number), "message {number} came twice");
                assert_eq!(got.message_id != 0, self.wants.contains(&number));
                if got.message_id != 0 {
                    self.open.push((number, got.message_id));
                }
            }
            Done::GetFailed(result, _) => assert_eq!(result, hresult(NtStatus::CANCELLED)),
            other => panic!("a get ended as {other:?}"),
        }
    }

    fn reply_ended(&mut self, number: u64, done: Done) {
        let Done::Replied(result) = done else {
            panic!("a reply ended as {done:?}");
        };
        assert!(result == OK || result == NOWAIT, "0x{result:08X}");
        self.replied.entry(number).or_default().push(result);
    }
}

/// What one side was told is what the other was told.
fn judge(books: &Books) {
    let mut outcomes = BTreeMap::<_, u32>::new();
    for (number, (wants, sent)) in &books.sent {
        let status = NtStatus(sent.status);
        let received = books.received.contains(number);
        let replies = books.replied.get(number).map_or(&[][..], |all| all);
        let accepted = replies.iter().filter(|result| **result == OK).count();
        *outcomes
            .entry((*wants, received, accepted, status.0))
            .or_default() += 1;
        match (wants, status) {
            (false, NtStatus::SUCCESS) => assert!(received, "{number} was lost"),
            (false, NtStatus::TIMEOUT) => assert!(!received, "{number} came all the same"),
            (true, NtStatus::SUCCESS) => {
                assert_eq!(accepted, 1, "{number}");
                assert_eq!(
                    sent.reply,
                    Some((!number).to_le_bytes().to_vec()),
                    "{number}"
                );
            }
            (true, NtStatus::TIMEOUT) => {
                assert_eq!(accepted, 0, "{number}: a reply was accepted and lost");
                assert_eq!(sent.delivered, Some(received), "{number}");
                assert_eq!(sent.reply, None, "{number}");
            }
            _ => panic!("{number} ended as {status}"),
        }
    }
    // A mix in which something never happens shows nothing of it.
    for wants in [false, true] {
        for status in [NtStatus::SUCCESS, NtStatus::TIMEOUT] {
            let seen = outcomes
                .keys()
                .any(|(of, _, _, end)| (*of, NtStatus(*end)) == (wants, status));
            assert!(
                seen,
                "no send with reply: {wants} ended as {status}: {outcomes:?}"
            );
        }
    }
}

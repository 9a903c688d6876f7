//! One client process from birth to death: what was sent to it, how each send ended, and whether that agrees with what
//! the process wrote down.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::record::{Event, Record};
use crate::soak::{Soak, TOLERANCE, lock};

#[derive(Debug)]
pub(crate) struct Life {
    number: u64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    sends: HashMap<u64, Send>,
    pending: usize,
    connections: usize,
    closed: bool,
}

/// A message on its way to the process, or what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Send {
    pub(crate) started: Instant,
    /// How long it may take; `None` without a limit.
    pub(crate) limit: Option<Duration>,
    pub(crate) tiny: bool,
    pub(crate) end: Option<End>,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Without a reply, as wanted.
    Delivered,
    /// With a reply of this many bytes.
    Replied(u32),
    /// With a reply that was cut to this many bytes.
    Cut(u32),
    /// The client has had it, and there is no reply.
    Unanswered,
    /// The client never had it.
    Undelivered,
}

impl Life {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            book: Mutex::default(),
        }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Writes a send down before it is sent; `false` when the life is over and checked.
    pub(crate) fn begin(&self, number: u64, send: Send) -> bool {
        let mut book = lock(&self.book);
        if book.closed {
            return false;
        }
        book.pending += 1;
        book.sends.insert(number, send);
        true
    }

    /// Writes its end down. Gives how long it took.
    pub(crate) fn end(&self, number: u64, end: End, soak: &Soak) -> Duration {
        let mut book = lock(&self.book);
        let Some(send) = book.sends.get_mut(&number) else {
            soak.broken(format!("send {number} ended, and had not begun"));
            return Duration::ZERO;
        };
        let took = send.started.elapsed();
        if let Some(before) = send.end.replace(end) {
            soak.broken(format!("send {number} ended twice: {before:?}, {end:?}"));
        }
        if send.limit.is_some_and(|limit| took > limit + TOLERANCE) {
            soak.broken(format!("send {number} took {took:?}, of {:?}", send.limit));
        }
        book.pending -= 1;
        took
    }

    pub(crate) fn connected(&self) {
        lock(&self.book).connections += 1;
    }

    pub(crate) fn disconnected(&self) {
        lock(&self.book).connections -= 1;
    }

    /// Looks for sends that have not ended though they should have.
    pub(crate) fn look(&self, soak: &Soak) {
        for (number, send) in &mut lock(&self.book).sends {
            let late = send.end.is_none()
                && send
                    .limit
                    .is_some_and(|limit| send.started.elapsed() > limit + TOLERANCE);
            if late {
                soak.broken(format!(
                    "send {number} has not ended after {:?}",
                    send.limit
                ));
                send.limit = None;
            }
        }
    }

    /// Ends the life, unless something of it is under way.
    pub(crate) fn close(&self) -> bool {
        let mut book = lock(&self.book);
        book.closed = book.pending == 0 && book.connections == 0;
        book.closed
    }

    /// What keeps it from being closed: sends that have not ended, connections that are not over.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let book = lock(&self.book);
        (book.pending, book.connections)
    }

    /// Compares the ends of all sends with what the process wrote down. For a life that is closed.
    pub(crate) fn check(&self, records: &[Record], soak: &Soak) {
        let book = lock(&self.book);
        let life = self.number;
        let (mut got, mut answered) = (HashSet::new(), HashSet::new());
        let mut tiny_replies = 0;
        for Record {
            number,
            event,
            length,
        } in records
        {
            let end = book.sends.get(number).and_then(|send| send.end);
            let wrong = |what: &str| {
                soak.broken(format!(
                    "client {life}, message {number}: {what}; its send: {end:?}"
                ));
            };
            match event {
                Event::Got if !got.insert(*number) => wrong("it came twice"),
                Event::Got if end == Some(End::Undelivered) => {
                    wrong("it came, and was reported as undelivered");
                }
                Event::Got if end.is_none() => wrong("it came, and was sent to another client"),
                Event::ReplyOk => {
                    if end != Some(End::Replied(*length)) {
                        wrong(&format!(
                            "a reply of {length} bytes succeeded and was not received"
                        ));
                    }
                    if !answered.insert(*number) {
                        wrong("it was answered twice");
                    }
                }
                Event::ReplyTooLong if end != Some(End::Cut(*length)) => {
                    wrong("a reply was cut and its sender does not know");
                }
                Event::ReplyNoWaiter if matches!(end, Some(End::Replied(_) | End::Cut(_))) => {
                    wrong("a reply found nobody and was received");
                }
                Event::ReplyOkTiny => tiny_replies += 1,
                _ => {}
            }
        }
        let replied = |send: &&Send| send.tiny && matches!(send.end, Some(End::Replied(_)));
        let received = book.sends.values().filter(replied).count();
        if tiny_replies > received {
            soak.broken(format!(
                "client {life}: {tiny_replies} replies to tiny messages succeeded, {received} were received"
            ));
        }
    }
}

#[cfg(test)]
mod tests;

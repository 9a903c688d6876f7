//! The ends of sends that no thread waits for: their replies, deadlines, and the end of the connection.

use std::time::Duration;

use fltport_engine::connection::Violation;
use fltport_engine::exchange::{self, WaiterStep};
use fltport_engine::output::{Body as _, Outcome, SendKey};
use fltport_engine::{Now, NtStatus, limits};

use super::host::HostPlane;
use super::layout;
use super::waiters::{Async, Call};
use super::waiting::{Abandoned, Ticket};
use crate::body::Body;

/// A send that no thread waits for has ended.
pub(crate) type Finished = (Call, Outcome<Body>);

impl HostPlane {
    /// Whether anybody needs to be told what the client puts in the ring.
    pub(crate) fn has_elsewhere(&self) -> bool {
        self.waiters.has_elsewhere()
    }

    /// Whether the ring has told of replies that nobody has taken.
    pub(crate) fn has_replied(&self) -> bool {
        !self.after.replied.is_empty()
    }

    /// The replies that the ring has told of.
    pub(crate) fn complete(&mut self, finished: &mut Vec<Finished>) -> Result<(), Violation> {
        let mut replied = std::mem::take(&mut self.after.replied);
        for waiter in replied.drain(..) {
            // One that is over already was completed at its deadline, and the waiter may be another's by now.
            let ticket = self.waiters.elsewhere(waiter);
            if let Some(ticket) = ticket.filter(|ticket| self.memory.has_reply(ticket)) {
                self.finish_replied(ticket, finished)?;
            }
        }
        self.after.replied = replied;
        Ok(())
    }

    /// Ends a send that no thread waits for, unless its reply is being written. `false`: it is.
    pub(crate) fn end_one(
        &mut self,
        waiter: usize,
        step: WaiterStep,
        outcome: Outcome<Body>,
        finished: &mut Vec<Finished>,
    ) -> Result<bool, Violation> {
        let Some(ticket) = self.waiters.elsewhere(waiter) else {
            return Ok(true);
        };
        match self.memory.give_up(&ticket, step) {
            Abandoned::Yes => {
                finished.extend(self.release(ticket).map(|call| (call, outcome)));
            }
            Abandoned::Replied => return self.finish_replied(ticket, finished).map(|()| true),
            Abandoned::Replying => return Ok(false),
            Abandoned::Lie => return Err(Violation("a waiter's word is nonsense")),
        }
        Ok(true)
    }

    /// Ends all sends that no thread waits for, as the connection has.
    pub(crate) fn end_all(&mut self, finished: &mut Vec<Finished>) {
        self.memory.end();
        // Also those that the ring has told of, and nobody has taken out of it. One that is posted from here on finds that
        // the connection has ended before its thread sleeps.
        for get in 0..layout::GETS {
            self.memory.end_get(get);
        }
        for waiter in self.waiters.all_elsewhere() {
            let over = || Outcome::Disconnected { delivered: true };
            if self.end_one(waiter, WaiterStep::End, over(), finished) != Ok(true) {
                if let Some(ticket) = self.waiters.elsewhere(waiter) {
                    finished.extend(self.release(ticket).map(|call| (call, over())));
                }
            }
        }
    }

    /// Ends all sends that no thread waits for and whose deadline has passed.
    pub(crate) fn expire(
        &mut self,
        now: Now,
        finished: &mut Vec<Finished>,
    ) -> Result<(), Violation> {
        for waiter in self.waiters.due(now) {
            let outcome = Outcome::TimedOut { delivered: true };
            let before = finished.len();
            if self.end_one(waiter, WaiterStep::Abandon, outcome, finished)? {
                let ended = finished.get(before);
                if matches!(ended, Some((_, Outcome::TimedOut { .. }))) {
                    self.counters.timed_out += 1;
                }
                continue;
            }
            if !self.waiters.grant(waiter, grace(now)) {
                return Err(Violation("a reply was begun and not finished"));
            }
        }
        Ok(())
    }

    /// Gives up a send that no thread waits for. One whose reply is being written ends with that, or soon.
    pub(crate) fn cancel(
        &mut self,
        key: SendKey,
        now: Now,
        finished: &mut Vec<Finished>,
    ) -> Result<(), Violation> {
        let Some(ticket) = self.waiters.of_key(key) else {
            return Ok(());
        };
        let outcome = Outcome::Cancelled { delivered: true };
        if !self.end_one(ticket.waiter, WaiterStep::Abandon, outcome, finished)? {
            // One that was granted a moment before has less.
            self.waiters.grant(ticket.waiter, grace(now));
        }
        Ok(())
    }

    /// Nobody wants the reply of this waiter any more. While it is being written, the waiter is nobody else's: its reply
    /// would be taken for another.
    pub(crate) fn forget(&mut self, ticket: Ticket, now: Now) -> Result<(), Violation> {
        match self.memory.give_up(&ticket, WaiterStep::Abandon) {
            Abandoned::Yes | Abandoned::Replied => drop(self.release(ticket)),
            Abandoned::Replying => self.waiters.set_call(&ticket, Async::nobody(grace(now))),
            Abandoned::Lie => return Err(Violation("a waiter's word is nonsense")),
        }
        Ok(())
    }

    /// A reply came by a frame. Says what the replier is told, and who was waiting, if no thread is.
    pub(crate) fn handle_reply(
        &mut self,
        id: u64,
        status: NtStatus,
        body: Body,
        finished: &mut Vec<Finished>,
    ) -> Result<NtStatus, Violation> {
        let length = body.length();
        let late = NtStatus::FLT_NO_WAITER_FOR_REPLY;
        let Some(ticket) = self.waiters.of_id(id) else {
            return Ok(late);
        };
        // A client that has changed its word back has replied all the same.
        if self.memory.framed.has(id) {
            return Ok(late);
        }
        // As whoever replies in memory does: first it is claimed, then it is there, then the word says so.
        if !self.memory.step_reply(&ticket, WaiterStep::Claim) {
            return Ok(late);
        }
        let mut bytes = body.bytes;
        bytes.truncate(usize::try_from(ticket.capacity).unwrap_or(usize::MAX));
        self.memory.framed.put(id, (status, length, bytes));
        if !self.memory.step_reply(&ticket, WaiterStep::Finish) {
            self.memory.framed.take(id);
            return Ok(late);
        }
        let settled = exchange::settle(ticket.capacity, length, status);
        if self.waiters.elsewhere(ticket.waiter).is_some() {
            self.finish_replied(ticket, finished)?;
        } else {
            self.memory.stir();
        }
        Ok(settled.replier)
    }

    /// Ends the send of a waiter that has its reply.
    fn finish_replied(
        &mut self,
        ticket: Ticket,
        finished: &mut Vec<Finished>,
    ) -> Result<(), Violation> {
        let mut bytes = Vec::new();
        let outcome = self
            .memory
            .take_reply(&ticket, &mut bytes, None)
            .ok_or(Violation("a reply of more bytes than it has room for"))?
            .outcome(bytes);
        self.counters.replied += 1;
        finished.extend(self.release(ticket).map(|call| (call, outcome)));
        Ok(())
    }
}

/// Until when a reply that is being written may be finished.
fn grace(now: Now) -> fltport_engine::Instant {
    let grace = Duration::from_millis(limits::REPLY_GRACE_MILLIS);
    now.monotonic.checked_add(grace).unwrap_or(now.monotonic)
}

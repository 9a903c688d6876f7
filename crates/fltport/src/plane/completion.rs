//! The ends of sends that no thread waits for: their replies, deadlines, and the end of the connection.

use std::time::Duration;

use fltport_engine::connection::Violation;
use fltport_engine::exchange::{self, WaiterStep};
use fltport_engine::output::{Body as _, Outcome};
use fltport_engine::{Now, NtStatus, limits};

use super::host::HostPlane;
use super::layout;
use super::waiters::Call;
use super::waiting::{Abandoned, Read, Ticket};
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
    pub(crate) fn complete(&mut self, finished: &mut Vec<Finished>) {
        let mut replied = std::mem::take(&mut self.after.replied);
        for waiter in replied.drain(..) {
            // One that is over already was completed at its deadline, and the waiter may be another's by now.
            let ticket = self.waiters.elsewhere(waiter);
            if let Some(ticket) = ticket.filter(|ticket| self.memory.has_reply(ticket)) {
                finished.extend(self.finish_replied(ticket));
            }
        }
        self.after.replied = replied;
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
                finished.extend(self.release(ticket).call.map(|call| (call, outcome)))
            }
            Abandoned::Replied => finished.extend(self.finish_replied(ticket)),
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
                    finished.extend(self.release(ticket).call.map(|call| (call, over())));
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
                    self.waiters.timed_out += 1;
                }
                continue;
            }
            let grace = Duration::from_millis(limits::REPLY_GRACE_MILLIS);
            let until = now.monotonic.checked_add(grace).unwrap_or(now.monotonic);
            if !self.waiters.grant(waiter, until) {
                return Err(Violation("a reply was begun and not finished"));
            }
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
    ) -> NtStatus {
        let length = body.length();
        let Some(ticket) = self.waiters.of_id(id) else {
            return NtStatus::FLT_NO_WAITER_FOR_REPLY;
        };
        // Before the word says so: its sender has to know that the lock has the reply.
        self.memory.quits.set_framed(ticket.waiter, true);
        if !self.memory.finish_reply(&ticket) {
            self.memory.quits.set_framed(ticket.waiter, false);
            return NtStatus::FLT_NO_WAITER_FOR_REPLY;
        }
        let settled = exchange::settle(ticket.capacity, length, status);
        self.waiters.keep_reply(&ticket, status, body.bytes);
        if self.waiters.elsewhere(ticket.waiter).is_some() {
            finished.extend(self.finish_replied(ticket));
        } else {
            self.memory.stir();
        }
        settled.replier
    }

    /// The reply of a waiter that has one, and the end of that waiter.
    pub(crate) fn take_reply(&mut self, ticket: Ticket) -> (Outcome<Body>, Option<Call>) {
        let capacity = ticket.capacity;
        let mut bytes = vec![0; self.memory.reply_length(&ticket)];
        let read = self.memory.read_reply(&ticket, &mut bytes);
        self.waiters.replied += 1;
        let released = self.release(ticket);
        let outcome = match released.by_frame {
            Some((status, bytes)) => Read::framed(capacity, bytes.len(), status).outcome(bytes),
            None => read.outcome(bytes),
        };
        (outcome, released.call)
    }

    fn finish_replied(&mut self, ticket: Ticket) -> Option<Finished> {
        let (outcome, call) = self.take_reply(ticket);
        call.map(|call| (call, outcome))
    }
}

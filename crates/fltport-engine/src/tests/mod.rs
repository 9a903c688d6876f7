//! Stories of a filter and its client, told in simulated time.
//!
//! Each test is one behaviour seen from both ends and starts with the numbers of the conformance cases it shows. What
//! needs an operating system (handles, threads, processes, completion ports) is told by the tests of the `fltport`
//! crate; what needs no story stands beside the rule it checks.

use core::time::Duration;
use std::vec::Vec;

use crate::connection::State;
use crate::limits;
use crate::output::Outcome;
use crate::sim::{Bytes, Ended, Pair};
use crate::status::NtStatus;
use crate::time::Timeout;

mod attack;
mod cancel;
mod connect;
mod disconnect;
mod get;
mod limit;
mod port;
mod race;
mod random;
mod reply;
mod requests;
mod send;
mod timeout;
mod unregister;

const FOREVER: Timeout = Timeout::Never;

/// A timeout of that many milliseconds from now.
const fn within(millis: u64) -> Timeout {
    Timeout::after(Duration::from_millis(millis))
}

/// The size of a get for `payload` bytes.
const fn room(payload: u32) -> u32 {
    limits::HEADER + payload
}

/// What the send has returned; `None` while it blocks.
fn sent(pair: &Pair, send: u64) -> Option<NtStatus> {
    pair.outcome(send).map(Outcome::status)
}

/// The reply's bytes that the send has returned.
fn answer(pair: &Pair, send: u64) -> Option<&[u8]> {
    match pair.outcome(send)? {
        Outcome::Replied { reply, copied, .. } => reply.0.get(..usize::try_from(*copied).ok()?),
        _ => None,
    }
}

/// The status of a client's call that ended without a message; `None` while it lasts.
fn ended(pair: &Pair, call: u64) -> Option<NtStatus> {
    pair.ended(call).and_then(Ended::status)
}

/// The bytes of the message that a get has taken.
fn taken(pair: &Pair, get: u64) -> Option<&[u8]> {
    pair.message(get).map(|(_, bytes)| bytes)
}

/// A question that the client has taken and not answered: the send's name and the message's number.
fn asked(pair: &mut Pair, question: &[u8], capacity: u32, timeout: Timeout) -> (u64, u64) {
    let (get, _) = pair.get(room(1024));
    let send = pair.send(question, Some(capacity), timeout);
    let (header, _) = pair
        .message(get)
        .expect("a get that fits takes the question");
    (send, header.message_id)
}

fn advance(pair: &mut Pair, millis: u64) {
    pair.advance(Duration::from_millis(millis));
}

/// A xorshift generator: the same list of operations for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(limit)).unwrap_or(0)
    }

    fn half(&mut self) -> usize {
        usize::from(self.below(2) == 1)
    }

    /// Mostly a few bytes, so that gets of a few bytes often fit and often do not.
    fn size(&mut self) -> usize {
        usize::try_from(self.below(16)).unwrap_or(0)
    }
}

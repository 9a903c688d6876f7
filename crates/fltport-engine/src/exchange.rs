//! The rules of the exchange as pure functions: what a get and a waiter may become, which get a message takes, and what
//! a reply means to both sides.
//!
//! They are written once and performed twice: under a lock by [`crate::questions`], and on words of shared memory by
//! whoever puts the exchange there. Nothing here keeps state.
//!
//! *Gets are posted, messages are not.* A get is a small record of the receiver's; a message stays with its sender
//! until a get takes it. So nothing is visible before delivery, and a withdrawn message leaves no trace.

use crate::limits;
use crate::status::NtStatus;
use crate::wire::MessageHeader;

/// What a posted get is at the moment.
///
/// ```text
///            Post (client)          Assign (host)          Take (client)
///   Free ───────────────▶ Posted ───────────────▶ Assigned ─────────────▶ Free
///                           ├── Cancel (client) ──▶ Cancelled ── Take ──▶ Free
///                           ├── Refuse (host) ────▶ TooSmall ─── Take ──▶ Free
///                           └── Disconnect (host) ▶ Disconnected
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// No get.
    Free,
    /// Waiting for a message.
    Posted,
    /// A message is in it.
    Assigned,
    /// Withdrawn by the client before a message took it.
    Cancelled,
    /// Too small for the message that found it; that message waits for a bigger one.
    TooSmall,
    /// The connection ended.
    Disconnected,
}

/// What may happen to a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetStep {
    /// The client posts it.
    Post,
    /// The host puts a message in.
    Assign,
    /// The client withdraws it.
    Cancel,
    /// The host finds it too small.
    Refuse,
    /// The host ends the connection.
    Disconnect,
    /// The client has taken the outcome and may post again.
    Take,
}

impl Get {
    /// The state after `step`, or `None` where the step is not allowed: whoever tried it lost the race, or lies.
    #[must_use]
    pub const fn after(self, step: GetStep) -> Option<Self> {
        match (self, step) {
            (Self::Free, GetStep::Post) => Some(Self::Posted),
            (Self::Posted, GetStep::Assign) => Some(Self::Assigned),
            (Self::Posted, GetStep::Cancel) => Some(Self::Cancelled),
            (Self::Posted, GetStep::Refuse) => Some(Self::TooSmall),
            (Self::Posted | Self::Free, GetStep::Disconnect) => Some(Self::Disconnected),
            (Self::Assigned | Self::Cancelled | Self::TooSmall, GetStep::Take) => Some(Self::Free),
            _ => None,
        }
    }
}

/// What an outstanding message, one that wants a reply, is at the moment.
///
/// ```text
///   Waiting ── Claim (client) ──▶ Replying ── Finish (client) ──▶ Replied
///      └── Abandon, End (host) ─▶ Abandoned ◀── End (host) ── Replying
/// ```
/// The claim decides every race with a sender that gives up: after it the sender waits for the reply. Only the end of the
/// connection takes a claim back, and whoever made it finds that when it finishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The sender waits; nobody has answered.
    Waiting,
    /// A reply is being copied.
    Replying,
    /// The reply is complete.
    Replied,
    /// The sender gave up: deadline, disconnect or cancellation. A reply finds nobody.
    Abandoned,
}

/// What may happen to a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaiterStep {
    /// The client claims the right to reply.
    Claim,
    /// The client has copied the reply.
    Finish,
    /// The host gives up on behalf of the sender.
    Abandon,
    /// The connection ends.
    End,
}

impl Waiter {
    /// The state after `step`, or `None` where the step came too late or out of order.
    #[must_use]
    pub const fn after(self, step: WaiterStep) -> Option<Self> {
        match (self, step) {
            (Self::Waiting, WaiterStep::Claim) => Some(Self::Replying),
            (Self::Replying, WaiterStep::Finish) => Some(Self::Replied),
            (Self::Waiting, WaiterStep::Abandon | WaiterStep::End)
            | (Self::Replying, WaiterStep::End) => Some(Self::Abandoned),
            _ => None,
        }
    }
}

/// Which get a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<K> {
    /// This get takes it.
    Fits(K),
    /// None is big enough; this one, the oldest, is told so and the message goes on waiting.
    TooSmall(K),
    /// No get is posted.
    None,
}

/// Chooses among posted gets, oldest first, for a message of `length` payload bytes: the oldest that is big enough, or
/// else the oldest.
pub fn choose<K: Copy>(gets: impl IntoIterator<Item = (K, u32)>, length: u32) -> Choice<K> {
    let mut oldest = None;
    for (key, size) in gets {
        if fits(size, length) {
            return Choice::Fits(key);
        }
        oldest.get_or_insert(key);
    }
    oldest.map_or(Choice::None, Choice::TooSmall)
}

/// Whether a get of `size` bytes, header included, can take `length` payload bytes.
#[must_use]
pub const fn fits(size: u32, length: u32) -> bool {
    match needed(length) {
        Some(needed) => size >= needed,
        None => false,
    }
}

/// Bytes that a get needs for `length` payload bytes; `None` where that is no 32-bit size.
#[must_use]
pub const fn needed(length: u32) -> Option<u32> {
    length.checked_add(limits::HEADER)
}

/// The header of a message: what a receiver may reply, header included, and the id; both zero if no reply is wanted.
#[must_use]
pub fn header(reply: Option<(u32, u64)>) -> MessageHeader {
    match reply {
        Some((capacity, id)) => MessageHeader::new(capacity.saturating_add(limits::HEADER), id),
        None => MessageHeader::new(0, 0),
    }
}

/// What a reply means to both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Payload bytes that reach the sender.
    pub copied: u32,
    /// What the send returns.
    pub sender: NtStatus,
    /// What the reply returns.
    pub replier: NtStatus,
}

/// Settles a reply of `length` payload bytes and `status` against the sender's `capacity`. A longer reply is cut, both
/// sides are told, and the message counts as answered.
#[must_use]
pub const fn settle(capacity: u32, length: u32, status: NtStatus) -> Settled {
    if length > capacity {
        let overflow = NtStatus::BUFFER_OVERFLOW;
        Settled {
            copied: capacity,
            sender: overflow,
            replier: overflow,
        }
    } else {
        Settled {
            copied: length,
            sender: status,
            replier: NtStatus::SUCCESS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const GETS: [Get; 6] = [
        Get::Free,
        Get::Posted,
        Get::Assigned,
        Get::Cancelled,
        Get::TooSmall,
        Get::Disconnected,
    ];
    const STEPS: [GetStep; 6] = [
        GetStep::Post,
        GetStep::Assign,
        GetStep::Cancel,
        GetStep::Refuse,
        GetStep::Disconnect,
        GetStep::Take,
    ];

    #[test]
    fn a_posted_get_ends_in_exactly_one_way() {
        for step in STEPS {
            let Some(after) = Get::Posted.after(step) else {
                continue;
            };
            let again: Vec<_> = STEPS
                .into_iter()
                .filter(|s| after.after(*s).is_some())
                .collect();
            assert!(
                again.is_empty() || again == [GetStep::Take],
                "{after:?}: {again:?}"
            );
        }
    }

    #[test]
    fn nothing_follows_a_disconnect() {
        assert!(
            STEPS
                .into_iter()
                .all(|step| Get::Disconnected.after(step).is_none())
        );
        assert_eq!(
            GETS.into_iter()
                .filter(|get| get.after(GetStep::Assign).is_some())
                .count(),
            1
        );
    }

    #[test]
    fn f9_a_claimed_waiter_cannot_be_abandoned_nor_claimed_again() {
        let claimed = Waiter::Waiting.after(WaiterStep::Claim).unwrap();
        assert_eq!(claimed.after(WaiterStep::Abandon), None);
        assert_eq!(claimed.after(WaiterStep::Claim), None);
        assert_eq!(Waiter::Abandoned.after(WaiterStep::Claim), None);
    }

    #[test]
    fn e5_the_oldest_fitting_get_wins_and_else_the_oldest() {
        assert_eq!(
            choose([('a', 26), ('b', 80), ('c', 90)], 64),
            Choice::Fits('b')
        );
        assert_eq!(choose([('a', 26), ('b', 79)], 64), Choice::TooSmall('a'));
        assert_eq!(choose::<char>([], 64), Choice::None);
    }

    #[test]
    fn d10_a_length_that_overflows_the_header_fits_nowhere() {
        assert!(!fits(u32::MAX, 0xFFFF_FFF8));
        assert_eq!(needed(0xFFFF_FFF8), None);
    }

    /// Rows of the exact-size table: kernel capacity, reply size with header, copied, overflow.
    #[test]
    fn m2_the_exact_size_rule() {
        let rows = [
            (8, 24, 8, false),
            (1, 24, 1, true),
            (1, 17, 1, false),
            (4, 20, 4, false),
            (4, 24, 4, true),
            (16, 32, 16, false),
            (5, 21, 5, false),
            (5, 24, 5, true),
            (0, 16, 0, false),
            (20, 20, 4, false),
            (4, 16, 0, false),
        ];
        for (capacity, size, copied, overflow) in rows {
            let settled = settle(capacity, size - limits::HEADER, NtStatus::SUCCESS);
            assert_eq!(settled.copied, copied, "{capacity} {size}");
            assert_eq!(
                settled.replier == NtStatus::BUFFER_OVERFLOW,
                overflow,
                "{capacity} {size}"
            );
        }
    }

    #[test]
    fn f8_an_overflow_overrides_the_status() {
        let settled = settle(4, 8, NtStatus::ACCESS_DENIED);
        assert_eq!(settled.sender, NtStatus::BUFFER_OVERFLOW);
    }
}

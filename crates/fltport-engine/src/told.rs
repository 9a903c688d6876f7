//! Senders that a get was too small for, found by the room of a get and their age.

use alloc::collections::BTreeSet;

use crate::limits;
use crate::output::SendKey;

/// Senders that a get was too small for. The oldest of those that a get fits is found by the powers of two that make up
/// its room, so that many long messages before it cost nothing.
#[derive(Debug)]
pub(crate) struct Told {
    /// Each sender once for each power of two: the exponent, and which multiple of that power its length lies behind.
    senders: BTreeSet<(u32, u32, SendKey)>,
}

impl Told {
    /// Exponents up to that of the longest message.
    const EXPONENTS: core::ops::RangeInclusive<u32> = 0..=limits::MESSAGE_MAX.ilog2();

    pub(crate) const fn new() -> Self {
        Self {
            senders: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    pub(crate) fn insert(&mut self, length: u32, key: SendKey) {
        for exponent in Self::EXPONENTS {
            self.senders
                .insert((exponent, length.wrapping_shr(exponent), key));
        }
    }

    pub(crate) fn remove(&mut self, length: u32, key: SendKey) {
        for exponent in Self::EXPONENTS {
            self.senders
                .remove(&(exponent, length.wrapping_shr(exponent), key));
        }
    }

    /// The oldest of those whose message has at most `room` bytes.
    pub(crate) fn oldest(&self, room: u32) -> Option<SendKey> {
        if self.senders.is_empty() {
            return None;
        }
        let end = room.min(limits::MESSAGE_MAX).saturating_add(1);
        let blocks = Self::EXPONENTS.filter_map(|exponent| {
            let multiple = end.wrapping_shr(exponent);
            (multiple % 2 == 1).then(|| (exponent, multiple.saturating_sub(1)))
        });
        blocks
            .filter_map(|(exponent, multiple)| {
                let from = (exponent, multiple, SendKey(0));
                let to = (exponent, multiple, SendKey(u64::MAX));
                self.senders.range(from..=to).next().map(|(.., key)| *key)
            })
            .min()
    }
}

//! The client's end of the memory: replies. The waiter's word decides whether a reply is in time; who has claimed it writes,
//! and says when it is there.

use fltport_engine::NtStatus;
use fltport_engine::exchange::{self, Waiter, WaiterStep};

use super::client::{ClientPlane, Tell};
use super::layout::{self, Entry, Word, client_word};
use crate::sync::{AtomicU64, Ordering, futex};

/// What became of an attempt to reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replied {
    /// It is done, with this status for the replier.
    Done(NtStatus, Tell),
    /// It has no room here, and goes by a frame.
    ByFrame,
}

impl ClientPlane {
    /// Whether the reply to a message of this number belongs here.
    pub(crate) fn has(&self, id: u64) -> bool {
        (self.first_id..layout::FRAMED_IDS).contains(&id)
    }

    /// Whether the sender of a message has given up.
    pub(crate) fn is_abandoned(&self, id: u64) -> bool {
        self.has_ended() || self.waiting(id).is_none()
    }

    /// Replies to a message.
    pub(crate) fn reply(&self, id: u64, status: NtStatus, payload: &[u8]) -> Replied {
        // Nobody may take it any more, whatever the word of a host that was killed says.
        if self.has_ended() {
            return Replied::Done(NtStatus::PORT_DISCONNECTED, Tell::Nothing);
        }
        let Some((waiter, word, bits, now)) = self.waiting(id) else {
            return Replied::Done(self.too_late(), Tell::Nothing);
        };
        // Written before the word: as long as that has this number, they are this message's.
        let head = self
            .client
            .load(layout::reply_head(waiter), Ordering::Relaxed);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let settled = exchange::settle(layout::low(head), length, status);
        let copied = usize::try_from(settled.copied).unwrap_or(usize::MAX);
        let payload = payload.get(..copied).unwrap_or(payload);
        let (offset, size) = if copied <= layout::INLINE_REPLY {
            (layout::reply_payload(waiter), layout::INLINE_REPLY)
        } else {
            let room = self
                .client
                .load(layout::reply_room(waiter), Ordering::Relaxed);
            let bytes = |half| usize::try_from(half).unwrap_or(0);
            (bytes(layout::low(room)), bytes(layout::high(room)))
        };
        if copied > size {
            // The host claims it: who claims a reply and does not finish it soon is disconnected.
            return Replied::ByFrame;
        }
        let Some(claimed) = self.claim(word, bits, now) else {
            return Replied::Done(self.too_late(), Tell::Nothing);
        };
        self.client.copy_in(offset, payload);
        let head = layout::halves(status.0, length);
        self.client
            .store(layout::reply_head(waiter), head, Ordering::Relaxed);
        let Some(tell) = self.finish(waiter, word, claimed) else {
            return Replied::Done(self.too_late(), Tell::Nothing);
        };
        if let Some(pace) = self.pace.end() {
            self.client
                .store(client_word::PACE, pace, Ordering::Relaxed);
        }
        Replied::Done(settled.replier, tell)
    }

    fn claim(
        &self,
        word: &AtomicU64,
        mut bits: u64,
        mut now: Word<Waiter>,
    ) -> Option<Word<Waiter>> {
        let generation = now.generation;
        loop {
            let claimed = now.after(WaiterStep::Claim)?;
            match word.compare_exchange(bits, claimed.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(claimed),
                Err(other) => {
                    bits = other;
                    now = Word::from_bits(other).filter(|w| w.generation == generation)?;
                }
            }
        }
    }

    /// Says that the reply is there, to whoever waits for it. `None`: the connection has ended first.
    fn finish(&self, waiter: usize, word: &AtomicU64, claimed: Word<Waiter>) -> Option<Tell> {
        let mut now = claimed;
        loop {
            let done = now.after(WaiterStep::Finish)?;
            match word.compare_exchange(
                now.bits(),
                done.bits(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(other) => {
                    now = Word::from_bits(other).filter(|w| w.generation == claimed.generation)?;
                }
            }
        }
        if now.asleep {
            futex::wake(word, 1);
        }
        Some(if now.bell {
            self.tell_replied(waiter)
        } else {
            Tell::Nothing
        })
    }

    /// Tries again what the ring was too full for.
    pub(crate) fn tell_replied(&self, waiter: usize) -> Tell {
        let mut state = self.state();
        let has_room = state.has_room(&self.host);
        if self.has_ended() {
            return Tell::Nothing;
        }
        if !has_room {
            return Tell::Full(waiter);
        }
        self.push(&mut state, Entry::Replied { waiter })
    }

    fn waiting(&self, id: u64) -> Option<(usize, &AtomicU64, u64, Word<Waiter>)> {
        let (waiter, generation) = layout::waiter_of(id).filter(|_| self.has(id))?;
        let word = self.client.word(layout::waiter_word(waiter));
        let bits = word.load(Ordering::Acquire);
        let now = Word::<Waiter>::from_bits(bits)?;
        (now.generation == generation && now.state == Waiter::Waiting)
            .then_some((waiter, word, bits, now))
    }

    fn too_late(&self) -> NtStatus {
        if self.has_ended() {
            return NtStatus::PORT_DISCONNECTED;
        }
        self.client
            .word(client_word::LATE)
            .fetch_add(1, Ordering::Relaxed);
        NtStatus::FLT_NO_WAITER_FOR_REPLY
    }
}

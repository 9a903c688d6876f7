//! What the host writes: a message, a waiter, and the steps that it takes with the word of a get.

use fltport_engine::exchange::{self, Get, GetStep, Waiter};

use super::host::{Published, Reserved};
use super::layout::{self, At, Place, Record, Word, host_word};
use super::waiting::{Memory, Ticket};
use crate::sync::{AtomicU64, Ordering, futex};

/// How often a word is tried that changes meanwhile.
const TRIES: usize = 8;

impl Memory {
    /// Writes what the client has to know of a waiter, before it can know of the message.
    pub(super) fn announce(&self, ticket: &Ticket, elsewhere: bool) {
        let waiter = ticket.waiter;
        let (offset, size) = ticket.block.map_or((0, 0), |block| {
            let size = u32::try_from(block.size).unwrap_or(0);
            (u32::try_from(block.offset).unwrap_or(0), size)
        });
        let room = layout::halves(offset, size);
        self.client
            .store(layout::reply_room(waiter), room, Ordering::Relaxed);
        self.client.store(
            layout::reply_head(waiter),
            ticket.capacity.into(),
            Ordering::Relaxed,
        );
        let word = Word {
            bell: elsewhere,
            ..Word::new(Waiter::Waiting, ticket.generation)
        };
        self.client
            .store(layout::waiter_word(waiter), word.bits(), Ordering::Release);
    }

    /// Writes a message and publishes it in the get that was reserved for it.
    pub(crate) fn publish(
        &self,
        reserved: &Reserved,
        bytes: &[u8],
        deadline: u64,
        file: bool,
    ) -> Published {
        let record = Record::of(reserved.get);
        let offset = reserved
            .block
            .map_or_else(|| record.payload(), |block| block.offset);
        self.host.copy_in(offset, bytes);
        let at = At::Offset(u32::try_from(offset).unwrap_or(0));
        self.publish_at(reserved, bytes.len(), Place { at, file }, deadline)
    }

    /// Publishes a message whose payload is elsewhere.
    pub(crate) fn publish_at(
        &self,
        reserved: &Reserved,
        length: usize,
        place: Place,
        deadline: u64,
    ) -> Published {
        let record = Record::of(reserved.get);
        let reply = reserved
            .ticket
            .as_ref()
            .map(|ticket| (ticket.capacity, ticket.id()));
        let header = exchange::header(reply);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let lengths = layout::halves(length, header.reply_length);
        let host = &self.host;
        host.store(record.id(), header.message_id, Ordering::Relaxed);
        host.store(record.lengths(), lengths, Ordering::Relaxed);
        host.store(record.place(), place.bits(), Ordering::Relaxed);
        host.store(record.deadline(), deadline, Ordering::Relaxed);
        let published = self.perform(reserved.get, reserved.generation, GetStep::Assign);
        self.set_writing(reserved.get, false);
        published
    }

    /// Makes the threads of these gets look at them.
    pub(crate) fn wake_get(&self, get: usize) {
        futex::wake(self.get_word(get), 1);
    }

    fn get_word(&self, get: usize) -> &AtomicU64 {
        self.client.word(layout::get_word(get))
    }

    pub(super) fn is_posted(&self, get: usize, generation: u64) -> bool {
        let bits = self.get_word(get).load(Ordering::Acquire);
        Word::<Get>::from_bits(bits)
            .is_some_and(|word| word.state == Get::Posted && word.generation == generation)
    }

    /// Ends a get, whoever has posted it, and wakes its thread.
    pub(super) fn end_get(&self, get: usize) {
        let word = self.get_word(get);
        let mut bits = word.load(Ordering::SeqCst);
        while let Some(now) = Word::<Get>::from_bits(bits).filter(|w| w.state == Get::Posted) {
            let Some(next) = now.after(GetStep::Disconnect) else {
                return;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return futex::wake(word, 1),
                Err(other) => bits = other,
            }
        }
    }

    /// Has the client read its socket, where all of its threads may sleep in memory: frames wait for that, and until they have
    /// left, nothing of that client's is read.
    pub(crate) fn ask_to_read(&self) {
        let read = self.host.word(host_word::READ);
        let wish = read.load(Ordering::Relaxed).wrapping_add(1);
        // Sequentially consistent, as the end of a connection: whoever is about to sleep sees it, or its mark is seen here.
        read.store(wish, Ordering::SeqCst);
        for get in 0..layout::GETS {
            let word = self.get_word(get);
            let mut bits = word.load(Ordering::SeqCst);
            // A client that changes it all the time does not sleep.
            for _ in 0..TRIES {
                let now = Word::<Get>::from_bits(bits).filter(|w| w.state == Get::Posted);
                let Some(now) = now else { break };
                let next = Word {
                    nudged: true,
                    ..now
                };
                match word.compare_exchange(bits, next.bits(), Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => {
                        futex::wake(word, 1);
                        break;
                    }
                    Err(other) => bits = other,
                }
            }
        }
    }

    /// Takes a step of the host's with a get, if that is still posted, and says so where the message is. Nobody else may be
    /// about to do so for another posting of this get.
    pub(super) fn perform(&self, get: usize, generation: u64, step: GetStep) -> Published {
        let word = self.get_word(get);
        // The likely value first, so that the line is fetched once, and for writing.
        let mut bits = Word::new(Get::Posted, generation).bits();
        loop {
            let now = Word::<Get>::from_bits(bits).filter(|word| word.generation == generation);
            let Some((now, next)) = now.and_then(|now| Some((now, now.after(step)?))) else {
                return Published::Withdrawn;
            };
            match word.compare_exchange(bits, next.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let ready = Record::of(get).ready();
                    self.host.store(ready, next.bits(), Ordering::Release);
                    return Published::Delivered {
                        awake: !now.asleep,
                        bell: now.bell,
                    };
                }
                Err(other) => bits = other,
            }
        }
    }
}

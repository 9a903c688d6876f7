//! Memory that the supervisor and its workers share: the journal of operations, the worker's pulse, and what the one
//! has to know of the other without asking.
//!
//! A worker that has died can say nothing; what it wrote here is still there. The supervisor trusts it no further than
//! to choose among answers that policy allows anyway: a word that means nothing is left to the sweep.
#![allow(unsafe_code)] // memory that outlives a process

use std::io;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use crate::fanotify::Response;

/// The shared memory. Copies are the same memory, which lives as long as a process that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journal {
    words: &'static [AtomicU64],
}

/// What the journal knows of an operation that was read and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The group that it came from, by its place among all groups of the host.
    pub(crate) group: usize,
    /// What it gets if the worker dies.
    pub(crate) response: Response,
    /// Whether it is an execution.
    pub(crate) exec: bool,
    /// The process that wants to, or 0.
    pub(crate) pid: i32,
}

/// Who reads a group. Two processes must not: answers are matched by the reader's descriptor numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A thread of the worker.
    Worker,
    /// A thread of the supervisor.
    Supervisor,
}

impl Journal {
    /// Memory for descriptor numbers below `numbers`.
    ///
    /// # Errors
    /// The system's, when there is no memory.
    ///
    /// # References
    /// mmap(2), `MAP_SHARED | MAP_ANONYMOUS`.
    pub(crate) fn new(numbers: usize) -> io::Result<Self> {
        let count = HEADER + 2 * numbers;
        // SAFETY: a new mapping at an address of the system's choice touches no memory that there is.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                count * size_of::<AtomicU64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        #[expect(
            clippy::disallowed_methods,
            reason = "atomics, which both sides of the host share; neither is a peer"
        )]
        // SAFETY: the mapping has room for `count` words, is aligned to a page, all zero, and never unmapped; whoever
        // shares it was forked off this process, and every access on either side is atomic.
        let words = unsafe { slice::from_raw_parts(start.cast::<AtomicU64>(), count) };
        Ok(Self { words })
    }

    /// An operation was read: its number is in use until [`Self::claim`].
    pub(crate) fn note(&self, number: i32, owed: Owed) {
        let Some((word, facts)) = self.number(number) else {
            return;
        };
        let exec = u64::from(owed.exec) << EXEC_SHIFT;
        facts.store(
            exec | u64::from(owed.pid.cast_unsigned()),
            Ordering::Relaxed,
        );
        let group = u64::try_from(owed.group).unwrap_or(u64::MAX) & GROUPS;
        let code = owed.response.to_code();
        let highest = self.header(HIGHEST);
        let number = u64::from(number.unsigned_abs());
        if highest.load(Ordering::Relaxed) < number {
            highest.fetch_max(number, Ordering::Relaxed);
        }
        word.store(
            NOTED | group << GROUP_SHIFT | u64::from(code),
            Ordering::Release,
        );
    }

    /// Takes out what is noted under this number: whoever gets it, and nobody else, answers the operation. A number that the
    /// journal has no room for is nobody else's business either.
    pub(crate) fn claim(&self, number: i32) -> bool {
        self.number(number)
            .is_none_or(|(word, _)| word.swap(0, Ordering::AcqRel) & NOTED != 0)
    }

    /// What is noted under this number is decided, and only to be told to the kernel: whoever settles in the place of this
    /// process gives this answer.
    pub(crate) fn decide(&self, number: i32, response: Response) {
        if let Some((word, _)) = self.number(number) {
            let decide = |bits| {
                let code = u64::from(response.to_code());
                (bits & NOTED != 0).then_some(bits & !CODE | code)
            };
            // Fails where somebody else has taken it, who decides by himself.
            word.fetch_update(Ordering::AcqRel, Ordering::Acquire, decide)
                .ok();
        }
    }

    /// Takes out everything that is noted, with its number.
    pub(crate) fn take_all(&self) -> impl Iterator<Item = (i32, Owed)> + '_ {
        self.numbers().filter_map(|number| self.take(number))
    }

    /// All numbers.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = i32> + use<> {
        let count = (self.words.len() - HEADER) / 2;
        0..i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Whether something is noted under this number.
    pub(crate) fn is_noted(&self, number: i32) -> bool {
        self.number(number)
            .is_some_and(|(word, _)| word.load(Ordering::Acquire) & NOTED != 0)
    }

    /// Takes out what is noted under this number, as [`Self::claim`].
    pub(crate) fn take(&self, number: i32) -> Option<(i32, Owed)> {
        let (word, facts) = self.number(number)?;
        let bits = word.swap(0, Ordering::AcqRel);
        let response = Response::from_code(u32::try_from(bits & CODE).ok()?)?;
        let group = usize::try_from(bits >> GROUP_SHIFT & GROUPS).ok()?;
        let facts = facts.load(Ordering::Relaxed);
        let owed = Owed {
            group,
            response,
            exec: facts >> EXEC_SHIFT & 1 == 1,
            pid: u32::try_from(facts & CODE).unwrap_or(0).cast_signed(),
        };
        (bits & NOTED != 0).then_some((number, owed))
    }

    /// The highest number that was noted since [`Self::forget`].
    pub(crate) fn highest(&self) -> u32 {
        let highest = self.header(HIGHEST).load(Ordering::Relaxed);
        u32::try_from(highest).unwrap_or(u32::MAX)
    }

    /// Nothing is left of the last worker: the next one begins.
    pub(crate) fn forget(&self) {
        self.header(HIGHEST).store(0, Ordering::Relaxed);
        for group in 0..GROUPS_MAX {
            self.inside(group, false);
        }
    }

    /// Keeps a group for the supervisor until this process is gone, which died inside the group's filesystem; 0 ends that.
    pub(crate) fn quarantine(&self, group: usize, process: i32) {
        self.header(QUARANTINE + group.min(OWNED))
            .store(u64::from(process.unsigned_abs()), Ordering::Release);
    }

    /// The process that a group is kept from the workers for; 0 if for none.
    pub(crate) fn quarantined(&self, group: usize) -> i32 {
        let word = self.header(QUARANTINE + group.min(OWNED));
        i32::try_from(word.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Whether a spare pair guards something, or has: what came by it then may still be waiting.
    pub(crate) fn is_taken(&self, pair: usize) -> bool {
        self.header(SPARE + pair.min(OWNED)).load(Ordering::Acquire) != UNUSED
    }

    /// Takes one of these pairs for a mount, if one is free: not one whose reader is inside a filesystem that it guarded
    /// before, which may hang, and not one that a dead worker left in there.
    pub(crate) fn take_spare(&self, mut pairs: Range<usize>, mount: u64) -> Option<usize> {
        pairs.find(|pair| {
            let hangs = |group| self.is_inside(group) || self.quarantined(group) != 0;
            if (2 * pair..2 * pair + 2).any(hangs) {
                return false;
            }
            let word = self.header(SPARE + (*pair).min(OWNED));
            let take = |free| {
                let taken = mount.saturating_add(TAKEN);
                word.compare_exchange(free, taken, Ordering::AcqRel, Ordering::Relaxed)
            };
            take(UNUSED).or_else(|_| take(FREE)).is_ok()
        })
    }

    /// A spare pair that is taken is another mount's from now on.
    pub(crate) fn give_spare(&self, pair: usize, mount: u64) {
        self.header(SPARE + pair.min(OWNED))
            .store(mount.saturating_add(TAKEN), Ordering::Release);
    }

    /// A spare pair is free again.
    pub(crate) fn free_spare(&self, pair: usize) {
        self.header(SPARE + pair.min(OWNED))
            .store(FREE, Ordering::Release);
    }

    /// All that is known of a spare pair, for the next host's journal.
    pub(crate) fn spare(&self, pair: usize) -> u64 {
        self.header(SPARE + pair.min(OWNED)).load(Ordering::Acquire)
    }

    /// Takes over what an older host's journal knew of a spare pair.
    pub(crate) fn set_spare(&self, pair: usize, known: u64) {
        self.header(SPARE + pair.min(OWNED))
            .store(known, Ordering::Release);
    }

    /// The mount that a spare pair was taken for.
    pub(crate) fn mount_of_spare(&self, pair: usize) -> Option<u64> {
        let word = self.header(SPARE + pair.min(OWNED)).load(Ordering::Acquire);
        word.checked_sub(TAKEN)
    }

    /// Another host has everything: whatever becomes of this worker, nothing is this host's to decide any more.
    pub(crate) fn hand_over(&self) {
        self.header(HANDED).store(1, Ordering::Release);
    }

    /// Whether another host has everything.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.header(HANDED).load(Ordering::Acquire) != 0
    }

    /// The worker lives and gets on.
    pub(crate) fn beat(&self) {
        self.header(PULSE).fetch_add(1, Ordering::Release);
    }

    /// How often it has said so.
    pub(crate) fn pulse(&self) -> u64 {
        self.header(PULSE).load(Ordering::Acquire)
    }

    /// Who reads this group, or is to read it next.
    pub(crate) fn owner(&self, group: usize) -> Owner {
        match self
            .header(OWNERS + group.min(OWNED))
            .load(Ordering::Acquire)
        {
            0 => Owner::Worker,
            _ => Owner::Supervisor,
        }
    }

    /// Says who reads this group from now on.
    pub(crate) fn give(&self, group: usize, owner: Owner) {
        let bits = u64::from(owner == Owner::Supervisor);
        self.header(OWNERS + group.min(OWNED))
            .store(bits, Ordering::Release);
    }

    /// A thread of the worker goes into the filesystem of this group, to open what the next events are about, or comes out.
    pub(crate) fn inside(&self, group: usize, inside: bool) {
        self.header(INSIDE + group.min(OWNED))
            .store(u64::from(inside), Ordering::Release);
    }

    /// Whether a thread of the worker is, or died, inside the filesystem of this group.
    pub(crate) fn is_inside(&self, group: usize) -> bool {
        self.header(INSIDE + group.min(OWNED))
            .load(Ordering::Acquire)
            != 0
    }

    /// What is owed under a number, and facts about it.
    fn number(&self, number: i32) -> Option<(&'static AtomicU64, &'static AtomicU64)> {
        let place = usize::try_from(number).ok()?.checked_mul(2)? + HEADER;
        Some((self.words.get(place)?, self.words.get(place + 1)?))
    }

    fn header(&self, place: usize) -> &'static AtomicU64 {
        // The header is there in every journal.
        self.words.get(place).unwrap_or(&NOWHERE)
    }
}

static NOWHERE: AtomicU64 = AtomicU64::new(0);

/// Groups that a host may have.
pub(crate) const GROUPS_MAX: usize = 1_024;
const OWNED: usize = GROUPS_MAX - 1;

const PULSE: usize = 0;
const HIGHEST: usize = 1;
const HANDED: usize = 2;
const OWNERS: usize = 8;
const INSIDE: usize = OWNERS + GROUPS_MAX;
const SPARE: usize = INSIDE + GROUPS_MAX;
const QUARANTINE: usize = SPARE + GROUPS_MAX;
/// Words before those of the numbers.
const HEADER: usize = QUARANTINE + GROUPS_MAX;

/// A spare pair that nothing has ever come by.
const UNUSED: u64 = 0;
/// A spare pair that is free, and was in use.
const FREE: u64 = 1;
/// Added to the number of the mount that a spare pair is taken for.
const TAKEN: u64 = 2;

const NOTED: u64 = 1 << 63;
const GROUP_SHIFT: u32 = 32;
const EXEC_SHIFT: u32 = 32;
const GROUPS: u64 = 0xffff;
const CODE: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanotify::DenyErrno;

    #[test]
    fn what_is_noted_is_there_once_and_what_was_cleared_is_not() {
        let journal = Journal::new(100).unwrap();
        let owed = |group, response| Owed {
            group,
            response,
            exec: group == 0,
            pid: 7,
        };
        let first = owed(0, Response::Allow);
        let last = owed(0xffff, Response::DenyErrno(DenyErrno::Edquot));
        journal.note(0, first);
        journal.note(7, owed(3, Response::Deny));
        journal.note(99, last);
        journal.note(100, first); // beyond: the sweep's
        journal.note(-1, first);
        assert!(journal.claim(7) && !journal.claim(7));
        let all: Vec<_> = journal.take_all().collect();
        assert_eq!(all, [(0, first), (99, last)]);
        assert_eq!(journal.take_all().count(), 0);
    }

    #[test]
    fn answers_of_the_supervisor_leave_alone_what_the_worker_has_noted() {
        use crate::fanotify::{Class, Group};
        let Ok(group) = Group::new(Class::PreContent) else {
            println!("skipped: no fanotify group");
            return;
        };
        let journal = Journal::new(10).unwrap();
        let group = group.journaled(journal, 1);
        let owed = Owed {
            group: 0,
            response: Response::Allow,
            exec: false,
            pid: 0,
        };
        journal.note(5, owed);
        assert_eq!(group.sweep(10, Response::Deny), 0);
        assert_eq!(journal.take_all().collect::<Vec<_>>(), [(5, owed)]);
    }

    #[test]
    fn a_spare_pair_has_one_mount_at_a_time_and_is_read_ever_after() {
        let journal = Journal::new(0).unwrap();
        assert!(!journal.is_taken(3));
        assert_eq!(journal.take_spare(3..5, 0), Some(3));
        assert_eq!(journal.take_spare(3..5, 70), Some(4));
        assert_eq!(journal.take_spare(3..5, 71), None);
        assert_eq!(journal.mount_of_spare(3), Some(0));
        journal.free_spare(3);
        assert_eq!(journal.mount_of_spare(3), None);
        assert!(journal.is_taken(3));
        assert_eq!(journal.take_spare(3..5, 72), Some(3));
        journal.give_spare(3, 73);
        assert_eq!(journal.mount_of_spare(3), Some(73));
        assert!(!journal.is_taken(2));
        // What guarded a filesystem that hangs guards no other: nobody would read it.
        for group in [6, 7] {
            journal.free_spare(3);
            journal.inside(group, true);
            assert_eq!(journal.take_spare(3..5, 74), None);
            journal.inside(group, false);
            journal.quarantine(group, 1);
            assert_eq!(journal.take_spare(3..5, 74), None);
            journal.quarantine(group, 0);
            assert_eq!(journal.take_spare(3..5, 74), Some(3));
        }
    }

    #[test]
    fn a_word_that_means_nothing_is_left_to_the_sweep() {
        let journal = Journal::new(4).unwrap();
        for (number, bits) in [(0, u64::MAX), (1, 1), (2, NOTED | CODE), (3, NOTED)] {
            let (word, _) = journal.number(number).unwrap();
            word.store(bits, Ordering::Relaxed);
        }
        assert_eq!(journal.take_all().count(), 0);
    }
}

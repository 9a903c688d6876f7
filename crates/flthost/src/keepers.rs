//! The supervisor's threads: one for each group, made at the start, because nothing can be made when it is needed.
//!
//! They sleep while a worker works. When there is none they answer by policy; each is held up by its own filesystem only.
//! A group has one reader at a time: the journal says whose it is, and a thread that is inside a hung filesystem keeps its
//! group until it is out again, whatever the others do.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::fanotify::{AnswerBuffer, Defaults, Group};
use crate::polling::is_ready;
use crate::supervisor_memory::{Journal, Owner};

/// The threads.
#[derive(Debug)]
pub(crate) struct Keepers {
    shared: Arc<Shared>,
    groups: usize,
    journal: Journal,
}

#[derive(Debug)]
struct Shared {
    /// What operations get; nothing while a worker answers them.
    answer: Mutex<Option<Defaults>>,
    changed: Condvar,
    /// What they get in groups that are kept from the worker.
    quarantined: Defaults,
}

impl Keepers {
    /// Starts one thread for each group, in the order of their places. What comes in a group that is kept from the workers
    /// gets `quarantined`.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub(crate) fn start(
        groups: &[Arc<Group>],
        journal: Journal,
        quarantined: Defaults,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            answer: Mutex::new(None),
            changed: Condvar::new(),
            quarantined,
        });
        for (place, group) in groups.iter().enumerate() {
            let (shared, group) = (Arc::clone(&shared), Arc::clone(group));
            thread::Builder::new()
                .name(format!("keeper-{place}"))
                .stack_size(STACK)
                .spawn(move || shared.keep(place, &group, journal))?;
        }
        Ok(Self {
            shared,
            groups: groups.len(),
            journal,
        })
    }

    /// Lets the threads answer what comes. There must be no worker.
    pub(crate) fn answer(&self, defaults: Defaults) {
        *self.shared.lock() = Some(defaults);
        self.shared.changed.notify_all();
    }

    /// Stops them, for a worker to take their place; waits until they have, except for those that are inside a filesystem
    /// that hangs.
    pub(crate) fn rest(&self) {
        *self.shared.lock() = None;
        let end = Instant::now() + PATIENCE;
        let holds = |place| {
            self.journal.owner(place) == Owner::Supervisor && self.journal.quarantined(place) == 0
        };
        while (0..self.groups).any(holds) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Keepers {
    /// Keeps the groups from the workers that this one died inside of: their threads answer in them from now on.
    pub(crate) fn quarantine(&self, process: i32) {
        // Under the lock, so that no thread gives its group away between this and its next look: the next worker would
        // read it too, and answers are matched by the reader's numbers.
        let answer = self.shared.lock();
        let inside = (0..self.groups).filter(|place| self.journal.is_inside(*place));
        for place in inside {
            self.journal.quarantine(place, process);
            self.journal.give(place, Owner::Supervisor);
        }
        drop(answer);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Defaults>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, place: usize, group: &Group, journal: Journal) {
        let mut buffer = AnswerBuffer::new();
        let mut answer = self.lock();
        loop {
            let kept = journal.quarantined(place) != 0;
            let Some(defaults) = answer.or_else(|| kept.then_some(self.quarantined)) else {
                journal.give(place, Owner::Worker);
                answer = self
                    .changed
                    .wait(answer)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            journal.give(place, Owner::Supervisor);
            drop(answer);
            // Both fail only if this is no group any more; then there is nothing to answer.
            if is_ready(group, PollFlags::IN, SLICE) == Ok(true) {
                group.answer_all(&mut buffer, defaults).ok();
            }
            answer = self.lock();
        }
    }
}

/// A thread of so little work needs little memory, and all of it is locked.
const STACK: usize = 64 * 1024;

/// How long a thread waits for an operation before it looks whether it is still to answer.
const SLICE: Duration = Duration::from_millis(50);

/// Time for all threads to look: those that have not by then are inside a filesystem.
const PATIENCE: Duration = Duration::from_millis(200);

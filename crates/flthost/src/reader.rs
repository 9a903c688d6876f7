//! The threads that read groups: each takes operations out of one, and sends them through its part of the filters.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::cache::Cache;
use crate::closer::Closer;
use crate::decision::Decider;
use crate::events::Events;
use crate::exempt::Exempt;
use crate::facts::Facts;
use crate::fanotify::{Defaults, Event, EventBuffer};
use crate::halt::Halt;
use crate::mount_table::Mounts;
use crate::names::{NameSlot, Names};
use crate::operation::{Operation, Pended, Verdict};
use crate::pair::{Pair, Role};
use crate::policy::Cause;
use crate::pulse::Pulse;
use crate::stack::Stack;
use crate::stamp::Look;
use crate::start::BATCH;
use crate::supervisor_memory::{Journal, Owner};
use crate::threads::{fail, spawn};

/// What the reading threads share.
#[derive(Debug)]
pub(crate) struct Readers {
    pub(crate) decider: Arc<Decider>,
    pub(crate) stack: Arc<Stack>,
    pub(crate) exempt: Arc<Exempt>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) next_id: AtomicU64,
    /// Operations that may be pending.
    pub(crate) room: usize,
    pub(crate) events: Arc<Events>,
    pub(crate) names: Names,
    /// Whose paths are to be believed.
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) journal: Journal,
    /// What operations get that are dropped undecided.
    pub(crate) defaults: Defaults,
    /// Where readers stop for a handover.
    pub(crate) halt: Halt,
    /// Threads that read.
    pub(crate) running: AtomicUsize,
}

/// Starts the threads that read pairs, each once.
#[derive(Debug)]
pub(crate) struct ReaderThreads {
    pub(crate) readers: Arc<Readers>,
    pub(crate) pairs: Vec<Arc<Pair>>,
    pub(crate) pulse: Arc<Pulse>,
    /// The places of pairs that are read.
    pub(crate) read: Mutex<BTreeSet<usize>>,
}

impl ReaderThreads {
    /// Sees to it that the pair at this place is read: questions first, so that nothing passes triage unread.
    ///
    /// # Errors
    /// In words, when no thread can be started.
    pub(crate) fn start(&self, place: usize) -> Result<(), String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pair) = self.pairs.get(place).filter(|_| !read.contains(&place)) else {
            return Ok(());
        };
        let closer = if pair.slow {
            Some(Closer::start().map_err(|error| format!("cannot start a thread: {error}"))?)
        } else {
            None
        };
        // Only there do many wait at a time.
        let (group, pulse) = (Arc::clone(&pair.questions), Arc::clone(&self.pulse));
        let decider = Arc::clone(&self.readers.decider);
        spawn("answers", move || {
            let failed = |count| decider.count_unanswered(count);
            group.answers.keep_writing(&group, &pulse, failed)
        })?;
        for role in [Role::Questions, Role::Triage] {
            let (readers, pair) = (Arc::clone(&self.readers), Arc::clone(pair));
            let (pulse, closer) = (Arc::clone(&self.pulse), closer.clone());
            let group = 2 * place + usize::from(role == Role::Questions);
            spawn("reader", move || {
                readers.read(&pair, role, group, &pulse, closer.as_deref())
            })?;
        }
        read.insert(place);
        Ok(())
    }
}

/// How often a reader whose group is the supervisor's looks whether it still is.
const FOREIGN: Duration = Duration::from_millis(20);

impl Readers {
    /// Reads the group at this place for as long as the process lives.
    pub(crate) fn read(
        &self,
        pair: &Arc<Pair>,
        role: Role,
        place: usize,
        pulse: &Pulse,
        closer: Option<&Closer>,
    ) -> ! {
        let work = pulse.this_thread();
        let group = pair.group(role);
        let mut buffer = EventBuffer::with_capacity(BATCH);
        // A thread of the supervisor may still be inside this group's filesystem.
        while self.journal.owner(place) == Owner::Supervisor {
            thread::sleep(FOREIGN);
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        loop {
            let bell = self.halt.bell();
            let mut fds = [
                PollFd::new(group, PollFlags::IN),
                PollFd::new(&bell, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => fail(format_args!("cannot wait for operations: {error}")),
            }
            let [_, rings] = fds.map(|fd| !fd.revents().is_empty());
            if rings {
                self.halt.pass();
                continue;
            }
            // Files are closed inside the filesystem as well.
            self.journal.inside(place, true);
            closer.inspect(|closer| closer.wait_for_room());
            let batch = group.read(&mut buffer, self.defaults);
            self.journal.inside(place, false);
            match batch {
                Ok(batch) => {
                    for event in batch {
                        work.begin();
                        if let (Some(closer), Event::Permission { permission, .. }) =
                            (closer, &event)
                        {
                            closer.keep(permission.shared_file());
                        }
                        self.handle(event, pair, role);
                    }
                    work.end();
                }
                Err(error) => fail(format_args!("cannot read operations: {error}")),
            }
        }
    }

    pub(crate) fn handle(&self, event: Event, pair: &Arc<Pair>, role: Role) {
        let (operation, pid, permission) = match event {
            Event::Permission {
                operation,
                pid,
                permission,
            } => (operation, pid, permission),
            Event::Unopenable { .. } => return self.decider.unopenable(),
            // Whoever is behind it waits for an answer that this process cannot give; a sweep can.
            Event::Malformed => fail("the kernel tells of operations in an unknown form"),
            _ => return,
        };
        if pid.is_some_and(|pid| self.exempt.covers(pid)) {
            return self.decider.exempt(permission, role);
        }
        if role == Role::Questions && pair.is_decided_in_triage() {
            return self.decider.let_pass(permission);
        }
        let look = Look::at(permission.file());
        let stamp = look.map(|look| look.stamp);
        if let (Role::Questions, Some(stamp)) = (role, &stamp) {
            pair.arrived(stamp.id, pid);
        }
        // Of what is slow, or comes and goes, nothing is kept, so nobody needs to know who writes there.
        let kept = stamp.as_ref().filter(|_| !pair.slow && !pair.spare);
        let (read_at, written) = self.cache.look(permission.file(), kept);
        let full = self.decider.pending() >= self.room;
        self.decider.begin();
        let started = Instant::now();
        let facts = Facts::new(
            pid,
            Arc::clone(permission.shared_file()),
            look.and_then(|look| look.mount),
            pair.filesystem.get().copied(),
            Arc::clone(&self.mounts),
        );
        // Whose path it is can be found out only while the opener waits.
        if self.events.is_heard() && !facts.is_ours() {
            facts.path();
        }
        let operation = Operation {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            kind: operation,
            pid,
            started,
            deadline: started + self.decider.policies().deadline,
            file: Arc::clone(permission.shared_file()),
            name: NameSlot::default(),
            role,
            stamp,
            read_at,
            written,
            passing: pair.spare,
            remote: pair.is_remote(),
            facts,
        };
        let name = Arc::clone(&operation.name);
        let pended = Pended::new(
            operation,
            permission,
            Arc::clone(&self.decider),
            Arc::clone(&self.stack),
            Arc::clone(pair),
        );
        if full {
            return pended.complete_by_policy(Cause::Overload, "too many operations are pending");
        }
        self.stack.run(pended, Verdict::allow(Cause::Filter));
        // After the question has gone out, and only for somebody who listens.
        if let Some(pid) = pid.filter(|_| self.events.is_heard()) {
            self.names.look_up(pid, &name);
        }
    }
}

//! The client's part in questions through memory: asking for it, mapping it, and saying why there is none.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use fltport_engine::NtStatus;
use fltport_engine::connection::Violation;
use fltport_engine::wire::ToHost;

use crate::client_call::{Call, Ended};
use crate::client_driver::Connection;
use crate::link::Sent;
use crate::plane::blocks::{client_part, host_part};
use crate::plane::client::ClientPlane;
use crate::plane::layout;
use crate::sync::{AtomicU64, Instant, Mutex, MutexGuard, Ordering};
use crate::sys::{self, Attachment};
use crate::way::{PacketsReason, Way};

/// The memory of a connection, when there is some.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// Threads may wait awake.
    spins: bool,
    pub(crate) plane: OnceLock<ClientPlane>,
    /// Messages that are kept on this side, to be looked at without a lock.
    kept: AtomicU64,
    /// Its number with those that are watched for the end of their hosts.
    watched: OnceLock<u64>,
    /// Gets whose end the socket still brings and nobody waits for, likewise.
    pub(crate) owed: AtomicU64,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
enum Asked {
    #[default]
    No,
    /// Whoever waits for the answer, and whether somebody has waited long enough.
    Yes(Arc<Call>, bool),
    /// There is an answer, or there was no way to ask. Why there is no memory, if there is none.
    Answered(Option<PacketsReason>),
}

impl Attached {
    pub(crate) fn new(spins: bool) -> Self {
        Self {
            spins,
            ..Self::default()
        }
    }

    /// The memory, if there is some and it is of use.
    pub(crate) fn get(&self) -> Option<&ClientPlane> {
        self.plane.get().filter(|plane| !plane.has_ended())
    }

    /// The memory, if the reply to the message of this number belongs there.
    pub(crate) fn of(&self, message_id: u64) -> Option<&ClientPlane> {
        self.plane.get().filter(|plane| plane.has(message_id))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.plane.get().is_some_and(ClientPlane::has_ended)
    }

    /// Whether messages are kept on this side for the next get.
    pub(crate) fn has_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire) != 0
    }

    /// Whether a message may be on its way by the socket that is for whoever waits. One who waits in memory has to read then.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Acquire) != 0
    }

    /// So many messages are kept on this side.
    pub(crate) fn set_kept(&self, count: usize) {
        self.kept
            .store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Makes every thread that waits for a message look around.
    pub(crate) fn nudge(&self) {
        self.plane
            .get()
            .into_iter()
            .for_each(ClientPlane::nudge_all);
    }

    /// Nothing happens in memory any more.
    pub(crate) fn close(&self) {
        self.plane.get().into_iter().for_each(ClientPlane::close);
    }
}

impl Connection {
    /// Asks the host for memory, once, and waits for the answer until `deadline` at most: what is posted meanwhile goes by
    /// frames, which works as well.
    pub(crate) fn attach(self: &Arc<Self>, deadline: impl FnOnce() -> Instant) {
        if self.memory.plane.get().is_none() {
            self.attach_now(deadline());
        }
    }

    #[cold]
    fn attach_now(self: &Arc<Self>, deadline: Instant) {
        let mut asked = lock(&self.memory.asked);
        let call = match &*asked {
            Asked::Answered(_) | Asked::Yes(_, true) => return,
            Asked::Yes(call, false) => Arc::clone(call),
            Asked::No => {
                if let Err(reason) = self.watch() {
                    *asked = Asked::Answered(Some(reason));
                    return;
                }
                let call = Arc::new(Call::default());
                *asked = Asked::Yes(Arc::clone(&call), false);
                self.unsent().push(&ToHost::Attach, Vec::new());
                call
            }
        };
        drop(asked);
        self.flush();
        // Several may wait: one takes the end of the call, the others find that there is an answer.
        while matches!(*lock(&self.memory.asked), Asked::Yes(_, false)) {
            let slice = (Instant::now() + SLICE).min(deadline);
            if self.wait(&call, Some(slice)).is_some() || !self.is_connected() {
                return;
            }
            if Instant::now() >= deadline {
                if let Asked::Yes(_, waited) = &mut *lock(&self.memory.asked) {
                    *waited = true;
                }
            }
        }
    }

    /// Makes sure that the end of the host is noticed where no packet tells of it.
    fn watch(self: &Arc<Self>) -> Result<(), PacketsReason> {
        if !self.link.carries_memory() {
            return Err(PacketsReason::Here);
        }
        let number = sys::watch(self).map_err(|error| PacketsReason::of(&error))?;
        self.memory.watched.set(number).ok();
        Ok(())
    }

    /// The host has answered.
    pub(crate) fn attached(
        &self,
        status: NtStatus,
        layout: u32,
        first_id: u64,
        files: Vec<Attachment>,
    ) -> Result<(), Violation> {
        let mut asked = lock(&self.memory.asked);
        let Asked::Yes(call, _) = std::mem::replace(&mut *asked, Asked::Answered(None)) else {
            return Err(Violation("memory that nobody has asked for"));
        };
        let opened = self.open(status, layout, first_id, files)?;
        *asked = Asked::Answered(opened.err());
        drop(asked);
        if opened.is_ok() {
            // The host begins to use it when it knows that it is mapped. That the link is down is found by whoever reads next,
            // which this thread is doing.
            let mut unsent = self.unsent();
            unsent.push_kick();
            let sent = unsent.flush(&*self.link);
            drop(unsent);
            if sent == Sent::Full {
                self.flush_later();
            }
        }
        call.finish(Ended::done(NtStatus::SUCCESS));
        Ok(())
    }

    /// Maps the memory that the host has given, or says why everything goes by frames.
    fn open(
        &self,
        status: NtStatus,
        layout: u32,
        first_id: u64,
        files: Vec<Attachment>,
    ) -> Result<Result<(), PacketsReason>, Violation> {
        if status != NtStatus::SUCCESS {
            return Ok(Err(PacketsReason::Filter));
        }
        if layout != layout::LAYOUT {
            return Ok(Err(PacketsReason::Version));
        }
        if files.is_empty() {
            return Ok(Err(PacketsReason::NoDescriptors));
        }
        let files: [Attachment; 2] = files
            .try_into()
            .map_err(|_| Violation("memory without its two descriptors"))?;
        let most = self.max_message();
        let (host, client) = match sys::open_memory(&files, host_part(most), client_part(most)) {
            Ok(regions) => regions,
            Err(error) => return Ok(Err(PacketsReason::of(&error))),
        };
        let plane = ClientPlane::new(host, client, first_id, most, self.memory.spins);
        self.memory.plane.set(plane).ok();
        Ok(Ok(()))
    }

    /// How questions travel.
    pub(crate) fn way(&self) -> Way {
        match &*lock(&self.memory.asked) {
            Asked::No | Asked::Yes(..) => Way::Undecided,
            Asked::Answered(None) => Way::Memory,
            Asked::Answered(Some(why)) => Way::Packets(*why),
        }
    }

    /// Has what could not be sent leave when the host takes it.
    pub(crate) fn flush_later(&self) {
        if let Some(number) = self.memory.watched.get() {
            sys::flush_later(self, *number);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far apart looks are for an answer that somebody else may have taken.
const SLICE: Duration = Duration::from_millis(10);

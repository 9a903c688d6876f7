//! The books of a client's connection: which calls are pending, who waits for them, and which message goes to whom.
//!
//! Everything here is done under one lock and blocks on nothing; [`crate::client_driver`] moves the frames.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fltport_engine::client::{Client as Engine, Output};
use fltport_engine::wire::ToHost;
use fltport_engine::{NtStatus, exchange};

use crate::client_call::{Call, Delivered, Ended, Incoming, Wakes};
use crate::sync::thread::Thread;
use crate::sys::Attachment;

#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) engine: Engine<Incoming, Arc<Call>>,
    /// Some thread reads for all.
    pub(crate) reading: bool,
    /// Somebody found that it does, and wants what has come meanwhile to be seen too.
    pub(crate) look_again: bool,
    /// Threads that wait and could read.
    pub(crate) waiters: VecDeque<Thread>,
    /// Messages that want a reply and have none: whether their sender has given up.
    pub(crate) open: BTreeMap<u64, bool>,
    /// Gets that somebody waits for, oldest first.
    pub(crate) gets: BTreeMap<u64, PostedGet>,
    /// Those of them that ended with the message of another get, so that their own is still to be withdrawn.
    pub(crate) lent: BTreeSet<u64>,
    /// Gets that were withdrawn at the host while nobody waits for its word on them: a message may come for them all the same.
    pub(crate) owed: BTreeSet<u64>,
    /// Messages whose get was given up before they came, and that no other get waited for; the next get takes them.
    ready: VecDeque<Kept>,
    /// The owner of this end has closed it.
    pub(crate) closed_here: bool,
    /// Who waits for the host to close its end.
    pub(crate) closers: Vec<Arc<Call>>,
    /// What the socket brings for gets in memory.
    pub(crate) mail: Mail,
    /// Whoever releases this lock wakes them, when it holds no other.
    pub(crate) wakes: Wakes,
}

/// What the socket brings for gets in memory, by their numbers, and who waits for it there.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) files: BTreeMap<u64, Attachment>,
    pub(crate) messages: BTreeMap<u64, Delivered>,
    pub(crate) awaited: BTreeMap<u64, Arc<Call>>,
    /// Tasks that wait for a frame to tell them of the end of their get.
    #[cfg(feature = "tokio")]
    pub(crate) wakers: BTreeMap<u64, std::task::Waker>,
}

#[derive(Debug)]
pub(crate) struct PostedGet {
    pub(crate) call: Arc<Call>,
    pub(crate) size: u32,
}

/// A message whose get was given up.
#[derive(Debug)]
struct Kept {
    message: Delivered,
    /// A get was too small for it, and was told so.
    told: bool,
}

impl Books {
    /// Of a connection that was just made.
    pub(crate) fn new(max_message: u32) -> Self {
        Self {
            engine: Engine::new(max_message),
            reading: false,
            look_again: false,
            waiters: VecDeque::new(),
            open: BTreeMap::new(),
            gets: BTreeMap::new(),
            lent: BTreeSet::new(),
            owed: BTreeSet::new(),
            ready: VecDeque::new(),
            closed_here: false,
            closers: Vec::new(),
            mail: Mail::default(),
            wakes: Wakes::default(),
        }
    }

    /// Something has come for this get in memory.
    pub(crate) fn arrived(&mut self, get: u64) {
        if let Some(call) = self.mail.awaited.remove(&get) {
            call.finish_later(Ended::done(NtStatus::SUCCESS), &mut self.wakes);
        }
        self.rang(get);
    }

    /// This get in memory is over.
    pub(crate) fn rang(&mut self, get: u64) {
        #[cfg(feature = "tokio")]
        self.wakes.add(self.mail.wakers.remove(&get));
        #[cfg(not(feature = "tokio"))]
        let _ = get;
    }

    /// Everybody looks again: nothing more comes, or there is something that is anybody's.
    pub(crate) fn stir(&mut self, over: bool) {
        #[cfg(feature = "tokio")]
        for waker in std::mem::take(&mut self.mail.wakers).into_values() {
            self.wakes.add(Some(waker));
        }
        if over {
            for call in std::mem::take(&mut self.mail.awaited).into_values() {
                call.finish_later(Ended::done(NtStatus::PORT_DISCONNECTED), &mut self.wakes);
            }
        }
    }

    /// Wakes a thread that can read, if nobody does.
    pub(crate) fn hand_over(&mut self) {
        if self.reading {
            return;
        }
        if let Some(next) = self.waiters.pop_front() {
            next.unpark();
        }
    }

    /// Withdraws a get that nobody waits for any more.
    pub(crate) fn withdraw(&mut self, get: u64) {
        self.lent.remove(&get);
        if self.engine.cancel_get(get) {
            self.owed.insert(get);
        }
    }

    /// Ends a new get with the oldest message here that it fits. As at the host, one get is told that it is too small for a
    /// message, and further small ones are for others.
    pub(crate) fn serve_from_ready(&mut self, size: u32, call: &Call) -> bool {
        let concerned = |kept: &Kept| !kept.told || fits(size, &kept.message);
        let Some(index) = self.ready.iter().position(concerned) else {
            return false;
        };
        let Some(mut kept) = self.ready.remove(index) else {
            return false;
        };
        if fits(size, &kept.message) {
            call.finish(Ended::Message(kept.message));
            return true;
        }
        let length = u32::try_from(kept.message.payload.as_slice().len()).unwrap_or(u32::MAX);
        call.finish(Ended::Done {
            status: NtStatus::BUFFER_TOO_SMALL,
            needed: exchange::needed(length).unwrap_or(u32::MAX),
            bytes: Vec::new(),
        });
        kept.told = true;
        self.ready.insert(index, kept);
        true
    }

    /// The owner of the connection has closed it: nobody gets anything any more.
    pub(crate) fn close_here(&mut self) {
        self.closed_here = true;
        self.ready.clear();
    }

    /// Messages that are kept for the next gets.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Gives a message that its own get has no use for to the oldest get that fits, whose number it says, or else keeps it
    /// for the next.
    pub(crate) fn place(&mut self, mut message: Delivered) -> Option<u64> {
        for (get, posted) in &self.gets {
            if !fits(posted.size, &message) {
                continue;
            }
            let given = posted
                .call
                .finish_later(Ended::Message(message), &mut self.wakes);
            match given {
                Some(Ended::Message(refused)) => message = refused,
                _ => {
                    self.lent.insert(*get);
                    return Some(*get);
                }
            }
        }
        if !self.closed_here {
            let told = false;
            self.ready.push_back(Kept { message, told });
        }
        None
    }

    /// Tells calls of their end; gives back the frames that are to be sent.
    pub(crate) fn settle(&mut self) -> Vec<(ToHost, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Get { get, size } => frames.push((ToHost::Get { get, size }, Vec::new())),
                Output::CancelGet { get } => frames.push((ToHost::CancelGet { get }, Vec::new())),
                Output::Reply {
                    reply,
                    message_id,
                    status,
                    body,
                } => {
                    let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
                    frames.push((
                        ToHost::Reply {
                            reply,
                            message_id,
                            status,
                            length,
                        },
                        body.bytes,
                    ));
                }
                Output::Request {
                    request,
                    capacity,
                    body,
                } => {
                    let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
                    frames.push((
                        ToHost::Request {
                            request,
                            capacity,
                            length,
                        },
                        body.bytes,
                    ));
                }
                Output::Message { mark, header, body } => {
                    let message = Ended::Message(body.into_delivered(header));
                    if let Some(Ended::Message(orphan)) =
                        mark.finish_later(message, &mut self.wakes)
                    {
                        self.place(orphan);
                    }
                }
                Output::Done {
                    mark,
                    status,
                    needed,
                    body,
                } => {
                    let bytes = body.map(|body| body.bytes).unwrap_or_default();
                    let ended = Ended::Done {
                        status,
                        needed,
                        bytes,
                    };
                    mark.finish_later(ended, &mut self.wakes);
                }
            }
        }
        frames
    }
}

fn fits(size: u32, message: &Delivered) -> bool {
    u32::try_from(message.payload.as_slice().len()).is_ok_and(|length| exchange::fits(size, length))
}

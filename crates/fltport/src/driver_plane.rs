//! The driver's part in questions through memory: making it, sending at once, and what the client's kicks ask for.
//!
//! [`crate::driver`] is the way of everything else. A send that finds a get posted does not go through the engine's records:
//! the engine gives out the get, the message is written and published without the lock, and the sender waits at a word.

use std::sync::Arc;

use fltport_engine::connection::{Connection, State, Violation};
use fltport_engine::output::Outcome;
use fltport_engine::questions::Counters;
use fltport_engine::wire::ToClient;
use fltport_engine::{NtStatus, limits};
use zerocopy::IntoBytes as _;

use crate::body::Body;
use crate::clock::{self, Limit};
use crate::driver::{Core, Inner, Sender};
use crate::plane::completion::Finished;
use crate::plane::host::{HostPlane, Published};
use crate::plane::layout::{self, host_word};
use crate::plane::spin::Patience;
use crate::plane::waiting::{End, Memory, Quit, Ticket};
use crate::sync::Ordering;
use crate::sys::Attachment;
use crate::way::Notice;

/// The memory of a connection, in which questions travel.
#[derive(Debug)]
pub(crate) enum Plane {
    /// The client has not asked for it.
    None,
    /// It was given some, and has not said that it has mapped its piece, which is this.
    Offered(Box<HostPlane>, Arc<Attachment>),
    On(Box<HostPlane>),
    /// The connection is over, or the client was told that it gets none.
    Over,
}

impl Plane {
    pub(crate) fn on(&mut self) -> Option<&mut HostPlane> {
        match self {
            Self::On(plane) => Some(plane),
            Self::None | Self::Offered(..) | Self::Over => None,
        }
    }
}

/// A message that a get has taken at once.
#[derive(Debug)]
pub(crate) enum Direct {
    /// It wants no reply.
    Delivered,
    /// Its reply will be there.
    Asked(Asked),
}

/// What came of a try to send at once.
#[derive(Debug)]
enum Tried {
    Sent(Direct),
    /// Nobody waits for a message, and nobody else waits with one. So many entries of the ring have been seen.
    NoGet(u64),
    LongWay,
}

/// A message whose reply is awaited at a word.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ticket: Ticket,
    /// The receiver was awake when it got the message.
    pub(crate) awake: bool,
}

/// What is to be woken once the lock is released.
#[derive(Debug)]
pub(crate) struct Woken(Option<Arc<Memory>>, u64);

impl Woken {
    pub(crate) fn wake(self) {
        let Self(memory, mut gets) = self;
        let Some(memory) = memory else { return };
        while gets != 0 {
            memory.wake_get(gets.trailing_zeros() as usize);
            gets &= gets - 1;
        }
    }
}

impl Core {
    /// Sends a message at once, if a get is there for it, or about to be, and nobody comes first. `None`: it has to go the
    /// long way.
    pub(crate) fn send_at_once(
        self: &Arc<Self>,
        bytes: &[u8],
        file: Option<&Arc<Attachment>>,
        reply: Option<u32>,
        limit: Limit,
    ) -> Option<Direct> {
        let mut patience = Patience::default();
        loop {
            match self.try_send(bytes, file, reply, limit) {
                Tried::Sent(sent) => return Some(sent),
                Tried::NoGet(head) if !limit.is_poll() => {
                    if !self.memory()?.wait_for_entry(head, &mut patience) {
                        return None;
                    }
                }
                Tried::NoGet(_) | Tried::LongWay => return None,
            }
        }
    }

    fn try_send(
        self: &Arc<Self>,
        bytes: &[u8],
        file: Option<&Arc<Attachment>>,
        reply: Option<u32>,
        limit: Limit,
    ) -> Tried {
        let Ok(length) = u32::try_from(bytes.len()) else {
            return Tried::LongWay;
        };
        let Some(memory) = self.memory() else {
            return Tried::LongWay;
        };
        let mut inner = self.lock();
        let mut tries = 0;
        loop {
            let Inner { engine, plane, .. } = &mut *inner;
            let Some(plane) = plane.on() else {
                return Tried::LongWay;
            };
            if tries == 0 && reply.is_some() {
                plane.expect_ask();
            }
            // What is wrong there, or is for others, is seen to on the long way, as is what needs frames that the client
            // does not read at the moment.
            let needs_frames = file.is_some() && !engine.is_writable();
            if needs_frames || plane.drain(engine).is_err() || plane.has_replied() {
                return Tried::LongWay;
            }
            // Gets that are said to be posted, and are not, keep nobody here.
            tries += 1;
            if tries > layout::GETS {
                return Tried::LongWay;
            }
            let Some((token, size)) = engine.take_get(length, reply) else {
                if engine.posted() == 0 && !engine.has_waiting() {
                    return Tried::NoGet(plane.head());
                }
                return Tried::LongWay;
            };
            if !plane.is_posted(token) {
                continue;
            }
            let Ok(mut reserved) = plane.reserve(token, bytes.len(), reply, false) else {
                engine.return_get(token, size);
                return Tried::LongWay;
            };
            // Before anybody can know of it.
            plane.counters.delivered += 1;
            drop(inner);
            if let Some(pace) = memory.pace.end() {
                memory.host.store(host_word::PACE, pace, Ordering::Relaxed);
            }
            let published = memory.publish(&reserved, bytes, limit.hint(), file.is_some());
            let Published::Delivered { awake, bell } = published else {
                inner = self.lock();
                match inner.plane.on() {
                    Some(plane) => {
                        plane.counters.delivered -= 1;
                        plane.undo(reserved);
                    }
                    None => inner.past.delivered -= 1,
                }
                continue;
            };
            if !awake {
                memory.wake_get(reserved.get());
            }
            if bell || file.is_some() {
                self.say(token, bell, file);
            }
            let Some(ticket) = reserved.ticket.take() else {
                return Tried::Sent(Direct::Delivered);
            };
            let awake = awake && !bell;
            return Tried::Sent(Direct::Asked(Asked { ticket, awake }));
        }
    }

    /// Waits for the reply of a message that was delivered through memory. With `into`, the reply goes there, as much of
    /// it as fits, and the outcome says how much that is.
    pub(crate) fn wait_for_reply(
        self: &Arc<Self>,
        asked: Asked,
        mut limit: Limit,
        into: Option<&mut [u8]>,
    ) -> Outcome<Body> {
        let Asked { ticket, awake } = asked;
        let Some(memory) = self.memory() else {
            return Outcome::Disconnected { delivered: true };
        };
        let end = memory.wait(&ticket, &mut limit, awake);
        if end != End::Replied {
            return self.no_reply(memory, ticket, end);
        }
        memory.pace.begin();
        let mut bytes = Vec::new();
        let Some(read) = memory.take_reply(&ticket, &mut bytes, into) else {
            return self.no_reply(memory, ticket, End::Lie);
        };
        if !memory.quits.leave(ticket.waiter, Quit::Replied) {
            self.release(ticket, |counters| counters.replied += 1);
        }
        read.outcome(bytes)
    }

    /// Gives up a message whose reply nobody waits for any more.
    pub(crate) fn forget_reply(self: &Arc<Self>, asked: Asked) {
        self.enter_plane(|_, plane, _| {
            plane.map_or(Ok(()), |plane| plane.forget(asked.ticket, clock::now()))
        });
        // A reply that is being written has a moment to be finished.
        self.watch();
    }

    fn no_reply(self: &Arc<Self>, memory: &Memory, ticket: Ticket, end: End) -> Outcome<Body> {
        if end == End::TimedOut && memory.quits.leave(ticket.waiter, Quit::TimedOut) {
            return Outcome::TimedOut { delivered: true };
        }
        if end == End::Lie {
            // Before its waiter can be another's: somebody may still write there.
            self.handle_peer_closed();
        }
        let late = u64::from(end == End::TimedOut);
        self.release(ticket, |counters| counters.timed_out += late);
        match end {
            End::TimedOut => Outcome::TimedOut { delivered: true },
            End::Lie | End::Disconnected | End::Replied => {
                Outcome::Disconnected { delivered: true }
            }
        }
    }

    /// A waiter is over, and what has happened there is counted.
    fn release(&self, ticket: Ticket, count: impl FnOnce(&mut Counters)) {
        let mut inner = self.lock();
        match inner.plane.on() {
            Some(plane) => {
                count(&mut plane.counters);
                plane.release(ticket);
            }
            None => count(&mut inner.past),
        }
    }

    /// Says by frames what belongs to a message that was published.
    fn say(self: &Arc<Self>, token: u64, bell: bool, file: Option<&Arc<Attachment>>) {
        let mut inner = self.lock();
        if let Some(plane) = inner.plane.on() {
            if let Some(file) = file {
                plane.after.files.push((token, Arc::clone(file)));
            }
            if bell {
                plane.after.rings.push(token);
            }
        }
        self.settle(inner);
    }

    /// The client asks for memory.
    pub(crate) fn attach(self: &Arc<Self>) -> Result<(), Violation> {
        let mut inner = self.lock();
        let made = match (&inner.plane, inner.engine.state()) {
            // One piece of memory has one owner: a second process with the same handle uses frames.
            (Plane::None, State::Connected) if self.owner.shares_memory() => {
                let last = inner.engine.last_message();
                HostPlane::make(self.max_message, last, self.owner.spins()).map(Some)
            }
            _ => Ok(None),
        };
        let (made, missing) = match made {
            Ok(made) => (made, None),
            Err(error) => (None, Some(Notice::NoMemory(error))),
        };
        let (status, first_id, files) = match made {
            Some((plane, files)) => {
                let first_id = plane.first_id;
                let files = files.map(Arc::new);
                // At once: the client looks at the numbers of messages from here on, and some may still come by frames.
                inner.engine.handle_link_matches(layout::FRAMED_IDS);
                inner.plane = Plane::Offered(Box::new(plane), Arc::clone(&files[1]));
                (NtStatus::SUCCESS, first_id, files.into())
            }
            None => (NtStatus::INSUFFICIENT_RESOURCES, 0, Vec::new()),
        };
        let layout = layout::LAYOUT;
        let frame = ToClient::Attached {
            status,
            layout,
            first_id,
        };
        inner.send(&frame, Vec::new(), files);
        self.settle(inner);
        if let Some(missing) = missing {
            self.owner.notice(missing);
        }
        Ok(())
    }

    /// The client has put something in the ring.
    pub(crate) fn handle_kick(self: &Arc<Self>) -> Result<(), Violation> {
        let mut inner = self.lock();
        match std::mem::replace(&mut inner.plane, Plane::Over) {
            Plane::None => return Err(Violation("a kick without memory")),
            // It crossed the end of the connection.
            Plane::Over => return Ok(()),
            // The first says that the client has mapped it.
            Plane::Offered(plane, file) => {
                plane
                    .begin(&file)
                    .map_err(|_| Violation("memory that cannot be sealed"))?;
                self.set_memory(&plane.memory);
                inner.plane = Plane::On(plane);
            }
            Plane::On(mut plane) => {
                plane.handle_kick();
                inner.plane = Plane::On(plane);
            }
        }
        self.settle(inner);
        Ok(())
    }

    /// A reply by a frame, which gives its bytes back if it is for the engine to match.
    pub(crate) fn reply_by_frame(
        self: &Arc<Self>,
        reply: u64,
        id: u64,
        status: NtStatus,
        payload: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let Some(plane) = inner.plane.on() else {
            return Some(payload);
        };
        if !(plane.first_id..layout::FRAMED_IDS).contains(&id) {
            return Some(payload);
        }
        let mut finished = Vec::new();
        match plane.handle_reply(id, status, Body::from_bytes(payload), &mut finished) {
            Ok(status) => {
                let frame = ToClient::ReplyDone { reply, status };
                inner.send(&frame, Vec::new(), Vec::new());
            }
            Err(_) => inner.engine.handle_peer_closed(),
        }
        self.settle_with(inner, finished);
        None
    }

    /// State, sends waiting and outstanding, gets posted, what has happened.
    pub(crate) fn statistics(self: &Arc<Self>) -> (State, (usize, usize), usize, Counters) {
        self.settle(self.lock());
        let mut inner = self.lock();
        let Inner {
            engine,
            plane,
            past,
            ..
        } = &mut *inner;
        let mut more = (0, Counters::default());
        if let Some(plane) = plane.on() {
            plane.prune(engine);
            plane.take_all_back();
            more = (plane.waiters.live_count(), plane.counters());
        } else if let Some(memory) = self.memory() {
            // Senders that had not looked yet when the memory ended.
            memory.quits.take_all(past);
            more.1 = *past;
        }
        let (waiting, outstanding) = engine.pending();
        let mut counters = engine.counters();
        counters.delivered = counters.delivered.saturating_add(more.1.delivered);
        counters.replied = counters.replied.saturating_add(more.1.replied);
        counters.timed_out = counters.timed_out.saturating_add(more.1.timed_out);
        counters.late_replies = counters.late_replies.saturating_add(more.1.late_replies);
        let pending = (waiting, outstanding + more.0);
        (engine.state(), pending, engine.posted(), counters)
    }

    /// Enters the engine and the memory together.
    pub(crate) fn enter_plane(
        self: &Arc<Self>,
        input: impl FnOnce(
            &mut Connection<Body, Sender>,
            Option<&mut HostPlane>,
            &mut Vec<Finished>,
        ) -> Result<(), Violation>,
    ) {
        let mut inner = self.lock();
        let Inner { engine, plane, .. } = &mut *inner;
        let mut finished = Vec::new();
        if input(engine, plane.on(), &mut finished).is_err() {
            engine.handle_peer_closed();
        }
        self.settle_with(inner, finished);
    }
}

impl Inner {
    /// Takes what the client has put in the ring, and ends the memory with the connection.
    pub(crate) fn look_at_plane(&mut self, finished: &mut Vec<Finished>) {
        let Self { engine, plane, .. } = self;
        let Some(on) = plane.on() else {
            return;
        };
        if engine.state() == State::Connected {
            match on.drain(engine).and_then(|()| on.complete(finished)) {
                Ok(()) => return,
                Err(_) => engine.handle_peer_closed(),
            }
        }
        on.end_all(finished);
    }

    /// Whether nothing is left to do. The client is asked to say when there is, if nobody looks.
    pub(crate) fn is_settled(&mut self) -> bool {
        let Self { engine, plane, .. } = self;
        let Some(on) = plane.on() else {
            return true;
        };
        !on.arm(engine.has_waiting() || on.has_elsewhere())
    }

    /// Ends memory whose client has not said that it has mapped it: it may have posted gets there all the same.
    fn end_offered(&mut self) {
        if !matches!(self.plane, Plane::Offered(..)) {
            return;
        }
        let before = std::mem::replace(&mut self.plane, Plane::Over);
        if let Plane::Offered(mut plane, file) = before {
            if plane.begin(&file).is_ok() {
                plane.end_all(&mut Vec::new());
            }
        }
    }

    /// The connection is over, and the memory with it; what has happened there stays known.
    fn end_memory(&mut self) {
        if let Some(plane) = self.plane.on() {
            plane.take_all_back();
            self.past = plane.counters();
        }
        self.plane = Plane::Over;
    }

    /// Says by frames what cannot be said in memory. What sleeps there is to be woken when the lock is released.
    pub(crate) fn announce(&mut self) -> Woken {
        let over = self.engine.state() != State::Connected;
        let Some(on) = self.plane.on() else {
            if over {
                self.end_offered();
            }
            return Woken(None, 0);
        };
        let wakes = std::mem::take(&mut on.after.wakes);
        let memory = (wakes != 0).then(|| Arc::clone(&on.memory));
        let files = std::mem::take(&mut on.after.files);
        let rings = std::mem::take(&mut on.after.rings);
        for batch in files.chunks(limits::FILES_PER_FRAME) {
            let gets: Vec<u64> = batch.iter().map(|(get, _)| *get).collect();
            let files = batch.iter().map(|(_, file)| Arc::clone(file)).collect();
            let payload = gets.as_bytes().to_vec();
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            self.send(&ToClient::Files { length }, payload, files);
        }
        for get in rings {
            // Whoever polls reads what is there first, and then looks at all its gets.
            if self.outbox.is_blocked() {
                break;
            }
            self.send(&ToClient::Ring { get }, Vec::new(), Vec::new());
        }
        if over {
            self.end_memory();
        }
        Woken(memory, wakes)
    }
}

impl HostPlane {
    /// Whether another message may wait for its reply.
    pub(crate) fn has_room(&mut self, engine: &Connection<Body, Sender>) -> bool {
        self.take_all_back();
        let (waiting, outstanding) = engine.pending();
        let all = waiting + outstanding + self.waiters.live_count();
        all < limits::WAITERS_PER_CONNECTION
    }

    /// What has happened in memory.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            late_replies: self.late_replies(),
            ..self.counters
        }
    }
}

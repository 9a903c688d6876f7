//! One connection at its host: the engine's connection under a lock, the way to the client, and what the engine asks for.
//!
//! Every entry does the same: lock, tell the engine, carry out what it says. Frames leave under the lock, so their order
//! is the engine's; callbacks and finished sends are run after it, so no callback ever re-enters the engine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError};

use fltport_engine::connection::{Connection, State, Violation};
use fltport_engine::output::{Outcome, Output, RequestKey, SendKey};
use fltport_engine::questions::Counters;
use fltport_engine::wire::{ToClient, ToHost};
use fltport_engine::{NtStatus, Timeout};

use crate::body::{Body, Caller};
use crate::clock;
use crate::driver_plane::Plane;
use crate::link::{HostLink, Outbox};
use crate::peer::Peer;
use crate::plane::completion::Finished;
use crate::plane::delivery::Words;
use crate::plane::layout;
use crate::plane::waiting::Memory;
use crate::slot::Slot;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::Attachment;
use crate::timer::{Alarm, Timer};
use crate::way::Notice;

/// The filter's side of a connection: what its port does for it.
pub(crate) trait Owner: Send + Sync {
    /// Run the message callback on some thread, then call [`Core::request_returned`].
    fn run_message(&self, core: Arc<Core>, call: MessageCall);
    /// Run the disconnect callback on some thread, then call [`Core::disconnect_returned`].
    fn run_disconnect(&self, core: Arc<Core>);
    /// Something is missing. Called without the connection's lock.
    fn notice(&self, notice: Notice);
    /// The connection no longer counts. Called under the connection's lock.
    fn release_slot(&self);
    /// The filter closed the connection while its client still holds its end.
    fn severed(&self, core: &Arc<Core>);
    /// The connection is over and needs nothing any more.
    fn ended(&self, core: &Core);
    /// Ends asynchronous sends.
    fn timer(&self) -> &Timer;
    /// Whether a client may have memory for its questions.
    fn shares_memory(&self) -> bool;
    /// Whether a sender may wait awake.
    fn spins(&self) -> bool;
}

/// A request of a client, for the message callback.
#[derive(Debug)]
pub(crate) struct MessageCall {
    pub(crate) key: RequestKey,
    pub(crate) input: Vec<u8>,
    pub(crate) caller: Caller,
    pub(crate) capacity: u32,
}

/// Who is told of the end of a send.
pub(crate) enum Sender {
    /// A thread that waits.
    Waits(Arc<Slot>),
    /// A function to call.
    Calls(Box<dyn FnOnce(Outcome<Body>) + Send>),
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waits(_) => "Waits",
            Self::Calls(_) => "Calls",
        })
    }
}

/// A message on its way into [`Core::send`].
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) body: Body,
    pub(crate) reply: Option<u32>,
    pub(crate) timeout: Timeout,
}

/// One connection at its host.
pub(crate) struct Core {
    inner: Mutex<Inner>,
    pub(crate) owner: Arc<dyn Owner>,
    peer: Peer,
    id: u64,
    pub(crate) max_message: u32,
    cookie: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    /// Of questions, once the client has asked for it: senders use it without the lock.
    memory: OnceLock<Arc<Memory>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Connection<Body, Sender>,
    pub(crate) outbox: Outbox,
    pub(crate) plane: Plane,
    /// What had happened in memory when it ended.
    pub(crate) past: Counters,
    /// The slot goes with what is still to be sent: a client that never reads must not be free to come again.
    owes_slot: bool,
}

impl Core {
    pub(crate) fn new(
        owner: Arc<dyn Owner>,
        link: Box<dyn HostLink>,
        peer: Peer,
        id: u64,
        max_message: u32,
    ) -> Self {
        let inner = Inner {
            engine: Connection::new(max_message),
            outbox: Outbox::new(link),
            plane: Plane::None,
            past: Counters::default(),
            owes_slot: false,
        };
        Self {
            inner: Mutex::new(inner),
            owner,
            peer,
            id,
            max_message,
            cookie: Mutex::new(None),
            memory: OnceLock::new(),
        }
    }

    /// The connect callback has returned. `cookie` is there if it accepted.
    pub(crate) fn connect_returned(
        self: &Arc<Self>,
        status: NtStatus,
        cookie: Option<Arc<dyn Any + Send + Sync>>,
    ) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = cookie;
        self.enter(|engine| engine.handle_connect_returned(status));
    }

    /// Takes a send on; `sender` is told of its end, perhaps before this returns.
    pub(crate) fn send(self: &Arc<Self>, message: Outgoing, sender: Sender) -> SendKey {
        let (body, reply, timeout) = (message.body, message.reply, message.timeout);
        let watched = matches!(sender, Sender::Calls(_)) && timeout != Timeout::Never;
        let mut inner = self.lock();
        let now = clock::now();
        let Inner { engine, plane, .. } = &mut *inner;
        let key = if plane.on().is_some_and(|plane| !plane.has_room(engine)) {
            let status = NtStatus::INSUFFICIENT_RESOURCES;
            // What was taken out of the ring meanwhile may make room.
            self.settle(inner);
            let outcome = Outcome::Refused(status);
            self.tell(Output::Finished { sender, outcome });
            SendKey(0)
        } else {
            let words = &mut Words(plane.on());
            let key = engine.handle_send_through(words, now, body, reply, timeout, sender);
            self.settle(inner);
            key
        };
        if watched {
            self.watch();
        }
        key
    }

    /// Gives up a send.
    pub(crate) fn cancel(self: &Arc<Self>, key: SendKey) {
        self.enter_plane(|engine, plane, finished| {
            engine.handle_send_cancelled(key);
            plane.map_or(Ok(()), |plane| plane.cancel(key, clock::now(), finished))
        });
        // A reply that is being written has a moment to be finished.
        self.watch();
    }

    /// Ends all sends whose deadline has passed.
    pub(crate) fn handle_timeout(self: &Arc<Self>) {
        let now = clock::now();
        self.enter_plane(|engine, plane, finished| {
            engine.handle_timeout(now);
            plane.map_or(Ok(()), |plane| plane.expire(now, finished))
        });
    }

    /// A frame has come from the client.
    pub(crate) fn handle_frame(
        self: &Arc<Self>,
        frame: ToHost,
        payload: Vec<u8>,
        caller: Option<Caller>,
    ) -> Result<(), Violation> {
        let (frame, payload) = match frame {
            ToHost::Attach => return self.attach(),
            ToHost::Kick => return self.handle_kick(),
            ToHost::Reply {
                reply,
                message_id,
                status,
                ..
            } => match self.reply_by_frame(reply, message_id, status, payload) {
                None => return Ok(()),
                Some(payload) => (frame, payload),
            },
            frame => (frame, payload),
        };
        self.enter(|engine| {
            match frame {
                ToHost::Get { get, size } if layout::get_of(get).is_none() => {
                    return engine.handle_get(get, size);
                }
                ToHost::CancelGet { get } if layout::get_of(get).is_none() => {
                    engine.handle_get_cancelled(get);
                }
                ToHost::Get { .. } => {
                    return Err(Violation("a get in memory is not posted by a frame"));
                }
                ToHost::CancelGet { .. } => {}
                ToHost::Reply {
                    reply,
                    message_id,
                    status,
                    ..
                } => {
                    engine.handle_reply(reply, message_id, status, Body::from_bytes(payload));
                }
                ToHost::Request {
                    request, capacity, ..
                } => {
                    let body = Body {
                        bytes: payload,
                        caller,
                        ..Body::default()
                    };
                    engine.handle_request(request, body, capacity);
                }
                ToHost::Close => engine.handle_client_closing(),
                ToHost::Hello { .. } => return Err(Violation("a second greeting")),
                ToHost::Attach | ToHost::Kick => {}
                ToHost::Chunk { .. } => return Err(Violation("a part without a beginning")),
            }
            Ok(())
        })
    }

    /// The client's end is closed, or is to be treated so.
    pub(crate) fn handle_peer_closed(self: &Arc<Self>) {
        self.enter(Connection::handle_peer_closed);
    }

    /// The link takes packets again.
    pub(crate) fn handle_writable(self: &Arc<Self>) {
        let mut inner = self.lock();
        // Otherwise it is still full, as the engine has been told before.
        if inner.outbox.handle_writable() {
            inner.engine.handle_writable();
            self.settle(inner);
        }
    }

    /// Whether the client has to read before it is read again.
    pub(crate) fn is_blocked(&self) -> bool {
        self.lock().outbox.is_blocked()
    }

    /// Gives up what the client has not taken.
    pub(crate) fn close_link_now(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.outbox.close_now();
        self.settle(inner);
    }

    /// The filter closes its end.
    pub(crate) fn close(self: &Arc<Self>) {
        let severed = self.enter(|engine| {
            let before = engine.state();
            engine.handle_filter_closed();
            before == State::Connected && engine.state() == State::Severed
        });
        if severed {
            self.owner.severed(self);
        }
    }

    /// The filter is being unregistered.
    pub(crate) fn unregister(self: &Arc<Self>) {
        self.enter(Connection::handle_unregister);
    }

    /// The message callback has returned.
    pub(crate) fn request_returned(
        self: &Arc<Self>,
        key: RequestKey,
        input: u32,
        status: NtStatus,
        output: Vec<u8>,
    ) {
        let body = (!output.is_empty()).then(|| Body::from_bytes(output));
        self.enter(|engine| engine.handle_request_returned(key, input, status, body));
    }

    /// The disconnect callback has returned.
    pub(crate) fn disconnect_returned(self: &Arc<Self>) {
        self.enter(Connection::handle_disconnect_returned);
        self.owner.ended(self);
    }

    /// The connection cookie, for a message callback.
    pub(crate) fn cookie(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.cookie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the disconnect callback is still to come, or something is still to be sent. Takes no share of the cookie:
    /// that callback wants the last one.
    pub(crate) fn is_here(&self) -> bool {
        let cookie = self.cookie.lock().unwrap_or_else(PoisonError::into_inner);
        cookie.is_some() || self.is_blocked()
    }

    /// The connection cookie, for the disconnect callback, which is the last.
    pub(crate) fn take_cookie(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.cookie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) const fn max_message(&self) -> u32 {
        self.max_message
    }

    /// The memory of questions, if there is or was some.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.memory.get().map(|memory| &**memory)
    }

    pub(crate) fn set_memory(&self, memory: &Arc<Memory>) {
        self.memory.set(Arc::clone(memory)).ok();
    }

    /// Has the timer look at the deadlines of sends that no thread waits for.
    pub(crate) fn watch(self: &Arc<Self>) {
        let mut inner = self.lock();
        let mut deadlines = inner.engine.next_deadlines();
        if let Some(plane) = inner.plane.on() {
            let (monotonic, wall) = plane.waiters.next_deadlines();
            deadlines = (deadlines.0.min(monotonic), deadlines.1.min(wall));
        }
        drop(inner);
        let watched: Arc<dyn Alarm> = Arc::<Self>::clone(self);
        self.owner.timer().watch(&watched, deadlines);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one way into the engine.
    fn enter<R>(self: &Arc<Self>, input: impl FnOnce(&mut Connection<Body, Sender>) -> R) -> R {
        let mut inner = self.lock();
        let result = input(&mut inner.engine);
        self.settle(inner);
        result
    }

    /// Carries out what the engine asks for.
    pub(crate) fn settle(self: &Arc<Self>, inner: MutexGuard<'_, Inner>) {
        self.settle_with(inner, Vec::new());
    }

    /// As [`Self::settle`]; these sends are over already.
    pub(crate) fn settle_with(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        mut finished: Vec<Finished>,
    ) {
        let mut later = Vec::new();
        for turn in 0.. {
            if turn == TURNS {
                // Nobody posts gets this fast who means them.
                inner.engine.handle_peer_closed();
            }
            inner.look_at_plane(&mut finished);
            let Inner { engine, plane, .. } = &mut *inner;
            let Some(output) = engine.poll_output_through(&mut Words(plane.on())) else {
                if inner.is_settled() {
                    break;
                }
                continue;
            };
            if matches!(output, Output::ReleaseSlot) {
                if inner.engine.state() == State::Ended && inner.outbox.is_blocked() {
                    inner.owes_slot = true;
                } else {
                    // At once: what the client is told next may make it connect again.
                    self.owner.release_slot();
                }
            } else if let Some(output) = inner.carry_out(output, self.max_message) {
                later.push(output);
            }
        }
        if inner.owes_slot && !inner.outbox.is_blocked() {
            inner.owes_slot = false;
            self.owner.release_slot();
        }
        let woken = inner.announce();
        drop(inner);
        woken.wake();
        // First: their messages have come to the client, which is not so of all that the engine knows of.
        for (call, outcome) in finished {
            let sender = Sender::Calls(call);
            self.tell(Output::Finished { sender, outcome });
        }
        for output in later {
            self.tell(output);
        }
    }

    fn tell(self: &Arc<Self>, output: Output<Body, Sender>) {
        match output {
            Output::Finished {
                sender: Sender::Waits(slot),
                outcome,
            } => slot.finish(outcome),
            Output::Finished {
                sender: Sender::Calls(call),
                outcome,
            } => {
                // One that panics must not take down the thread that serves all connections.
                catch_unwind(AssertUnwindSafe(|| call(outcome))).unwrap_or_default();
            }
            Output::RunMessage {
                request,
                input,
                capacity,
            } => {
                let caller = input.caller.unwrap_or_else(|| self.peer.caller());
                let call = MessageCall {
                    key: request,
                    input: input.bytes,
                    caller,
                    capacity,
                };
                self.owner.run_message(Arc::clone(self), call);
            }
            Output::RunDisconnect => self.owner.run_disconnect(Arc::clone(self)),
            // The rest was carried out under the lock.
            _ => {}
        }
    }
}

/// Rounds of looking at what the client does, in one go: far more than an honest client gives reason for.
const TURNS: u32 = 1 << 20;

impl Alarm for Core {
    fn alarm_id(&self) -> u64 {
        self.id
    }

    fn handle_alarm(self: Arc<Self>) {
        self.handle_timeout();
        self.watch();
    }
}

impl Inner {
    /// Carries out what goes to the peer; gives back what is for the filter or a sender.
    fn carry_out(
        &mut self,
        output: Output<Body, Sender>,
        max_message: u32,
    ) -> Option<Output<Body, Sender>> {
        let (frame, body) = match output {
            Output::Connected(status) => (
                ToClient::Connected {
                    status,
                    max_message,
                },
                None,
            ),
            Output::Deliver {
                get,
                header,
                deadline,
                body,
            } => {
                let remaining = deadline.remaining(clock::now());
                let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
                let attachment = body.attachment.is_some();
                (
                    ToClient::Message {
                        get,
                        header,
                        remaining,
                        attachment,
                        length,
                    },
                    Some(body),
                )
            }
            Output::GetFailed {
                get,
                status,
                needed,
            } if layout::get_of(get).is_some() => {
                if let Some(plane) = self.plane.on() {
                    plane.fail_get(get, status, needed);
                }
                return None;
            }
            Output::GetFailed {
                get,
                status,
                needed,
            } => (
                ToClient::GetFailed {
                    get,
                    status,
                    needed,
                },
                None,
            ),
            Output::ReplyDone { reply, status } => (ToClient::ReplyDone { reply, status }, None),
            Output::RequestDone {
                request,
                status,
                body,
            } => {
                let length = body.as_ref().map_or(0, |body| {
                    u32::try_from(body.bytes.len()).unwrap_or(u32::MAX)
                });
                (
                    ToClient::RequestDone {
                        request,
                        status,
                        length,
                    },
                    body,
                )
            }
            // A hint, not worth keeping for a client that does not read.
            Output::Abandoned { .. } if self.outbox.is_blocked() => return None,
            Output::Abandoned { message_id } => (ToClient::Abandoned { message_id }, None),
            Output::Disconnected => (ToClient::Disconnected, None),
            Output::Close => {
                self.outbox.close();
                return None;
            }
            for_others => return Some(for_others),
        };
        let Body {
            bytes, attachment, ..
        } = body.unwrap_or_default();
        self.send(&frame, bytes, attachment.into_iter().collect());
        None
    }

    /// Sends a frame; the engine is told if nothing more can follow.
    pub(crate) fn send(&mut self, frame: &ToClient, bytes: Vec<u8>, files: Vec<Arc<Attachment>>) {
        if !self.outbox.send(frame, bytes, files) {
            self.engine.handle_blocked();
            if let Some(plane) = self.plane.on() {
                plane.memory.ask_to_read();
            }
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

//! A port in a simulated world: both engines, a virtual clock, frames that really are encoded and parsed.
//!
//! Tests tell two-sided stories with it: a filter that sends and closes, a client that gets, replies and dies. Nothing
//! happens by itself; time passes when a story says so. It is not a transport: nothing here blocks or runs in parallel.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;
use zerocopy::IntoBytes;

use crate::client::{self, Client};
use crate::connection::{Connection, Violation};
use crate::output::{Body, Outcome, Output, RequestKey, SendKey};
use crate::status::NtStatus;
use crate::time::{Instant, Now, Timeout, WallTime};
use crate::wire::{MessageHeader, ToClient, ToHost};

/// Bytes of the simulated world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Body for Bytes {
    fn length(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// How a call of the client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A get took this message.
    Message(MessageHeader, Bytes),
    /// It ended with this status: bytes needed where a get was too small, bytes of the callback.
    Done(NtStatus, u32, Option<Bytes>),
}

impl Ended {
    /// The status of an ending without a message.
    #[must_use]
    pub const fn status(&self) -> Option<NtStatus> {
        match self {
            Self::Done(status, ..) => Some(*status),
            Self::Message(..) => None,
        }
    }
}

/// One connection with both its ends.
#[derive(Debug)]
pub struct Pair {
    now: Now,
    /// The filter's end.
    pub host: Connection<Bytes, u64>,
    /// The client's end; `None` before it is connected.
    pub client: Option<Client<Bytes, u64>>,
    to_host: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    /// Whether the client takes frames off its transport.
    pub client_reads: bool,
    /// What the client's connect was told.
    pub connected: Option<NtStatus>,
    sends: BTreeMap<u64, Outcome<Bytes>>,
    calls: BTreeMap<u64, Ended>,
    /// Messages that the client was told to forget.
    pub abandoned: Vec<u64>,
    /// What the client was told of the time that is left, by the number of the get that took the message.
    pub remaining: BTreeMap<u64, Duration>,
    /// Message callbacks that run, oldest first.
    pub callbacks: VecDeque<(RequestKey, Bytes, u32)>,
    /// Times that the disconnect callback was called.
    pub disconnects: u32,
    /// Times that the slot was released.
    pub releases: u32,
    /// Frames that an end took for a lie of the other.
    pub lies: Vec<Violation>,
    next: u64,
}

impl Pair {
    /// A connection whose connect callback runs.
    #[must_use]
    pub fn connecting() -> Self {
        Self {
            now: Now {
                monotonic: Instant::from_nanos(1),
                wall: WallTime::from_unix(Duration::from_secs(1_000_000)),
            },
            host: Connection::new(crate::limits::MESSAGE_DEFAULT),
            client: None,
            to_host: VecDeque::new(),
            to_client: VecDeque::new(),
            client_reads: true,
            connected: None,
            sends: BTreeMap::new(),
            calls: BTreeMap::new(),
            abandoned: Vec::new(),
            remaining: BTreeMap::new(),
            callbacks: VecDeque::new(),
            disconnects: 0,
            releases: 0,
            lies: Vec::new(),
            next: 1,
        }
    }

    /// A connection that was accepted.
    #[must_use]
    pub fn connected() -> Self {
        let mut pair = Self::connecting();
        pair.host.handle_connect_returned(NtStatus::SUCCESS);
        pair.drive();
        pair
    }

    /// The filter sends `bytes`; returns a name for [`Self::outcome`].
    pub fn send(&mut self, bytes: &[u8], reply: Option<u32>, timeout: Timeout) -> u64 {
        self.send_keyed(bytes, reply, timeout).0
    }

    /// As [`Self::send`], with the engine's key of the send for cancelling.
    pub fn send_keyed(
        &mut self,
        bytes: &[u8],
        reply: Option<u32>,
        timeout: Timeout,
    ) -> (u64, SendKey) {
        let name = self.name();
        let key = self
            .host
            .handle_send(self.now, Bytes(bytes.to_vec()), reply, timeout, name);
        self.drive();
        (name, key)
    }

    /// The client posts a get of `size` bytes; returns a name for [`Self::ended`] and the get's number.
    pub fn get(&mut self, size: u32) -> (u64, u64) {
        let name = self.name();
        let get = self
            .client
            .as_mut()
            .map_or(0, |client| client.start_get(size, name));
        self.drive();
        (name, get)
    }

    /// The client withdraws a get.
    pub fn cancel(&mut self, get: u64) -> bool {
        let pending = self
            .client
            .as_mut()
            .is_some_and(|client| client.cancel_get(get));
        self.drive();
        pending
    }

    /// The client replies; returns what `FilterReplyMessage` returns.
    pub fn reply(&mut self, id: u64, status: NtStatus, bytes: &[u8]) -> Option<NtStatus> {
        let name = self.start_reply(id, status, bytes);
        self.ended(name)?.status()
    }

    /// As [`Self::reply`], for a client that may not read the result yet; returns a name for [`Self::ended`].
    pub fn start_reply(&mut self, id: u64, status: NtStatus, bytes: &[u8]) -> u64 {
        let name = self.name();
        if let Some(client) = self.client.as_mut() {
            client.start_reply(id, status, Bytes(bytes.to_vec()), name);
        }
        self.drive();
        name
    }

    /// The client stops taking frames off its transport. The host notices when it sends the next message.
    pub fn stop_reading(&mut self) {
        self.client_reads = false;
    }

    /// The client takes frames again, and the host is told so.
    pub fn resume_reading(&mut self) {
        self.client_reads = true;
        self.host.handle_writable();
        self.drive();
    }

    /// The client sends a request; returns a name for [`Self::ended`].
    pub fn request(&mut self, bytes: &[u8], capacity: u32) -> u64 {
        let name = self.name();
        if let Some(client) = self.client.as_mut() {
            client.start_request(Bytes(bytes.to_vec()), capacity, name);
        }
        self.drive();
        name
    }

    /// The oldest running message callback returns.
    pub fn callback_returns(&mut self, status: NtStatus, output: &[u8]) {
        if let Some((key, input, _)) = self.callbacks.pop_front() {
            let body = (!output.is_empty()).then(|| Bytes(output.to_vec()));
            self.host
                .handle_request_returned(key, input.length(), status, body);
        }
        self.drive();
    }

    /// The client closes its handle or dies. What it had sent before still arrives.
    pub fn close_client(&mut self) {
        self.drive();
        if let Some(client) = self.client.as_mut() {
            client.handle_closed();
        }
        self.host.handle_peer_closed();
        self.drive();
    }

    /// The disconnect callback returns.
    pub fn disconnect_returns(&mut self) {
        self.host.handle_disconnect_returned();
        self.drive();
    }

    /// Time passes on both clocks; deadlines on the way are met.
    pub fn advance(&mut self, wait: Duration) {
        self.now.monotonic = self
            .now
            .monotonic
            .checked_add(wait)
            .unwrap_or(self.now.monotonic);
        self.set_wall(wait);
    }

    /// Somebody sets the wall clock forward; the monotonic clock does not move.
    pub fn set_wall(&mut self, forward: Duration) {
        let ticks = u64::try_from(forward.as_nanos() / 100).unwrap_or(u64::MAX);
        self.now.wall = WallTime::from_ticks(self.now.wall.as_ticks().saturating_add(ticks));
        self.host.handle_timeout(self.now);
        self.drive();
    }

    /// The time in this world.
    #[must_use]
    pub const fn now(&self) -> Now {
        self.now
    }

    /// Runs until both ends are idle.
    pub fn drive(&mut self) {
        loop {
            let mut idle = !self.drive_host();
            idle &= !self.drive_client();
            while let Some(bytes) = self.to_host.pop_front() {
                idle = false;
                if let Err(lie) = self.deliver_to_host(&bytes) {
                    self.lies.push(lie);
                    self.host.handle_peer_closed();
                }
            }
            while self.client_reads {
                let Some(bytes) = self.to_client.pop_front() else {
                    break;
                };
                idle = false;
                if let Err(lie) = self.deliver_to_client(&bytes) {
                    self.lies.push(lie);
                    self.connected.get_or_insert(NtStatus::PORT_DISCONNECTED);
                }
            }
            if idle {
                return;
            }
        }
    }

    /// How a send ended; `None` while it lasts.
    #[must_use]
    pub fn outcome(&self, send: u64) -> Option<&Outcome<Bytes>> {
        self.sends.get(&send)
    }

    /// How a call of the client ended; `None` while it lasts.
    #[must_use]
    pub fn ended(&self, call: u64) -> Option<&Ended> {
        self.calls.get(&call)
    }

    /// The message that a get has taken, header first.
    #[must_use]
    pub fn message(&self, call: u64) -> Option<(MessageHeader, &[u8])> {
        match self.calls.get(&call) {
            Some(Ended::Message(header, bytes)) => Some((*header, &bytes.0)),
            _ => None,
        }
    }

    fn name(&mut self) -> u64 {
        self.next = self.next.saturating_add(1);
        self.next
    }

    fn drive_host(&mut self) -> bool {
        let mut busy = false;
        while let Some(output) = self.host.poll_output() {
            busy = true;
            match output {
                Output::Connected(status) => {
                    let max_message = crate::limits::MESSAGE_DEFAULT;
                    self.frame(
                        &ToClient::Connected {
                            status,
                            max_message,
                        },
                        &[],
                    );
                }
                Output::Deliver {
                    get,
                    header,
                    deadline,
                    body,
                } => {
                    let remaining = deadline.remaining(self.now);
                    let length = body.length();
                    self.frame(
                        &ToClient::Message {
                            get,
                            header,
                            remaining,
                            attachment: false,
                            length,
                        },
                        &body.0,
                    );
                    if !self.client_reads {
                        self.host.handle_blocked();
                    }
                }
                Output::GetFailed {
                    get,
                    status,
                    needed,
                } => {
                    self.frame(
                        &ToClient::GetFailed {
                            get,
                            status,
                            needed,
                        },
                        &[],
                    );
                }
                Output::ReplyDone { reply, status } => {
                    self.frame(&ToClient::ReplyDone { reply, status }, &[])
                }
                Output::RequestDone {
                    request,
                    status,
                    body,
                } => {
                    let body = body.unwrap_or_default();
                    self.frame(
                        &ToClient::RequestDone {
                            request,
                            status,
                            length: body.length(),
                        },
                        &body.0,
                    );
                }
                Output::Abandoned { message_id } => {
                    self.frame(&ToClient::Abandoned { message_id }, &[])
                }
                Output::Disconnected => self.frame(&ToClient::Disconnected, &[]),
                Output::Close => {
                    if let Some(client) = self.client.as_mut().filter(|_| self.to_client.is_empty())
                    {
                        client.handle_closed();
                    }
                }
                Output::RunMessage {
                    request,
                    input,
                    capacity,
                } => {
                    self.callbacks.push_back((request, input, capacity));
                }
                Output::RunDisconnect => self.disconnects = self.disconnects.saturating_add(1),
                Output::ReleaseSlot => self.releases = self.releases.saturating_add(1),
                Output::Finished { sender, outcome } => {
                    let before = self.sends.insert(sender, outcome);
                    assert!(before.is_none(), "a send ended twice: {sender}");
                }
            }
        }
        busy
    }

    fn drive_client(&mut self) -> bool {
        let mut busy = false;
        while let Some(output) = self.client.as_mut().and_then(Client::poll_output) {
            busy = true;
            let (frame, body) = match output {
                client::Output::Get { get, size } => (ToHost::Get { get, size }, Bytes::default()),
                client::Output::CancelGet { get } => (ToHost::CancelGet { get }, Bytes::default()),
                client::Output::Reply {
                    reply,
                    message_id,
                    status,
                    body,
                } => (
                    ToHost::Reply {
                        reply,
                        message_id,
                        status,
                        length: body.length(),
                    },
                    body,
                ),
                client::Output::Request {
                    request,
                    capacity,
                    body,
                } => (
                    ToHost::Request {
                        request,
                        capacity,
                        length: body.length(),
                    },
                    body,
                ),
                client::Output::Message { mark, header, body } => {
                    let before = self.calls.insert(mark, Ended::Message(header, body));
                    assert!(before.is_none(), "a call ended twice: {mark}");
                    continue;
                }
                client::Output::Done {
                    mark,
                    status,
                    needed,
                    body,
                } => {
                    let before = self.calls.insert(mark, Ended::Done(status, needed, body));
                    assert!(before.is_none(), "a call ended twice: {mark}");
                    continue;
                }
            };
            self.to_host
                .push_back([frame.header().as_bytes(), &body.0].concat());
        }
        busy
    }

    fn frame(&mut self, frame: &ToClient, payload: &[u8]) {
        self.to_client
            .push_back([frame.header().as_bytes(), payload].concat());
    }

    fn deliver_to_host(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let (frame, payload) = ToHost::parse(bytes).map_err(|_| Violation("no frame"))?;
        let body = Bytes(payload.to_vec());
        match frame {
            ToHost::Get { get, size } => self.host.handle_get(get, size)?,
            ToHost::CancelGet { get } => self.host.handle_get_cancelled(get),
            ToHost::Reply {
                reply,
                message_id,
                status,
                ..
            } => {
                self.host.handle_reply(reply, message_id, status, body);
            }
            ToHost::Request {
                request, capacity, ..
            } => self.host.handle_request(request, body, capacity),
            ToHost::Close => self.host.handle_client_closing(),
            ToHost::Hello { .. } | ToHost::Attach | ToHost::Kick | ToHost::Chunk { .. } => {
                return Err(Violation("not in this world"));
            }
        }
        Ok(())
    }

    fn deliver_to_client(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let (frame, payload) = ToClient::parse(bytes).map_err(|_| Violation("no frame"))?;
        let body = Bytes(payload.to_vec());
        if let ToClient::Connected {
            status,
            max_message,
        } = frame
        {
            self.connected = Some(status);
            if status == NtStatus::SUCCESS {
                self.client = Some(Client::new(max_message));
            }
            return Ok(());
        }
        // Nobody reads what comes for a client that is not there, or no longer.
        let there = |client: &&mut Client<_, _>| client.state() != client::State::Disconnected;
        let Some(client) = self.client.as_mut().filter(there) else {
            return Ok(());
        };
        match frame {
            ToClient::Message {
                get,
                header,
                remaining,
                ..
            } => {
                self.remaining.extend(remaining.map(|left| (get, left)));
                client.handle_message(get, header, body)
            }
            ToClient::GetFailed {
                get,
                status,
                needed,
            } => client.handle_get_failed(get, status, needed),
            ToClient::ReplyDone { reply, status } => client.handle_reply_done(reply, status),
            ToClient::RequestDone {
                request, status, ..
            } => client.handle_request_done(request, status, (!body.0.is_empty()).then_some(body)),
            ToClient::Abandoned { message_id } => {
                self.abandoned.push(message_id);
                Ok(())
            }
            ToClient::Disconnected => {
                client.handle_disconnected();
                Ok(())
            }
            ToClient::Connected { .. }
            | ToClient::Attached { .. }
            | ToClient::Ring { .. }
            | ToClient::Files { .. }
            | ToClient::Chunk { .. } => Err(Violation("not in this world")),
        }
    }
}

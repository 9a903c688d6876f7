//! The filter's end of one connection: its life from connect to the last callback, and the requests of its client.
//!
//! The exchange of questions and answers is the room inside ([`crate::questions`]); the port with its name, access and
//! count is the room outside ([`crate::server`]). Inputs are `handle_*`, each with the time; what is to be done comes
//! out of [`Connection::poll_output`].

use alloc::collections::{BTreeMap, VecDeque};

use crate::gets::{Frames, Gets};
use crate::limits;
use crate::output::{Body, Outcome, Output, RequestKey, SendKey};
use crate::questions::{Counters, Questions};
use crate::status::NtStatus;
use crate::time::{Deadline, Now, Timeout};

/// Where a connection is in its life.
///
/// ```text
///             connect callback           peer closes, lies or dies; unregister
///   Connecting ───accepts──▶ Connected ───────────────────────────▶ Draining
///     │   │                      │ filter closes its port               │ no message callback runs
///     │   └ accepts, but an end  ▼                                      ▼
///     │     closed meanwhile   Severed ─── peer closes ──▶ Draining   Notifying (disconnect callback runs)
///     │ refuses                  (slot is free at once)                 │ returns
///     ▼                                                                 ▼
///    Ended ◀────────────────────────────────────────────────────────  Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The connect callback runs. The slot is counted, no get can exist.
    Connecting(Early),
    /// Both ends are open.
    Connected,
    /// The filter closed its end; the client still holds its handle.
    Severed,
    /// The client's end is closed; running message callbacks end first.
    Draining {
        /// Whether the port still counts this connection.
        slot: bool,
    },
    /// The disconnect callback runs.
    Notifying {
        /// Whether the port still counts this connection.
        slot: bool,
    },
    /// Over. Everything fails with `STATUS_PORT_DISCONNECTED`.
    Ended,
}

/// What happened to a connection while its connect callback ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Early {
    /// Nothing.
    #[default]
    Nothing,
    /// The client went away.
    PeerClosed,
    /// The filter closed its client port from inside the callback.
    FilterClosed,
    /// The filter is being unregistered.
    Unregistered,
}

/// The filter's end of one connection. `B` is a message's bytes, `S` the driver's mark of a send.
#[derive(Debug)]
pub struct Connection<B, S> {
    state: State,
    questions: Questions<B, S>,
    requests: BTreeMap<RequestKey, Request>,
    queued: VecDeque<(RequestKey, B)>,
    queued_bytes: u64,
    running: usize,
    next_request: u64,
    max_message: u32,
    writable: bool,
    out: VecDeque<Output<B, S>>,
}

#[derive(Debug)]
struct Request {
    token: u64,
    capacity: u32,
}

/// The client broke the rules of the wire; its connection is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the rules: {0}")]
pub struct Violation(pub &'static str);

impl<B: Body, S> Connection<B, S> {
    /// A connection whose connect callback is about to run, on a port with this message limit in bytes.
    #[must_use]
    pub fn new(max_message: u32) -> Self {
        Self {
            state: State::Connecting(Early::Nothing),
            questions: Questions::new(),
            requests: BTreeMap::new(),
            queued: VecDeque::new(),
            queued_bytes: 0,
            running: 0,
            next_request: 1,
            max_message: max_message.min(limits::MESSAGE_MAX),
            writable: true,
            out: VecDeque::new(),
        }
    }

    /// The connect callback has returned `status`. Any success accepts, and the client is told plain success.
    pub fn handle_connect_returned(&mut self, status: NtStatus) {
        let State::Connecting(early) = self.state else {
            return;
        };
        if !status.is_nt_success() {
            self.state = State::Ended;
            self.questions.disconnect(&mut self.out);
            // Before the client knows: it may connect again at once.
            self.out.push_back(Output::ReleaseSlot);
            self.out.push_back(Output::Connected(status));
            self.out.push_back(Output::Close);
            return;
        }
        match early {
            Early::Nothing => {
                self.state = State::Connected;
                self.out.push_back(Output::Connected(NtStatus::SUCCESS));
            }
            Early::PeerClosed | Early::FilterClosed => {
                self.out
                    .push_back(Output::Connected(NtStatus::PORT_DISCONNECTED));
                self.drain(true);
            }
            // It came first: the client is connected, and then it is over.
            Early::Unregistered => {
                self.state = State::Connected;
                self.out.push_back(Output::Connected(NtStatus::SUCCESS));
                self.handle_unregister();
            }
        }
    }

    /// The filter sends a message (`FltSendMessage`): `reply` is the payload bytes it can take back, `None` for no
    /// reply. The outcome comes as [`Output::Finished`] with `sender`, perhaps at once.
    pub fn handle_send(
        &mut self,
        now: Now,
        body: B,
        reply: Option<u32>,
        timeout: Timeout,
        sender: S,
    ) -> SendKey {
        self.handle_send_through(&mut Frames, now, body, reply, timeout, sender)
    }

    /// As [`Self::handle_send`], on a link that keeps the words of gets.
    pub fn handle_send_through(
        &mut self,
        words: &mut impl Gets<B, S>,
        now: Now,
        body: B,
        reply: Option<u32>,
        timeout: Timeout,
        sender: S,
    ) -> SendKey {
        if let Err(outcome) = self.admit(body.length(), reply) {
            self.out.push_back(Output::Finished { sender, outcome });
            return SendKey(0);
        }
        let deadline = timeout.deadline(now);
        let key = self.questions.add(body, reply, deadline, sender);
        self.match_one(words);
        if deadline.passed(now) {
            self.questions.expire(now, &mut self.out);
        }
        key
    }

    /// Takes out the get that a message would have at once, for a link that keeps the words of gets and of waiters: it
    /// then puts the message in itself, or asks again if that get was withdrawn. Its number and size; `None` where
    /// [`Self::handle_send_through`] has to decide.
    pub fn take_get(&mut self, length: u32, reply: Option<u32>) -> Option<(u64, u32)> {
        if self.state != State::Connected || !self.out.is_empty() {
            return None;
        }
        self.admit(length, reply).ok()?;
        self.questions.take_get(length)
    }

    /// Whether the peer takes frames at the moment.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Puts back what [`Self::take_get`] gave: its number and size.
    pub fn return_get(&mut self, get: u64, size: u32) {
        if self.state == State::Connected {
            self.questions.return_get(get, size);
        }
    }

    /// From here on replies are matched by the link, and the numbers of those that are not begin after `id`.
    pub fn handle_link_matches(&mut self, id: u64) {
        self.questions.number_from(id);
    }

    /// Whether a sender waits for a get.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.questions.has_waiting()
    }

    /// The client has posted a get whose word the link keeps; the link has checked its number, its size, and that
    /// there are not too many.
    pub fn handle_word_posted(&mut self, get: u64, size: u32) {
        if self.state == State::Connected {
            self.questions.post_word(get, size);
        }
    }

    /// A get whose word the link keeps was withdrawn.
    pub fn handle_word_withdrawn(&mut self, get: u64) {
        self.questions.forget_word(get);
    }

    /// The number of the message that was delivered last, of those whose reply is matched here.
    #[must_use]
    pub const fn last_message(&self) -> u64 {
        self.questions.last_message()
    }

    /// The sender gives up by itself.
    pub fn handle_send_cancelled(&mut self, key: SendKey) {
        self.questions.give_up(key, &mut self.out);
    }

    /// The client posts a get of `size` bytes, header included.
    ///
    /// # Errors
    /// A get number that does not rise is a lie.
    pub fn handle_get(&mut self, get: u64, size: u32) -> Result<(), Violation> {
        match self.state {
            State::Connected => {
                self.questions
                    .post(get, size, &mut self.out)
                    .map_err(|_| Violation("a get number was used twice"))?;
            }
            _ => self.out.push_back(Output::GetFailed {
                get,
                status: NtStatus::PORT_DISCONNECTED,
                needed: 0,
            }),
        }
        Ok(())
    }

    /// The client withdraws a get. The frame that ends the get says whether it came in time.
    pub fn handle_get_cancelled(&mut self, get: u64) {
        self.questions.cancel(get, &mut self.out);
    }

    /// The client replies to `message_id`; the result goes back under the client's number `reply`.
    pub fn handle_reply(&mut self, reply: u64, message_id: u64, status: NtStatus, body: B) {
        let told = match self.state {
            State::Connected => self
                .questions
                .reply(message_id, status, body, &mut self.out),
            _ => NtStatus::PORT_DISCONNECTED,
        };
        self.out.push_back(Output::ReplyDone {
            reply,
            status: told,
        });
    }

    /// The client sends a request (`FilterSendMessage`) and can take `capacity` bytes back.
    pub fn handle_request(&mut self, token: u64, input: B, capacity: u32) {
        let refused = match self.state {
            State::Connected if input.length() == 0 => Some(NtStatus::INVALID_PARAMETER),
            State::Connected => None,
            _ => Some(NtStatus::PORT_DISCONNECTED),
        };
        let capacity = capacity.min(self.max_message);
        let bytes = u64::from(input.length()).saturating_add(u64::from(capacity));
        let total = self.queued_bytes.saturating_add(bytes);
        let full = total > limits::QUEUED_BYTES_PER_CONNECTION
            || self.queued.len() >= limits::QUEUED_PER_CONNECTION;
        let refused = refused.or_else(|| full.then_some(NtStatus::INSUFFICIENT_RESOURCES));
        if let Some(status) = refused {
            self.out.push_back(Output::RequestDone {
                request: token,
                status,
                body: None,
            });
            return;
        }
        let key = RequestKey(self.next_request);
        self.next_request = self.next_request.wrapping_add(1);
        self.queued_bytes = total;
        self.requests.insert(key, Request { token, capacity });
        self.queued.push_back((key, input));
        self.start_requests();
    }

    /// The message callback of `key` has returned. `input` is the length of what it was given, `body` what it wrote,
    /// `None` for nothing.
    pub fn handle_request_returned(
        &mut self,
        key: RequestKey,
        input: u32,
        status: NtStatus,
        body: Option<B>,
    ) {
        let Some(request) = self.requests.remove(&key) else {
            return;
        };
        self.running = self.running.saturating_sub(1);
        let bytes = u64::from(input).saturating_add(u64::from(request.capacity));
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        self.out.push_back(Output::RequestDone {
            request: request.token,
            status,
            body,
        });
        self.start_requests();
        self.notify_when_drained();
    }

    /// The client's end is closed: by itself, by its death, or because it lied.
    pub fn handle_peer_closed(&mut self) {
        self.out.push_back(Output::Close);
        self.end_peer();
    }

    /// The client closes its handle and waits (`CloseHandle`): answers of running callbacks still go out, and the link is
    /// closed when the disconnect callback has returned.
    pub fn handle_client_closing(&mut self) {
        self.say_goodbye();
        self.end_peer();
    }

    fn end_peer(&mut self) {
        match self.state {
            State::Connecting(_) => self.end_early(Early::PeerClosed),
            State::Connected => {
                self.disconnect();
                self.drain(true);
            }
            State::Severed => self.drain(false),
            State::Draining { .. } | State::Notifying { .. } | State::Ended => {}
        }
    }

    /// The filter closes its end (`FltCloseClientPort`). Never waits; the disconnect callback follows when the client
    /// closes its handle.
    pub fn handle_filter_closed(&mut self) {
        match self.state {
            State::Connecting(Early::Nothing) => self.end_early(Early::FilterClosed),
            State::Connected => {
                self.disconnect();
                self.state = State::Severed;
                self.out.push_back(Output::ReleaseSlot);
                self.out.push_back(Output::Disconnected);
            }
            _ => {}
        }
    }

    /// The filter is being unregistered: the connection ends as if the client had closed it, except that answers of
    /// running callbacks still go out.
    pub fn handle_unregister(&mut self) {
        match self.state {
            State::Connecting(Early::Nothing) => self.end_early(Early::Unregistered),
            State::Connecting(_) => {}
            _ => {
                self.say_goodbye();
                self.end_peer();
            }
        }
    }

    fn say_goodbye(&mut self) {
        if self.state == State::Connected {
            self.disconnect();
            self.out.push_back(Output::Disconnected);
        }
    }

    /// The disconnect callback has returned.
    pub fn handle_disconnect_returned(&mut self) {
        if let State::Notifying { slot } = self.state {
            self.state = State::Ended;
            if slot {
                self.out.push_back(Output::ReleaseSlot);
            }
            self.out.push_back(Output::Close);
        }
    }

    /// The peer takes nothing more for now: messages stay with their senders until [`Self::handle_writable`].
    pub fn handle_blocked(&mut self) {
        self.writable = false;
    }

    /// The peer takes messages again.
    pub fn handle_writable(&mut self) {
        self.writable = true;
        self.start_requests();
    }

    /// Ends all sends whose deadline has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.questions.expire(now, &mut self.out);
    }

    /// The next thing to do, if any. Messages come one at a time, so that a driver whose link is full after one says so
    /// with [`Self::handle_blocked`] and the others stay with their senders.
    pub fn poll_output(&mut self) -> Option<Output<B, S>> {
        self.poll_output_through(&mut Frames)
    }

    /// As [`Self::poll_output`], on a link that keeps the words of gets. What that has carried out itself is no output.
    pub fn poll_output_through(&mut self, words: &mut impl Gets<B, S>) -> Option<Output<B, S>> {
        while self.out.is_empty() && self.match_one(words) {}
        self.out.pop_front()
    }

    /// The earliest deadlines, monotonic and wall. May change with every send, reply and timeout.
    #[must_use]
    pub fn next_deadlines(&self) -> (Deadline, Deadline) {
        self.questions.next_deadlines()
    }

    /// Where the connection is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Sends that are not over: waiting for a get, waiting for a reply.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        self.questions.pending()
    }

    /// Gets posted and not taken.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.questions.posted()
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.questions.counters()
    }

    fn admit(&self, length: u32, reply: Option<u32>) -> Result<(), Outcome<B>> {
        match self.state {
            // A filter that sends from its connect callback waits for gets that cannot come yet.
            State::Connected | State::Connecting(Early::Nothing) => {}
            _ => return Err(Outcome::Disconnected { delivered: false }),
        }
        let (waiting, outstanding) = self.questions.pending();
        if length > self.max_message || reply.is_some_and(|capacity| capacity > self.max_message) {
            return Err(Outcome::Refused(NtStatus::INVALID_PARAMETER));
        }
        if waiting.saturating_add(outstanding) >= limits::WAITERS_PER_CONNECTION {
            return Err(Outcome::Refused(NtStatus::INSUFFICIENT_RESOURCES));
        }
        Ok(())
    }

    fn match_one(&mut self, words: &mut impl Gets<B, S>) -> bool {
        self.writable
            && self.state == State::Connected
            && self.questions.match_one(words, &mut self.out)
    }

    fn start_requests(&mut self) {
        while self.writable && self.running < limits::RUNNING_PER_CONNECTION {
            let Some((key, input)) = self.queued.pop_front() else {
                return;
            };
            let Some(request) = self.requests.get(&key) else {
                continue;
            };
            self.running = self.running.saturating_add(1);
            self.out.push_back(Output::RunMessage {
                request: key,
                input,
                capacity: request.capacity,
            });
        }
    }

    /// An end closed while the connect callback runs. A callback that waits for a send of its own gets out of it.
    fn end_early(&mut self, early: Early) {
        self.state = State::Connecting(early);
        self.disconnect();
    }

    fn disconnect(&mut self) {
        self.questions.disconnect(&mut self.out);
        for (key, _) in core::mem::take(&mut self.queued) {
            if let Some(request) = self.requests.remove(&key) {
                let status = NtStatus::PORT_DISCONNECTED;
                self.out.push_back(Output::RequestDone {
                    request: request.token,
                    status,
                    body: None,
                });
            }
        }
    }

    fn drain(&mut self, slot: bool) {
        self.disconnect();
        self.state = State::Draining { slot };
        self.notify_when_drained();
    }

    fn notify_when_drained(&mut self) {
        match self.state {
            State::Draining { slot } if self.running == 0 => {
                self.state = State::Notifying { slot };
                self.out.push_back(Output::RunDisconnect);
            }
            _ => {}
        }
    }
}

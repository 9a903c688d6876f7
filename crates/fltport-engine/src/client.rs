//! The application's end of a connection: what it has asked for, and what came of it.
//!
//! The rules are the host's; this side keeps books: each get, reply and request has a number, and the frame that ends it
//! names the number. A frame with a number that was never given out is a lie of the host's, and ends the connection.
//!
//! `M` is the driver's mark of a call, handed back when the call ends.

use alloc::collections::{BTreeMap, VecDeque};

use crate::connection::Violation;
use crate::exchange;
use crate::limits;
use crate::output::Body;
use crate::status::NtStatus;
use crate::wire::MessageHeader;

/// The application's end of one connection.
#[derive(Debug)]
pub struct Client<B, M> {
    state: State,
    calls: BTreeMap<u64, Call<M>>,
    gets: usize,
    next: u64,
    max_message: u32,
    out: VecDeque<Output<B, M>>,
}

/// Where the client's end is in its life.
///
/// ```text
///   Connected ── host says so, host dies or lies, closed here ──▶ Disconnected
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls are possible.
    Connected,
    /// The host has ended the connection; only requests whose callbacks run may still end otherwise.
    Closing,
    /// Every call ends at once with `STATUS_PORT_DISCONNECTED`.
    Disconnected,
}

#[derive(Debug)]
struct Call<M> {
    mark: M,
    kind: CallKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    Get { size: u32 },
    Reply,
    Request { capacity: u32 },
}

/// One thing to do.
#[derive(Debug)]
pub enum Output<B, M> {
    /// To the host: post a get.
    Get {
        /// The get's number.
        get: u64,
        /// Bytes, header included.
        size: u32,
    },
    /// To the host: withdraw a get.
    CancelGet {
        /// The get's number.
        get: u64,
    },
    /// To the host: a reply.
    Reply {
        /// The reply's number.
        reply: u64,
        /// The message.
        message_id: u64,
        /// What the send returns.
        status: NtStatus,
        /// The payload.
        body: B,
    },
    /// To the host: a request.
    Request {
        /// The request's number.
        request: u64,
        /// Bytes that can be taken back.
        capacity: u32,
        /// The payload.
        body: B,
    },
    /// To the caller: its get has taken a message.
    Message {
        /// The caller's mark.
        mark: M,
        /// The message's header.
        header: MessageHeader,
        /// The message.
        body: B,
    },
    /// To the caller: its get, reply or request ended with `status`; `body` is what a request's callback wrote.
    Done {
        /// The caller's mark.
        mark: M,
        /// How it ended.
        status: NtStatus,
        /// Bytes needed, where a get was too small.
        needed: u32,
        /// What the callback wrote.
        body: Option<B>,
    },
}

impl<B: Body, M> Client<B, M> {
    /// The end of an accepted connection on a port with this message limit in bytes.
    #[must_use]
    pub fn new(max_message: u32) -> Self {
        let max_message = max_message.min(limits::MESSAGE_MAX);
        Self {
            state: State::Connected,
            calls: BTreeMap::new(),
            gets: 0,
            next: 1,
            max_message,
            out: VecDeque::new(),
        }
    }

    /// Posts a get of `size` bytes, header included. Returns its number.
    pub fn start_get(&mut self, size: u32, mark: M) -> u64 {
        let refused = if size == 0 {
            Some((NtStatus::INVALID_PARAMETER, 0))
        } else if size < limits::HEADER {
            Some((NtStatus::BUFFER_TOO_SMALL, limits::HEADER))
        } else if self.gets >= limits::GETS_PER_CONNECTION {
            Some((NtStatus::INSUFFICIENT_RESOURCES, 0))
        } else {
            None
        };
        if let Some((status, needed)) = refused.filter(|_| self.state == State::Connected) {
            self.out.push_back(Output::Done {
                mark,
                status,
                needed,
                body: None,
            });
            return 0;
        }
        let Some(get) = self.start(mark, CallKind::Get { size }) else {
            return 0;
        };
        self.gets = self.gets.saturating_add(1);
        self.out.push_back(Output::Get { get, size });
        get
    }

    /// Withdraws a get. It ends with `STATUS_CANCELLED`, or with a message that was faster. Says whether it was pending.
    pub fn cancel_get(&mut self, get: u64) -> bool {
        let pending = self
            .calls
            .get(&get)
            .is_some_and(|call| matches!(call.kind, CallKind::Get { .. }));
        if pending {
            self.out.push_back(Output::CancelGet { get });
        }
        pending
    }

    /// Replies to a message.
    pub fn start_reply(&mut self, message_id: u64, status: NtStatus, body: B, mark: M) {
        let Some((mark, body)) = self.check_length(mark, body) else {
            return;
        };
        if let Some(reply) = self.start(mark, CallKind::Reply) {
            self.out.push_back(Output::Reply {
                reply,
                message_id,
                status,
                body,
            });
        }
    }

    /// Asks the filter's message callback; `capacity` bytes can be taken back.
    pub fn start_request(&mut self, body: B, capacity: u32, mark: M) {
        let Some((mark, body)) = self.check_length(mark, body) else {
            return;
        };
        if let Some(request) = self.start(mark, CallKind::Request { capacity }) {
            self.out.push_back(Output::Request {
                request,
                capacity,
                body,
            });
        }
    }

    /// A message has come for a get.
    ///
    /// # Errors
    /// No such get is pending, or the message is longer than it can take.
    pub fn handle_message(
        &mut self,
        get: u64,
        header: MessageHeader,
        body: B,
    ) -> Result<(), Violation> {
        let length = body.length();
        let call = self.end(
            get,
            |kind| matches!(kind, CallKind::Get { size } if exchange::fits(size, length)),
        )?;
        self.gets = self.gets.saturating_sub(1);
        self.out.push_back(Output::Message {
            mark: call.mark,
            header,
            body,
        });
        Ok(())
    }

    /// A get has ended without a message.
    ///
    /// # Errors
    /// No such get is pending.
    pub fn handle_get_failed(
        &mut self,
        get: u64,
        status: NtStatus,
        needed: u32,
    ) -> Result<(), Violation> {
        if self.crossed_the_end(get) {
            return Ok(());
        }
        let call = self.end(get, |kind| matches!(kind, CallKind::Get { .. }))?;
        self.gets = self.gets.saturating_sub(1);
        self.out.push_back(Output::Done {
            mark: call.mark,
            status,
            needed,
            body: None,
        });
        Ok(())
    }

    /// A reply has been judged.
    ///
    /// # Errors
    /// No such reply is pending.
    pub fn handle_reply_done(&mut self, reply: u64, status: NtStatus) -> Result<(), Violation> {
        if self.crossed_the_end(reply) {
            return Ok(());
        }
        let call = self.end(reply, |kind| kind == CallKind::Reply)?;
        self.out.push_back(Output::Done {
            mark: call.mark,
            status,
            needed: 0,
            body: None,
        });
        Ok(())
    }

    /// A request has been answered.
    ///
    /// # Errors
    /// No such request is pending, or its answer is longer than it can take.
    pub fn handle_request_done(
        &mut self,
        request: u64,
        status: NtStatus,
        body: Option<B>,
    ) -> Result<(), Violation> {
        let length = body.as_ref().map_or(0, Body::length);
        let call = self.end(
            request,
            |kind| matches!(kind, CallKind::Request { capacity } if length <= capacity),
        )?;
        self.out.push_back(Output::Done {
            mark: call.mark,
            status,
            needed: 0,
            body,
        });
        Ok(())
    }

    /// The host has said that the connection is over: gets and replies end now, requests when their callbacks return.
    pub fn handle_disconnected(&mut self) {
        if self.state == State::Connected {
            self.state = State::Closing;
        }
        self.fail_all(|kind| !matches!(kind, CallKind::Request { .. }));
    }

    /// The transport is gone, by the host's death, its lie, or because this side closed it: every call ends now.
    pub fn handle_closed(&mut self) {
        self.state = State::Disconnected;
        self.fail_all(|_| true);
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output<B, M>> {
        self.out.pop_front()
    }

    /// Where this end is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Most payload bytes of one message, reply or request.
    #[must_use]
    pub const fn max_message(&self) -> u32 {
        self.max_message
    }

    /// Gets, replies and requests that have not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.calls.len()
    }

    fn start(&mut self, mark: M, kind: CallKind) -> Option<u64> {
        if self.state != State::Connected {
            let status = NtStatus::PORT_DISCONNECTED;
            self.out.push_back(Output::Done {
                mark,
                status,
                needed: 0,
                body: None,
            });
            return None;
        }
        let token = self.next;
        self.next = self.next.wrapping_add(1);
        self.calls.insert(token, Call { mark, kind });
        Some(token)
    }

    fn check_length(&mut self, mark: M, body: B) -> Option<(M, B)> {
        // A dead connection is found before a wrong size.
        if body.length() <= self.max_message || self.state != State::Connected {
            return Some((mark, body));
        }
        let status = NtStatus::INVALID_PARAMETER;
        self.out.push_back(Output::Done {
            mark,
            status,
            needed: 0,
            body: None,
        });
        None
    }

    /// Whether a get or reply of this number ended here when the host said that the connection is over, so that the
    /// host's own word on it, which it owes to a frame that was under way, says nothing new.
    fn crossed_the_end(&self, token: u64) -> bool {
        let given_out = (1..self.next).contains(&token);
        self.state == State::Closing && given_out && !self.calls.contains_key(&token)
    }

    fn end(
        &mut self,
        token: u64,
        right: impl FnOnce(CallKind) -> bool,
    ) -> Result<Call<M>, Violation> {
        let known = self.calls.get(&token).is_some_and(|call| right(call.kind));
        let call = known.then(|| self.calls.remove(&token)).flatten();
        call.ok_or(Violation("the host ended a call that was not pending"))
    }

    fn fail_all(&mut self, which: impl Fn(CallKind) -> bool) {
        let calls = core::mem::take(&mut self.calls);
        for (token, call) in calls {
            if which(call.kind) {
                let status = NtStatus::PORT_DISCONNECTED;
                self.out.push_back(Output::Done {
                    mark: call.mark,
                    status,
                    needed: 0,
                    body: None,
                });
            } else {
                self.calls.insert(token, call);
            }
        }
        self.gets = self
            .calls
            .values()
            .filter(|call| matches!(call.kind, CallKind::Get { .. }))
            .count();
    }
}

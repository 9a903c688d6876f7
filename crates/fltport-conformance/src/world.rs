//! The words that stories are told with: a backend, and the questions one asks of it again and again.

use std::time::Duration;

use fltport::{NtStatus, Timeout};

use crate::backend::{
    Allow, Answer, Backend, CallId, Callback, ClientId, ConnId, Counts, Done, Event, Got, Inside,
    Need, Op, PortId, PortSpec, Script, Sent, Who, hresult,
};

/// How long something may take that has to happen. Only a hang reaches it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The name of the fixture's port.
pub const NAME: &str = r"\T";

/// A backend and what stories say about it. Every method panics when the backend does otherwise.
pub struct World {
    /// The backend, for what has no word of its own here.
    pub backend: Box<dyn Backend>,
    seen: Vec<ConnId>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// A port, a client and the filter's end of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The server port.
    pub port: PortId,
    /// The client's end.
    pub client: ClientId,
    /// The filter's end.
    pub conn: ConnId,
}

/// How a client process ends without closing its handles.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// SIGKILL.
    Kill,
    /// It exits.
    Exit,
    /// It becomes another program.
    Exec,
}

/// The fixture's port: everyone may connect, four at a time, three callbacks.
#[must_use]
pub fn spec() -> PortSpec {
    PortSpec {
        filter: 0,
        name: NAME.into(),
        cookie: 7,
        max_connections: 4,
        message_callback: true,
        access: Allow::Everyone,
    }
}

/// A callback that returns `status` at once.
#[must_use]
pub fn returns(status: NtStatus) -> Script {
    writes(status, b"")
}

/// A message callback that writes `output` and returns `status`.
#[must_use]
pub fn writes(status: NtStatus, output: &[u8]) -> Script {
    let answer = Answer::Is {
        status,
        output: output.to_vec(),
        claimed: None,
        cookie: None,
    };
    Script {
        inside: None,
        hold: false,
        answer,
    }
}

/// A callback that succeeds once it is released.
#[must_use]
pub fn holds() -> Script {
    Script {
        inside: None,
        hold: true,
        answer: Answer::Echo,
    }
}

/// A callback that does something inside and then succeeds.
#[must_use]
pub fn does(inside: Inside) -> Script {
    Script {
        inside: Some(inside),
        hold: false,
        answer: Answer::Echo,
    }
}

/// Milliseconds.
#[must_use]
pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A timeout of so many milliseconds from now.
#[must_use]
pub const fn after(count: u64) -> Timeout {
    Timeout::After(ms(count))
}

/// Bytes that differ with `seed` and from place to place.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

impl World {
    /// A world on this backend.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Self {
            backend,
            seen: Vec::new(),
        }
    }

    /// Whether the backend can express something that only a part of a case needs.
    #[must_use]
    pub fn can(&self, need: Need) -> bool {
        self.backend.lacks(need).is_none()
    }

    /// The fixture: port `\T`, one connected client.
    pub fn fixture(&mut self) -> Ends {
        let port = self.create(&spec());
        self.join(port)
    }

    /// Makes a port.
    pub fn create(&mut self, spec: &PortSpec) -> PortId {
        self.backend.create(spec).expect("the port is made")
    }

    /// One more client of the fixture's port, in the first process.
    pub fn join(&mut self, port: PortId) -> Ends {
        let (client, conn) = self.connected(Who::default(), NAME, b"");
        Ends { port, client, conn }
    }

    /// Connects; both ends.
    pub fn connected(&mut self, who: Who, name: &str, context: &[u8]) -> (ClientId, ConnId) {
        let client = self
            .connect(who, name, context)
            .expect("the client is connected");
        (client, self.new_conn())
    }

    /// Connects, or gives the HRESULT.
    ///
    /// # Errors
    /// The HRESULT's number.
    pub fn connect(&mut self, who: Who, name: &str, context: &[u8]) -> Result<ClientId, u32> {
        let op = self.backend.connect(who, name, context);
        match self.done(op) {
            Done::Connected(result) => result,
            other => panic!("a connect ended as {other:?}"),
        }
    }

    /// The filter's end of the oldest connection that was not asked for yet.
    pub fn new_conn(&mut self) -> ConnId {
        let seen = self.seen.clone();
        let conn = self.event("a connect callback", |event| match event {
            Event::Connect { conn, .. } if !seen.contains(conn) => Some(*conn),
            _ => None,
        });
        self.seen.push(conn);
        conn
    }

    /// The end of an operation, which has to come.
    pub fn done(&mut self, op: Op) -> Done {
        self.backend
            .take(op, LIMIT)
            .unwrap_or_else(|| panic!("operation {} never ended", op.0))
    }

    /// Asserts that an operation does not end for so long.
    pub fn stays(&mut self, op: Op, time: Duration) {
        if let Some(done) = self.backend.take(op, time) {
            panic!("ended too early, as {done:?}");
        }
    }

    /// Waits until an event is there for which `pick` gives something.
    pub fn event<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let end = self.backend.now() + LIMIT;
        loop {
            if let Some(found) = self.backend.events().iter().find_map(&pick) {
                return found;
            }
            assert!(self.backend.now() < end, "waited in vain for {what}");
            self.backend.step();
        }
    }

    /// Waits until `holds` of the backend.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = self.backend.now() + LIMIT;
        while !holds(self) {
            assert!(self.backend.now() < end, "waited in vain until {what}");
            self.backend.step();
        }
    }

    /// Waits until so many gets are posted on a connection.
    pub fn gets_posted(&mut self, conn: ConnId, count: usize) {
        self.until("the gets are posted", |world| {
            world.backend.counts(conn).gets == count
        });
    }

    /// Waits until so many sends wait for a get.
    pub fn sends_waiting(&mut self, conn: ConnId, count: usize) {
        self.until("the sends wait", |world| {
            world.backend.counts(conn).waiting == count
        });
    }

    /// Waits until so many sends wait for a reply.
    pub fn replies_awaited(&mut self, conn: ConnId, count: usize) {
        self.until("the replies are awaited", |world| {
            world.backend.counts(conn).outstanding == count
        });
    }

    /// What is known of a connection.
    pub fn counts(&mut self, conn: ConnId) -> Counts {
        self.backend.counts(conn)
    }

    /// A get that takes a message.
    pub fn get(&mut self, client: ClientId, size: u32) -> Got {
        let op = self.backend.get(client, size);
        self.got(op)
    }

    /// The message that a get has taken.
    pub fn got(&mut self, op: Op) -> Got {
        match self.done(op) {
            Done::Got(got) => got,
            other => panic!("a get ended as {other:?}"),
        }
    }

    /// The HRESULT of a get that fails, and bytes needed.
    pub fn get_failed(&mut self, op: Op) -> (u32, u32) {
        match self.done(op) {
            Done::GetFailed(result, needed) => (result, needed),
            other => panic!("a get ended as {other:?}"),
        }
    }

    /// The end of a send.
    pub fn sent(&mut self, op: Op) -> Sent {
        match self.done(op) {
            Done::Sent(sent) => sent,
            other => panic!("a send ended as {other:?}"),
        }
    }

    /// The status of a send.
    pub fn status(&mut self, op: Op) -> NtStatus {
        NtStatus(self.sent(op).status)
    }

    /// Sends without a reply; nothing is awaited.
    pub fn send(&mut self, conn: ConnId, payload: &[u8], timeout: Timeout) -> Op {
        self.backend.send(conn, payload, None, timeout)
    }

    /// Sends and wants a reply of at most `capacity` bytes; nothing is awaited.
    pub fn ask(&mut self, conn: ConnId, payload: &[u8], capacity: u32, timeout: Timeout) -> Op {
        self.backend.send(conn, payload, Some(capacity), timeout)
    }

    /// Replies; the HRESULT.
    pub fn reply(
        &mut self,
        client: ClientId,
        message: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> u32 {
        let op = self.backend.reply(client, message, status, payload);
        self.replied(op)
    }

    /// The HRESULT of a reply that was started.
    pub fn replied(&mut self, op: Op) -> u32 {
        match self.done(op) {
            Done::Replied(result) => result,
            other => panic!("a reply ended as {other:?}"),
        }
    }

    /// Sends a request; HRESULT and output.
    pub fn request(&mut self, client: ClientId, input: &[u8], capacity: u32) -> (u32, Vec<u8>) {
        let op = self.backend.request(client, input, capacity);
        self.response(op)
    }

    /// HRESULT and output of a request that was started.
    pub fn response(&mut self, op: Op) -> (u32, Vec<u8>) {
        match self.done(op) {
            Done::Response(result, output) => (result, output),
            other => panic!("a request ended as {other:?}"),
        }
    }

    /// Closes a client's handle and waits until that has returned.
    pub fn close(&mut self, client: ClientId) {
        let op = self.backend.close(client);
        assert_eq!(self.done(op), Done::Closed);
    }

    /// Unregisters a filter and waits until that has returned.
    pub fn unregister(&mut self, filter: u32) {
        let op = self.backend.unregister(filter);
        assert_eq!(self.done(op), Done::Unregistered);
    }

    /// How often connect callbacks have begun.
    pub fn connects(&mut self) -> usize {
        self.count(|event| matches!(event, Event::Connect { .. }))
    }

    /// How often disconnect callbacks have begun.
    pub fn disconnects(&mut self) -> usize {
        self.count(|event| matches!(event, Event::Disconnect { .. }))
    }

    /// How often message callbacks have begun.
    pub fn messages(&mut self) -> usize {
        self.count(|event| matches!(event, Event::Message { .. }))
    }

    /// Events of a kind.
    pub fn count(&mut self, of: impl Fn(&Event) -> bool) -> usize {
        self.backend
            .events()
            .iter()
            .filter(|event| of(event))
            .count()
    }

    /// Waits until so many disconnect callbacks have begun, and no more.
    pub fn disconnected(&mut self, count: usize) {
        self.until("the disconnect callbacks ran", |world| {
            world.disconnects() >= count
        });
        assert_eq!(self.disconnects(), count);
    }

    /// The newest message callback that runs or ran.
    pub fn message_call(&mut self) -> CallId {
        self.event("a message callback", |event| match event {
            Event::Message { call, .. } => Some(*call),
            _ => None,
        })
    }

    /// A disconnect callback that runs or ran.
    pub fn disconnect_call(&mut self) -> CallId {
        self.event("a disconnect callback", |event| match event {
            Event::Disconnect { call, .. } => Some(*call),
            _ => None,
        })
    }

    /// Whether a callback has returned.
    pub fn has_returned(&mut self, call: CallId) -> bool {
        self.backend.events().contains(&Event::Returned { call })
    }

    /// Asserts that since `start` no more than `most` has passed, and this backend's tolerance.
    pub fn within(&mut self, start: Duration, most: Duration) {
        let took = self.backend.now().saturating_sub(start);
        let most = most + self.backend.tolerance();
        assert!(took <= most, "took {took:?}, expected at most {most:?}");
    }

    /// The process of a client dies. Where clients have none, its end of the connection goes away as it would then.
    pub fn dies(&mut self, who: Who, client: ClientId, how: Death) {
        if self.can(Need::Processes) {
            return match how {
                Death::Kill => self.backend.kill(who),
                Death::Exit => self.backend.exit(who),
                Death::Exec => self.backend.exec(who),
            };
        }
        let op = self.backend.hang_up(client);
        self.done(op);
    }

    /// Forgets what has happened so far and connections that are over: counts begin again.
    pub fn forget(&mut self) {
        self.backend.forget();
        self.seen.clear();
    }

    /// Closes the port and unregisters the filter of the fixture: after this no callback will run.
    pub fn unload(&mut self, port: PortId) {
        self.backend.close_port(port);
        self.unregister(0);
    }

    /// Asserts that since `start` at least `least` has passed, and no more than this backend's tolerance beyond.
    pub fn took(&mut self, start: Duration, least: Duration) {
        let took = self.backend.now().saturating_sub(start);
        let most = least + self.backend.tolerance();
        assert!(
            took >= least && took <= most,
            "took {took:?}, expected {least:?} to {most:?}"
        );
    }

    /// How many of `full` rounds are told here: a tenth where each call goes through another process, all elsewhere. Races
    /// across processes have tests of their own, with all their rounds.
    #[must_use]
    pub fn rounds(&self, full: u64) -> u64 {
        if self.can(Need::Processes) {
            full.div_ceil(10)
        } else {
            full
        }
    }

    /// How long a load of `full` is told here: a tenth where time is real, for the soak program keeps one up for as long
    /// as it is told to; all of it in virtual time.
    #[must_use]
    pub fn lasts(&self, full: Duration) -> Duration {
        if self.backend.tolerance() > ms(1) {
            full / 10
        } else {
            full
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.backend.now() + time;
        while self.backend.now() < end {
            self.backend.step();
        }
    }

    /// Says what a callback of a port does from now on.
    pub fn script(&mut self, port: PortId, callback: Callback, script: Script) {
        self.backend.script(port, callback, script);
    }

    /// The connection is gone for its client: every call fails with DISC.
    pub fn assert_dead(&mut self, client: ClientId) {
        let op = self.backend.get(client, 64);
        assert_eq!(self.get_failed(op).0, hresult(NtStatus::PORT_DISCONNECTED));
    }

    /// The connection works: a question with its answer, and a request echoed.
    pub fn assert_alive(&mut self, ends: Ends) {
        let ask = self.ask(ends.conn, b"alive?", 3, Timeout::After(LIMIT));
        let got = self.get(ends.client, 64);
        assert_eq!(got.payload, b"alive?");
        assert_eq!(
            self.reply(ends.client, got.message_id, NtStatus::SUCCESS, b"yes"),
            0
        );
        assert_eq!(self.sent(ask).reply.as_deref(), Some(&b"yes"[..]));
    }
}

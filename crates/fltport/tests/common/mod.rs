//! What the tests of both ends share: hosts whose callbacks are counted, waiting for conditions, processes of one's own.
#![allow(dead_code)] // each test binary uses its part of this

pub(crate) mod child;
pub(crate) mod deadly;
pub(crate) mod gate;
pub(crate) mod host_program;
pub(crate) mod look;
pub(crate) mod memory_layout;
pub(crate) mod memory_map;
pub(crate) mod memory_raw;
pub(crate) mod peer_rights;
pub(crate) mod random;
pub(crate) mod raw;
pub(crate) mod stage;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use fltport::{
    Access, Builder, Caller, Client, ClientPort, ConnectError, Connector, NtStatus, Peer,
    PortHandler, Refusal, ServerPort, Timeout,
};

/// How long a condition may take to come true on a loaded machine. Nothing that works takes anything like it.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// A deadline that only a hang reaches.
pub(crate) const LONG: Timeout = Timeout::After(LIMIT);

/// The name of the port of every test; each test has a directory of its own.
pub(crate) const NAME: &str = r"\Test";

/// Waits until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends the process if the test is not over in time: a hang is a failure with a name.
pub(crate) struct Watchdog {
    _alive: mpsc::Sender<()>,
}

pub(crate) fn watchdog(test: &'static str) -> Watchdog {
    watchdog_of(test, 2 * LIMIT)
}

/// As [`watchdog`], for a test that has more to do.
pub(crate) fn watchdog_of(test: &'static str, most: Duration) -> Watchdog {
    let (alive, over) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if over.recv_timeout(most) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Past the harness, which keeps what a test prints until the test is over.
            rustix::io::write(
                rustix::stdio::stderr(),
                format!("{test} hangs\n").as_bytes(),
            )
            .ok();
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}

/// What the callbacks of a host have seen.
#[derive(Default)]
pub(crate) struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    connects: usize,
    disconnects: usize,
    events: Vec<String>,
    ports: Vec<(Vec<u8>, ClientPort)>,
}

impl Log {
    fn change(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepted connections so far.
    pub(crate) fn connects(&self) -> usize {
        self.state().connects
    }

    /// Disconnect callbacks so far.
    pub(crate) fn disconnects(&self) -> usize {
        self.state().disconnects
    }

    pub(crate) fn note(&self, event: impl Into<String>) {
        self.change(|state| state.events.push(event.into()));
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.state().events.clone()
    }

    /// The filter's end of the next connection without context that nobody has taken yet.
    pub(crate) fn next_port(&self) -> ClientPort {
        self.port_of(b"")
    }

    /// As [`Self::next_port`], of one that was made with this context.
    pub(crate) fn port_of(&self, context: &[u8]) -> ClientPort {
        let mut state = self.state();
        let end = Instant::now() + LIMIT;
        loop {
            let index = state.ports.iter().position(|(of, _)| of == context);
            if let Some(index) = index {
                return state.ports.remove(index).1;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nobody connects");
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

type OnConnect = dyn Fn(&ClientPort, &[u8]) -> Result<(), NtStatus> + Send + Sync;
type OnMessage = dyn Fn(&Cookie, Caller, &[u8], &mut [u8]) -> Result<usize, Refusal> + Send + Sync;
type OnDisconnect = dyn Fn(&Cookie) + Send + Sync;

/// A host's three callbacks. Unless said otherwise they accept, echo, and do nothing; all is counted.
pub(crate) struct Handler {
    pub(crate) log: Arc<Log>,
    pub(crate) on_connect: Box<OnConnect>,
    pub(crate) on_message: Box<OnMessage>,
    pub(crate) on_disconnect: Box<OnDisconnect>,
}

/// The connection cookie.
pub(crate) struct Cookie {
    pub(crate) port: ClientPort,
    pub(crate) context: Vec<u8>,
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            log: Arc::default(),
            on_connect: Box::new(|_, _| Ok(())),
            on_message: Box::new(|_, _, input, output| {
                let length = input.len().min(output.len());
                output[..length].copy_from_slice(&input[..length]);
                Ok(length)
            }),
            on_disconnect: Box::new(|_| ()),
        }
    }
}

impl Handler {
    /// Message callbacks that wait at `gate` and answer nothing; they and the disconnect callback are noted.
    pub(crate) fn gated(gate: &gate::Gate) -> Self {
        let gate = gate.clone();
        let handler = Self::default();
        let (messages, disconnects) = (Arc::clone(&handler.log), Arc::clone(&handler.log));
        Self {
            on_message: Box::new(move |_, _, _, _| {
                gate.pass();
                messages.note("message over");
                Ok(0)
            }),
            on_disconnect: Box::new(move |_| disconnects.note("disconnect")),
            ..handler
        }
    }
}

impl PortHandler for Handler {
    type Connection = Cookie;

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<Cookie, NtStatus> {
        (self.on_connect)(&port, context)?;
        let cookie = Cookie {
            port: port.clone(),
            context: context.to_vec(),
        };
        self.log.change(|state| {
            state.connects += 1;
            state.ports.push((context.to_vec(), port));
        });
        Ok(cookie)
    }

    fn message(
        &self,
        cookie: &Cookie,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        (self.on_message)(cookie, caller, input, output)
    }

    fn disconnect(&self, cookie: Cookie, _: &Peer) {
        (self.on_disconnect)(&cookie);
        self.log.change(|state| state.disconnects += 1);
    }
}

/// A host on a real socket.
pub(crate) struct Host {
    pub(crate) port: ServerPort,
    pub(crate) log: Arc<Log>,
    pub(crate) directory: tempfile::TempDir,
}

impl Host {
    /// A host with the ordinary callbacks and room for 64 connections.
    pub(crate) fn new() -> Self {
        Self::with(Handler::default(), |builder| builder)
    }

    pub(crate) fn with(handler: Handler, build: impl FnOnce(Builder) -> Builder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::clone(&handler.log);
        let port = build(builder(directory.path(), NAME))
            .listen(handler)
            .unwrap();
        Self {
            port,
            log,
            directory,
        }
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::new().directory(self.directory.path())
    }

    pub(crate) fn connect(&self) -> Client {
        self.connector().connect(NAME, b"").unwrap()
    }

    /// Connects once there is room: a slot is free only after the disconnect callback has returned, and callbacks are
    /// counted when they run.
    pub(crate) fn connect_when_free(&self, context: &[u8]) -> Client {
        loop {
            match self.connector().connect(NAME, context) {
                Err(ConnectError::Refused(NtStatus::CONNECTION_COUNT_LIMIT)) => {
                    std::thread::yield_now();
                }
                other => return other.unwrap(),
            }
        }
    }

    /// One question and one request of a well-behaved client work.
    pub(crate) fn assert_well(&self) {
        let client = self.connect_when_free(b"well");
        let filter = self.log.port_of(b"well");
        round_trip(&filter, &client);
    }

    /// Ends the host; every accepted connection has had its disconnect callback by then, once.
    pub(crate) fn shutdown(self) {
        self.port.shutdown();
        assert_eq!(self.log.connects(), self.log.disconnects());
    }
}

pub(crate) fn builder(directory: &Path, name: &str) -> Builder {
    ServerPort::builder(name)
        .directory(directory)
        .access(Access::everyone())
        .max_connections(64)
        .shared_memory(true)
}

/// A question with its answer, then a request with its response.
pub(crate) fn round_trip(filter: &ClientPort, client: &Client) {
    std::thread::scope(|scope| {
        scope.spawn(|| client.next_message().unwrap().reply(b"answer").unwrap());
        assert_eq!(filter.ask(b"question", 16, LONG).unwrap().bytes, b"answer");
    });
    assert_eq!(client.send(b"request", 16).unwrap(), b"request");
}

/// Both ends of one connection.
pub(crate) struct Ends {
    pub(crate) port: ServerPort,
    pub(crate) log: Arc<Log>,
    pub(crate) filter: ClientPort,
    pub(crate) client: Client,
}

/// Runs a test over a socket with memory, over one without, then in one process.
pub(crate) fn each_way(
    handler: impl Fn() -> Handler,
    build: impl Fn(Builder) -> Builder,
    test: impl Fn(&Ends),
) {
    each_way_owned(handler, build, |ends| test(&ends));
}

/// As [`each_way`], for a test that takes the ends apart.
fn each_way_owned(
    handler: impl Fn() -> Handler,
    build: impl Fn(Builder) -> Builder,
    test: impl Fn(Ends),
) {
    for memory in [true, false] {
        let host = Host::with(handler(), |builder| build(builder.shared_memory(memory)));
        let client = host.connect();
        let filter = host.log.next_port();
        let Host {
            port,
            log,
            directory,
        } = host;
        test(Ends {
            port,
            log,
            filter,
            client,
        });
        drop(directory);
    }

    let handler = handler();
    let log = Arc::clone(&handler.log);
    let port = build(ServerPort::unnamed().max_connections(64))
        .listen(handler)
        .unwrap();
    let client = port.connect_in_memory(b"").unwrap();
    let filter = log.next_port();
    test(Ends {
        port,
        log,
        filter,
        client,
    });
}

/// [`each_way`] with the ordinary callbacks.
pub(crate) fn both_ways(test: impl Fn(&Ends)) {
    each_way(Handler::default, |builder| builder, test);
}

/// [`both_ways`] for a test that takes the ends apart.
pub(crate) fn both_ways_owned(test: impl Fn(Ends)) {
    each_way_owned(Handler::default, |builder| builder, test);
}

/// Open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of this process.
pub(crate) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

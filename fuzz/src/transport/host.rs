//! The host that all inputs of a process meet, its filter, and the client that behaves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fltport::{
    Access, Caller, Client, ClientPort, ConnectError, Connector, NtStatus, Peer, PortHandler,
    Refusal, Reply, SendError, ServerPort, Timeout, limits,
};
use tempfile::TempDir;

/// How long a condition may take to come true on a loaded machine. Nothing that works takes anything like it.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How long a greeting may take.
const GREETING: Duration = Duration::from_millis(limits::HANDSHAKE_MILLIS);

/// Inputs between two connects of a well-behaved client.
const FRESH: u64 = 32;

/// Threads that a host of this kind may have: callbacks, timer, transport, and the fuzzer's own.
const MOST_THREADS: usize = 110;

/// Bytes that an answer may have.
const CAPACITY: u32 = 16;

static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A number that no reply had before. Both halves say it, so that no altered byte makes another of them.
pub(super) fn next_serial() -> u64 {
    let serial = u64::from(SERIAL.fetch_add(1, Ordering::Relaxed));
    serial << 32 | serial
}

#[derive(Default)]
struct Log {
    connects: AtomicUsize,
    disconnects: AtomicUsize,
    asked: AtomicUsize,
    ended: AtomicUsize,
    /// The filter's ends of the liar's connections.
    ports: Mutex<Vec<ClientPort>>,
    /// The filter's end of the last connection of the client that behaves.
    well: Mutex<Option<ClientPort>>,
    /// Numbers of replies that senders got.
    answers: Mutex<BTreeSet<u64>>,
}

/// What the well-behaved client says when it connects.
const WELL: &[u8] = b"a client that behaves, with a context longer than any that an input makes up";

struct Handler(Arc<Log>);

impl PortHandler for Handler {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<(), NtStatus> {
        // A liar is refused now and then.
        if context.len() == 13 {
            return Err(NtStatus::ACCESS_DENIED);
        }
        self.0.connects.fetch_add(1, Ordering::SeqCst);
        if context == WELL {
            *lock(&self.0.well) = Some(port);
        } else {
            lock(&self.0.ports).push(port);
        }
        Ok(())
    }

    fn disconnect(&self, (): (), _: &Peer) {
        self.0.disconnects.fetch_add(1, Ordering::SeqCst);
    }

    fn message(
        &self,
        (): &(),
        _: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        let length = input.len().min(output.len());
        output[..length].copy_from_slice(&input[..length]);
        Ok(length)
    }
}

pub(super) struct Host {
    log: Arc<Log>,
    port: ServerPort,
    directory: TempDir,
    client: Arc<Client>,
    /// The filter's end of the well-behaved client.
    filter: ClientPort,
    inputs: u64,
    descriptors: usize,
}

impl Host {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::default());
        let port = ServerPort::builder(r"\Fuzz")
            .directory(directory.path())
            .access(Access::everyone())
            .max_connections(6)
            .listen(Handler(Arc::clone(&log)))
            .unwrap();
        let client = Arc::new(connect(directory.path()));
        let filter = lock(&log.well).take().expect("the connect callback ran");
        let service = Arc::clone(&client);
        std::thread::spawn(move || {
            while let Ok(message) = service.next_message() {
                message.reply(b"answer").ok();
            }
        });
        let mut host = Self {
            log,
            port,
            directory,
            client,
            filter,
            inputs: 0,
            descriptors: usize::MAX,
        };
        // What is made at first use is made before the descriptors are counted.
        host.assert_well();
        drop(connect(host.directory()));
        host.assert_clean();
        host.descriptors = descriptors().len();
        host.inputs = 0;
        host
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The filter asks one of the liar's connections.
    pub(super) fn ask(&self, of: usize, size: usize, timeout: Timeout) {
        let Some(port) = self.liar(of) else {
            return;
        };
        self.log.asked.fetch_add(1, Ordering::SeqCst);
        let log = Arc::clone(&self.log);
        port.ask_then(&vec![3; size], CAPACITY, timeout, move |result| {
            if let Ok(reply) | Err(SendError::ReplyTooLong(reply)) = &result {
                lock(&log.answers).extend(serial_of(reply));
            }
            log.ended.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// The filter closes its end of one of the liar's connections.
    pub(super) fn shut(&self, of: usize) {
        self.liar(of).iter().for_each(ClientPort::close);
    }

    fn liar(&self, of: usize) -> Option<ClientPort> {
        let ports = lock(&self.log.ports);
        ports.iter().cycle().nth(of % ports.len().max(1)).cloned()
    }

    /// The client that behaves is served: a question, a request, now and then a new connection.
    pub(super) fn assert_well(&mut self) {
        let answer = self
            .filter
            .ask(b"question", CAPACITY, Timeout::After(LIMIT));
        assert_eq!(answer.expect("an answer").bytes, b"answer");
        assert_eq!(
            self.client.send(b"request", CAPACITY).expect("a response"),
            b"request"
        );
        if self.inputs.is_multiple_of(FRESH) {
            let fresh = connect(self.directory());
            assert_eq!(
                fresh.send(b"request", CAPACITY).expect("a response"),
                b"request"
            );
            *lock(&self.log.well) = None;
            assert!(
                entries("/proc/self/task") <= MOST_THREADS,
                "threads are left over"
            );
        }
        self.inputs += 1;
    }

    /// The liar's connections are over, with all that was asked of them, and nothing of them is left. All at once: a peer
    /// that greets and hangs up is met by a connect callback whenever its turn comes.
    pub(super) fn assert_clean(&self) {
        let end = Instant::now() + LIMIT;
        loop {
            let left = self.left_over();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "left over: {left:#?}");
            std::thread::yield_now();
        }
        lock(&self.log.ports).clear();
    }

    fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        // In this order: what comes later in a connection's life is counted first.
        let disconnects = self.log.disconnects.load(Ordering::SeqCst);
        let connects = self.log.connects.load(Ordering::SeqCst);
        assert!(disconnects < connects, "a disconnect callback too many");
        if connects != disconnects + 1 {
            left.push(format!("{connects} connects, {disconnects} disconnects"));
        }
        let ended = self.log.ended.load(Ordering::SeqCst);
        let asked = self.log.asked.load(Ordering::SeqCst);
        if asked != ended {
            left.push(format!("{asked} questions asked, {ended} ended"));
        }
        let live = self.port.connections().len();
        if live != 1 {
            left.push(format!("{live} connections"));
        }
        let open = descriptors();
        if open.len() > self.descriptors {
            left.push(format!("descriptors {open:?}"));
        }
        left
    }

    /// The numbers of the replies that senders got since the last call.
    pub(super) fn take_answers(&self) -> BTreeSet<u64> {
        std::mem::take(&mut lock(&self.log.answers))
    }
}

/// Connects once there is room: those who hang up are over a moment later. Who is kept from running for longer than a
/// greeting may take is hung up on, and tries again.
fn connect(directory: &Path) -> Client {
    let end = Instant::now() + LIMIT;
    loop {
        let start = Instant::now();
        match Connector::new()
            .directory(directory)
            .connect(r"\Fuzz", WELL)
        {
            Err(ConnectError::Refused(
                NtStatus::CONNECTION_COUNT_LIMIT | NtStatus::INSUFFICIENT_RESOURCES,
            )) if Instant::now() < end => std::thread::yield_now(),
            Err(ConnectError::Disconnected) if start.elapsed() >= GREETING => {}
            other => return other.expect("room for a client that behaves"),
        }
    }
}

fn serial_of(reply: &Reply) -> Option<u64> {
    let bytes = reply.bytes.get(..8)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes))
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// What each descriptor of this process is. Pipes are no port's: sanitizers talk to their helpers through them.
fn descriptors() -> Vec<PathBuf> {
    let folder = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| !link.starts_with("/dev") && !link.to_string_lossy().starts_with("pipe:"))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

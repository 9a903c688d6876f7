//! The other side of the tests: a filter host with one port, and files to ask about.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fltport::protocol::file::{Answer, FileProtocol, Operation, Question, Verdict};
use fltport::protocol::{AskError, TypedPort};
use fltport::{ClientPort, NtStatus, Peer, PortHandler, ServerPort, Timeout};

/// A port that hands each connection to the test, and takes note of its end.
pub(crate) struct Host {
    pub(crate) port: ServerPort,
    connections: mpsc::Receiver<ClientPort>,
    ends: mpsc::Receiver<()>,
}

struct Handler {
    connected: mpsc::Sender<ClientPort>,
    ended: mpsc::Sender<()>,
}

impl PortHandler for Handler {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<(), NtStatus> {
        assert_eq!(context, b"");
        self.connected
            .send(port)
            .map_err(|_| NtStatus::UNSUCCESSFUL)
    }

    fn disconnect(&self, (): (), _: &Peer) {
        self.ended.send(()).ok();
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::listen(ServerPort::unnamed())
    }

    pub(crate) fn listen(builder: fltport::Builder) -> Self {
        let (connected, connections) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let port = builder.listen(Handler { connected, ended }).unwrap();
        Self {
            port,
            connections,
            ends,
        }
    }

    /// Waits until a service has connected.
    pub(crate) fn service(&self) -> TypedPort<FileProtocol> {
        TypedPort::new(self.connections.recv_timeout(PATIENCE).unwrap())
    }

    /// Waits until a service is gone.
    pub(crate) fn end(&self) {
        self.ends.recv_timeout(PATIENCE).unwrap();
    }
}

/// An answer that is on its way.
pub(crate) struct Asked(mpsc::Receiver<Result<Answer, AskError>>);

impl Asked {
    pub(crate) fn answer(self) -> Result<(Verdict, String), AskError> {
        let answer = self.0.recv_timeout(PATIENCE).unwrap()?;
        Ok((answer.verdict().unwrap(), answer.reason()))
    }
}

/// Starts to ask about a file.
///
/// Without a time it waits for ever.
pub(crate) fn ask(
    service: &TypedPort<FileProtocol>,
    file: Option<File>,
    wait: Option<Duration>,
) -> Asked {
    let question = Question {
        id: 1,
        operation: Operation::Open as u32,
        pid: std::process::id(),
        device: 0,
        inode: 0,
        size: 0,
        deadline: wait.map_or(u64::MAX, Question::deadline_in),
        path: 1,
        reserved: 0,
    };
    let wait = wait.map_or(Timeout::Never, Timeout::after);
    let file = file.map(|file| Arc::new(file.into()));
    let (sender, receiver) = mpsc::channel();
    let told = move |answer| {
        sender.send(answer).ok();
    };
    service.ask_then(&question, file, wait, told);
    Asked(receiver)
}

/// Asks about a file of this content, and is patient.
pub(crate) fn judge(service: &TypedPort<FileProtocol>, content: &[u8]) -> (Verdict, String) {
    let asked = ask(service, Some(file_with(content)), patient());
    asked.answer().unwrap()
}

/// Waits until both threads of a service are done with what they were asked and want more.
///
/// A service hears that its answer was heard only after the asker has it.
pub(crate) fn settle(service: &TypedPort<FileProtocol>) {
    let started = Instant::now();
    while service.port().info().gets < 2 {
        assert!(started.elapsed() < PATIENCE, "{:?}", service.port().info());
        thread::sleep(Duration::from_millis(1));
    }
}

/// The asker's end of [`PATIENCE`].
pub(crate) const fn patient() -> Option<Duration> {
    Some(PATIENCE)
}

/// A file as a host attaches it: regular, open for reading only.
pub(crate) fn file_with(content: &[u8]) -> File {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    File::open(file.path()).unwrap()
}

/// How long a test waits for what has to come, on a machine that is busy with builds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

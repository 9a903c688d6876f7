//! Both processes of a race: the host with its counted callbacks, the client process, and how they meet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use fltport::{
    Access, Client, ClientPort, ConnectError, Connector, NtStatus, Peer, PortHandler, ServerPort,
};

use crate::common::child::{Process, role, wait_for_the_end};
use crate::common::random::{self, Random};
use crate::common::{LIMIT, NAME, watchdog_of};
use crate::ledger::{Deed, Deeds};

/// The host's part of a race.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) rounds: usize,
    name: &'static str,
}

/// The client's part, in its own process.
pub(crate) struct Part {
    pub(crate) directory: PathBuf,
    pub(crate) rounds: usize,
    /// Which of the client processes this is.
    pub(crate) index: usize,
    pub(crate) deeds: Deeds,
}

/// A port whose accepted connections are handed on.
pub(crate) struct Host {
    port: ServerPort,
    tally: Arc<Tally>,
    arrivals: Mutex<mpsc::Receiver<(usize, ClientPort)>>,
}

#[derive(Default)]
struct Tally {
    connects: AtomicUsize,
    disconnects: AtomicUsize,
}

struct Handler {
    tally: Arc<Tally>,
    arrivals: mpsc::Sender<(usize, ClientPort)>,
}

impl PortHandler for Handler {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<(), NtStatus> {
        self.tally.connects.fetch_add(1, Ordering::SeqCst);
        // Nobody takes it when the test has failed.
        self.arrivals
            .send((crate::ledger::number(context), port))
            .ok();
        Ok(())
    }

    fn disconnect(&self, (): (), _: &Peer) {
        self.tally.disconnects.fetch_add(1, Ordering::SeqCst);
    }
}

/// Plays a race: `host` here, `client` in the processes that it starts.
pub(crate) fn play(name: &'static str, host: fn(&Scene), client: fn(&Part)) {
    let _watchdog = watchdog_of(name, 20 * LIMIT);
    if let Some((_, told)) = role() {
        // It must not outlive the host's process, whatever becomes of that.
        std::thread::spawn(|| {
            wait_for_the_end();
            std::process::abort();
        });
        let [directory, rounds, index] = told.as_slice() else {
            panic!("told {told:?}");
        };
        let part = Part {
            directory: directory.into(),
            rounds: rounds.parse().unwrap(),
            index: index.parse().unwrap(),
            deeds: Deeds::default(),
        };
        client(&part);
        return part.deeds.save(&deeds_path(&part.directory, part.index));
    }
    let rounds = std::env::var("FLTPORT_RACE_ROUNDS");
    let rounds = rounds.map_or(10_000, |rounds| rounds.parse().unwrap());
    println!("FLTPORT_RACE_ROUNDS={rounds}");
    random::seed();
    let scene = Scene {
        directory: tempfile::tempdir().unwrap(),
        rounds,
        name,
    };
    host(&scene);
}

fn deeds_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("deeds-{index}"))
}

impl Scene {
    /// A port with room for this many connections.
    pub(crate) fn host(&self, most: u32) -> Host {
        let tally = Arc::new(Tally::default());
        let (sender, arrivals) = mpsc::channel();
        let handler = Handler {
            tally: Arc::clone(&tally),
            arrivals: sender,
        };
        let port = ServerPort::builder(NAME)
            .shared_memory(true)
            .directory(self.directory.path())
            .access(Access::everyone())
            .max_connections(most)
            .listen(handler);
        Host {
            port: port.unwrap(),
            tally,
            arrivals: Mutex::new(arrivals),
        }
    }

    pub(crate) fn start(&self, index: usize) -> Process {
        let directory = self.directory.path().to_str().unwrap();
        let (rounds, index) = (self.rounds.to_string(), index.to_string());
        let told = [directory, &rounds, &index];
        Process::start(self.name, "client", &told, |command| {
            command.env(random::VARIABLE, random::seed().to_string());
        })
        .unwrap()
    }

    /// What a client process did. It is over.
    pub(crate) fn deeds(&self, mut process: Process, index: usize) -> Vec<(usize, Deed)> {
        assert!(process.wait().success(), "the client's process failed");
        Deeds::load(&deeds_path(self.directory.path(), index))
    }
}

impl Part {
    pub(crate) fn connect(&self, number: usize) -> Client {
        self.try_connect(number).expect("closed while it connects")
    }

    /// Connects; `None` when the filter was faster to close the connection than its connect callback to return.
    pub(crate) fn try_connect(&self, number: usize) -> Option<Client> {
        let context = crate::ledger::message(number);
        match self.connector().connect(NAME, &context) {
            Err(ConnectError::Refused(NtStatus::PORT_DISCONNECTED)) => None,
            connected => Some(connected.unwrap()),
        }
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::new().directory(&self.directory)
    }

    /// The numbers that this lane of [`LANES`] connects with.
    pub(crate) fn lane(&self, lane: usize) -> impl Iterator<Item = usize> {
        (0..self.rounds).filter(move |number| number % LANES == lane)
    }
}

impl Host {
    /// The next connection: its number, and the filter's end.
    pub(crate) fn arrival(&self) -> (usize, ClientPort) {
        let arrivals = self.arrivals.lock();
        // Poisoned when another lane has failed, which is told there.
        let arrivals = arrivals.unwrap_or_else(PoisonError::into_inner);
        arrivals.recv_timeout(LIMIT).expect("nobody connects")
    }

    /// Those that have been accepted and not been taken.
    pub(crate) fn arrivals(&self) -> Vec<(usize, ClientPort)> {
        self.arrivals.lock().unwrap().try_iter().collect()
    }

    pub(crate) fn close(&self) {
        self.port.close();
    }

    /// Ends the port. Every accepted connection has had its disconnect callback by then, once.
    pub(crate) fn shutdown(self) -> usize {
        self.port.shutdown();
        let connects = self.tally.connects.load(Ordering::SeqCst);
        assert_eq!(connects, self.tally.disconnects.load(Ordering::SeqCst));
        connects
    }
}

/// Threads of each side that play rounds of their own, so that processes do not wait for each other.
pub(crate) const LANES: usize = 4;

/// The choices of one thread: a stretch of its own of this process's.
pub(crate) fn choices(thread: usize) -> Random {
    let mut random = Random::new();
    for _ in 0..thread * 20_000 {
        random.next();
    }
    random
}

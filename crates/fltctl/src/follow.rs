//! Following a host's events: connects to its port, reads, and connects again when the host's worker was restarted.
//!
//! The reader never waits for whoever looks at the events: it hands each over and reads on. It does not know what an
//! event means. Next rooms: `commands/guard.rs` and `commands/demo.rs`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fltport::{Client, ConnectError, Connector};

/// What the reader hands over.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// An event, as it came.
    Event(&'a [u8]),
    /// The port went away; what happens now is not seen.
    Away,
    /// The port is back.
    Back,
    /// The port has been away for long, for this reason.
    StillAway(&'a ConnectError),
}

/// A reader of events.
#[derive(Debug)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Set once the host is to end: a lost connection is no news then.
    ending: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Follower {
    /// Starts to read the events of `port`. It does not have to exist yet.
    pub(crate) fn start(
        directory: Option<PathBuf>,
        port: String,
        mut sink: impl FnMut(News<'_>) + Send + 'static,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let connector = Connector::new();
            let connector = match directory {
                Some(directory) => connector.directory(directory),
                None => connector,
            };
            let Some(mut client) = theirs.connect(&connector, &port, |_| ()) else {
                return;
            };
            loop {
                while let Ok(message) = client.next_message() {
                    sink(News::Event(message.payload()));
                }
                if theirs.is_ending() {
                    return;
                }
                sink(News::Away);
                let again = theirs.connect(&connector, &port, |error| sink(News::StillAway(error)));
                let Some(again) = again else { return };
                client = again;
                sink(News::Back);
            }
        });
        Self { shared, thread }
    }

    /// The host is about to end: what has come is still handed over, a lost connection ends the reader.
    pub(crate) fn expect_end(&self) {
        self.shared.ending.store(true, Ordering::Release); // pairs with `is_ending`
    }

    /// Waits at most `limit` for the reader to end.
    pub(crate) fn finish(self, limit: Duration) {
        self.expect_end();
        let end = Instant::now() + limit;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Why the last attempt to connect failed.
    pub(crate) fn last_error(&self) -> Option<String> {
        let last = self.shared.last_error.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) // pairs with `expect_end`
    }

    /// Tries until it succeeds; `None` once the host is to end.
    fn connect(
        &self,
        connector: &Connector,
        port: &str,
        mut still_away: impl FnMut(&ConnectError),
    ) -> Option<Client> {
        let mut patience = Some(Instant::now() + LONG);
        while !self.is_ending() {
            let error = match connector.connect(port, b"") {
                Ok(client) => {
                    self.note(None);
                    return Some(client);
                }
                Err(error) => error,
            };
            if patience.take_if(|end| Instant::now() > *end).is_some() {
                still_away(&error);
            }
            self.note(Some(error.to_string()));
            std::thread::sleep(PAUSE);
        }
        None
    }

    fn note(&self, error: Option<String>) {
        let mut last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = error;
    }
}

/// Between attempts: short, because what happens meanwhile is not seen.
const PAUSE: Duration = Duration::from_millis(30);

/// After this a restart is no ordinary one any more.
const LONG: Duration = Duration::from_secs(3);

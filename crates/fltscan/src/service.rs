//! The service: takes questions from a port, scans the file that comes with each, and answers before its asker gives up.
//!
//! For the loop around an [`Engine`] and the translation of a [`Finding`] into a [`Verdict`]. What the service cannot say
//! is [`Verdict::Unscannable`] and never silence, because silence is what the host calls a timeout, and it is the host
//! who decides what either means. Not for starting: where the socket and the rules come from is `main.rs`'s business.
//! Next room: `watchdog.rs`, which answers for a scan that takes too long.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use fltport::protocol::file::{Answer, Question, Verdict};
use fltport::protocol::read;
use fltport::{CallError, Client, ConnectError, Message, NtStatus, PacketsReason, Way};
use zerocopy::IntoBytes as _;

use crate::watchdog::Watchdog;
use crate::{Engine, Failure, Finding, Limits, Rules};

/// A scanner for the questions of one connection.
#[derive(Debug)]
pub struct Service<'r> {
    rules: &'r Rules,
    settings: Settings,
}

/// How a [`Service`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Files that are scanned at a time, each by a thread of its own. Default: one for each core, eight at most, because
    /// each may hold [`Limits::max_file`] bytes.
    pub threads: NonZeroUsize,
    /// What one scan may cost. A question whose asker waits for less time than [`Limits::time`] gets less.
    pub limits: Limits,
}

/// What a service did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Answers that reached their asker.
    pub answered: u64,
    /// Answers that found nobody, as far as is known: the asker had given up, had no room for an answer, or was gone
    /// before it could say that it was not.
    pub unheard: u64,
    /// Questions, counted above as well, that were answered while their scan still ran.
    pub cut_short: u64,
    /// Why the questions came as packets, if they did not come through memory.
    pub packets: Option<PacketsReason>,
}

/// Why a service could not start, or ended otherwise than by the end of its connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// YARA-X cannot set up its machine in this process.
    #[error("the scanner cannot run here: {0}")]
    Engine(#[from] Failure),
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection is up but gives no questions.
    #[error("cannot get questions: {0}")]
    Get(CallError),
    /// A thread of the service panicked; the panic hook has seen the details.
    #[error("a thread of the service panicked")]
    Panicked,
}

impl<'r> Service<'r> {
    /// A service that looks for what the rules say.
    #[must_use]
    pub const fn new(rules: &'r Rules, settings: Settings) -> Self {
        Self { rules, settings }
    }

    /// Gets everything ready, connects, and answers questions. Blocks until the connection is over and all threads of the
    /// service have ended, which takes as long as the scans that are still running.
    ///
    /// `connect` is called last, when all threads have their scanners: a service that is connected is ready.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; the end of the connection is none.
    pub fn run(
        &self,
        connect: impl FnOnce() -> Result<Client, ConnectError>,
    ) -> Result<Summary, ServiceError> {
        let watchdog = Watchdog::new();
        thread::scope(|scope| {
            let dog = named("fltscan-watchdog").spawn_scoped(scope, || {
                let mut summary = Summary::default();
                watchdog.run(|message| {
                    summary.cut_short += 1;
                    summary.reply(message, &unscannable(OVER));
                });
                summary
            });
            let dog = dog.map_err(ServiceError::Thread)?;
            let served = self.serve(scope, &watchdog, connect);
            watchdog.stop();
            let answered_late = dog.join().map_err(|_| ServiceError::Panicked)?;
            Ok(served?.and(answered_late))
        })
    }

    /// Starts the workers, connects when they are ready, and waits for their end.
    fn serve<'s, 'e>(
        &'e self,
        scope: &'s Scope<'s, 'e>,
        watchdog: &'e Watchdog<Message>,
        connect: impl FnOnce() -> Result<Client, ConnectError>,
    ) -> Result<Summary, ServiceError> {
        let (tell_ready, ready) = mpsc::channel();
        let mut workers = Vec::new();
        for number in 0..self.settings.threads.get() {
            let (start, client) = mpsc::channel();
            let tell_ready = tell_ready.clone();
            let worker = named(&format!("fltscan-{number}"));
            let worker =
                worker.spawn_scoped(scope, move || self.work(watchdog, &tell_ready, &client));
            workers.push((start, worker.map_err(ServiceError::Thread)?));
        }
        drop(tell_ready);
        // On any error from here on, the workers are not started and end by themselves.
        for _ in &workers {
            ready.recv().map_err(|_| ServiceError::Panicked)??;
        }
        let client = Arc::new(connect()?);
        let workers: Vec<Worker<'_>> = workers
            .into_iter()
            .map(|(start, worker)| {
                // A worker that is gone has left its end for `join` to tell.
                start.send(Arc::clone(&client)).ok();
                worker
            })
            .collect();
        drop(client);
        let ends: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
        ends.into_iter().try_fold(Summary::default(), |sum, end| {
            let end = end.map_err(|_| ServiceError::Panicked)?;
            end.map(|summary| sum.and(summary))
                .map_err(ServiceError::Get)
        })
    }

    /// The life of one worker.
    fn work(
        &self,
        watchdog: &Watchdog<Message>,
        tell_ready: &mpsc::Sender<Result<(), Failure>>,
        start: &mpsc::Receiver<Arc<Client>>,
    ) -> Result<Summary, CallError> {
        let mut summary = Summary::default();
        // Nobody listens any more once another worker has failed.
        let mut engine = match Engine::new(self.rules) {
            Ok(engine) => engine,
            Err(failure) => {
                tell_ready.send(Err(failure)).ok();
                return Ok(summary);
            }
        };
        tell_ready.send(Ok(())).ok();
        let Ok(client) = start.recv() else {
            return Ok(summary);
        };
        let end_for_all = EndForAll(client);
        loop {
            match end_for_all.0.next_message() {
                Ok(message) => self.answer(&mut engine, watchdog, message, &mut summary),
                Err(CallError::Disconnected) => {
                    if let Way::Packets(reason) = end_for_all.0.way() {
                        summary.packets = Some(reason);
                    }
                    return Ok(summary);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers one question, unless the watchdog was faster.
    fn answer(
        &self,
        engine: &mut Engine<'_>,
        watchdog: &Watchdog<Message>,
        mut message: Message,
        summary: &mut Summary,
    ) {
        if message.reply_capacity().is_none() {
            return;
        }
        let Ok(question) = read::<Question>(message.payload()) else {
            return summary.count(message.reply_with(NtStatus::INVALID_PARAMETER, &[]));
        };
        let Some(file) = message.take_attachment() else {
            return summary.reply(message, &unscannable("no file"));
        };
        // The question's own time: the message's is longer, for services that ask for more.
        let left = question.remaining().saturating_sub(MARGIN);
        let until = Instant::now().checked_add(left);
        let limits = Limits {
            time: self.settings.limits.time.min(left),
            ..self.settings.limits
        };
        let held = watchdog.hold(message, until);
        let finding = engine.scan(file.as_fd(), &limits);
        // Before the answer lets the asker go on: what we hold open would be in the way of an unmount or a lease.
        drop(file);
        if let Some(message) = held.take() {
            summary.reply(message, &self.verdict(&finding));
        }
    }
}

impl Service<'_> {
    fn verdict(&self, finding: &Finding) -> Answer {
        let of_content = |answer: Answer| {
            if self.rules.look_at_content_only() {
                answer.of_content_only()
            } else {
                answer
            }
        };
        match finding {
            Finding::Clean => of_content(Answer::new(Verdict::Allow, "")),
            Finding::Match { rules } => of_content(Answer::new(Verdict::Deny, &rules.join(", "))),
            Finding::TooLarge { size } => unscannable(&format!("too large: {size} bytes")),
            Finding::TimedOut => unscannable(OVER),
            Finding::Unreadable(reason) => unscannable(&reason.to_string()),
            Finding::Failed(failure) => unscannable(&failure.to_string()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            threads: cores.min(MOST_THREADS),
            limits: Limits::default(),
        }
    }
}

impl Summary {
    fn reply(&mut self, message: Message, answer: &Answer) {
        self.count(message.reply(answer.as_bytes()));
    }

    /// Whether anybody heard it is the asker's business: a reply is never a reason to end.
    fn count(&mut self, reply: Result<(), CallError>) {
        match reply {
            Ok(()) => self.answered += 1,
            Err(_) => self.unheard += 1,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            unheard: self.unheard + other.unheard,
            cut_short: self.cut_short + other.cut_short,
            packets: self.packets.or(other.packets),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            answered,
            unheard,
            cut_short,
            packets,
        } = self;
        write!(
            f,
            "{answered} answers heard, {unheard} unheard, {cut_short} given before the scan was done"
        )?;
        match packets {
            Some(reason) => write!(f, "; by packets, because {reason}"),
            None => Ok(()),
        }
    }
}

type Worker<'s> = ScopedJoinHandle<'s, Result<Summary, CallError>>;

/// When one worker ends, for whatever reason, the service ends: half a service would look healthy to its host.
struct EndForAll(Arc<Client>);

impl Drop for EndForAll {
    fn drop(&mut self) {
        self.0.hang_up();
    }
}

fn unscannable(reason: &str) -> Answer {
    Answer::new(Verdict::Unscannable, reason)
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

/// The reason of an answer that a time limit gave.
const OVER: &str = "scan limit reached";

/// How long before the asker gives up the answer is sent: enough for a busy machine to run the watchdog and the host.
const MARGIN: Duration = Duration::from_millis(50);

/// More threads have to be asked for.
const MOST_THREADS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

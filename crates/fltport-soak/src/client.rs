//! A client process: connects, gets, replies, asks, closes, over and over, until it is told to end, has had enough, or is
//! killed. What it does is written to its journal; what it finds broken, to its standard error.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fltport::{Client, ConnectError, Connector, NtStatus, limits};

use crate::bytes::{self, Salt};
use crate::getter;
use crate::host::NAME;
use crate::process;
use crate::random::Random;
use crate::record::{Event, Journal};
use crate::request::{Greeting, REFUSAL, WARNING, Wish};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) directory: PathBuf,
    #[arg(long)]
    pub(crate) journal: PathBuf,
    #[arg(long)]
    pub(crate) life: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    /// Mean microseconds between two requests
    #[arg(long)]
    pub(crate) gap: u64,
}

/// What the threads of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    over: AtomicBool,
    broken: AtomicBool,
}

impl Shared {
    pub(crate) fn broken(&self, what: &str) {
        eprintln!("{what}");
        self.broken.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// How long a descriptor may be there after its last user on a loaded machine.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// Lives one life. `false`: something was broken.
///
/// # Errors
/// When the journal or /proc cannot be used.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    let shared = Shared {
        journal: Journal::open(&args.journal)?,
        over: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    };
    let shared: &'static Shared = Box::leak(Box::new(shared));
    std::thread::spawn(|| {
        // Closed when this process is to end, or its host is gone.
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        shared.over.store(true, Ordering::SeqCst);
    });
    let before = process::descriptors()?;
    let mut random = Random::new(args.seed);
    let end = Instant::now() + random.millis(500, 12_000);
    let lanes = random.weighted(&[0, 60, 40]);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            let random = Random::new(random.next());
            scope.spawn(move || {
                Lane {
                    args,
                    shared,
                    end,
                    random,
                }
                .run()
            });
        }
    });
    // The thread that notices the end of hosts may be doing so, with a connection in its hands for a moment.
    let limit = Instant::now() + LAST_MOMENT;
    let mut after = process::descriptors()?;
    while after != before && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
        after = process::descriptors()?;
    }
    if after != before {
        shared.broken(&format!(
            "descriptors at first: {before:?}, at last: {after:?}"
        ));
    }
    Ok(!shared.broken.load(Ordering::SeqCst))
}

/// One connection after the other.
struct Lane<'a> {
    args: &'a Args,
    shared: &'static Shared,
    end: Instant,
    random: Random,
}

impl Lane<'_> {
    fn run(mut self) {
        while !self.shared.is_over() && Instant::now() < self.end {
            if let Some(client) = self.connect() {
                self.session(&client);
            } else {
                std::thread::sleep(self.random.millis(5, 100));
            }
        }
    }

    fn connect(&mut self) -> Option<Client> {
        let greeting = match self.random.weighted(&[870, 50, 30, 50]) {
            0 => Greeting::Plain,
            1 => Greeting::Refuse,
            2 => Greeting::CloseAtOnce,
            _ => Greeting::Slowly,
        };
        let connected = Connector::new()
            .directory(&self.args.directory)
            .connect(NAME, &greeting.context(self.args.life));
        let event = match &connected {
            Ok(_) if greeting == Greeting::Refuse => {
                self.shared.broken("a refused connect succeeded");
                Event::Connected
            }
            Ok(_) => Event::Connected,
            Err(ConnectError::Refused(NtStatus::CONNECTION_COUNT_LIMIT)) => Event::ConnectLimit,
            Err(ConnectError::Refused(REFUSAL)) if greeting == Greeting::Refuse => {
                Event::ConnectRefused
            }
            // The port is being closed or made, or the filter has closed this connection already.
            Err(ConnectError::NotFound { .. }) => Event::ConnectNoPort,
            Err(ConnectError::Refused(
                NtStatus::PORT_DISCONNECTED
                | NtStatus::FLT_DELETING_OBJECT
                | NtStatus::OBJECT_NAME_NOT_FOUND,
            )) => Event::ConnectLost,
            Err(ConnectError::Disconnected) => Event::ConnectLost,
            Err(other) => {
                self.shared.broken(&format!("a connect failed: {other:?}"));
                Event::ConnectLost
            }
        };
        self.shared.journal.note(event, 0, 0);
        connected.ok()
    }

    fn session(&mut self, client: &Client) {
        let end = self.end.min(Instant::now() + self.random.millis(50, 5_000));
        let getters = self.random.between(1, 5);
        let shared = self.shared;
        std::thread::scope(|scope| {
            for _ in 0..getters {
                let random = Random::new(self.random.next());
                scope.spawn(move || getter::run(client, shared, random));
            }
            if self.random.per_mille(150) {
                scope.spawn(move || getter::poll(client, shared));
            }
            let gap = Duration::from_micros(self.args.gap);
            while client.is_connected() && Instant::now() < end && !self.shared.is_over() {
                self.request(client);
                let wait = self.random.around(gap).min(Duration::from_millis(200));
                std::thread::sleep(wait);
            }
            if self.random.per_mille(500) {
                client.close();
                shared.journal.note(Event::Closed, 0, 0);
            } else {
                client.hang_up();
                shared.journal.note(Event::HungUp, 0, 0);
            }
        });
    }

    fn request(&mut self, client: &Client) {
        let number = self.random.next();
        let wish = Wish::ALL
            .get(self.random.weighted(&[700, 60, 80, 80, 3, 77]))
            .copied()
            .unwrap_or(Wish::Answer);
        let (mut length, capacity) = (self.length(), self.length());
        if self.random.per_mille(2) {
            length = limits::MESSAGE_DEFAULT as usize + 1;
        }
        let (number, wish) = if length < bytes::HEAD {
            (0, Wish::Answer)
        } else {
            (number, wish)
        };
        let input = bytes::with_head(Salt::Request, number, wish as u64, length);
        let room = u32::try_from(capacity).unwrap_or(0);
        let (status, answer) = client.send_raw(&input, room);
        let too_long = length > limits::MESSAGE_DEFAULT as usize;
        let (event, expected) = match status {
            NtStatus::SUCCESS => (Event::Answered, capacity),
            REFUSAL if wish == Wish::Refuse => (Event::Refused, 0),
            WARNING if wish == Wish::Warn => (Event::Warned, capacity / 2),
            NtStatus::PORT_DISCONNECTED => (Event::RequestGone, 0),
            NtStatus::INVALID_PARAMETER if too_long || length == 0 => (Event::RequestBadLength, 0),
            other => {
                self.shared
                    .broken(&format!("a request {wish:?} was answered {other}"));
                (Event::RequestGone, 0)
            }
        };
        if answer.len() != expected || !bytes::are(Salt::Answer, number, &answer) {
            self.shared.broken(&format!(
                "a request {wish:?} got {} bytes of {expected}, or wrong ones",
                answer.len()
            ));
        }
        self.shared.journal.note(event, number, answer.len());
    }

    fn length(&mut self) -> usize {
        let length = match self.random.weighted(&[30, 600, 300, 65, 5]) {
            0 => self.random.below(16),
            1 => self.random.between(16, 256),
            2 => self.random.between(256, 4_096),
            3 => self.random.between(4_096, 65_536),
            _ => self
                .random
                .between(65_536, u64::from(limits::MESSAGE_DEFAULT) + 1),
        };
        usize::try_from(length).unwrap_or(0)
    }
}

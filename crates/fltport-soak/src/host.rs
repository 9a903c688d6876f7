//! The filter: the three callbacks of the server port, and what has to hold whenever they run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fltport::{
    Access, Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal, ServerPort, Timeout,
};

use crate::bytes::{self, Said, Salt};
use crate::life::Life;
use crate::random::Random;
use crate::request::{Greeting, REFUSAL, WARNING, Wish};
use crate::sender;
use crate::soak::{Soak, Target};

/// The name of the port; it has a directory of its own.
pub(crate) const NAME: &str = r"\Soak";

/// Connections that one server port allows: fewer than the clients would like.
pub(crate) const LIMIT: u32 = 40;

/// A server port and what its callbacks have counted. A new one takes its name when it is closed.
pub(crate) struct Host {
    pub(crate) port: ServerPort,
    pub(crate) tally: Arc<Tally>,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    live: AtomicUsize,
    accepted: AtomicU64,
    ended: AtomicU64,
    over: AtomicBool,
}

struct Handler {
    soak: Arc<Soak>,
    tally: Arc<Tally>,
}

/// What a connection counts against the limit: until its disconnect callback has returned, or the filter closes it.
pub(crate) struct Slot {
    held: AtomicBool,
    soak: Arc<Soak>,
    tally: Arc<Tally>,
}

/// The connection cookie.
struct Cookie {
    port: ClientPort,
    slot: Arc<Slot>,
    number: u64,
    life: Option<Arc<Life>>,
}

impl Slot {
    fn take(handler: &Handler) -> Arc<Self> {
        let Handler { soak, tally } = handler;
        soak.live.fetch_add(1, Ordering::SeqCst);
        let live = tally.live.fetch_add(1, Ordering::SeqCst) + 1;
        if live > LIMIT as usize {
            soak.broken(format!("{live} live connections; {LIMIT} are allowed"));
        }
        Arc::new(Self {
            held: AtomicBool::new(true),
            soak: Arc::clone(soak),
            tally: Arc::clone(tally),
        })
    }

    /// Before whatever frees it.
    pub(crate) fn leave(&self) {
        if self.held.swap(false, Ordering::SeqCst) {
            self.tally.live.fetch_sub(1, Ordering::SeqCst);
            self.soak.live.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.fmt(f)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tally.fmt(f)
    }
}

impl Host {
    pub(crate) fn new(soak: &Arc<Soak>) -> anyhow::Result<Self> {
        let tally = Arc::new(Tally::default());
        let handler = Handler {
            soak: Arc::clone(soak),
            tally: Arc::clone(&tally),
        };
        let port = ServerPort::builder(NAME)
            .directory(&soak.directory)
            .access(Access::everyone())
            .max_connections(LIMIT)
            .listen(handler)?;
        soak.count("filter: made the port");
        Ok(Self { port, tally })
    }

    /// Ends the port. Afterwards every accepted connection has had its disconnect callback, and no callback runs.
    pub(crate) fn shutdown(self, soak: &Soak) {
        self.port.shutdown();
        self.tally.over.store(true, Ordering::SeqCst);
        soak.count("filter: shut the port down");
        let (accepted, ended, live) = self.tally.read();
        if accepted != ended || live != 0 {
            soak.broken(format!(
                "a port was shut down with {accepted} connects, {ended} disconnects, {live} live"
            ));
        }
    }
}

impl Tally {
    /// Accepted connections, disconnect callbacks, live connections.
    pub(crate) fn read(&self) -> (u64, u64, usize) {
        (
            self.accepted.load(Ordering::SeqCst),
            self.ended.load(Ordering::SeqCst),
            self.live.load(Ordering::SeqCst),
        )
    }
}

impl Handler {
    fn assert_running(&self, what: &str) {
        if self.tally.over.load(Ordering::SeqCst) {
            self.soak.broken(format!(
                "a {what} callback ran after the port was shut down"
            ));
        }
    }

    fn refuse(&self, slot: &Slot, status: NtStatus) -> NtStatus {
        slot.leave();
        self.soak.count("filter: refused a connect");
        status
    }
}

impl PortHandler for Handler {
    type Connection = Cookie;

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<Cookie, NtStatus> {
        self.assert_running("connect");
        let slot = Slot::take(self);
        let Some((life, greeting)) = Greeting::read(context) else {
            self.soak
                .broken(format!("a context came as {context:02x?}"));
            return Err(self.refuse(&slot, NtStatus::INVALID_PARAMETER));
        };
        match greeting {
            Greeting::Refuse => return Err(self.refuse(&slot, REFUSAL)),
            Greeting::CloseAtOnce => {
                slot.leave();
                port.close();
            }
            Greeting::Slowly => {
                std::thread::sleep(Duration::from_millis(20));
                if port.notify(b"early", Timeout::poll()).is_ok() {
                    self.soak
                        .broken("a message was delivered before its connect callback ended".into());
                }
            }
            Greeting::Plain => {}
        }
        let number = self.soak.number();
        // A client that was killed while it connected may be gone from the books.
        let life = self.soak.life(life);
        if let Some(life) = &life {
            life.connected();
            self.soak.add_target(Target {
                number,
                port: port.clone(),
                life: Arc::clone(life),
                slot: Arc::clone(&slot),
            });
        }
        self.tally.accepted.fetch_add(1, Ordering::SeqCst);
        self.soak.count("filter: accepted a connect");
        Ok(Cookie {
            port,
            slot,
            number,
            life,
        })
    }

    fn message(
        &self,
        cookie: &Cookie,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        self.assert_running("message");
        self.soak.count("filter: served a request");
        let (number, wish) = match bytes::read(Salt::Request, input) {
            Said::Numbered { number, second } => (number, Wish::from_number(second)),
            Said::Tiny => (0, Some(Wish::Answer)),
            Said::Broken => (0, None),
        };
        let Some(wish) = wish else {
            self.soak
                .broken(format!("a request of process {} came broken", caller.pid));
            return Err(NtStatus::INVALID_PARAMETER.into());
        };
        let mut random = Random::new(number);
        match wish {
            Wish::Answer => {}
            Wish::Slowly => std::thread::sleep(random.millis(1, 20)),
            Wish::Refuse => return Err(REFUSAL.into()),
            Wish::Close => {
                cookie.slot.leave();
                cookie.port.close();
            }
            Wish::AskBack => {
                if let Some(life) = &cookie.life {
                    sender::ask_back(&self.soak, &cookie.port, life, &mut random);
                }
            }
            Wish::Warn => {
                let written = output.len() / 2;
                output[..written].copy_from_slice(&bytes::make(Salt::Answer, number, written));
                return Err(Refusal {
                    status: WARNING,
                    written,
                });
            }
        }
        output.copy_from_slice(&bytes::make(Salt::Answer, number, output.len()));
        Ok(output.len())
    }

    fn disconnect(&self, cookie: Cookie, _: &Peer) {
        self.assert_running("disconnect");
        self.soak.remove_target(cookie.number);
        match cookie.number % 10 {
            0 => cookie.port.close(),
            1 | 2 => std::thread::sleep(Duration::from_millis(10)),
            _ => {}
        }
        if cookie.port.notify(b"late", Timeout::poll()).is_ok() {
            self.soak
                .broken("a message was delivered over a connection that is over".into());
        }
        if let Some(life) = &cookie.life {
            life.disconnected();
        }
        self.soak.count("filter: ended a connection");
        self.tally.ended.fetch_add(1, Ordering::SeqCst);
        cookie.slot.leave();
    }
}

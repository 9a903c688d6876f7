//! Live events: what was decided, to whoever listens at the events port, as one JSON object for each message.
//!
//! One thread takes decisions from the ring, looks up names, and sends. A listener that does not keep up loses events
//! and is told how many; it never makes anything wait but this thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fltport::{ClientPort, NtStatus, Peer, PortHandler, Timeout};
use serde::Serialize;

use crate::decision::{Decider, Decision};
use crate::facts::Validity;
use crate::fanotify::Operation as Kind;
use crate::mutes::Entry;
use crate::names::name_of;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The host guards: the first event that every listener gets.
    Started(Started),
    /// An operation was decided.
    Decision(Decided),
    /// The scanner is being started, or has ended.
    Service {
        /// `starting` or `died`.
        state: &'static str,
        /// Its process.
        pid: Option<u32>,
    },
    /// The worker was restarted.
    Worker {
        /// Always `restarted`.
        state: &'static str,
        /// Operations of the dead worker that policy has decided.
        settled: u64,
    },
    /// A filesystem below a guarded directory is guarded now, is not there any more, or cannot be guarded.
    Volume {
        /// `guarded`, `vanished` or `refused`.
        state: &'static str,
        /// Where it is mounted.
        path: String,
        /// Why it is refused.
        reason: Option<String>,
    },
    /// A rule has come or gone while the host guards.
    Mute(MuteChange),
    /// Events were lost before this one.
    Gap {
        /// How many.
        lost: u64,
    },
}

/// The host guards.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// The host's name.
    pub instance: Option<String>,
    /// The worker's process.
    pub worker: u32,
    /// What is guarded.
    pub guards: Vec<Guard>,
    /// Whether what cannot be decided is denied.
    pub strict: bool,
    /// Whether nothing is denied.
    pub monitor: bool,
    /// Time that services have, in milliseconds.
    pub deadline_ms: u128,
}

/// One guarded directory.
#[derive(Clone, Debug, Serialize)]
pub struct Guard {
    /// Its path.
    pub path: String,
    /// `filesystem` or `directory`: what kind of marks it has.
    pub kind: &'static str,
    /// Directories marked, where each has its own mark.
    pub directories: u64,
}

/// An operation was decided.
#[derive(Clone, Debug, Serialize)]
pub struct Decided {
    time_ms: u128,
    id: u64,
    operation: &'static str,
    path: Option<String>,
    /// What the path is worth, where it is not simply the file's path on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_validity: Option<&'static str>,
    pid: Option<u32>,
    process: Option<String>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<&'static str>,
    cause: &'static str,
    reason: String,
    micros: u128,
}

/// A rule has come or gone.
#[derive(Clone, Debug, Serialize)]
pub struct MuteChange {
    /// `added`, `removed`, or `ended`: by its time, or with its service.
    state: &'static str,
    id: u64,
    rule: String,
    sort: &'static str,
    origin: &'static str,
    /// The service's process.
    pid: Option<u32>,
}

impl MuteChange {
    pub(crate) fn new(state: &'static str, entry: &Entry) -> Self {
        Self {
            state,
            id: entry.id,
            rule: entry.rule.to_string(),
            sort: entry.sort.name(),
            origin: entry.origin.name(),
            pid: entry.origin.pid(),
        }
    }
}

/// The listeners at the events port.
#[derive(Debug, Default)]
pub struct Events {
    state: Mutex<State>,
    /// Shared with whoever would otherwise put together what nobody reads.
    heard: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<u64, Listener>,
    next: u64,
    started: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Listener {
    port: ClientPort,
    lost: u64,
    /// It did not take the last event in time: it gets no time until it takes one.
    slow: bool,
}

/// How long a listener that has kept up so far may take for one event.
const PATIENCE: Duration = Duration::from_millis(50);

impl Events {
    /// From now on new listeners are told this first, and those that wait are told now.
    pub fn started(&self, started: Started) {
        let event = encode(&Event::Started(started));
        let mut state = self.lock();
        state
            .listeners
            .values()
            .for_each(|listener| greet(&listener.port, &event));
        state.started = Some(event);
    }

    /// Whether anybody listens, as it changes.
    pub(crate) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Tells all listeners.
    pub fn tell(&self, event: &Event) {
        self.send(&encode(event));
    }

    /// Tells listeners of decisions until there are no more.
    pub fn log(&self, decider: &Decider) {
        while let Some((decision, lost)) = decider.next() {
            if lost > 0 {
                self.lock()
                    .listeners
                    .values_mut()
                    .for_each(|listener| listener.lost += lost);
            }
            if self.lock().listeners.is_empty() {
                continue;
            }
            self.tell(&Event::Decision(describe(&decision)));
        }
    }

    fn send(&self, bytes: &[u8]) {
        let state = self.lock();
        // Nothing before the greeting: a listener learns first what is guarded.
        if state.started.is_none() {
            return;
        }
        let targets: Vec<_> = state
            .listeners
            .iter()
            .map(|(id, listener)| (*id, listener.port.clone()))
            .collect();
        drop(state);
        for (id, port) in targets {
            // Taken out, because another thread may be telling the same listener.
            let taken = self
                .lock()
                .listeners
                .get_mut(&id)
                .map(|listener| (std::mem::take(&mut listener.lost), listener.slow));
            let Some((lost, slow)) = taken else {
                continue;
            };
            let patience = if slow {
                Timeout::poll()
            } else {
                Timeout::after(PATIENCE)
            };
            let gap = (lost > 0).then(|| encode(&Event::Gap { lost }));
            let caught_up = gap.is_none_or(|gap| port.notify(&gap, patience).is_ok());
            let sent = caught_up && port.notify(bytes, patience).is_ok();
            if let Some(listener) = self.lock().listeners.get_mut(&id) {
                listener.lost += if caught_up { 0 } else { lost };
                listener.lost += u64::from(!sent);
                listener.slow = !sent;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callbacks of the events port.
#[derive(Debug)]
pub struct EventsHandler(pub Arc<Events>);

impl PortHandler for EventsHandler {
    type Connection = u64;

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<u64, NtStatus> {
        let mut state = self.0.lock();
        state.next += 1;
        let id = state.next;
        if let Some(greeting) = &state.started {
            greet(&port, greeting);
        }
        let listener = Listener {
            port,
            lost: 0,
            slow: false,
        };
        state.listeners.insert(id, listener);
        self.0.heard.store(true, Ordering::Relaxed);
        Ok(id)
    }

    fn disconnect(&self, listener: u64, _: &Peer) {
        let mut state = self.0.lock();
        state.listeners.remove(&listener);
        self.0
            .heard
            .store(!state.listeners.is_empty(), Ordering::Relaxed);
    }
}

/// Tells what is guarded, whenever the listener takes it; nobody waits for that. Called under the lock, so that nothing
/// is told before; what it calls back takes no lock.
fn greet(port: &ClientPort, greeting: &[u8]) {
    let _pending = port.notify_then(greeting, Timeout::Never, |_| {});
}

fn describe(decision: &Decision) -> Decided {
    let since = decision
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let path = decision.facts.path();
    Decided {
        time_ms: since.as_millis(),
        id: decision.id,
        operation: match decision.kind {
            Kind::Exec => "exec",
            _ => "open",
        },
        path: path.map(|path| path.path.to_string_lossy().into_owned()),
        path_validity: path
            .map(|path| path.validity)
            .filter(|validity| *validity != Validity::Plain)
            .map(Validity::name),
        pid: decision
            .pid
            .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
        process: decision
            .name
            .get()
            .cloned()
            .or_else(|| name_of(decision.pid?)),
        verdict: decision.action.name(),
        would_be: decision.would_be.map(crate::policy::Action::name),
        cause: decision.cause.name(),
        reason: decision.reason.clone(),
        micros: decision.took.as_micros(),
    }
}

fn encode(event: &Event) -> Vec<u8> {
    // Strings and numbers only: there is nothing that could fail.
    serde_json::to_vec(event).unwrap_or_default()
}

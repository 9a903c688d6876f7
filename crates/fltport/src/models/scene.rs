//! What the models of whole ports share: how they are explored, a filter that keeps count, and one connection.

use std::sync::Arc;
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, MaxSteps, Runner};

use crate::body::Caller;
use crate::sync::{self, Condvar, Mutex, thread};
use crate::{Client, ClientPort, NtStatus, Peer, PortHandler, Refusal, ServerPort, Timeout};

/// A deadline that comes when the model says so, and not before.
pub(super) const SOON: Duration = Duration::from_millis(1);

/// The same, of a send.
pub(super) const IN_TIME: Timeout = Timeout::After(SOON);

/// How many orders of a model are drawn: half of them evenly, half with few preemptions at places that are drawn.
const ORDERS: usize = 1000;

/// Preemptions of the second half.
const DEPTH: usize = 4;

/// Far more steps than any model takes: one that goes round and round has a name.
const STEPS: usize = 100_000;

/// Tries the model in many orders. A failure prints its schedule, or the seed of it:
/// `FLTPORT_SCHEDULE=<schedule>` runs that order alone, `SHUTTLE_RANDOM_SEED=<seed>` draws the same ones again, and
/// `FLTPORT_ORDERS=<count>` says how many.
pub(super) fn explore(model: fn()) {
    let run = move || {
        sync::begin();
        model();
        sync::run_out();
    };
    let mut config = Config::new();
    config.stack_size = 0x2_0000;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    if let Ok(schedule) = std::env::var("FLTPORT_SCHEDULE") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config).run(run);
        return;
    }
    let orders = std::env::var("FLTPORT_ORDERS").ok();
    let orders = orders.and_then(|orders| orders.parse().ok());
    let orders = orders.unwrap_or(ORDERS);
    Runner::new(RandomScheduler::new(orders.div_ceil(2)), config.clone()).run(run);
    Runner::new(PctScheduler::new(DEPTH, orders.div_ceil(2)), config).run(run);
}

/// A filter whose message callback echoes, and that keeps count of its callbacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
}

/// What the callbacks have seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) ports: Vec<ClientPort>,
    pub(super) connects: usize,
    pub(super) disconnects: usize,
    /// Callbacks that run now.
    pub(super) running: usize,
    /// No callback may run any more.
    pub(super) over: bool,
    /// What must not happen, and did. A callback that panics is caught, so it says it here.
    pub(super) wrong: Vec<&'static str>,
}

impl Filter {
    /// A port of this filter for so many connections.
    pub(super) fn listen(&self, connections: u32) -> ServerPort {
        ServerPort::unnamed()
            .max_connections(connections)
            .listen(self.clone())
            .unwrap()
    }

    /// What the callbacks have seen so far; nothing wrong among it.
    pub(super) fn seen(&self) -> Seen {
        let seen = self.0.seen.lock().unwrap().clone();
        assert_eq!(seen.wrong, Vec::<&str>::new());
        seen
    }

    /// From now on a callback is wrong.
    pub(super) fn over(&self) {
        self.change(|seen| seen.over = true);
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.seen.lock().unwrap());
    }

    fn begin(&self, callback: impl FnOnce(&mut Seen)) {
        self.change(|seen| {
            if seen.over {
                seen.wrong.push("a callback after the shutdown");
            }
            seen.running += 1;
            callback(seen);
        });
    }

    fn end(&self) {
        self.change(|seen| {
            if seen.over {
                seen.wrong
                    .push("a callback that the shutdown did not wait for");
            }
            seen.running -= 1;
        });
    }
}

impl PortHandler for Filter {
    /// Whether a message callback of this connection runs.
    type Connection = Mutex<usize>;

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<Mutex<usize>, NtStatus> {
        self.begin(|seen| {
            seen.connects += 1;
            seen.ports.push(port);
        });
        self.end();
        Ok(Mutex::new(0))
    }

    fn disconnect(&self, running: Mutex<usize>, _: &Peer) {
        let early = *running.lock().unwrap() != 0;
        self.begin(|seen| {
            seen.disconnects += 1;
            if early {
                seen.wrong
                    .push("a disconnect callback beside a message callback");
            }
            if seen.disconnects > seen.connects {
                seen.wrong.push("more disconnects than connects");
            }
        });
        self.end();
    }

    fn message(
        &self,
        running: &Mutex<usize>,
        _: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        *running.lock().unwrap() += 1;
        self.begin(|_| {});
        let length = input.len().min(output.len());
        output[..length].copy_from_slice(&input[..length]);
        self.end();
        *running.lock().unwrap() -= 1;
        Ok(length)
    }
}

/// What functions that are called at the end of a send have said.
#[derive(Debug)]
pub(super) struct Told<T> {
    said: Mutex<Vec<T>>,
    more: Condvar,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self {
            said: Mutex::new(Vec::new()),
            more: Condvar::new(),
        }
    }
}

impl<T> Told<T> {
    pub(super) fn push(&self, said: T) {
        self.said.lock().unwrap().push(said);
        self.more.notify_one();
    }

    /// Waits until so many have been called; no more than that were.
    pub(super) fn take(&self, count: usize) -> Vec<T> {
        let mut said = self.said.lock().unwrap();
        while said.len() < count {
            said = self.more.wait(said).unwrap();
        }
        assert_eq!(said.len(), count, "called twice");
        std::mem::take(&mut said)
    }
}

/// One connection: the port, the filter's end, the client.
pub(super) fn connected() -> (ServerPort, ClientPort, Arc<Client>) {
    let filter = Filter::default();
    let port = filter.listen(1);
    let client = port.connect_in_memory(b"").unwrap();
    let end = filter.seen().ports.remove(0);
    (port, end, Arc::new(client))
}

/// A thread of the model.
pub(super) fn spawn<R: Send + 'static>(
    run: impl FnOnce() -> R + Send + 'static,
) -> shuttle::thread::JoinHandle<R> {
    thread::spawn(run)
}

/// A thread that lets the deadline come, at whatever step.
pub(super) fn deadline() -> shuttle::thread::JoinHandle<()> {
    spawn(|| sync::advance(SOON))
}

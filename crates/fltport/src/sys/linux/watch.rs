//! Notices that a host has hung up or died, and that its socket takes packets again, for clients whose threads sleep where
//! neither wakes them.
//!
//! One thread for the process, started with the first connection that has memory. It knows connections weakly and reads
//! nothing by itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::client_driver::Connection;

#[derive(Debug)]
struct Watcher {
    epoll: OwnedFd,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    last: u64,
    by_number: HashMap<u64, Weak<Connection>>,
}

static WATCHER: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);

/// Has a connection told when its host hangs up. Gives its number here.
///
/// # Errors
/// The system's: no descriptor or no thread is left.
pub(crate) fn watch(connection: &Arc<Connection>) -> io::Result<u64> {
    let mut watcher = watcher();
    let started = match &*watcher {
        Some(started) => Arc::clone(started),
        // One that could not be started is tried again for the next connection: what it needs may be there by then.
        None => Arc::clone(watcher.insert(Watcher::start()?)),
    };
    drop(watcher);
    started.add(connection)
}

/// Has what a connection could not send leave when its host's socket takes it, whatever its threads do.
pub(crate) fn flush_later(connection: &Connection, number: u64) {
    let watcher = watcher().clone();
    if let Some(watcher) = watcher {
        watcher.look_for(connection, number, EventFlags::OUT);
    }
}

fn watcher() -> MutexGuard<'static, Option<Arc<Watcher>>> {
    WATCHER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    fn start() -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            connections: Mutex::default(),
        });
        let run = Arc::clone(&watcher);
        thread::Builder::new()
            .name("fltport-watch".into())
            .spawn(move || run.run())?;
        Ok(watcher)
    }

    fn add(&self, connection: &Arc<Connection>) -> io::Result<u64> {
        let mut connections = self.connections();
        connections.last += 1;
        let number = connections.last;
        connections
            .by_number
            .retain(|_, connection| connection.strong_count() > 0);
        connections
            .by_number
            .insert(number, Arc::downgrade(connection));
        let data = EventData::new_u64(number);
        epoll::add(&self.epoll, connection.descriptor(), data, HUNG_UP)?;
        Ok(number)
    }

    /// Looks for the host's end of a connection, and for `more`.
    fn look_for(&self, connection: &Connection, number: u64, more: EventFlags) {
        let data = EventData::new_u64(number);
        // Fails where the descriptor was closed, with which everything is over.
        epoll::modify(&self.epoll, connection.descriptor(), data, HUNG_UP | more).ok();
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                self.handle(event.data.u64(), event.flags);
            }
        }
    }

    fn handle(&self, number: u64, flags: EventFlags) {
        let mut connections = self.connections();
        let is_writable = flags == EventFlags::OUT;
        let connection = if is_writable {
            connections.by_number.get(&number).cloned()
        } else {
            connections.by_number.remove(&number)
        };
        drop(connections);
        let Some(connection) = connection.and_then(|connection| connection.upgrade()) else {
            return;
        };
        if !is_writable {
            return connection.handle_hang_up();
        }
        // First, so that the wish of whoever finds the socket full from here on is not taken back.
        self.look_for(&connection, number, EventFlags::empty());
        if connection.flush() {
            self.look_for(&connection, number, EventFlags::OUT);
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Once: what happens then is the connection's own business, and its descriptor may live on in another process.
const HUNG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::ONESHOT);

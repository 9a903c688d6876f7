//! Notices that a host has hung up or died, for clients whose threads sleep where no packet wakes them.
//!
//! One thread for the process, started with the first connection that has memory. It knows connections weakly and reads
//! nothing by itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::client_driver::Connection;

#[derive(Debug)]
struct Watcher {
    epoll: OwnedFd,
    connections: Mutex<(u64, HashMap<u64, Weak<Connection>>)>,
}

/// Has a connection told when its host hangs up. `false`: that is not possible here.
pub(crate) fn watch(connection: &Arc<Connection>) -> bool {
    static WATCHER: OnceLock<Option<Arc<Watcher>>> = OnceLock::new();
    let watcher = WATCHER.get_or_init(|| Watcher::start().ok());
    watcher
        .as_ref()
        .is_some_and(|watcher| watcher.add(connection).is_ok())
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

    fn add(&self, connection: &Arc<Connection>) -> io::Result<()> {
        let mut state = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (last, connections) = &mut *state;
        *last += 1;
        connections.retain(|_, connection| connection.strong_count() > 0);
        connections.insert(*last, Arc::downgrade(connection));
        // Once: what happens then is the connection's own business, and its descriptor may live on in another process.
        let events = EventFlags::RDHUP | EventFlags::ONESHOT;
        let data = EventData::new_u64(*last);
        Ok(epoll::add(
            &self.epoll,
            connection.descriptor(),
            data,
            events,
        )?)
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
                let mut state = self
                    .connections
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let connection = state.1.remove(&event.data.u64());
                drop(state);
                if let Some(connection) = connection.and_then(|connection| connection.upgrade()) {
                    connection.handle_hang_up();
                }
            }
        }
    }
}

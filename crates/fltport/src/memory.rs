//! Both ends of a port in one process, without the system: for tests, and for filters that host their own services.
//!
//! The same engine, driver and client as over a socket; only the packets travel through queues.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use fltport_engine::connection::Violation;
use fltport_engine::limits;
use fltport_engine::server::Credentials;
use fltport_engine::wire::{FRAME_MAX, ToClient, ToHost};
use zerocopy::IntoBytes;

use crate::client::Client;
use crate::client_driver::Connection;
use crate::driver::Core;
use crate::error::ConnectError;
use crate::frames::Assembler;
use crate::link::{ClientLink, HostLink, Packet, Received, Sent};
use crate::peer::Peer;
use crate::port::{ServerPort, Shared};
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, thread};
use crate::sys::{self, Attachment};

/// Packets that one direction holds before its reader has to read.
const ROOM: usize = 256;

impl ServerPort {
    /// Connects a client in this process, without access check. Blocks for as long as the connect callback takes.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_in_memory(&self, context: &[u8]) -> Result<Client, ConnectError> {
        let system = |doing, source| ConnectError::System { doing, source };
        let bell = sys::Bell::new()
            .map_err(|source| system("cannot make a descriptor to poll", source))?;
        let wire = Arc::new(Wire {
            state: Mutex::default(),
            changed: Condvar::new(),
            bell,
        });
        let (host, port) = (Arc::clone(&wire), Arc::clone(self.shared()));
        thread::Builder::new()
            .name("fltport-memory".into())
            .spawn(move || {
                Host {
                    wire: host,
                    port,
                    assembler: Assembler::new(),
                    core: None,
                }
                .run()
            })
            .map_err(|source| system("cannot start a thread", source))?;
        Ok(Client::new(Connection::greet(
            Box::new(MemoryClient { wire }),
            context,
            false,
        )?))
    }
}

/// Two queues and who waits for them.
#[derive(Debug)]
struct Wire {
    state: Mutex<Queues>,
    changed: Condvar,
    /// Rings while the client has something to take.
    bell: sys::Bell,
}

#[derive(Debug, Default)]
struct Queues {
    to_host: VecDeque<Vec<u8>>,
    to_client: VecDeque<(Vec<u8>, Vec<Attachment>)>,
    host_wants_room: bool,
    closed: bool,
}

#[derive(Debug)]
struct MemoryClient {
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct MemoryLink {
    wire: Arc<Wire>,
}

/// The host's side of one in-memory connection: a thread that feeds the driver.
#[derive(Debug)]
struct Host {
    wire: Arc<Wire>,
    port: Arc<dyn Shared>,
    assembler: Assembler<ToHost>,
    core: Option<Arc<Core>>,
}

enum Step {
    Packet(Vec<u8>),
    Writable,
    Closed,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.bell.ring();
    }
}

impl Host {
    fn run(mut self) {
        loop {
            let result = match self.next_step() {
                Step::Packet(bytes) => self.take(&bytes),
                Step::Writable => {
                    self.core.iter().for_each(Core::handle_writable);
                    Ok(())
                }
                Step::Closed => Err(Violation("closed")),
            };
            if result.is_err() {
                self.wire.close();
                self.core.iter().for_each(Core::handle_peer_closed);
                return;
            }
        }
    }

    fn next_step(&self) -> Step {
        let mut queues = self.wire.lock();
        loop {
            if queues.host_wants_room && queues.to_client.len() < ROOM / 2 {
                queues.host_wants_room = false;
                return Step::Writable;
            }
            // What a client said before it closed still counts; one that does not read is not read.
            if !queues.host_wants_room || queues.closed {
                if let Some(bytes) = queues.to_host.pop_front() {
                    self.wire.changed.notify_all();
                    return Step::Packet(bytes);
                }
            }
            if queues.closed {
                return Step::Closed;
            }
            queues = self
                .wire
                .changed
                .wait(queues)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&mut self, packet: &[u8]) -> Result<(), Violation> {
        let limit = if self.core.is_some() {
            self.port.max_message()
        } else {
            limits::CONTEXT_MAX
        };
        let Some((frame, payload)) = self.assembler.take(packet, limit)? else {
            return Ok(());
        };
        if let Some(core) = &self.core {
            return core.handle_frame(frame, payload, None);
        }
        let ToHost::Hello { bits, .. } = frame else {
            return Err(Violation("the greeting is missing"));
        };
        let credentials = Credentials {
            uid: sys::host_uid(),
            ..Credentials::default()
        };
        let peer = Peer {
            pid: std::process::id(),
            credentials,
            bits,
            #[cfg(target_os = "linux")]
            socket: std::sync::Weak::new(),
        };
        let mut link = MemoryLink {
            wire: Arc::clone(&self.wire),
        };
        match Arc::clone(&self.port).greeted(
            Box::new(MemoryLink {
                wire: Arc::clone(&self.wire),
            }),
            peer,
            payload,
        ) {
            Ok(core) => self.core = Some(core),
            Err(status) => {
                let frame = ToClient::Connected {
                    status,
                    max_message: self.port.max_message(),
                };
                let _: Sent = link.send(frame.header().as_bytes(), &[], &[]);
                return Err(Violation("refused"));
            }
        }
        Ok(())
    }
}

impl HostLink for MemoryLink {
    fn send(&mut self, head: &[u8], payload: &[u8], files: &[Arc<Attachment>]) -> Sent {
        let files: Result<Vec<_>, _> = files.iter().map(|file| file.try_clone()).collect();
        let Ok(files) = files else {
            return Sent::Full;
        };
        let mut queues = self.wire.lock();
        if queues.closed {
            return Sent::Down;
        }
        if queues.to_client.len() >= ROOM {
            return Sent::Full;
        }
        queues
            .to_client
            .push_back(([head, payload].concat(), files));
        self.wire.changed.notify_all();
        self.wire.bell.ring();
        Sent::Done
    }

    fn want_writable(&mut self, wanted: bool) {
        self.wire.lock().host_wants_room = wanted;
        self.wire.changed.notify_all();
    }

    fn close(&mut self) {
        self.wire.close();
    }
}

impl ClientLink for MemoryClient {
    fn send(&self, head: &[u8], payload: &[u8]) -> Sent {
        let mut queues = self.wire.lock();
        if queues.closed {
            return Sent::Down;
        }
        if queues.to_host.len() >= ROOM {
            return Sent::Full;
        }
        queues.to_host.push_back([head, payload].concat());
        self.wire.changed.notify_all();
        Sent::Done
    }

    fn receive(&self, buffer: &mut [u8]) -> Received {
        let mut queues = self.wire.lock();
        let Some((bytes, files)) = queues.to_client.pop_front() else {
            if queues.closed {
                return Received::Down;
            }
            self.wire.bell.silence();
            return Received::Empty;
        };
        if queues.host_wants_room {
            self.wire.changed.notify_all();
        }
        drop(queues);
        let length = bytes.len().min(FRAME_MAX);
        if let (Some(into), Some(from)) = (buffer.get_mut(..length), bytes.get(..length)) {
            into.copy_from_slice(from);
        }
        Received::Packet(Packet {
            length,
            caller: None,
            files,
        })
    }

    fn wait(&self, writing: bool, deadline: Option<Instant>) -> bool {
        let mut queues = self.wire.lock();
        loop {
            if queues.closed
                || !queues.to_client.is_empty()
                || (writing && queues.to_host.len() < ROOM)
            {
                return true;
            }
            let Some(end) = deadline else {
                queues = self
                    .wire
                    .changed
                    .wait(queues)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queues = self
                .wire
                .changed
                .wait_timeout(queues, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn carries_memory(&self) -> bool {
        false
    }

    fn close(&self) {
        self.wire.close();
    }

    #[cfg(target_os = "linux")]
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.wire.bell.descriptor()
    }
}

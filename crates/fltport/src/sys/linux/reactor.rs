//! Takes connections and packets of one server port and hands them to the driver. One thread, however many connections.
//!
//! Identity and access come first: a process that may not connect is told so and is gone before a byte of it was read.
//! A connection whose peer does not read is not read either, so it cannot make the host keep more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fltport_engine::connection::Violation;
use fltport_engine::limits;
use fltport_engine::wire::{ToClient, ToHost};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::SocketFlags;
use zerocopy::IntoBytes;

use super::directory::TakenName;
use super::peer;
use super::socket::{Socket, packet_buffer, pair};
use crate::driver::Core;
use crate::error::ListenError;
use crate::frames::Assembler;
use crate::link::{HostLink, Packet, Received, Sent};
use crate::peer::Peer;
use crate::port::Shared as Port;
use crate::sys::Attachment;

/// The transport of one server port. Its thread exists once there is something to listen to.
#[derive(Debug)]
pub(crate) struct Reactor {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    commands: Mutex<Vec<Command>>,
}

#[derive(Debug)]
enum Command {
    Listen(TakenName),
    Adopt(Socket),
    StopListening,
    Stop,
}

/// What the reactor's thread knows.
#[derive(Debug)]
struct Loop {
    shared: Arc<Shared>,
    port: Weak<dyn Port>,
    listening: Option<TakenName>,
    /// Descriptors ran out: listen again then.
    paused_until: Option<Instant>,
    connections: HashMap<u64, Entry>,
    greetings: usize,
    next_key: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    socket: Socket,
    assembler: Assembler<ToHost>,
    stage: Stage,
}

/// Where a transport connection is.
///
/// ```text
///   Greeting ── the greeting is complete, the port has room ──▶ Live ── hang-up, or a lie ──▶ (gone)
///      └────── too late, a lie, refused ──▶ (gone)
/// ```
#[derive(Debug)]
enum Stage {
    Greeting {
        peer: Peer,
        counted: bool,
        until: Instant,
    },
    Live(Arc<Core>),
}

const WAKE: u64 = 0;
const LISTENER: u64 = 1;
const FIRST_KEY: u64 = 2;

/// Packets of one connection, or connects, that are taken before others get their turn.
const TURN: usize = 64;

/// How long connects wait when this process has no descriptor left for them.
const PAUSE: Duration = Duration::from_millis(100);

impl Reactor {
    pub(crate) const fn new() -> Self {
        Self {
            running: Mutex::new(None),
        }
    }

    /// Listens on a taken name.
    pub(crate) fn listen(&self, taken: TakenName, port: Arc<dyn Port>) -> Result<(), ListenError> {
        let path = std::path::PathBuf::new();
        self.command(&port, Command::Listen(taken))
            .map_err(|source| ListenError::System {
                doing: "cannot start to listen",
                path,
                source,
            })
    }

    /// Gives the name back.
    pub(crate) fn stop_listening(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            running.shared.post(Command::StopListening);
        }
    }

    /// Makes a connection for a child process.
    pub(crate) fn offer(&self, port: &Arc<dyn Port>) -> io::Result<OwnedFd> {
        let (ours, theirs) = pair()?;
        // Before the child can send: the greeting carries who it is.
        rustix::net::sockopt::set_socket_passcred(&ours, true)?;
        self.command(port, Command::Adopt(ours))?;
        Ok(theirs)
    }

    /// Ends the thread. All connections have ended before.
    pub(crate) fn stop(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Running { shared, thread }) = running {
            shared.post(Command::Stop);
            if thread.thread().id() != thread::current().id() {
                thread.join().ok();
            }
        }
    }

    fn command(&self, port: &Arc<dyn Port>, command: Command) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(Running::start(Arc::downgrade(port))?);
        }
        if let Some(running) = &*running {
            running.shared.post(command);
        }
        Ok(())
    }
}

impl Running {
    fn start(port: Weak<dyn Port>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let shared = Arc::new(Shared {
            epoll,
            wake,
            commands: Mutex::default(),
        });
        let reactor = Loop {
            shared: Arc::clone(&shared),
            port,
            listening: None,
            paused_until: None,
            connections: HashMap::new(),
            greetings: 0,
            next_key: FIRST_KEY,
            buffer: packet_buffer(),
        };
        let thread = thread::Builder::new()
            .name("fltport-port".into())
            .spawn(move || reactor.run())?;
        Ok(Self { shared, thread })
    }
}

impl Shared {
    fn post(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        // The counter cannot overflow, and a full one wakes as well.
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok();
    }
}

impl Loop {
    fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            events.clear();
            let timeout = self.next_timeout();
            match epoll::wait(
                &self.shared.epoll,
                spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        rustix::io::read(&self.shared.wake, &mut [0u8; 8]).ok();
                        if self.obey() {
                            return;
                        }
                    }
                    LISTENER => self.accept(),
                    key => self.serve(key, event.flags),
                }
            }
            self.look_at_time();
        }
    }

    /// Carries out commands; `true` to stop.
    fn obey(&mut self) -> bool {
        let commands = std::mem::take(
            &mut *self
                .shared
                .commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for command in commands {
            match command {
                Command::Listen(taken) => {
                    self.listening = Some(taken);
                    self.listen();
                }
                Command::Adopt(socket) => self.adopt(socket),
                // Closing the socket takes it out of the set.
                Command::StopListening => self.listening = None,
                Command::Stop => return true,
            }
        }
        false
    }

    fn listen(&mut self) {
        self.paused_until = None;
        if let Some(taken) = &self.listening {
            let listener = taken.socket();
            rustix::io::ioctl_fionbio(listener, true).ok();
            rustix::net::sockopt::set_socket_passcred(listener, true).ok();
            epoll::add(
                &self.shared.epoll,
                listener,
                EventData::new_u64(LISTENER),
                EventFlags::IN,
            )
            .ok();
        }
    }

    fn accept(&mut self) {
        for _ in 0..TURN {
            let Some(taken) = &self.listening else { return };
            match rustix::net::accept_with(taken.socket(), SocketFlags::CLOEXEC) {
                Ok(fd) => self.arrive(Socket::new(fd)),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(
                    rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM,
                ) => {
                    epoll::delete(&self.shared.epoll, taken.socket()).ok();
                    self.paused_until = Some(Instant::now() + PAUSE);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// A process has connected: who is it, and may it?
    fn arrive(&mut self, socket: Socket) {
        let Some(port) = self.port.upgrade() else {
            return;
        };
        if rustix::net::sockopt::set_socket_passcred(&socket, true).is_err() {
            return;
        }
        let Ok((pid, credentials)) = peer::identify(&socket) else {
            return;
        };
        if let Err(status) = port.arrives(&credentials) {
            refuse(&socket, status, port.max_message());
            return;
        }
        let weak = Arc::downgrade(socket.shared());
        self.greet(
            socket,
            Peer {
                pid,
                credentials,
                bits: 0,
                socket: weak,
            },
            true,
        );
    }

    /// A connection that the host itself hands out: the access check is the handing out.
    fn adopt(&mut self, socket: Socket) {
        let Ok((pid, credentials)) = peer::identify(&socket) else {
            return;
        };
        let weak = Arc::downgrade(socket.shared());
        self.greet(
            socket,
            Peer {
                pid,
                credentials,
                bits: 0,
                socket: weak,
            },
            false,
        );
    }

    fn greet(&mut self, socket: Socket, peer: Peer, counted: bool) {
        let key = self.next_key;
        self.next_key += 1;
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if epoll::add(&self.shared.epoll, &socket, EventData::new_u64(key), flags).is_err() {
            self.greeting_over(&peer, counted);
            return;
        }
        self.greetings += 1;
        let until = Instant::now() + Duration::from_millis(limits::HANDSHAKE_MILLIS);
        let entry = Entry {
            socket,
            assembler: Assembler::new(),
            stage: Stage::Greeting {
                peer,
                counted,
                until,
            },
        };
        self.connections.insert(key, entry);
    }

    fn greeting_over(&self, peer: &Peer, counted: bool) {
        if let Some(port) = self.port.upgrade().filter(|_| counted) {
            port.greeting_over(peer.uid());
        }
    }

    fn serve(&mut self, key: u64, flags: EventFlags) {
        match self.connections.get(&key) {
            Some(Entry {
                stage: Stage::Live(core),
                ..
            }) if flags.contains(EventFlags::OUT) => core.handle_writable(),
            _ => {}
        }
        for _ in 0..TURN {
            let Some(entry) = self.connections.get_mut(&key) else {
                return;
            };
            let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            if matches!(&entry.stage, Stage::Live(core) if core.is_blocked() && !gone) {
                return;
            }
            match entry.socket.receive_as_host(&mut self.buffer) {
                Received::Packet(packet) => {
                    if self.take(key, &packet).is_err() {
                        self.end(key);
                        return;
                    }
                }
                Received::Empty => return,
                Received::Down => {
                    self.end(key);
                    return;
                }
            }
        }
    }

    fn take(&mut self, key: u64, packet: &Packet) -> Result<(), Violation> {
        let Some(entry) = self.connections.get_mut(&key) else {
            return Ok(());
        };
        let Some(port) = self.port.upgrade() else {
            return Err(Violation("the port is gone"));
        };
        let limit = match &entry.stage {
            Stage::Greeting { .. } => limits::CONTEXT_MAX,
            Stage::Live(_) => port.max_message(),
        };
        let bytes = self.buffer.get(..packet.length).unwrap_or_default();
        let Some((frame, payload)) = entry.assembler.take(bytes, limit)? else {
            return Ok(());
        };
        if let Stage::Live(core) = &entry.stage {
            return core.handle_frame(frame, payload, packet.caller);
        }
        let ToHost::Hello { bits, .. } = frame else {
            return Err(Violation("the greeting is missing"));
        };
        self.promote(key, &port, bits, payload, packet)
    }

    /// The greeting is complete: from here on the driver has the connection.
    fn promote(
        &mut self,
        key: u64,
        port: &Arc<dyn Port>,
        bits: u32,
        context: Vec<u8>,
        packet: &Packet,
    ) -> Result<(), Violation> {
        let Some(entry) = self.connections.get_mut(&key) else {
            return Ok(());
        };
        let Stage::Greeting { peer, counted, .. } = &entry.stage else {
            return Ok(());
        };
        let (mut peer, counted) = (peer.clone(), *counted);
        peer.bits = bits;
        // A socket made by the host carries the host's identity; its greeting carries the child's.
        if let Some(caller) = packet.caller.filter(|_| peer.pid == std::process::id()) {
            peer.pid = caller.pid;
        }
        let link = SocketLink {
            socket: entry.socket.clone(),
            shared: Arc::clone(&self.shared),
            key,
        };
        self.greetings = self.greetings.saturating_sub(1);
        if counted {
            port.greeting_over(peer.uid());
        }
        match Arc::clone(port).greeted(Box::new(link), peer, context) {
            Ok(core) => {
                entry.stage = Stage::Live(core);
                Ok(())
            }
            Err(status) => {
                refuse(&entry.socket, status, port.max_message());
                self.connections.remove(&key);
                Ok(())
            }
        }
    }

    fn end(&mut self, key: u64) {
        let Some(entry) = self.connections.remove(&key) else {
            return;
        };
        entry.socket.close();
        match entry.stage {
            Stage::Greeting { peer, counted, .. } => {
                self.greetings = self.greetings.saturating_sub(1);
                self.greeting_over(&peer, counted);
            }
            Stage::Live(core) => core.handle_peer_closed(),
        }
    }

    fn look_at_time(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.listen();
        }
        if self.greetings == 0 {
            return;
        }
        let late =
            |entry: &Entry| matches!(&entry.stage, Stage::Greeting { until, .. } if *until <= now);
        let keys: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, entry)| late(entry))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter().for_each(|key| self.end(key));
    }

    fn next_timeout(&self) -> Option<Timespec> {
        let greetings = self
            .connections
            .values()
            .filter(|_| self.greetings > 0)
            .filter_map(|entry| match &entry.stage {
                Stage::Greeting { until, .. } => Some(*until),
                Stage::Live(_) => None,
            });
        let next = greetings.chain(self.paused_until).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        })
    }
}

/// Tells a process that it is not connected.
fn refuse(socket: &Socket, status: fltport_engine::NtStatus, max_message: u32) {
    let frame = ToClient::Connected {
        status,
        max_message,
    };
    // Whether it is still there to be told is its own business.
    let _: Sent = socket.send(frame.header().as_bytes(), &[], None);
    socket.close();
}

/// The host's way to one client over its socket.
#[derive(Debug)]
struct SocketLink {
    socket: Socket,
    shared: Arc<Shared>,
    key: u64,
}

impl HostLink for SocketLink {
    fn send(&mut self, head: &[u8], payload: &[u8], attachment: Option<&Attachment>) -> Sent {
        self.socket.send(head, payload, attachment)
    }

    fn want_writable(&mut self, wanted: bool) {
        let flags = if wanted {
            EventFlags::OUT
        } else {
            EventFlags::IN | EventFlags::RDHUP
        };
        // Fails only where the reactor has let go of the connection already.
        epoll::modify(
            &self.shared.epoll,
            self.socket.as_fd(),
            EventData::new_u64(self.key),
            flags,
        )
        .ok();
    }

    fn close(&mut self) {
        self.socket.close();
    }
}

//! Takes connections and packets of one server port and hands them to the driver. One thread, however many connections.
//!
//! Identity and access come first: a process that may not connect is told so and is gone before a byte of it was read.
//! A connection whose peer does not read is not read either, so it cannot make the host keep more.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fltport_engine::connection::Violation;
use fltport_engine::server::Credentials;
use fltport_engine::wire::ToHost;
use fltport_engine::{NtStatus, limits};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::SocketFlags;

use super::directory::TakenName;
use super::peer;
use super::socket::{Socket, packet_buffer, pair};
use super::socket_link::{SocketLink, listen_for, refuse};
use crate::body::Caller;
use crate::driver::Core;
use crate::error::ListenError;
use crate::frames::Assembler;
use crate::link::{Packet, Received};
use crate::peer::Peer;
use crate::port::Shared as Port;

/// The transport of one server port. Its thread exists once there is something to listen to.
#[derive(Debug)]
pub(crate) struct Reactor {
    running: Mutex<Option<Running>>,
    name: Mutex<Option<TakenName>>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    epoll: Arc<OwnedFd>,
    wake: OwnedFd,
    commands: Mutex<Vec<Command>>,
}

#[derive(Debug)]
enum Command {
    Listen(Arc<OwnedFd>),
    Adopt(Socket),
    StopListening,
    Stop,
}

/// What the reactor's thread knows.
#[derive(Debug)]
struct Loop {
    shared: Arc<Shared>,
    port: Weak<dyn Port>,
    listening: Option<Arc<OwnedFd>>,
    /// Descriptors ran out: listen again then.
    paused_until: Option<Instant>,
    connections: HashMap<u64, Entry>,
    /// Connections that have to greet in time, and until when; the first is the first to be late.
    greetings: BTreeMap<u64, Instant>,
    next_key: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    socket: Socket,
    assembler: Assembler<ToHost>,
    /// Who sent the packet before.
    sender: Option<Caller>,
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
        /// Whether it came by itself, so that its user and the clock limit it. One that the host handed out may take
        /// its time: a child may have much to do before it greets.
        counted: bool,
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
            name: Mutex::new(None),
        }
    }

    /// Listens on a taken name.
    pub(crate) fn listen(&self, taken: TakenName, port: Arc<dyn Port>) -> Result<(), ListenError> {
        let path = std::path::PathBuf::new();
        let socket = Arc::clone(taken.socket());
        self.command(&port, Command::Listen(socket))
            .map_err(|source| ListenError::System {
                doing: "cannot start to listen",
                path,
                source,
            })?;
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        Ok(())
    }

    /// Gives the name back; when this returns, others can take it. Waits for nobody: the thread may be the one that asks.
    pub(crate) fn stop_listening(&self) {
        let name = self
            .name
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(name);
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
        peer::refuse_descriptors(&ours).ok();
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
            epoll: Arc::new(epoll),
            wake,
            commands: Mutex::default(),
        });
        let reactor = Loop {
            shared: Arc::clone(&shared),
            port,
            listening: None,
            paused_until: None,
            connections: HashMap::new(),
            greetings: BTreeMap::new(),
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
                Command::Listen(socket) => {
                    self.listening = Some(socket);
                    self.listen();
                }
                Command::Adopt(socket) => self.adopt(socket),
                Command::StopListening => self.stop_listening(),
                Command::Stop => {
                    self.dismiss();
                    return true;
                }
            }
        }
        false
    }

    fn listen(&mut self) {
        self.paused_until = None;
        if let Some(listener) = &self.listening {
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

    /// Tells those who connected before the port was closed that it is, instead of hanging up on them.
    fn stop_listening(&mut self) {
        while self.accept_one() {}
        // Closing the socket takes it out of the set.
        self.listening = None;
    }

    /// Tells those who have not greeted that there is no port any more.
    fn dismiss(&mut self) {
        let Some(port) = self.port.upgrade() else {
            return;
        };
        for entry in self.connections.values() {
            if matches!(entry.stage, Stage::Greeting { .. }) {
                let status = NtStatus::OBJECT_NAME_NOT_FOUND;
                refuse(&entry.socket, status, port.max_message());
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..TURN {
            if !self.accept_one() {
                return;
            }
        }
    }

    /// Takes one connect; `false`: there is none.
    fn accept_one(&mut self) -> bool {
        let Some(listener) = &self.listening else {
            return false;
        };
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(fd) => {
                self.arrive(Socket::new(fd));
                true
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => true,
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM) => {
                epoll::delete(&self.shared.epoll, listener).ok();
                self.paused_until = Some(Instant::now() + PAUSE);
                false
            }
            Err(_) => false,
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
        let mut arrived = port.arrives(&credentials);
        if arrived == Err(NtStatus::INSUFFICIENT_RESOURCES) {
            // A crowd, not a flood, if those before it have greeted meanwhile.
            self.serve_greetings();
            arrived = port.arrives(&credentials);
        }
        if let Err(status) = arrived {
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
        self.greet(
            socket,
            Peer {
                pid,
                credentials,
                bits: 0,
                socket: Weak::new(),
            },
            false,
        );
    }

    /// Reads what those who have not greeted have sent by now.
    fn serve_greetings(&mut self) {
        let keys: Vec<u64> = self.greetings.keys().copied().collect();
        keys.into_iter()
            .for_each(|key| self.serve(key, EventFlags::IN));
    }

    fn greet(&mut self, socket: Socket, peer: Peer, counted: bool) {
        let key = self.next_key;
        self.next_key += 1;
        let (data, flags) = (EventData::new_u64(key), listen_for(false));
        if epoll::add(&self.shared.epoll, &socket, data, flags).is_err() {
            self.greeting_over(&peer, counted);
            return;
        }
        if counted {
            let until = Instant::now() + Duration::from_millis(limits::HANDSHAKE_MILLIS);
            self.greetings.insert(key, until);
        }
        let entry = Entry {
            socket,
            assembler: Assembler::new(),
            sender: None,
            stage: Stage::Greeting { peer, counted },
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
        // A frame is one process's word: no other may finish it in its own name.
        if entry.assembler.is_unfinished() && entry.sender != packet.caller {
            return Err(Violation("a frame of two processes"));
        }
        entry.sender = packet.caller;
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
        let Stage::Greeting { peer, counted } = &entry.stage else {
            return Ok(());
        };
        let (mut peer, counted) = (peer.clone(), *counted);
        peer.bits = bits;
        // A socket made by the host carries the host's identity; its greeting carries the child's.
        if let Some(caller) = packet.caller.filter(|_| !counted) {
            peer.pid = caller.pid;
            peer.credentials = Credentials {
                uid: caller.uid,
                gid: caller.gid,
                groups: Vec::new(),
            };
        }
        let epoll = Arc::clone(&self.shared.epoll);
        let link = SocketLink::new(entry.socket.clone(), epoll, key);
        self.greetings.remove(&key);
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
        self.greetings.remove(&key);
        entry.socket.close();
        match entry.stage {
            Stage::Greeting { peer, counted } => self.greeting_over(&peer, counted),
            Stage::Live(core) => core.handle_peer_closed(),
        }
    }

    fn look_at_time(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.listen();
        }
        while let Some((key, until)) = self.greetings.first_key_value() {
            if *until > now {
                break;
            }
            self.end(*key);
        }
    }

    fn next_timeout(&self) -> Option<Timespec> {
        let greeting = self.greetings.values().next().copied();
        let next = greeting.into_iter().chain(self.paused_until).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        })
    }
}

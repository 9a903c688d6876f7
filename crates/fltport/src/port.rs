//! A server port: a name, who may connect, and three callbacks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use fltport_engine::server::{Access, Credentials, Filter, FilterState, Port};
use fltport_engine::{NtStatus, PortName, limits};

use crate::body::Caller;
use crate::client_port::ClientPort;
use crate::driver::{Core, MessageCall, Owner};
use crate::error::ListenError;
use crate::link::HostLink;
use crate::peer::Peer;
use crate::pool::Pool;
use crate::sync::{AtomicU64, Condvar, Instant, Mutex, MutexGuard, Ordering, thread};
use crate::sys;
use crate::timer::Timer;
use crate::way::Notice;

/// The three callbacks of a server port. Each may run on several threads at once, for different connections; the
/// message callback also for one connection.
///
/// A callback that panics refuses the connection, or answers `STATUS_UNSUCCESSFUL`; others are not touched.
pub trait PortHandler: Send + Sync + 'static {
    /// What the filter keeps for a connection: the connection cookie, typed.
    type Connection: Send + Sync + 'static;

    /// A client connects, with `context` bytes of its own. `port` is the filter's end and may be used at once, though
    /// nobody can receive before this returns.
    ///
    /// # Errors
    /// A status refuses; the client is told it, and `disconnect` is not called.
    #[doc(alias = "PFLT_CONNECT_NOTIFY")]
    fn connect(
        &self,
        port: ClientPort,
        peer: &Peer,
        context: &[u8],
    ) -> Result<Self::Connection, NtStatus>;

    /// The client's end is closed, or the port is shut down. Called once for each accepted connection, after its running
    /// message callbacks have returned. Until this returns the connection counts against the limit.
    #[doc(alias = "PFLT_DISCONNECT_NOTIFY")]
    fn disconnect(&self, connection: Self::Connection, peer: &Peer) {
        let _ = (connection, peer);
    }

    /// The client sends a request (`FilterSendMessage`) and waits. Returns the bytes written to `output`, which is as
    /// long as the client's buffer and zeroed. `caller` is who made this request, as the kernel says.
    ///
    /// # Errors
    /// A [`Refusal`] is what the client's call returns; one of warning severity may come with bytes. Without this
    /// callback every request fails with `STATUS_NOT_SUPPORTED`.
    #[doc(alias = "PFLT_MESSAGE_NOTIFY")]
    fn message(
        &self,
        connection: &Self::Connection,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        let _ = (connection, caller, input, output);
        Err(NtStatus::NOT_SUPPORTED.into())
    }
}

/// What a message callback says instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: NtStatus,
    /// Bytes written to the output, which the client gets all the same.
    pub written: usize,
}

impl From<NtStatus> for Refusal {
    fn from(status: NtStatus) -> Self {
        Self { status, written: 0 }
    }
}

/// A server port. Dropping it shuts it down.
#[derive(Debug)]
pub struct ServerPort {
    shared: Arc<dyn Shared>,
    reactor: sys::Reactor,
}

/// How to make a [`ServerPort`]; see [`ServerPort::builder`].
#[derive(Debug)]
#[must_use]
pub struct Builder {
    name: Option<String>,
    access: Access,
    max_connections: u32,
    max_message: u32,
    shared_memory: bool,
    spin: bool,
    notice: Option<Told>,
    directory: Option<PathBuf>,
}

/// Who is told what a port does for want of something.
struct Told(Box<dyn Fn(&Notice) + Send + Sync>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// What a transport needs of a server port.
pub(crate) trait Shared: Send + Sync + std::fmt::Debug {
    /// A client has connected its transport: access first, before a byte of it is read.
    fn arrives(&self, who: &Credentials) -> Result<(), NtStatus>;
    /// A client's greeting is complete or has failed.
    fn greeting_over(&self, uid: u32);
    /// A client has greeted: counts it, and starts the connect callback.
    fn greeted(
        self: Arc<Self>,
        link: Box<dyn HostLink>,
        peer: Peer,
        context: Vec<u8>,
    ) -> Result<Arc<Core>, NtStatus>;
    fn max_message(&self) -> u32;
    /// No more connections; says whether this call did it.
    fn close(&self) -> bool;
    /// Ends all connections of a closed port; waits for their last callback.
    fn unregister(&self);
    fn connections(&self) -> (Vec<Arc<Core>>, u32);
}

struct State<H> {
    handler: H,
    port: Mutex<Port>,
    max_message: u32,
    shared_memory: bool,
    spin: bool,
    notice: Option<Told>,
    /// Not 0: it was told.
    noticed: AtomicU64,
    live: Mutex<Live>,
    ended: Condvar,
    next_id: AtomicU64,
    lifecycle: Pool,
    messages: Pool,
    timer: Timer,
}

#[derive(Debug, Default)]
struct Live {
    /// The filter of this one port: says when the last connection is over.
    filter: Filter,
    cores: BTreeMap<u64, Arc<Core>>,
    severed: BTreeMap<u32, Vec<Weak<Core>>>,
}

/// How long a port that shuts down waits for clients to take what they were sent.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Threads that connect and disconnect callbacks of one port may occupy.
const LIFECYCLE_THREADS: usize = 32;

/// Threads that message callbacks of one port may occupy.
const MESSAGE_THREADS: usize = 64;

impl ServerPort {
    /// Starts to make a port named `name`, such as `\ScannerPort`.
    pub fn builder(name: &str) -> Builder {
        Builder::new(Some(name.to_string()))
    }

    /// Starts to make a port without a name: only clients that it hands out itself can connect, by
    /// [`Self::connect_in_memory`] or [`Self::offer`].
    pub fn unnamed() -> Builder {
        Builder::new(None)
    }

    /// Stops new connects and gives the name back. Live connections go on, with their callbacks. Says whether this call
    /// did it: closing a port again has no effect, whoever has its name by then.
    ///
    /// # References
    /// `FltCloseCommunicationPort`.
    #[doc(alias = "FltCloseCommunicationPort")]
    pub fn close(&self) -> bool {
        let closed = self.shared.close();
        if closed {
            self.reactor.stop_listening();
        }
        closed
    }

    /// Closes the port, ends all its connections and blocks until their last callback has returned; no callback runs
    /// afterwards. Must not be called from a callback of this port.
    ///
    /// # References
    /// `FltUnregisterFilter`.
    #[doc(alias = "FltUnregisterFilter")]
    pub fn shutdown(self) {
        drop(self);
    }

    /// A connected socket for a child process: whoever has it is trusted as if it had passed the access check. The child
    /// uses [`crate::Client::from_fd`].
    ///
    /// # Errors
    /// The system's, when no socket can be made.
    #[cfg(target_os = "linux")]
    pub fn offer(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        self.reactor.offer(&self.shared)
    }

    /// The filter's ends of the live connections, in the order of their making.
    #[must_use]
    pub fn connections(&self) -> Vec<ClientPort> {
        self.shared
            .connections()
            .0
            .into_iter()
            .map(ClientPort::new)
            .collect()
    }

    /// Connections that may exist at a time.
    #[must_use]
    pub fn max_connections(&self) -> u32 {
        self.shared.connections().1
    }

    pub(crate) fn shared(&self) -> &Arc<dyn Shared> {
        &self.shared
    }
}

impl Drop for ServerPort {
    fn drop(&mut self) {
        self.close();
        self.shared.unregister();
        self.reactor.stop();
    }
}

impl Builder {
    fn new(name: Option<String>) -> Self {
        Self {
            name,
            access: Access::host_only(sys::host_uid()),
            max_connections: 1,
            max_message: limits::MESSAGE_DEFAULT,
            shared_memory: true,
            spin: true,
            notice: None,
            directory: None,
        }
    }

    /// Who may connect; root and the host's own user unless said otherwise.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Connections at a time; 1 unless said otherwise. Counted before the connect callback runs, released after the
    /// disconnect callback has returned and the client has read what it was promised, or is gone; at once where the filter
    /// closes the connection.
    pub const fn max_connections(mut self, count: u32) -> Self {
        self.max_connections = count;
        self
    }

    /// Most payload bytes of one message, reply or request: 1 MiB unless said otherwise, 16 MiB at most.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = bytes;
        self
    }

    /// Whether questions travel through memory that host and client share, where the system can do that (Linux 5.14): yes
    /// unless said otherwise. Otherwise they are packets on the connection's socket, as everything else is. Memory is faster,
    /// packets cost no memory.
    pub const fn shared_memory(mut self, yes: bool) -> Self {
        self.shared_memory = yes;
        self
    }

    /// Whether a thread that waits for a reply may do so awake, for 50 microseconds at most, while the service is quick: yes
    /// unless said otherwise. It never does on a core that both sides have to share.
    pub const fn spin(mut self, yes: bool) -> Self {
        self.spin = yes;
        self
    }

    /// Whom to tell what the port does otherwise than it would, for want of something: once for each port, on a thread of the
    /// port's. Nobody is told unless said so.
    ///
    /// ```
    /// # let builder = fltport::ServerPort::unnamed();
    /// builder.notice(|notice| eprintln!("my filter: {notice}"));
    /// ```
    pub fn notice(mut self, told: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.notice = Some(Told(Box::new(told)));
        self
    }

    /// The port directory, instead of this user's usual one.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.directory = Some(path.as_ref().to_path_buf());
        self
    }

    /// Makes the port. It listens before this returns, so a connect callback may run before the caller has stored it.
    ///
    /// # Errors
    /// [`ListenError`]: the name, a limit, a living host that has the name, or the system.
    ///
    /// # References
    /// `FltCreateCommunicationPort`.
    #[doc(alias = "FltCreateCommunicationPort")]
    pub fn listen<H: PortHandler>(self, handler: H) -> Result<ServerPort, ListenError> {
        if self.max_message > limits::MESSAGE_MAX {
            return Err(ListenError::Argument("a message limit over 16 MiB"));
        }
        let name = self.name.as_deref().map(PortName::parse).transpose()?;
        let open_to_all = self.access.is_wider_than(sys::host_uid());
        let port = Port::new(self.access, self.max_connections)
            .map_err(|_| ListenError::Argument("a port needs room for at least one connection"))?;
        let taken = name
            .map(|name| sys::Directory::resolve(self.directory.as_deref()).take(&name, open_to_all))
            .transpose()?;
        let mut live = Live::default();
        live.filter
            .handle_create()
            .map_err(|_| ListenError::Argument("a filter that is being unregistered"))?;
        let shared: Arc<dyn Shared> = Arc::new(State {
            handler,
            port: Mutex::new(port),
            max_message: self.max_message,
            shared_memory: self.shared_memory,
            spin: self.spin,
            notice: self.notice,
            noticed: AtomicU64::new(0),
            live: Mutex::new(live),
            ended: Condvar::new(),
            next_id: AtomicU64::new(1),
            lifecycle: Pool::new("fltport-connect".into(), LIFECYCLE_THREADS),
            messages: Pool::new("fltport-message".into(), MESSAGE_THREADS),
            timer: Timer::default(),
        });
        let reactor = sys::Reactor::new();
        if let Some(taken) = taken {
            reactor.listen(taken, Arc::clone(&shared))?;
        }
        Ok(ServerPort { shared, reactor })
    }
}

impl<H: PortHandler> State<H> {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_connect(&self, core: &Arc<Core>, context: &[u8]) {
        let port = ClientPort::new(Arc::clone(core));
        let accepted = catch(|| self.handler.connect(port, core.peer(), context));
        let refused = match accepted.unwrap_or(Err(NtStatus::UNSUCCESSFUL)) {
            Ok(cookie) => return core.connect_returned(NtStatus::SUCCESS, Some(Arc::new(cookie))),
            // A refusal with a success code would make a connection without a cookie.
            Err(status) if status.is_nt_success() => NtStatus::UNSUCCESSFUL,
            Err(status) => status,
        };
        core.connect_returned(refused, None);
        self.ended(core);
    }

    fn call_message(
        &self,
        core: &Core,
        call: &MessageCall,
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        let cookie = core
            .cookie()
            .and_then(|cookie| cookie.downcast::<H::Connection>().ok());
        let cookie = cookie.ok_or(NtStatus::PORT_DISCONNECTED)?;
        let result = catch(|| {
            self.handler
                .message(&cookie, call.caller, &call.input, output)
        });
        result.unwrap_or_else(|| Err(NtStatus::UNSUCCESSFUL.into()))
    }
}

impl<H: PortHandler> Shared for State<H> {
    fn arrives(&self, who: &Credentials) -> Result<(), NtStatus> {
        self.port().handle_arrival(who)
    }

    fn greeting_over(&self, uid: u32) {
        self.port().handle_greeting_over(uid);
    }

    fn greeted(
        self: Arc<Self>,
        link: Box<dyn HostLink>,
        peer: Peer,
        context: Vec<u8>,
    ) -> Result<Arc<Core>, NtStatus> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let owner: Arc<dyn Owner> = Arc::new(Arc::clone(&self));
        let core = Arc::new(Core::new(owner, link, peer, id, self.max_message));
        // Counted and known in one step: an unregister either ends this connection or comes first and refuses it.
        let mut live = self.live();
        self.port().handle_connect()?;
        if let Err(status) = live.filter.handle_connect() {
            self.port().handle_release();
            return Err(status);
        }
        live.cores.insert(id, Arc::clone(&core));
        drop(live);
        let connecting = Arc::clone(&core);
        let state = Arc::clone(&self);
        self.lifecycle
            .run(move || state.run_connect(&connecting, &context));
        Ok(core)
    }

    fn max_message(&self) -> u32 {
        self.max_message
    }

    fn close(&self) -> bool {
        let closed = self.port().handle_close();
        if closed {
            self.live().filter.handle_port_closed();
            self.ended.notify_all();
        }
        closed
    }

    fn unregister(&self) {
        let mut live = self.live();
        live.filter.handle_unregister();
        let cores: Vec<_> = live.cores.values().cloned().collect();
        drop(live);
        cores.iter().for_each(Core::unregister);
        let mut live = self.live();
        while live.filter.state() != FilterState::Unregistered {
            live = self
                .ended
                .wait(live)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(live);
        self.timer.stop();
        // What was delivered is with the client once it reads; one that does not read is not waited for.
        let end = Instant::now() + LAST_WORDS;
        while Instant::now() < end && cores.iter().any(|core| core.is_blocked()) {
            thread::sleep(Duration::from_millis(1));
        }
        cores.iter().for_each(|core| core.close_link_now());
    }

    fn connections(&self) -> (Vec<Arc<Core>>, u32) {
        let most = self.port().connections().1;
        (self.live().cores.values().cloned().collect(), most)
    }
}

impl<H: PortHandler> Owner for Arc<State<H>> {
    fn run_message(&self, core: Arc<Core>, call: MessageCall) {
        let state = Self::clone(self);
        self.messages.run(move || {
            let mut output = vec![0; usize::try_from(call.capacity).unwrap_or(0)];
            let result = state.call_message(&core, &call, &mut output);
            let (status, written) = match result {
                Ok(written) => (NtStatus::SUCCESS, written),
                Err(refusal) => (refusal.status, refusal.written),
            };
            // A callback that claims to have written more than there is room is held to the room.
            output.truncate(written);
            let input = u32::try_from(call.input.len()).unwrap_or(u32::MAX);
            core.request_returned(call.key, input, status, output);
        });
    }

    fn run_disconnect(&self, core: Arc<Core>) {
        let state = Self::clone(self);
        self.lifecycle.run(move || {
            let cookie = core
                .take_cookie()
                .and_then(|cookie| cookie.downcast::<H::Connection>().ok());
            if let Some(cookie) = cookie.and_then(Arc::into_inner) {
                catch(|| state.handler.disconnect(cookie, core.peer()));
            }
            core.disconnect_returned();
        });
    }

    fn notice(&self, notice: Notice) {
        if self.notice.is_some() && self.noticed.swap(1, Ordering::Relaxed) == 0 {
            let state = Self::clone(self);
            self.lifecycle.run(move || {
                catch(|| state.notice.as_ref().map(|told| (told.0)(&notice)));
            });
        }
    }

    fn release_slot(&self) {
        self.port().handle_release();
    }

    fn severed(&self, core: &Arc<Core>) {
        let mut live = self.live();
        let of_user = live.severed.entry(core.peer().uid()).or_default();
        of_user.retain(|other| other.upgrade().is_some_and(|other| other.is_here()));
        of_user.push(Arc::downgrade(core));
        let oldest = (of_user.len() > limits::SEVERED_PER_USER)
            .then(|| of_user.remove(0))
            .and_then(|o| o.upgrade());
        drop(live);
        if let Some(oldest) = oldest {
            oldest.handle_peer_closed();
            oldest.close_link_now();
        }
    }

    fn ended(&self, core: &Core) {
        State::ended(self, core);
    }

    fn timer(&self) -> &Timer {
        &self.timer
    }

    fn shares_memory(&self) -> bool {
        self.shared_memory
    }

    fn spins(&self) -> bool {
        self.spin
    }
}

impl<H: PortHandler> State<H> {
    fn ended(&self, core: &Core) {
        let mut live = self.live();
        if live.cores.remove(&core.id()).is_some() {
            live.filter.handle_connection_ended();
        }
        live.severed.retain(|_, of_user| {
            of_user.retain(|other| other.upgrade().is_some_and(|other| other.is_here()));
            !of_user.is_empty()
        });
        drop(live);
        self.ended.notify_all();
    }
}

impl<H> std::fmt::Debug for State<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn catch<R>(callback: impl FnOnce() -> R) -> Option<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback)).ok()
}

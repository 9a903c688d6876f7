//! The library itself as a backend: its filter side in this process, its clients here or in processes of their own.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use fltport::{
    Access, ClientPort, NtStatus, Outbound, Pending, Reply, SendError, ServerPort, Timeout,
    WallTime,
};

use super::Kind;
use super::board::Board;
use super::child::Children;
use super::clients::{Call, Clients, Way};
use super::recorder::{Conns, Recorder, Scripts, Silent, lock};
use crate::backend::{
    Allow, Backend, CallId, Callback, ClientId, ConnId, Counts, Done, Event, Need, Op, PortId,
    PortSpec, Script, Sent, Who,
};

/// Ports of the library in this process.
pub(super) struct Real {
    kind: Kind,
    /// Questions may travel through memory.
    shares_memory: bool,
    start: Instant,
    board: Arc<Board>,
    conns: Conns,
    ports: BTreeMap<PortId, Port>,
    /// The newest ports of clients in memory, by name.
    names: Arc<Mutex<BTreeMap<String, Arc<ServerPort>>>>,
    here: Clients,
    children: Children,
    /// Which process a client lives in; none for this one.
    homes: BTreeMap<ClientId, Who>,
    posted: BTreeMap<Op, ClientId>,
    pending: BTreeMap<Op, Pending>,
    directory: tempfile::TempDir,
}

struct Port {
    filter: u32,
    port: Arc<ServerPort>,
    scripts: Arc<Mutex<Scripts>>,
}

impl Real {
    pub(super) fn new(kind: Kind) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()?;
        let board = Arc::new(Board::default());
        let names = Arc::default();
        let way = if kind == Kind::Memory {
            Way::Memory(Arc::clone(&names))
        } else {
            Way::Directory(directory.path().into())
        };
        Ok(Self {
            kind: kind.with_memory(),
            shares_memory: kind.shares_memory(),
            start: Instant::now(),
            conns: Arc::default(),
            ports: BTreeMap::new(),
            names,
            here: Clients::new(way, Arc::clone(&board)),
            children: Children::new(directory.path(), Arc::clone(&board)),
            homes: BTreeMap::new(),
            posted: BTreeMap::new(),
            pending: BTreeMap::new(),
            directory,
            board,
        })
    }

    /// Has a call done where its client lives.
    fn call(&mut self, who: Option<Who>, call: Call) -> Op {
        let op = self.board.op();
        match who {
            Some(who) => self.children.start(who, op, call),
            None => self.here.start(op, call),
        }
        op
    }

    fn call_of(&mut self, client: ClientId, call: Call) -> Op {
        self.call(self.homes.get(&client).copied(), call)
    }

    fn conn(&self, conn: ConnId) -> ClientPort {
        lock(&self.conns)[&conn].clone()
    }

    fn access(allow: &Allow) -> Access {
        let host = rustix::process::geteuid().as_raw();
        match allow {
            Allow::Everyone => Access::everyone(),
            Allow::Unsaid | Allow::Default => Access::host_only(host),
            Allow::Nobody => Access::nobody(),
            Allow::Users(users) => users.iter().fold(Access::host_only(host), |access, user| {
                access.allow_user(*user)
            }),
        }
    }

    fn send_later(
        &mut self,
        conn: ConnId,
        message: Outbound<'_>,
        capacity: u32,
        timeout: Timeout,
    ) -> Op {
        let op = self.board.op();
        let board = Arc::clone(&self.board);
        let pending = self
            .conn(conn)
            .ask_then(message, capacity, timeout, move |result| {
                board.finish(op, Done::Sent(sent(result)));
            });
        self.pending.insert(op, pending);
        op
    }
}

/// The end of a send as a story sees it.
fn sent(result: Result<Reply, SendError>) -> Sent {
    let status = match &result {
        Ok(reply) => reply.status.0,
        Err(error) => error.status().0,
    };
    let (reply, delivered) = match result {
        Ok(reply) | Err(SendError::ReplyTooLong(reply)) => (Some(reply.bytes), Some(true)),
        Err(
            SendError::TimedOut { delivered }
            | SendError::Disconnected { delivered }
            | SendError::Cancelled { delivered },
        ) => (None, Some(delivered)),
        Err(_) => (None, None),
    };
    Sent {
        status,
        reply,
        delivered,
    }
}

impl Backend for Real {
    fn lacks(&self, need: Need) -> Option<&'static str> {
        self.kind.lacks(need)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn tolerance(&self) -> Duration {
        // Of a machine that does much else.
        Duration::from_secs(2)
    }

    fn take(&mut self, op: Op, within: Duration) -> Option<Done> {
        let done = self.board.take(op, within);
        if let Some(Done::Connected(Ok(client))) = &done
            && let Some(who) = self.children.home_of(op)
        {
            self.homes.insert(*client, who);
        }
        done
    }

    fn events(&mut self) -> Vec<Event> {
        self.board.events()
    }

    fn step(&mut self) {
        self.board.step();
    }

    fn wall(&mut self, _: ConnId) -> WallTime {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        WallTime::from_unix(unix.unwrap_or(Duration::ZERO))
    }

    fn set_wall(&mut self, _: Duration) {
        unreachable!("Need::WallClock is lacking")
    }

    fn forget(&mut self) {
        self.board.forget();
        lock(&self.conns).retain(|_, conn| conn.info().connected);
        let op = self.board.op();
        self.here.start(op, Call::Forget);
        self.children.tell_all(op, &Call::Forget);
    }

    fn handles(&mut self) -> Option<usize> {
        if self.kind == Kind::Memory {
            return None;
        }
        // A socket that a host has accepted bears the name of the one that listens.
        let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets are listed");
        let folder = self.directory.path().to_str().expect("text");
        let mine = sockets.lines().filter(|line| line.contains(folder));
        Some(mine.count())
    }

    fn create(&mut self, spec: &PortSpec) -> Result<PortId, NtStatus> {
        let scripts: Arc<Mutex<Scripts>> = Arc::default();
        let recorder = Recorder {
            board: Arc::clone(&self.board),
            conns: Arc::clone(&self.conns),
            scripts: Arc::clone(&scripts),
            port_cookie: spec.cookie,
        };
        let builder = if self.kind == Kind::Memory {
            ServerPort::unnamed()
        } else {
            ServerPort::builder(&spec.name)
                .directory(self.directory.path())
                .shared_memory(self.shares_memory)
        };
        let builder = match &spec.access {
            Allow::Unsaid => builder,
            said => builder.access(Self::access(said)),
        };
        let builder = builder
            .max_connections(spec.max_connections)
            .max_message(2 << 20);
        let port = if spec.message_callback {
            builder.listen(recorder)
        } else {
            builder.listen(Silent(recorder))
        }
        .map_err(|error| error.status())?;
        let (id, port) = (PortId(self.board.number()), Arc::new(port));
        lock(&self.names).insert(spec.name.clone(), Arc::clone(&port));
        let port = Port {
            filter: spec.filter,
            port,
            scripts,
        };
        self.ports.insert(id, port);
        Ok(id)
    }

    fn script(&mut self, port: PortId, callback: Callback, script: Script) {
        lock(&self.ports[&port].scripts).set(callback, script);
    }

    fn release(&mut self, call: CallId) {
        self.board.release(call);
    }

    fn send(
        &mut self,
        conn: ConnId,
        payload: &[u8],
        capacity: Option<u32>,
        timeout: Timeout,
    ) -> Op {
        let op = self.board.op();
        let (board, port, payload) = (Arc::clone(&self.board), self.conn(conn), payload.to_vec());
        // A thread that is blocked in the call, as on Windows.
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || {
                let result = match capacity {
                    Some(capacity) => sent(port.ask(&payload, capacity, timeout)),
                    None => {
                        let result = port.notify(&payload, timeout);
                        let nothing = Reply {
                            status: NtStatus::SUCCESS,
                            bytes: Vec::new(),
                        };
                        Sent {
                            reply: None,
                            ..sent(result.map(|()| nothing))
                        }
                    }
                };
                board.finish(op, Done::Sent(result));
            })
            .expect("a thread is started");
        op
    }

    fn send_file(&mut self, conn: ConnId, content: &str, capacity: u32, timeout: Timeout) -> Op {
        let path = self.directory.path().join("attached");
        std::fs::write(&path, content).expect("a file is written");
        let file = std::fs::File::open(&path).expect("the file is opened");
        std::fs::remove_file(&path).expect("the file is removed");
        let message = Outbound::new(b"attached").attach(Arc::new(file.into()));
        self.send_later(conn, message, capacity, timeout)
    }

    fn send_for_cancel(
        &mut self,
        conn: ConnId,
        payload: &[u8],
        capacity: u32,
        timeout: Timeout,
    ) -> Op {
        self.send_later(conn, Outbound::new(payload), capacity, timeout)
    }

    fn cancel_send(&mut self, op: Op) {
        self.pending
            .remove(&op)
            .into_iter()
            .for_each(Pending::cancel);
    }

    fn close_client_port(&mut self, conn: ConnId) {
        self.conn(conn).close();
    }

    fn close_port(&mut self, port: PortId) -> bool {
        // In memory it stays to be found: what a connect to it says is the library's word.
        self.ports[&port].port.close()
    }

    fn unregister(&mut self, filter: u32) -> Op {
        let op = self.board.op();
        let mine: Vec<_> = self
            .ports
            .iter()
            .filter(|(_, port)| port.filter == filter)
            .map(|(id, _)| *id)
            .collect();
        let mut ports = Vec::new();
        for id in mine {
            if let Some(port) = self.ports.remove(&id) {
                // The name may be another port's by now.
                lock(&self.names).retain(|_, named| !Arc::ptr_eq(named, &port.port));
                ports.push(port.port);
            }
        }
        let board = Arc::clone(&self.board);
        std::thread::spawn(move || {
            for port in ports {
                // A connect in memory may hold it for a moment longer.
                let mut port = port;
                loop {
                    match Arc::try_unwrap(port) {
                        Ok(port) => break port.shutdown(),
                        Err(shared) => port = shared,
                    }
                    std::thread::yield_now();
                }
            }
            board.finish(op, Done::Unregistered);
        });
        op
    }

    fn counts(&mut self, conn: ConnId) -> Counts {
        let info = self.conn(conn).info();
        Counts {
            gets: info.gets,
            waiting: info.waiting,
            outstanding: info.outstanding,
            delivered: info.delivered,
            replied: info.replied,
            timed_out: info.timed_out,
            late_replies: info.late_replies,
        }
    }

    fn connect(&mut self, who: Who, name: &str, context: &[u8]) -> Op {
        let who = (self.kind == Kind::Processes).then_some(who);
        self.call(
            who,
            Call::Connect {
                name: name.into(),
                context: context.to_vec(),
            },
        )
    }

    fn get(&mut self, client: ClientId, size: u32) -> Op {
        self.call_of(client, Call::Get { client, size })
    }

    fn post(&mut self, client: ClientId, size: u32) -> Op {
        let op = self.call_of(client, Call::Post { client, size });
        self.posted.insert(op, client);
        op
    }

    fn cancel(&mut self, op: Op) {
        if let Some(client) = self.posted.remove(&op) {
            self.call_of(client, Call::Cancel { get: op });
        }
    }

    fn abandon_get(&mut self, op: Op) {
        if let Some(client) = self.posted.remove(&op) {
            self.call_of(client, Call::Abandon { get: op });
        }
    }

    fn reply(&mut self, client: ClientId, message: u64, status: NtStatus, payload: &[u8]) -> Op {
        let call = Call::Reply {
            client,
            message,
            status: status.0,
            payload: payload.to_vec(),
        };
        self.call_of(client, call)
    }

    fn serve(&mut self, client: ClientId) -> Op {
        self.call_of(client, Call::Serve { client })
    }

    fn drop_message(&mut self, client: ClientId, message: u64) -> Op {
        self.call_of(client, Call::Drop { client, message })
    }

    fn is_abandoned(&mut self, client: ClientId, message: u64) -> Op {
        self.call_of(client, Call::IsAbandoned { client, message })
    }

    fn request(&mut self, client: ClientId, input: &[u8], capacity: u32) -> Op {
        let call = Call::Request {
            client,
            input: input.to_vec(),
            capacity,
        };
        self.call_of(client, call)
    }

    fn close(&mut self, client: ClientId) -> Op {
        self.call_of(client, Call::Close { client })
    }

    fn hang_up(&mut self, client: ClientId) -> Op {
        self.call_of(client, Call::HangUp { client })
    }

    fn duplicate(&mut self, client: ClientId) -> ClientId {
        let name = ClientId(self.board.number());
        let home = self.homes.get(&client).copied();
        self.homes.extend(home.map(|home| (name, home)));
        self.call(home, Call::Duplicate { client, name });
        name
    }

    fn stop_reading(&mut self, client: ClientId) {
        let who = self.homes[&client];
        self.children.stop(who);
    }

    fn kill(&mut self, who: Who) {
        self.children.kill(who);
    }

    fn exit(&mut self, who: Who) {
        let op = self.board.op();
        self.children.exit(who, op);
    }

    fn exec(&mut self, who: Who) {
        let op = self.board.op();
        self.children.start(who, op, Call::Exec);
    }

    fn pid(&mut self, who: Who) -> u32 {
        if self.kind == Kind::Processes {
            self.children.pid(who)
        } else {
            std::process::id()
        }
    }

    fn garbage(&mut self, who: Who, name: &str) -> Op {
        self.call(Some(who), Call::Garbage { name: name.into() })
    }

    fn narrow_client(&mut self, who: Who, name: &str, size: u32, reply: u32) -> Op {
        let name = name.into();
        self.call(Some(who), Call::Narrow { name, size, reply })
    }

    fn connect_file(&mut self) -> Op {
        let who = (self.kind == Kind::Processes).then(Who::default);
        self.call(who, Call::File)
    }

    fn become_user(&mut self, who: Who, user: u32) -> Op {
        self.call(Some(who), Call::Become { user })
    }

    fn bequeath(&mut self, who: Who, name: &str, heir: Option<u32>) -> Op {
        let name = name.into();
        self.call(Some(who), Call::Bequeath { name, heir })
    }

    fn leave_nothing(&mut self, client: ClientId) -> Op {
        self.call_of(client, Call::LeaveNothing)
    }

    fn occupy(&mut self, name: &str) {
        let file = format!("{}.port", name.trim_start_matches('\\'));
        std::fs::write(self.directory.path().join(file), b"no port").expect("a file is written");
    }

    fn foreign_host(&mut self, who: Who, name: &str) -> Op {
        self.call(Some(who), Call::Host { name: name.into() })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // Clients first, and nothing held: then every port can shut down.
        self.board.end();
        self.children.end();
    }
}

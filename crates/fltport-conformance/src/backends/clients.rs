//! The clients' side of a story within a process: every call that blocks has a thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fltport::{
    CallError, Client, ConnectError, Connector, Message, NtStatus, PostedGet, ServerPort,
};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::board::Board;
use super::recorder::lock;
use crate::backend::{ClientId, DISC, Done, Got, OK, Op, hex};

/// Something that a client is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// FilterConnectCommunicationPort; the new client has the operation's number.
    Connect {
        name: String,
        #[serde(with = "hex")]
        context: Vec<u8>,
    },
    /// FilterGetMessage.
    Get { client: ClientId, size: u32 },
    /// The same, to be withdrawn perhaps.
    Post { client: ClientId, size: u32 },
    /// CancelIoEx.
    Cancel { get: Op },
    /// Lets go of a get that was posted.
    Abandon { get: Op },
    /// FilterReplyMessage.
    Reply {
        client: ClientId,
        message: u64,
        status: u32,
        #[serde(with = "hex")]
        payload: Vec<u8>,
    },
    /// Gets and replies until a message without a number comes.
    Serve { client: ClientId },
    /// Lets go of a message.
    Drop { client: ClientId, message: u64 },
    /// Asks whether a message is abandoned.
    IsAbandoned { client: ClientId, message: u64 },
    /// FilterSendMessage.
    Request {
        client: ClientId,
        #[serde(with = "hex")]
        input: Vec<u8>,
        capacity: u32,
    },
    /// CloseHandle.
    Close { client: ClientId },
    /// Ends the connection and waits for nothing.
    HangUp { client: ClientId },
    /// DuplicateHandle.
    Duplicate { client: ClientId, name: ClientId },
    /// Connects, greets, and sends what is no frame.
    Garbage { name: String },
    /// Connects as a client of 32 bits, gets one message and answers it with its first bytes.
    Narrow { name: String, size: u32, reply: u32 },
    /// Takes an open regular file for a connection.
    File,
    /// Becomes another user.
    Become { user: u32 },
    /// Connects, and has a program that inherits the connection use it, perhaps as another user.
    Bequeath { name: String, heir: Option<u32> },
    /// Looks whether a program that is started has a connection of this process.
    LeaveNothing,
    /// Serves a port of this name.
    Host { name: String },
    /// Lets go of clients that are closed.
    Forget,
    /// Ends the process.
    Exit,
    /// Makes the process another program.
    Exec,
}

/// How clients reach their ports.
#[derive(Debug)]
pub(super) enum Way {
    /// By name, in this port directory.
    Directory(PathBuf),
    /// In memory, to the open ports of these names.
    Memory(Arc<Mutex<BTreeMap<String, Arc<ServerPort>>>>),
}

/// The clients of one process.
#[derive(Debug)]
pub(super) struct Clients {
    way: Arc<Way>,
    board: Arc<Board>,
    clients: Arc<Mutex<BTreeMap<ClientId, Arc<Held>>>>,
    /// Those whose last handle was closed: what a call then says is the library's word.
    closed: Arc<Mutex<BTreeMap<ClientId, Arc<Held>>>>,
    posted: Arc<Mutex<BTreeMap<Op, Wish>>>,
}

/// One handle's connection, shared by its duplicates.
#[derive(Debug)]
struct Held {
    client: Arc<Client>,
    messages: Mutex<BTreeMap<u64, Message>>,
}

/// What is to become of a get that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Wait,
    Cancel,
    Abandon,
}

/// How often a get that may be withdrawn looks whether it is: at first, and when it has waited for long.
const LOOK: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(2)];

impl Clients {
    pub(super) fn new(way: Way, board: Arc<Board>) -> Self {
        Self {
            way: Arc::new(way),
            board,
            clients: Arc::default(),
            closed: Arc::default(),
            posted: Arc::default(),
        }
    }

    /// Starts a call; its end goes to the board.
    pub(super) fn start(&self, op: Op, call: Call) {
        match call {
            Call::Connect { name, context } => self.connect(op, name, context),
            Call::Get { client, size } => self.get(op, client, size, false),
            Call::Post { client, size } => self.get(op, client, size, true),
            Call::Cancel { get } => self.wish(get, Wish::Cancel),
            Call::Abandon { get } => self.wish(get, Wish::Abandon),
            Call::Forget => lock(&self.closed).clear(),
            Call::Reply {
                client,
                message,
                status,
                payload,
            } => self.with(op, client, Done::Replied(DISC), move |held| {
                // Whoever answers by number answers for the message.
                if let Some(message) = lock(&held.messages).remove(&message) {
                    message.detach();
                }
                // At an odd address, as a library that is given bytes has to take them.
                let odd = [&[0][..], &payload].concat();
                let done = held.client.reply_to(message, NtStatus(status), &odd[1..]);
                Done::Replied(done.map_or_else(|error| error.hresult().0, |()| OK))
            }),
            Call::Serve { client } => self.with(op, client, Done::Served(Vec::new()), serve),
            Call::Drop { client, message } => self.with(op, client, Done::Closed, move |held| {
                drop(lock(&held.messages).remove(&message));
                Done::Closed
            }),
            Call::IsAbandoned { client, message } => {
                self.with(op, client, Done::Is(true), move |held| {
                    let messages = lock(&held.messages);
                    let message = messages.get(&message).expect("the message is held");
                    Done::Is(message.is_abandoned())
                });
            }
            Call::Request {
                client,
                input,
                capacity,
            } => self.with(op, client, Done::Response(DISC, Vec::new()), move |held| {
                // At an odd address, as a library that is given bytes has to take them.
                let odd = [&[0][..], &input].concat();
                let (status, output) = held.client.send_raw(&odd[1..], capacity);
                Done::Response(status.to_hresult().0, output)
            }),
            Call::Close { client } => self.close(op, client),
            Call::HangUp { client } => self.with(op, client, Done::Closed, |held| {
                held.client.hang_up();
                Done::Closed
            }),
            Call::Duplicate { client, name } => {
                let mut clients = lock(&self.clients);
                let held = clients.get(&client).cloned();
                clients.extend(held.map(|held| (name, held)));
            }
            Call::File => {
                let program = std::env::current_exe().expect("this program has a path");
                let file = std::fs::File::open(program).expect("it is a file");
                let result = Client::from_fd(file.into(), b"");
                // Such a client would have no messages to give.
                let result = result.map(|_| ClientId(op.0));
                let result = result.map_err(|error| error.hresult().0);
                self.board.finish(op, Done::Connected(result));
            }
            Call::Become { .. }
            | Call::Bequeath { .. }
            | Call::LeaveNothing
            | Call::Garbage { .. }
            | Call::Narrow { .. }
            | Call::Host { .. }
            | Call::Exit
            | Call::Exec => {
                unreachable!("only processes of their own do that")
            }
        }
    }

    fn connect(&self, op: Op, name: String, context: Vec<u8>) {
        let (way, board, clients) = (
            Arc::clone(&self.way),
            Arc::clone(&self.board),
            Arc::clone(&self.clients),
        );
        std::thread::spawn(move || {
            let result = match &*way {
                Way::Directory(directory) => Connector::new()
                    .directory(directory)
                    .connect(&name, &context),
                Way::Memory(ports) => {
                    let port = lock(ports).get(&name).cloned();
                    match port {
                        Some(port) => port.connect_in_memory(&context),
                        None => Err(ConnectError::NotFound {
                            name,
                            directory: PathBuf::new(),
                        }),
                    }
                }
            };
            let id = ClientId(op.0);
            let result = result.map_err(|error| error.hresult().0).map(|client| {
                let held = Held {
                    client: Arc::new(client),
                    messages: Mutex::default(),
                };
                lock(&clients).insert(id, Arc::new(held));
                id
            });
            board.finish(op, Done::Connected(result));
        });
    }

    fn get(&self, op: Op, client: ClientId, size: u32, may_be_withdrawn: bool) {
        let Some(held) = self.held(client) else {
            return self.board.finish(op, Done::GetFailed(DISC, 0));
        };
        // Here, not in the thread: gets are posted in the order of the story.
        let get = held.client.post_get(size);
        let (board, posted) = (Arc::clone(&self.board), Arc::clone(&self.posted));
        if may_be_withdrawn {
            lock(&posted).insert(op, Wish::Wait);
        }
        std::thread::spawn(move || {
            let ended = if may_be_withdrawn {
                wait_or_withdraw(get, || lock(&posted)[&op])
            } else {
                get.wait()
            };
            let done = match ended {
                Ok(message) => {
                    let got = got(&message);
                    if message.reply_capacity().is_some() {
                        lock(&held.messages).insert(got.message_id, message);
                    }
                    Done::Got(got)
                }
                Err(error) => {
                    let needed = match error {
                        CallError::TooSmall { needed } => needed,
                        _ => 0,
                    };
                    Done::GetFailed(error.hresult().0, needed)
                }
            };
            drop(held);
            lock(&posted).remove(&op);
            board.finish(op, done);
        });
    }

    /// Says what is to become of a get, if it has not ended.
    fn wish(&self, get: Op, wish: Wish) {
        if let Some(posted) = lock(&self.posted).get_mut(&get) {
            *posted = wish;
        }
    }

    fn close(&self, op: Op, client: ClientId) {
        let held = lock(&self.clients).remove(&client);
        let last = held
            .as_ref()
            .is_none_or(|held| !self.has_another_name(held));
        if let Some(held) = held.as_ref().filter(|_| last) {
            lock(&self.closed).insert(client, Arc::clone(held));
        }
        let board = Arc::clone(&self.board);
        std::thread::spawn(move || {
            if let Some(held) = held.filter(|_| last) {
                held.client.close();
            }
            board.finish(op, Done::Closed);
        });
    }

    fn has_another_name(&self, held: &Arc<Held>) -> bool {
        lock(&self.clients)
            .values()
            .any(|other| Arc::ptr_eq(other, held))
    }

    fn held(&self, client: ClientId) -> Option<Arc<Held>> {
        let open = lock(&self.clients).get(&client).cloned();
        open.or_else(|| lock(&self.closed).get(&client).cloned())
    }

    /// Does something with a client on a thread; `closed` is the end for a handle that was closed.
    fn with(
        &self,
        op: Op,
        client: ClientId,
        closed: Done,
        what: impl FnOnce(&Held) -> Done + Send + 'static,
    ) {
        let board = Arc::clone(&self.board);
        let Some(held) = self.held(client) else {
            return board.finish(op, closed);
        };
        std::thread::spawn(move || {
            let done = what(&held);
            drop(held);
            board.finish(op, done);
        });
    }
}

fn wait_or_withdraw(mut get: PostedGet, wish: impl Fn() -> Wish) -> Result<Message, CallError> {
    let [mut look, longest] = LOOK;
    loop {
        if let Some(ended) = get.wait_within(look) {
            return ended;
        }
        look = longest.min(look * 2);
        match wish() {
            Wish::Wait => {}
            Wish::Cancel => return get.cancel(),
            Wish::Abandon => {
                drop(get);
                return Err(CallError::Cancelled);
            }
        }
    }
}

/// Gets and replies without a pause; what became of each reply.
fn serve(held: &Held) -> Done {
    let mut served = Vec::new();
    while let Ok(message) = held.client.next_message() {
        let number = message
            .payload()
            .first_chunk()
            .map(|number| u64::from_le_bytes(*number));
        let reply: Vec<u8> = message.payload().iter().map(|byte| !byte).collect();
        let replied = message.reply(&reply);
        let Some(number) = number else { break };
        served.push((
            number,
            replied.map_or_else(|error| error.hresult().0, |()| OK),
        ));
    }
    Done::Served(served)
}

/// What a message shows to the story.
fn got(message: &Message) -> Got {
    let header = message.header();
    let attachment = message.attachment().map(|file| {
        let mut content = vec![0; 4096];
        let read = rustix::io::pread(file, &mut content, 0).expect("the attached file is read");
        content.truncate(read);
        String::from_utf8(content).expect("text")
    });
    Got {
        reply_length: header.reply_length,
        message_id: header.message_id,
        header: header.as_bytes().to_vec(),
        payload: message.payload().to_vec(),
        remaining: message
            .deadline()
            .map(|end| end.saturating_duration_since(Instant::now())),
        attachment,
    }
}

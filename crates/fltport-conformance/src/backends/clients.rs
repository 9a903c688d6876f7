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
    /// FilterReplyMessage.
    Reply {
        client: ClientId,
        message: u64,
        status: u32,
        #[serde(with = "hex")]
        payload: Vec<u8>,
    },
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
    /// DuplicateHandle.
    Duplicate { client: ClientId, name: ClientId },
    /// Connects, greets, and sends what is no frame.
    Garbage { name: String },
    /// Serves a port of this name.
    Host { name: String },
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
    withdrawn: Arc<Mutex<Vec<Op>>>,
}

/// One handle's connection, shared by its duplicates.
#[derive(Debug)]
struct Held {
    client: Arc<Client>,
    messages: Mutex<BTreeMap<u64, Message>>,
}

/// How often a get that may be withdrawn looks whether it is.
const LOOK: Duration = Duration::from_millis(2);

impl Clients {
    pub(super) fn new(way: Way, board: Arc<Board>) -> Self {
        Self {
            way: Arc::new(way),
            board,
            clients: Arc::default(),
            withdrawn: Arc::default(),
        }
    }

    /// Starts a call; its end goes to the board.
    pub(super) fn start(&self, op: Op, call: Call) {
        match call {
            Call::Connect { name, context } => self.connect(op, name, context),
            Call::Get { client, size } => self.get(op, client, size, false),
            Call::Post { client, size } => self.get(op, client, size, true),
            Call::Cancel { get } => lock(&self.withdrawn).push(get),
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
                let done = held.client.reply_to(message, NtStatus(status), &payload);
                Done::Replied(done.map_or_else(|error| error.hresult().0, |()| OK))
            }),
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
                let (status, output) = held.client.send_raw(&input, capacity);
                Done::Response(status.to_hresult().0, output)
            }),
            Call::Close { client } => self.close(op, client),
            Call::Duplicate { client, name } => {
                let mut clients = lock(&self.clients);
                let held = clients.get(&client).cloned();
                clients.extend(held.map(|held| (name, held)));
            }
            Call::Garbage { .. } | Call::Host { .. } => {
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
        let (board, withdrawn) = (Arc::clone(&self.board), Arc::clone(&self.withdrawn));
        std::thread::spawn(move || {
            let ended = if may_be_withdrawn {
                wait_or_withdraw(get, || lock(&withdrawn).contains(&op))
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
            board.finish(op, done);
        });
    }

    fn close(&self, op: Op, client: ClientId) {
        let held = lock(&self.clients).remove(&client);
        let last = held
            .as_ref()
            .is_none_or(|held| !self.has_another_name(held));
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
        lock(&self.clients).get(&client).cloned()
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

fn wait_or_withdraw(
    mut get: PostedGet,
    withdrawn: impl Fn() -> bool,
) -> Result<Message, CallError> {
    loop {
        if let Some(ended) = get.wait_within(LOOK) {
            return ended;
        }
        if withdrawn() {
            return get.cancel();
        }
    }
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

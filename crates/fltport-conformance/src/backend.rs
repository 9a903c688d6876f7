//! What a place where ports exist has to offer to be tested: both sides of a port as operations that are started, and
//! looked at later.
//!
//! Whether an operation blocks a thread, a process or nothing at all is the backend's business. Everything a story can
//! observe is a value of this file.

use std::time::Duration;

use fltport::{HResult, NtStatus, Timeout, WallTime};
use serde::{Deserialize, Serialize};

/// An operation that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Op(pub u64);

/// A server port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub u64);

/// A client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientId(pub u64);

/// The filter's end of a connection, as its connect callback got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// One run of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A client process: its number, and the user that it runs as. The host's own user without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Which of the client processes.
    pub process: u32,
    /// Another user than the host's.
    pub user: Option<u32>,
}

/// Makes [`Need`] and the list of all, so that neither is ever without the other.
macro_rules! needs {
    ($($(#[$what:meta])* $name:ident,)*) => {
        /// Something that not every backend can express.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Need {
            $($(#[$what])* $name,)*
        }

        impl Need {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

needs! {
    /// Ports have names in a namespace that clients look them up in.
    Names,
    /// Access is checked when a client connects by name.
    Access,
    /// Ports whose access nobody has said.
    UnsaidAccess,
    /// Names are checked where there are any.
    NameSyntax,
    /// A namespace whose folders are not made with the names in them.
    FoldersApart,
    /// Clients that run as another user.
    Users,
    /// Clients in processes of their own, which can be killed.
    Processes,
    /// A process that was given a connected handle, by inheritance or in a message.
    PassedHandles,
    /// Several ports belong to one filter object, which is registered and unregistered.
    FilterObject,
    /// Arguments that the Rust types rule out: flags, absent callbacks, negative counts, absent buffers with a size.
    WindowsArguments,
    /// Replies and gets whose size is shorter than the header.
    ShortBuffers,
    /// Buffers at addresses that are invalid, odd, freed or read-only.
    Addresses,
    /// Events, completion ports and OVERLAPPED structures.
    Overlapped,
    /// Handles opened with FLT_PORT_FLAG_SYNC_HANDLE.
    SyncHandles,
    /// Threads as owners of requests: their ending ends what they have asked for.
    ThreadOwners,
    /// Security descriptors with access masks.
    AccessMasks,
    /// Things that really happen at the same time.
    Parallel,
    /// A wall clock that the test may set.
    WallClock,
    /// A host in a process of its own, which can be killed.
    HostProcess,
    /// A transport that carries bytes, which a client may get wrong.
    Bytes,
    /// A client that does not read its transport.
    NotReading,
    /// Open files that travel with messages.
    Attachments,
    /// What the kernel says of the process at the other end.
    Identity,
    /// The connect context is checked by a library between program and port.
    ContextChecks,
    /// A connect that starts while the client dies.
    DyingConnect,
    /// A client library that keeps messages, and answers for those that are dropped.
    MessageState,
    /// A client ends its connection with or without waiting for the filter.
    HangingUp,
    /// Buffers have addresses, which may be odd.
    OddAddresses,
    /// Handles of something that is no port.
    OtherHandles,
}

/// How a server port is made.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// The filter that owns it.
    pub filter: u32,
    /// Name with its leading backslash.
    pub name: String,
    /// The server port cookie.
    pub cookie: u64,
    /// Connections at a time.
    pub max_connections: u32,
    /// Whether there is a message callback.
    pub message_callback: bool,
    /// Who may connect.
    pub access: Allow,
}

/// Who may connect to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Nothing is said of it: no descriptor at all.
    Unsaid,
    /// Everyone: a NULL DACL.
    Everyone,
    /// The built descriptor: root and the host's user.
    Default,
    /// Nobody: an empty DACL.
    Nobody,
    /// Root, the host's user, and these.
    Users(Vec<u32>),
}

/// Which callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    /// ConnectNotify.
    Connect,
    /// DisconnectNotify.
    Disconnect,
    /// MessageNotify.
    Message,
}

/// What a callback does: first something inside, then it may wait to be released, then it returns its answer.
#[derive(Clone, Debug)]
pub struct Script {
    /// Done first, by the callback's own thread.
    pub inside: Option<Inside>,
    /// Whether it waits for [`Backend::release`].
    pub hold: bool,
    /// What it returns.
    pub answer: Answer,
}

/// Something that a callback does to its own connection.
#[derive(Clone, Debug)]
pub enum Inside {
    /// FltCloseClientPort.
    Close,
    /// FltSendMessage without a reply.
    Send(Vec<u8>, Timeout),
}

/// What a callback returns.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status, these output bytes, and perhaps a claim to have written another number of them.
    Is {
        /// The status.
        status: NtStatus,
        /// Bytes written to the output buffer, as many as fit.
        output: Vec<u8>,
        /// The returned length, where it is not that of `output`.
        claimed: Option<usize>,
        /// The connection cookie; only of a connect callback.
        cookie: Option<u64>,
    },
    /// Success, with the input copied to the output as far as it fits. A connect or disconnect callback succeeds.
    Echo,
}

/// Something that happened at the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// ConnectNotify began.
    Connect {
        /// This run of it.
        call: CallId,
        /// The filter's end.
        conn: ConnId,
        /// The server port cookie.
        port_cookie: u64,
        /// The connection context.
        context: Vec<u8>,
        /// The process that connects, as the system says.
        pid: u32,
        /// Its user.
        uid: u32,
        /// Its pointer width in bits, as it says itself.
        bits: u32,
    },
    /// DisconnectNotify began.
    Disconnect {
        /// This run of it.
        call: CallId,
        /// The filter's end.
        conn: ConnId,
        /// The connection cookie.
        cookie: Option<u64>,
    },
    /// MessageNotify began.
    Message {
        /// This run of it.
        call: CallId,
        /// The filter's end.
        conn: ConnId,
        /// The connection cookie.
        cookie: Option<u64>,
        /// The input buffer.
        input: Vec<u8>,
        /// Bytes of the output buffer.
        capacity: usize,
        /// The process that calls, as the system says.
        pid: u32,
    },
    /// What a callback did inside came to this.
    Inside {
        /// Whose.
        call: CallId,
        /// The status of a send; success for a close.
        status: NtStatus,
    },
    /// A callback returned.
    Returned {
        /// Which.
        call: CallId,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// A connect: the client's end, or the error as an HRESULT.
    Connected(Result<ClientId, u32>),
    /// A get that took a message.
    Got(Got),
    /// A get that failed: HRESULT, and bytes needed where it was too small.
    GetFailed(u32, u32),
    /// A reply: HRESULT.
    Replied(u32),
    /// A request: HRESULT and output bytes.
    Response(u32, #[serde(with = "hex")] Vec<u8>),
    /// A handle was closed.
    Closed,
    /// A send.
    Sent(Sent),
    /// An unregister returned.
    Unregistered,
    /// An answer to a yes-or-no question.
    Is(bool),
    /// What a serving client did: the number in each message, and the HRESULT of its reply.
    Served(Vec<(u64, u32)>),
}

/// A message as the client got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// FILTER_MESSAGE_HEADER.ReplyLength.
    pub reply_length: u32,
    /// FILTER_MESSAGE_HEADER.MessageId.
    pub message_id: u64,
    /// The header's 16 bytes as they are in memory.
    #[serde(with = "hex")]
    pub header: Vec<u8>,
    /// The payload.
    #[serde(with = "hex")]
    pub payload: Vec<u8>,
    /// What the sender still waits, as told to the receiver.
    pub remaining: Option<Duration>,
    /// What the open file holds that came along.
    pub attachment: Option<String>,
}

/// How a send ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// What FltSendMessage returns.
    pub status: u32,
    /// What was written to the reply buffer; `None` if it was not touched.
    pub reply: Option<Vec<u8>>,
    /// Where the API says so: whether the client has had the message.
    pub delivered: Option<bool>,
}

/// What is known of a connection now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gets that wait for a message.
    pub gets: usize,
    /// Sends that wait for a get.
    pub waiting: usize,
    /// Sends that wait for a reply.
    pub outstanding: usize,
    /// Messages delivered so far.
    pub delivered: u64,
    /// Replies that reached their sender.
    pub replied: u64,
    /// Sends that ended at their deadline.
    pub timed_out: u64,
    /// Replies that found nobody.
    pub late_replies: u64,
}

/// A place where ports exist. A story gets a fresh one.
///
/// `start`ed operations end by themselves and are collected with [`Self::take`].
pub trait Backend {
    /// Why this backend cannot express something; `None` if it can.
    fn lacks(&self, need: Need) -> Option<&'static str>;
    /// Time since this backend was made, as its clients and filters feel it.
    fn now(&self) -> Duration;
    /// How much later than asked something may happen here.
    fn tolerance(&self) -> Duration;
    /// The end of an operation, as soon as it has come, once; `None` if it does not come `within`.
    fn take(&mut self, op: Op, within: Duration) -> Option<Done>;
    /// All that has happened at the filters.
    fn events(&mut self) -> Vec<Event>;
    /// Lets a little time pass, or waits until something changes.
    fn step(&mut self);

    /// The wall clock at the host of a connection.
    fn wall(&mut self, conn: ConnId) -> WallTime;
    /// Somebody sets the wall clock forward.
    fn set_wall(&mut self, forward: Duration);
    /// Forgets what has happened so far and connections that are over, for stories of many rounds.
    fn forget(&mut self);
    /// How many handles of its ports the host has open: those that listen and those of connections. `None` where nobody
    /// could tell.
    fn handles(&mut self) -> Option<usize>;

    /// FltCreateCommunicationPort.
    ///
    /// # Errors
    /// Its status.
    fn create(&mut self, spec: &PortSpec) -> Result<PortId, NtStatus>;
    /// Says what a callback of a port does from now on. Unless told, connects are accepted, requests echoed.
    fn script(&mut self, port: PortId, callback: Callback, script: Script);
    /// Lets a held callback go on.
    fn release(&mut self, call: CallId);
    /// FltSendMessage; `capacity` is the reply's, `None` without reply buffer.
    fn send(&mut self, conn: ConnId, payload: &[u8], capacity: Option<u32>, timeout: Timeout)
    -> Op;
    /// As [`Self::send`] with a reply, and an open file that holds `content`.
    fn send_file(&mut self, conn: ConnId, content: &str, capacity: u32, timeout: Timeout) -> Op;
    /// As [`Self::send`] with a reply, for a send that may be given up.
    fn send_for_cancel(
        &mut self,
        conn: ConnId,
        payload: &[u8],
        capacity: u32,
        timeout: Timeout,
    ) -> Op;
    /// Gives up a send, as the end of its thread would.
    fn cancel_send(&mut self, op: Op);
    /// FltCloseClientPort.
    fn close_client_port(&mut self, conn: ConnId);
    /// FltCloseCommunicationPort; whether this call closed it.
    fn close_port(&mut self, port: PortId) -> bool;
    /// FltUnregisterFilter, where ports are not closed first unless the backend's API does so by itself.
    fn unregister(&mut self, filter: u32) -> Op;
    /// What is known of a connection.
    fn counts(&mut self, conn: ConnId) -> Counts;

    /// FilterConnectCommunicationPort by a client process.
    fn connect(&mut self, who: Who, name: &str, context: &[u8]) -> Op;
    /// FilterGetMessage with a buffer of `size` bytes.
    fn get(&mut self, client: ClientId, size: u32) -> Op;
    /// The same, as a get that can be cancelled.
    fn post(&mut self, client: ClientId, size: u32) -> Op;
    /// CancelIoEx of a get that was posted; the get ends with a message or as cancelled.
    fn cancel(&mut self, op: Op);
    /// The owner of a get that was posted goes away without having waited for it.
    fn abandon_get(&mut self, op: Op);
    /// FilterReplyMessage.
    fn reply(&mut self, client: ClientId, message: u64, status: NtStatus, payload: &[u8]) -> Op;
    /// A thread of the client that gets and replies without a pause, each reply its message with every bit turned over.
    /// It takes the first eight bytes as a number, and ends with a message that has none.
    fn serve(&mut self, client: ClientId) -> Op;
    /// Drops a message without a reply.
    fn drop_message(&mut self, client: ClientId, message: u64) -> Op;
    /// Whether the client knows that nobody waits for this reply.
    fn is_abandoned(&mut self, client: ClientId, message: u64) -> Op;
    /// FilterSendMessage with an output buffer of `capacity` bytes.
    fn request(&mut self, client: ClientId, input: &[u8], capacity: u32) -> Op;
    /// CloseHandle.
    fn close(&mut self, client: ClientId) -> Op;
    /// Ends the connection without waiting for what the filter does about it.
    fn hang_up(&mut self, client: ClientId) -> Op;
    /// DuplicateHandle within the process.
    fn duplicate(&mut self, client: ClientId) -> ClientId;
    /// Stops a client from reading its transport.
    fn stop_reading(&mut self, client: ClientId);
    /// Ends a client process without a word.
    fn kill(&mut self, who: Who);
    /// A client process ends by itself, and closes nothing before.
    fn exit(&mut self, who: Who);
    /// A client process becomes another program, which inherits no handle.
    fn exec(&mut self, who: Who);
    /// The process id of a client process.
    fn pid(&mut self, who: Who) -> u32;
    /// Connects a client process to the named port, greets properly, then sends bytes that are no frame. Ends when the
    /// host has hung up.
    fn garbage(&mut self, who: Who, name: &str) -> Op;
    /// A client whose greeting says that it has 32 bits: connects, gets one message with a buffer of `size` bytes, answers
    /// with that message's first `reply` bytes, and ends as that reply does.
    fn narrow_client(&mut self, who: Who, name: &str, size: u32, reply: u32) -> Op;
    /// Takes an open regular file for a connection. Ends as a connect.
    fn connect_file(&mut self) -> Op;
    /// A client process becomes another user, without rights. Ends when it has.
    fn become_user(&mut self, who: Who, user: u32) -> Op;
    /// A client process connects, and starts a program that inherits the connection, as user `heir` if that is said. The
    /// program has a request with four bytes echoed, gets one message of at most 240 bytes and replies with its process id,
    /// four bytes of the machine's order. Ends with whether all that went well.
    fn bequeath(&mut self, who: Who, name: &str, heir: Option<u32>) -> Op;
    /// The process of a client starts a program as it starts any. Ends with whether that has none of its connections.
    fn leave_nothing(&mut self, client: ClientId) -> Op;
    /// Puts something that is no port under a name.
    fn occupy(&mut self, name: &str);
    /// A host in a process of its own, which serves a port of this name and can be killed as `who`.
    fn foreign_host(&mut self, who: Who, name: &str) -> Op;
}

/// The status as an HRESULT's number, as every user-mode function converts it.
#[must_use]
pub fn hresult(status: NtStatus) -> u32 {
    status.to_hresult().0
}

/// Success.
pub const OK: u32 = HResult::OK.0;
/// The connection is over.
pub const DISC: u32 = HResult::DISCONNECTED.0;
/// Nobody waits for the reply.
pub const NOWAIT: u32 = HResult::NO_WAITER.0;

/// Bytes as hexadecimal text: a megabyte stays two megabytes on its way to another process.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        let text: String = bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect();
        to.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let nibble = |digit: &u8| DIGITS.iter().position(|known| known == digit);
        text.as_bytes()
            .chunks(2)
            .map(|pair| {
                let value = pair
                    .iter()
                    .try_fold(0, |value, digit| Some(value * 16 + nibble(digit)?));
                value
                    .and_then(|value| u8::try_from(value).ok())
                    .ok_or_else(|| D::Error::custom("not hexadecimal"))
            })
            .collect()
    }
}

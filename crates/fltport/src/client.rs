//! The application's end of a connection: getting messages, replying, sending requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fltport_engine::{NtStatus, PortName, limits};

use crate::client_call::Ended;
use crate::client_driver::Connection;
use crate::error::{CallError, ConnectError};
use crate::message::Message;
use crate::messages::Messages;
use crate::posted::PostedGet;
use crate::sync::Instant;
use crate::sys;
use crate::way::Way;

/// A connection to a server port (the port handle of `FilterConnectCommunicationPort`).
///
/// All calls may be made from several threads at once. Dropping the client closes the connection.
///
/// ```no_run
/// use fltport::Client;
///
/// let client = Client::connect(r"\ScannerPort", b"")?;
/// loop {
///     let message = client.next_message()?;
///     let clean = !message.payload().starts_with(b"bad");
///     message.reply(&[u8::from(clean)])?;
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    connection: Arc<Connection>,
    polled: crate::sync::Mutex<Option<PostedGet>>,
}

/// Where to look for a port, and whom to trust there.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Connector {
    directory: Option<PathBuf>,
    trusted: Vec<u32>,
    no_spin: bool,
}

impl Connector {
    /// Looks in this user's usual port directory, and trusts root and this user.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks in this directory instead.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.directory = Some(path.as_ref().to_path_buf());
        self
    }

    /// Also trusts a port that this user serves.
    pub fn trust_user(mut self, uid: u32) -> Self {
        self.trusted.push(uid);
        self
    }

    /// Whether a thread that waits for a message may do so awake, for 50 microseconds at most, while the filter is quick: yes
    /// unless said otherwise. It never does on a core that both sides have to share.
    pub const fn spin(mut self, yes: bool) -> Self {
        self.no_spin = !yes;
        self
    }

    /// Connects, as [`Client::connect`].
    ///
    /// # Errors
    /// [`ConnectError`] says who is wrong and what to do.
    pub fn connect(&self, name: &str, context: &[u8]) -> Result<Client, ConnectError> {
        let name = PortName::parse(name)?;
        let socket =
            sys::Directory::resolve(self.directory.as_deref()).connect(&name, &self.trusted)?;
        Ok(Client::new(Connection::greet(
            Box::new(socket),
            context,
            !self.no_spin,
        )?))
    }
}

impl Client {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            polled: crate::sync::Mutex::new(None),
        }
    }

    /// Connects to the port `name` with up to 65,511 bytes of `context`. Blocks for as long as the filter's connect
    /// callback takes.
    ///
    /// # Errors
    /// [`ConnectError`] says who is wrong and what to do.
    ///
    /// # References
    /// `FilterConnectCommunicationPort`.
    #[doc(alias = "FilterConnectCommunicationPort")]
    pub fn connect(name: &str, context: &[u8]) -> Result<Self, ConnectError> {
        Connector::new().connect(name, context)
    }

    /// Connects over a socket that the host handed to this process, such as by [`crate::ServerPort::offer`].
    ///
    /// # Errors
    /// [`ConnectError`]; the descriptor is closed then.
    #[cfg(target_os = "linux")]
    pub fn from_fd(socket: std::os::fd::OwnedFd, context: &[u8]) -> Result<Self, ConnectError> {
        let kind = rustix::net::sockopt::socket_type(&socket);
        if kind != Ok(rustix::net::SocketType::SEQPACKET) {
            return Err(ConnectError::NotAPort(PathBuf::from(
                "the inherited descriptor",
            )));
        }
        Ok(Self::new(Connection::greet(
            Box::new(sys::Socket::new(socket)),
            context,
            true,
        )?))
    }

    /// The next message, of any length that the port allows. Blocks until one comes or the connection is over.
    ///
    /// # Errors
    /// [`CallError::Disconnected`] when the filter has closed the connection or went away.
    ///
    /// # References
    /// `FilterGetMessage`.
    #[doc(alias = "FilterGetMessage")]
    pub fn next_message(&self) -> Result<Message, CallError> {
        self.get(self.whole_message())
    }

    /// The next message that fits in `size` bytes, header of 16 bytes included. Blocks as [`Self::next_message`].
    ///
    /// # Errors
    /// [`CallError::TooSmall`] if the message that came is longer; it is not lost and waits for a bigger get.
    #[doc(alias = "FilterGetMessage")]
    pub fn get(&self, size: u32) -> Result<Message, CallError> {
        match self.connection.next_in_memory(size) {
            Ok(message) => Ok(message),
            Err(Some(slot)) => PostedGet::in_memory(&self.connection, size, slot).wait(),
            Err(None) => self.post_get(size).wait(),
        }
    }

    /// Posts a get of `size` bytes, header of 16 bytes included, and returns once the host can see it. Any number may be posted; each takes
    /// one message, the oldest that fits first.
    #[doc(alias = "FilterGetMessage")]
    pub fn post_get(&self, size: u32) -> PostedGet {
        self.connection.attach(|| Instant::now() + ATTACH);
        PostedGet::new(&self.connection, size, false).leave()
    }

    /// The messages one after the other, with up to `ahead` gets posted at a time: a filter that sends several at once finds a
    /// get for each and need not wait for this thread to come back. For a thread that answers each message in order; several
    /// threads may have one each. Shared memory has room for 64 gets of a connection; where it is used, no more are posted.
    ///
    /// ```no_run
    /// # let client = fltport::Client::connect(r"\ScannerPort", b"")?;
    /// for message in client.messages(16) {
    ///     message?.reply(b"clean")?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn messages(&self, ahead: usize) -> Messages<'_> {
        Messages::new(self, ahead)
    }

    /// Posts a get for a message of any length where the get before it is, so that it is over after that one; see
    /// [`Messages`]. `None`: not there, or not now.
    pub(crate) fn post_behind(&self, last: Option<&PostedGet>, ahead: usize) -> Option<PostedGet> {
        self.connection.attach(|| Instant::now() + ATTACH);
        let get = PostedGet::behind(&self.connection, self.whole_message(), last, ahead)?;
        Some(get.leave())
    }

    /// The next message, if one comes within `wait`. Afterwards no get is left behind.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] if none came, and those of [`Self::next_message`].
    pub fn next_message_within(&self, wait: Duration) -> Result<Message, CallError> {
        // Not to wait for the host longer than asked, not even to tell it of the get.
        let end = Instant::now().checked_add(wait);
        self.connection.attach(|| {
            let most = Instant::now() + ATTACH;
            end.map_or(most, |end| end.min(most))
        });
        let wait = end.map_or(wait, |end| end.saturating_duration_since(Instant::now()));
        let mut get = PostedGet::new(&self.connection, self.whole_message(), false);
        get.wait_within(wait)
            .or_else(|| get.give_up())
            .unwrap_or(Err(CallError::TimedOut))
    }

    /// A message that is there already. Leaves a get posted, so that the next message makes the descriptor of
    /// [`std::os::fd::AsFd`] readable; call again then. For one polling consumer.
    ///
    /// # Errors
    /// As [`Self::next_message`].
    pub fn try_next_message(&self) -> Result<Option<Message>, CallError> {
        let mut polled = self
            .polled
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let get = polled.get_or_insert_with(|| self.post_polled());
        let Some(message) = get.wait_within(Duration::ZERO) else {
            return Ok(None);
        };
        *polled = None;
        message.map(Some)
    }

    /// Sends a request to the filter's message callback and waits for its answer of at most `capacity` bytes. Blocks for
    /// as long as the callback takes.
    ///
    /// # Errors
    /// [`CallError::Status`] with what the callback said, [`CallError::Disconnected`].
    ///
    /// # References
    /// `FilterSendMessage`.
    #[doc(alias = "FilterSendMessage")]
    pub fn send(&self, input: &[u8], capacity: u32) -> Result<Vec<u8>, CallError> {
        let (status, bytes) = self.send_raw(input, capacity);
        if status == NtStatus::SUCCESS {
            Ok(bytes)
        } else {
            Err(CallError::from_status(status, 0))
        }
    }

    /// As [`Self::send`], with the callback's status as it is and the bytes that came with it: a warning may have some.
    #[must_use]
    pub fn send_raw(&self, input: &[u8], capacity: u32) -> (NtStatus, Vec<u8>) {
        let call = self.connection.start_request(input, capacity);
        match self.connection.wait(&call, None) {
            Some(Ended::Done { status, bytes, .. }) => (status, bytes),
            _ => (NtStatus::PORT_DISCONNECTED, Vec::new()),
        }
    }

    /// Whether the connection is up, as far as is known here.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// How the messages of this connection come: through memory, or as packets, and why. Decided when the first get is posted.
    #[must_use]
    pub fn way(&self) -> Way {
        self.connection.way()
    }

    /// Most payload bytes of one message, reply or request on this port.
    #[must_use]
    pub fn max_message(&self) -> u32 {
        self.connection.max_message()
    }

    /// Replies to a message by its number, for programs that keep messages apart from who answers them: see
    /// [`Message::detach`]. Blocks as [`Message::reply`].
    ///
    /// # Errors
    /// [`CallError::NoWaiter`] also for a number that was never given out, [`CallError::ReplyTooLong`],
    /// [`CallError::Disconnected`].
    ///
    /// # References
    /// `FilterReplyMessage`.
    #[doc(alias = "FilterReplyMessage")]
    pub fn reply_to(
        &self,
        message_id: u64,
        status: NtStatus,
        payload: &[u8],
    ) -> Result<(), CallError> {
        self.connection.reply(message_id, status, payload)
    }

    /// Closes the connection and blocks until the filter's disconnect callback has returned, as long as that may take.
    /// Gets and replies of other threads end at once, requests when their callbacks return. Must not be called from a
    /// callback of this very connection, which it would wait for. [`Self::hang_up`] does not wait, nor does this on a
    /// connection that is over already.
    ///
    /// # References
    /// `CloseHandle`.
    #[doc(alias = "CloseHandle")]
    pub fn close(&self) {
        self.connection.close_and_wait();
    }

    /// Ends the connection at once, as the death of this process would: every call of other threads ends now, and what the
    /// filter does about it is not waited for. Dropping the client does the same.
    pub fn hang_up(&self) {
        self.connection.hang_up();
    }

    #[cfg(feature = "tokio")]
    pub(crate) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Posts a get in which nobody waits.
    pub(crate) fn post_polled(&self) -> PostedGet {
        self.connection.attach(Instant::now);
        PostedGet::new(&self.connection, self.whole_message(), true).leave()
    }

    pub(crate) fn whole_message(&self) -> u32 {
        self.connection.max_message().saturating_add(limits::HEADER)
    }
}

/// How long a host has to answer whether there is memory before a get goes to it by a frame.
const ATTACH: Duration = Duration::from_secs(1);

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.hang_up();
    }
}

/// Readable when something has come; then call [`Client::try_next_message`].
#[cfg(target_os = "linux")]
impl std::os::fd::AsFd for Client {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.connection.descriptor()
    }
}

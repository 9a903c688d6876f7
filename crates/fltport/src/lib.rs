//! Filter communication ports: both sides of a port, with the exact semantics of the Windows Filter Manager.
//!
//! A *filter* makes a named server port ([`ServerPort`]) with three callbacks ([`PortHandler`]). A *service* connects
//! ([`Client`]), gets messages, replies, and sends requests of its own. Nothing is buffered between them: a message lives
//! inside its sender's call, one deadline covers delivery and reply, a reply that was accepted always reaches its sender,
//! and a lost peer ends every wait.
//!
//! All rules are in the crate `fltport-engine`; this crate adds sockets, threads and types. It is not the filter host:
//! that is `flthost`, which uses it.
//!
//! ```
//! use fltport::{Client, ClientPort, NtStatus, Peer, PortHandler, ServerPort, Timeout};
//! use std::sync::mpsc;
//!
//! struct Scanner(mpsc::Sender<ClientPort>);
//!
//! impl PortHandler for Scanner {
//!     type Connection = ();
//!     fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
//!         self.0.send(port).map_err(|_| NtStatus::UNSUCCESSFUL)
//!     }
//! }
//!
//! let (sender, receiver) = mpsc::channel();
//! let port = ServerPort::unnamed().listen(Scanner(sender))?;
//! let service = port.connect_in_memory(b"")?;
//! std::thread::spawn(move || service.next_message()?.reply(b"clean"));
//! let reply = receiver.recv()?.ask(b"is it clean?", 5, Timeout::Never)?;
//! assert_eq!(reply.bytes, b"clean");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod begun;
mod body;
mod client;
mod client_attach;
mod client_books;
mod client_call;
mod client_driver;
mod client_memory;
mod client_port;
mod client_unsent;
mod clock;
mod driver;
mod driver_plane;
mod error;
mod frames;
mod link;
mod memory;
mod message;
mod messages;
#[cfg(test)]
mod models;
mod payload;
mod peer;
mod plane;
mod pool;
mod port;
mod posted;
pub mod protocol;
mod slot;
mod sync;
mod sys;
mod timer;
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub mod tokio;
mod way;

pub use begun::BegunAsk;
pub use body::{Caller, Reply};
pub use client::{Client, Connector};
pub use client_port::{Asking, ClientPort, ConnectionInfo, Outbound, Pending};
pub use error::{CallError, ConnectError, ListenError, SendError};
pub use fltport_engine::server::{Access, Credentials};
pub use fltport_engine::wire::MessageHeader;
pub use fltport_engine::{HResult, NameError, NtStatus, PortName, Timeout, WallTime, limits};
pub use message::Message;
pub use messages::Messages;
pub use peer::Peer;
pub use port::{Builder, PortHandler, Refusal, ServerPort};
pub use posted::PostedGet;
#[cfg(target_os = "linux")]
pub use sys::PortEntry;
pub use way::{Notice, PacketsReason, Way};

/// Where this user's ports are, unless something else is said.
#[cfg(target_os = "linux")]
#[must_use]
pub fn default_directory() -> std::path::PathBuf {
    sys::Directory::resolve(None).path().to_path_buf()
}

/// The ports below a port directory (this user's usual one without `directory`), in the order of their names.
///
/// # Errors
/// The system's, when the directory cannot be read. A directory that does not exist has no ports.
#[cfg(target_os = "linux")]
pub fn list_ports(directory: Option<&std::path::Path>) -> std::io::Result<Vec<PortEntry>> {
    sys::list(&sys::Directory::resolve(directory))
}

//! The one table of what a backend cannot express, with the reason.

use super::Kind;
use crate::backend::Need;

/// Why `kind` cannot express `need`; `None` if it can.
pub(super) fn lacks(kind: Kind, need: Need) -> Option<&'static str> {
    use Kind::{Linux, Memory, Processes, Simulator};
    Some(match (need, kind) {
        (Need::Names, Simulator) => "the simulator has no namespace; name rules are the system's",
        (Need::Names, Memory) => "a pair in memory has no name",
        (Need::Access, Memory) => "a pair in memory is made without an access check",
        (Need::NameSyntax, Memory) => "a pair in memory has no name",
        (Need::FoldersApart, Simulator) => {
            "the simulator has no namespace; name rules are the system's"
        }
        (Need::FoldersApart, Memory) => "a pair in memory has no name",
        (Need::FoldersApart, Linux | Processes) => {
            "folders of a name are made with its port, and removed with it"
        }
        (Need::UnsaidAccess, Simulator) => {
            "the engine's port is always told its access; the default is the library's"
        }
        (Need::UnsaidAccess, Memory) => "a pair in memory is made without an access check",
        (Need::Users, Processes) if !rustix::process::geteuid().is_root() => {
            "only root can start clients of another user"
        }
        (Need::Users, Memory | Linux) => "all ends live in one process of one user",
        (Need::Processes, Simulator | Memory | Linux) => "the client is no process of its own",
        (Need::PassedHandles, Simulator | Memory | Linux) => "the client is no process of its own",
        (Need::FilterObject, Memory | Linux | Processes) => {
            "a ServerPort is its own filter: shutting it down closes it first"
        }
        (Need::WindowsArguments, _) => "the Rust types rule the argument out; for the C interface",
        (Need::ShortBuffers, _) => {
            "headers are added by the library, a shorter buffer cannot be given; for the C interface"
        }
        (Need::Addresses, _) => "buffers are Rust slices, always valid; for the C interface",
        (Need::Overlapped, _) => {
            "there are no events, OVERLAPPED structures or completion ports; for the Windows backend"
        }
        (Need::SyncHandles, _) => "there are no synchronous handles; for the Windows backend",
        (Need::ThreadOwners, _) => "calls belong to the connection, not to a thread",
        (Need::AccessMasks, _) => {
            "access is granted whole, to users and groups; masks and entries are for the Windows backend"
        }
        (Need::Parallel, Simulator) => "the simulator does one step after the other",
        (Need::WallClock, Memory | Linux | Processes) => {
            "the system's clock cannot be set for a test"
        }
        (Need::HostProcess, Simulator | Memory | Linux) => {
            "the host is the process that tells the story"
        }
        (Need::Bytes | Need::NotReading, Memory) => "packets in memory come from the library alone",
        (Need::Bytes, Simulator) => "the simulator's frames come from its own client",
        (Need::NotReading, Linux) => "within one process only a stopped process would stop reading",
        (Need::Attachments, Simulator) => "the simulator has no files",
        (Need::Identity, Simulator) => "the simulator has no processes",
        (Need::Identity, Memory | Linux) => "all ends live in one process",
        (Need::ContextChecks, Simulator) => "the library that checks it is not part of the engine",
        (Need::DyingConnect, Memory | Linux) => "the client is no process of its own",
        (Need::OtherHandles, Simulator | Memory) => {
            "a client here is no descriptor that another could be taken for"
        }
        (Need::MessageState, Simulator) => "the simulator's client keeps no messages",
        (Need::HangingUp, Simulator) => "how long a client waits for its end is not the engine's",
        (Need::OddAddresses, Simulator) => "the simulator's buffers have no addresses",
        _ => return None,
    })
}

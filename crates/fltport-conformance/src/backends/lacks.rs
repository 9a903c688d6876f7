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
        (Need::Users, Memory | Linux) => "all ends live in one process of one user",
        (Need::Processes, Simulator | Memory | Linux) => "the client is no process of its own",
        (Need::SharedHandles, _) => {
            "two processes at once on one connection would share one stream of frames"
        }
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
        (Need::CHeader, _) => "there is no C header yet; for the C interface",
        (Need::Parallel, Simulator) => "the simulator does one step after the other",
        (Need::RealTime, Simulator) => "time passes only when a story says so",
        (Need::WallClock, Memory | Linux | Processes) => {
            "the system's clock cannot be set for a test"
        }
        (Need::Bytes | Need::NotReading, Memory) => "packets in memory come from the library alone",
        (Need::Bytes, Simulator) => "the simulator's frames come from its own client",
        (Need::NotReading, Linux) => "within one process only a stopped process would stop reading",
        (Need::Attachments, Simulator) => "the simulator has no files",
        (Need::Identity, Simulator) => "the simulator has no processes",
        (Need::Identity, Memory | Linux) => "all ends live in one process",
        (Need::Accounting, Simulator) => "the simulator is not a process",
        (Need::ContextChecks, Simulator) => "the library that checks it is not part of the engine",
        (Need::DyingConnect, Memory | Linux) => "the client is no process of its own",
        (Need::MessageState, Simulator) => "the simulator's client keeps no messages",
        _ => return None,
    })
}

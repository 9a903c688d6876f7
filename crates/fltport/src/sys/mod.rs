//! The edge to the operating system: what each platform supplies, under the same names.
//!
//! | item | is |
//! | --- | --- |
//! | `Attachment` | an open file that travels with a message |
//! | `check_attachment` | whether an open file may travel |
//! | `Directory` | where port names live: finding, taking and giving back a name |
//! | `Reactor` | takes connections and packets of one server port and hands them to the driver |
//! | `Socket` | the client's way to its host |
//! | `Bell` | a descriptor that is readable while it rings |
//! | `host_uid` | the user that this process runs as |
//! | `make_memory`, `open_memory` | the two pieces of memory of a connection, at its host and at its client |
//! | `seal_client` | has nobody map the client's piece from here on |
//! | `fill_memory` | makes pages of them be there, or says that there is no room |
//! | `futex` | sleeping on a word, and waking who sleeps there |
//! | `watch` | has a client told of its host's death, where no packet would |
//! | `lacks_descriptors` | whether that was why something failed |
//! | `flush_later` | sends what a client could not send when its host takes it |
//! | `monotonic_nanos`, `coarse_nanos` | the clock that both sides have, and its last tick |
//! | `only_core` | the only core that this process may use, if there is only one |
//! | `core` | the core that this thread is on |
//!
//! cfg appears here and nowhere else.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::PortEntry;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

// A checker sees no mapping and no sleep of the system's. These go before those of `linux`.
#[cfg(miri)]
pub(crate) use crate::sync::sleepers as futex;
#[cfg(any(miri, all(test, any(loom, shuttle))))]
pub(crate) use no_memory::{fill_memory, make_memory, open_memory, seal_client};
#[cfg(any(not(target_os = "linux"), miri, all(test, any(loom, shuttle))))]
mod no_memory;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::*;

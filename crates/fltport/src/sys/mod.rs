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
//!
//! cfg appears here and nowhere else.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::PortEntry;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::*;

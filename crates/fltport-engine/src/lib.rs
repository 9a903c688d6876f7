//! All rules of filter communication ports, and nothing else.
//!
//! This crate is a set of state machines: a server port ([`server`]), a connection ([`connection`]) with its exchange
//! of questions and answers ([`questions`], [`exchange`]), and the client's end ([`client`]). It performs no I/O, reads
//! no clock, takes no lock and spawns nothing: the caller passes the time in, and takes out what is to be done as
//! [`output::Output`] values. Whoever drives it (sockets, an in-memory pair, the simulator) adds bytes and threads.
//!
//! It is *not* the place for descriptors, paths or processes; those are in the `fltport` crate, the next room.
//!
//! The behaviour is that of the Windows Filter Manager's ports as seen through `FltSendMessage`, `FilterGetMessage`,
//! `FilterReplyMessage` and `FilterSendMessage`. Test names carry the number of the conformance case they show.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;
#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod client;
pub mod connection;
pub mod exchange;
pub mod gets;
pub mod limits;
pub mod name;
pub mod output;
pub mod questions;
pub mod server;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod status;
#[cfg(test)]
mod tests;
pub mod time;
mod told;
pub mod wire;

pub use name::{NameError, PortName};
pub use status::{HResult, NtStatus};
pub use time::{Deadline, Instant, Now, Timeout, WallTime};

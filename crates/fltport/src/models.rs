//! Models: small programs of a few threads whose every order of steps, or very many of them, is tried by a checker.
//!
//! What they run is the code itself, over the in-memory pair: [`crate::sync`] is the only thing that is exchanged. Time is
//! the model's, so a deadline comes at any step. Loom takes the small parts, and tries all orders up to a number of
//! preemptions; shuttle takes whole ports, and draws orders. Sockets and what is below them are not modelled: no checker
//! sees into the kernel. `docs/testing.md` has the table.

mod bare_core;

#[cfg(not(any(loom, shuttle)))]
mod heap;

mod memory_gets;
mod memory_replies;

#[cfg(loom)]
mod parts;
#[cfg(loom)]
mod parts_core;
#[cfg(loom)]
mod parts_reading;

#[cfg(all(shuttle, not(loom)))]
mod deadlines;
#[cfg(all(shuttle, not(loom)))]
mod ending;
#[cfg(all(shuttle, not(loom)))]
mod ports;
#[cfg(all(shuttle, not(loom)))]
mod reading;
#[cfg(all(shuttle, not(loom)))]
mod replies;
#[cfg(all(shuttle, not(loom)))]
mod scene;

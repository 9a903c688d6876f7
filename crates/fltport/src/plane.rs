//! Questions through memory that both sides see: posted gets, messages, replies.
//!
//! The host makes two pieces of memory at a client's first get. It alone writes to the first; the client writes to the
//! second, and the host believes nothing that it reads there. What cannot go here (a message with no room, a request, an
//! open file, the end of the connection) goes over the socket, which every connection has.
//!
//! ```text
//!   host's part (read-only for the client)          client's part (both write)
//!   ┌────────────────────────────────────┐          ┌────────────────────────────────────┐
//!   │ control: life, kick, hints         │          │ control: tail, hints               │
//!   │ a record for each get: header and  │          │ ring: gets posted, replies to kick │
//!   │   payload, or where that is        │          │ a word for each get                │
//!   │ blocks for longer messages         │          │ a word and a reply for each waiter │
//!   └────────────────────────────────────┘          │ blocks for longer replies          │
//!                                                   └────────────────────────────────────┘
//! ```
//! The words perform what [`fltport_engine::exchange`] allows, and nothing else: who finds a word otherwise has lost a race,
//! or is lied to. Which get takes which message is the engine's to decide, under the connection's lock, on every link.
//!
//! | room | keeps |
//! | --- | --- |
//! | [`layout`] | where everything is, and what a word says |
//! | [`memory_region`] | words and bytes of a piece of memory |
//! | [`blocks`] | which blocks are free: the host gives out both sides' |
//! | [`host`] | the host's end, under its connection's lock |
//! | [`publish`], [`delivery`], [`completion`] | what the host writes; messages that had to wait; replies without a thread |
//! | [`waiters`] | whom a reply is for |
//! | [`waiting`] | the host's end, where a sender waits without it |
//! | [`client`], [`replying`] | the client's end |
//! | [`spin`] | when to wait awake |

pub(crate) mod blocks;
pub(crate) mod client;
pub(crate) mod completion;
pub(crate) mod delivery;
pub(crate) mod host;
pub(crate) mod layout;
pub(crate) mod memory_region;
mod publish;
pub(crate) mod replying;
pub(crate) mod spin;
pub(crate) mod waiters;
pub(crate) mod waiting;

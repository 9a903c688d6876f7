//! Every bound of the system in one place, each with its reason.
//!
//! A hostile client is a resource problem first: whatever it can make the host keep is counted against one of these.

/// Bytes of the header in front of a message or a reply (`FILTER_MESSAGE_HEADER`, `FILTER_REPLY_HEADER`).
pub const HEADER: u32 = 16;

/// Largest message or reply in bytes unless the port says otherwise: enough for a batch of file facts, small enough
/// that a connection that stops half-way through one costs little.
pub const MESSAGE_DEFAULT: u32 = 1 << 20;

/// Largest message or reply in bytes that a port may ask for. Bulk data belongs in an attachment, not in a message.
pub const MESSAGE_MAX: u32 = 16 << 20;

/// Longest connection context in bytes, as on 64-bit Windows (the context travels in an extended attribute there).
pub const CONTEXT_MAX: u32 = 0xFFE7;

/// Gets that one connection may have posted: services post one for each worker, or a few; 1,024 are known in the wild.
pub const GETS_PER_CONNECTION: usize = 4_096;

/// Requests of one connection (`FilterSendMessage`) whose callbacks run at the same time; more wait their turn.
pub const RUNNING_PER_CONNECTION: usize = 16;

/// Requests of one connection that wait for a callback thread. What comes beyond is refused, not kept.
pub const QUEUED_PER_CONNECTION: usize = 1_024;

/// Bytes of waiting requests, and of their answers, that one connection may make the host keep.
pub const QUEUED_BYTES_PER_CONNECTION: u64 = 32 << 20;

/// Messages of one connection that wait for a reply; a sender beyond it is told that resources are short. A filter
/// host keeps one for each pending file operation, and is itself bounded by its descriptors.
pub const WAITERS_PER_CONNECTION: usize = 65_536;

/// Connections whose handshake is not finished, for each user: a flood of half-open connects stays small.
pub const HANDSHAKES_PER_USER: usize = 16;

/// Milliseconds that a client has from connecting until its greeting is complete.
pub const HANDSHAKE_MILLIS: u64 = 5_000;

/// Milliseconds that a reply which was begun before the deadline may take to be complete after it. A client that stops there
/// loses its connection.
pub const REPLY_GRACE_MILLIS: u64 = 250;

/// Connections of one user, closed by the filter, whose client still holds its end. The oldest is dropped beyond it.
pub const SEVERED_PER_USER: usize = 64;

/// Longest port name in bytes: a component and its socket's suffix must fit a file name.
pub const NAME_MAX: usize = 240;

/// Descriptors that one frame carries: most of what a batch saves is saved by then, and the kernel's own limit is far.
pub const FILES_PER_FRAME: usize = 32;

//! The filters that come with the host.

pub mod ask;
pub mod cached;
pub mod mute;
pub mod trace;

pub use ask::Ask;
pub use cached::Cached;
pub use mute::Mute;
pub use trace::Trace;

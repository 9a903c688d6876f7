//! The filters that come with the host.

pub mod ask;
pub mod cached;
pub mod exclude;
pub mod trace;

pub use ask::Ask;
pub use cached::Cached;
pub use exclude::Exclude;
pub use trace::Trace;

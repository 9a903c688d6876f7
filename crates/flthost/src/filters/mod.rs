//! The filters that come with the host.

pub mod ask;
pub mod exclude;
pub mod trace;

pub use ask::Ask;
pub use exclude::Exclude;
pub use trace::Trace;

//! The filters that come with the host.

pub mod ask;
pub mod cached;
pub mod mute;
pub mod panel;
pub mod trace;

pub use ask::{Agree, Ask};
pub use cached::Cached;
pub use mute::Mute;
pub use panel::{Desk, Panel};
pub use trace::Trace;

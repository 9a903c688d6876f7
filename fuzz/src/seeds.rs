//! Inputs to begin with: one for each story that a fuzzer would be long in finding. `tests/seeds.rs` keeps the files in
//! `seeds/` the same as what stands here; the files beside them, which have no name from here, were found.

pub mod engine;
#[cfg(target_os = "linux")]
pub mod transport;
pub mod wire;

/// A file's name and its bytes.
pub type Seed = (&'static str, Vec<u8>);

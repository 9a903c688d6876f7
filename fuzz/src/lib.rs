//! Fuzz targets. Each is one function from bytes to nothing that panics when a rule is broken.
//!
//! [`wire`] throws bytes at everything that parses, [`engine`] plays lists of operations against a model of the rules,
//! [`transport`] lets a lying peer loose on a real port. `fuzz_targets/` hands them to libFuzzer, `tests/` runs them over
//! the kept inputs on any compiler. Nothing here is a part of the product.
#![forbid(unsafe_code)]

pub mod engine;
/// The file itself, because it is no public interface of its crate and should not become one for this.
#[path = "../../crates/fltport/src/frames.rs"]
mod frames;
pub mod seeds;
#[cfg(target_os = "linux")]
pub mod transport;
pub mod wire;

/// A target: its name, and what runs one input.
pub type Target = (&'static str, fn(&[u8]));

/// The targets by name.
pub const TARGETS: &[Target] = &[
    ("wire", wire::run),
    ("engine", engine::run),
    #[cfg(target_os = "linux")]
    ("transport", transport::run),
];

/// Whether targets say each thing that they do, for whoever looks into one input: with `FLTPORT_FUZZ_TELL` set.
pub(crate) fn tells() -> bool {
    static TELLS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TELLS.get_or_init(|| std::env::var_os("FLTPORT_FUZZ_TELL").is_some())
}

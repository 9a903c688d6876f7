//! `fltctl` as its users see it: arguments in, text and exit status out.
//!
//! No test here needs privilege or touches the kernel: a stand-in plays the host (`examples/fake_host.rs`), or the test
//! itself serves a port.

#![forbid(unsafe_code)]

mod demo;
mod guard;
mod list;
mod terminal;
mod util;

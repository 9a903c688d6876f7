//! fltport's scanner: YARA-X rules over an open descriptor, and an answer in bounded time.
//!
//! For the service `fltscand`, which gets a question with the file's descriptor and needs a verdict that is never
//! mistaken: what a limit stopped is not clean, and a hostile file can hurt only its own scan.
//! Not for policy (what to do with a file that took too long is the host's business), and not for finding files:
//! nothing here opens a path but [`RuleSource::collect`], which loads rules.
//!
//! The way of a file: [`Rules`] are compiled once, each worker thread has its own [`Engine`] over them,
//! [`Engine::scan`] turns a descriptor into a [`Finding`], and the [`Service`] around them turns a [`Finding`] into the
//! answer to a question. Next room: `service.rs`, or `scan.rs` for the scan alone.

#![forbid(unsafe_code)]

mod eicar;
mod rules;
mod scan;
mod service;
mod watchdog;

pub use eicar::{rule_source, test_file};
pub use rules::{RuleProblem, RuleSource, Rules, RulesError};
pub use scan::{Engine, Failure, Finding, Limits, Unreadable};
pub use service::{Service, ServiceError, Settings, Summary};

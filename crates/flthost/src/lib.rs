//! A filter host for Linux: takes file operations from fanotify through a stack of filters, asks services through ports,
//! and answers every operation before its deadline.
//!
//! The way of an operation: [`fanotify`] reads it and makes a permission, an obligation to answer; [`Stack`] takes it
//! through the filters; [`filters::Panel`] asks services over ports; [`Decider`] answers, then logs. [`supervisor`] holds
//! the fanotify groups and restarts the worker. This crate opens, parses and scans nothing of the files themselves: that
//! is the services' work.

mod answers;
pub mod cache;
mod closer;
pub mod config;
mod contexts;
pub mod control;
pub mod decision;
pub mod events;
pub mod exempt;
mod explain;
mod facts;
pub mod fanotify;
mod fanotify_attributes;
mod fanotify_error;
mod fanotify_event;
mod fanotify_notify;
mod fanotify_record;
mod fanotify_watch;
mod fanotify_writers;
pub mod filesystem;
mod filter;
pub mod filters;
mod giving;
pub mod guarded;
mod halt;
mod handover;
pub mod judge;
mod keepers;
mod kernel;
mod lingering;
mod marking;
pub mod marks;
mod mount_table;
mod mounts;
pub mod mutes;
mod names;
mod neighbours;
mod notice;
pub mod opener;
mod operation;
mod order;
pub mod pair;
mod parts;
mod policy;
mod polling;
mod ports;
mod pulse;
mod reader;
pub mod rule;
mod say;
pub mod scanner;
pub mod service_port;
mod services;
mod stack;
pub mod stamp;
mod start;
pub mod supervisor;
mod supervisor_memory;
pub mod supervisor_os;
mod taking;
mod threads;
mod volume;
mod volume_marks;
mod volume_scope;
mod volumes;
mod worker;

pub use contexts::{ContextKey, Contexts};
pub use decision::{Counters, Decider};
pub use facts::{FilePath, Validity};
pub use fanotify::Operation as OperationKind;
pub use filter::{Altitude, Filter, Pre};
pub use notice::{Notice, NoticeKind};
pub use operation::{Operation, Pended, Verdict};
pub use policy::{Action, Actions, Cause, Policies};
pub use say::say;
pub use stack::Stack;

//! The Linux filter host: takes file operations from fanotify, asks ports, answers the kernel.
//!
//! * [`fanotify`]: the kernel binding. Groups, marks, events, and the obligation to answer.
//! * [`marks`]: which directory to guard, and how to keep a whole tree marked.

pub mod fanotify;
mod fanotify_event;
mod fanotify_watch;
pub mod marks;

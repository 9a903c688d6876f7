//! Atomics, from one place, so that a model checker can take theirs instead.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

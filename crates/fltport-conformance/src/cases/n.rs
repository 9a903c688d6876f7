//! N. Concurrency and stress.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

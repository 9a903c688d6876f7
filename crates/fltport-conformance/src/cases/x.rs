//! X. Extensions of this implementation.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

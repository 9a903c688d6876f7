//! J. Server port close and unregister.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

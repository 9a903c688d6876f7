//! H. Cancellation and thread death.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

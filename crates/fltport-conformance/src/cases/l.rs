//! L. Overlapped gets, completion ports, synchronous handles.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

//! K. Requests of the client.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];

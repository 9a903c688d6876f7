//! One guarded directory with what guards it, as the supervisor opens it and the worker uses it.

use std::sync::Arc;

use crate::fanotify::{Notifier, Watch};
use crate::marks::Target;
use crate::pair::Pair;

/// One guarded directory with what guards it. The pair of groups is shared by the directories of one filesystem.
#[derive(Debug)]
pub struct Guarded {
    /// The directory.
    pub target: Target,
    /// Who is asked about its files.
    pub pair: Arc<Pair>,
    /// Tells of new directories.
    pub watch: Watch,
    /// Tells filters what has happened, if some filter wants to know.
    pub notifier: Option<Arc<Notifier>>,
}

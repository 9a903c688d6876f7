//! One guarded directory with what guards it, as the supervisor opens it and the worker uses it.

use std::sync::Arc;

use crate::fanotify::{Group, Watch};
use crate::marks::Target;

/// One guarded directory with what guards it. The group is shared by the directories of one filesystem.
#[derive(Debug)]
pub struct Guarded {
    /// The directory.
    pub target: Target,
    /// Who is asked about its files.
    pub group: Arc<Group>,
    /// Tells of new directories.
    pub watch: Watch,
}

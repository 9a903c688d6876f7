//! Lets operations below configured directories go on unasked.
//!
//! A path is what this mount namespace shows, and can be made to look like another inside a container: exclude
//! directories that only trusted users can write to.

use std::path::{Path, PathBuf};

use crate::filter::{Altitude, Filter, Pre};
use crate::operation::{Operation, Verdict};
use crate::policy::Cause;

/// Directories whose files are not asked about.
#[derive(Debug, Default)]
pub struct Exclude {
    below: Vec<PathBuf>,
}

impl Exclude {
    /// Excludes everything below these directories, whose paths must be absolute and without symbolic links.
    #[must_use]
    pub const fn new(below: Vec<PathBuf>) -> Self {
        Self { below }
    }

    fn covers(&self, path: &Path) -> bool {
        self.below
            .iter()
            .any(|directory| path.starts_with(directory))
    }
}

impl Filter for Exclude {
    fn name(&self) -> &str {
        "exclude"
    }

    fn altitude(&self) -> Altitude {
        Altitude(400_500)
    }

    fn may_be_skipped(&self) -> bool {
        true
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        // Without exclusions no path is looked up.
        if !self.below.is_empty() && operation.path().is_some_and(|path| self.covers(&path)) {
            return Pre::Complete(Verdict::allow(Cause::Excluded));
        }
        Pre::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_begins_alike_is_not_below() {
        let exclude = Exclude::new(vec![PathBuf::from("/srv/cache")]);
        assert!(exclude.covers(Path::new("/srv/cache/a/b")));
        assert!(!exclude.covers(Path::new("/srv/cache2/a")));
        assert!(!exclude.covers(Path::new("/srv")));
    }
}

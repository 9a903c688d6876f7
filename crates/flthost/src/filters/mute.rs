//! Lets operations go on unasked that rules say so of: see [`crate::mutes`].
//!
//! It stands above whatever asks. In triage it answers at once; an operation that has come to the group of questions is
//! judged there again, by the rules of that moment.

use std::path::Path;
use std::sync::Arc;

use crate::fanotify::Operation as Kind;
use crate::filesystem::Filesystem;
use crate::filter::{Altitude, Filter, Pre};
use crate::mutes::{Judgement, Mutes, Subjects};
use crate::opener::Ids;
use crate::operation::{Operation, Verdict};
use crate::policy::Cause;
use crate::stamp::FileId;

/// Above whatever asks.
pub(crate) const MUTE: Altitude = Altitude(400_500);

/// The filter.
#[derive(Debug)]
pub struct Mute {
    mutes: Arc<Mutes>,
}

impl Mute {
    /// Applies these rules.
    #[must_use]
    pub const fn new(mutes: Arc<Mutes>) -> Self {
        Self { mutes }
    }
}

impl Filter for Mute {
    fn name(&self) -> &str {
        "mute"
    }

    fn altitude(&self) -> Altitude {
        MUTE
    }

    fn may_be_skipped(&self) -> bool {
        // What it lets go on without a question is none the cleaner, and what is known to be clean needs no question.
        true
    }

    fn pre_operation(&self, operation: &Operation) -> Pre {
        let reason = match self.mutes.judge(operation, !operation.is_repeated()) {
            Judgement::Ask => return Pre::Pass,
            Judgement::Muted(entry) => format!("muted by {}", entry.rule),
            Judgement::NotListed => "not among what is asked about only".to_owned(),
        };
        Pre::Complete(Verdict {
            reason,
            ..Verdict::allow(Cause::Excluded)
        })
    }
}

impl Subjects for Operation {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn own_path(&self) -> Option<&Path> {
        self.facts.own_path()
    }

    fn users(&self) -> Option<Ids> {
        // A kernel thread has no program, and opens with the rights of those whom it serves, which do not show: the
        // server of NFS is no user.
        self.facts.program()?;
        self.credentials().map(|known| known.users)
    }

    fn program(&self) -> Option<&Path> {
        self.facts.program()
    }

    fn program_id(&self) -> Option<FileId> {
        self.facts.program_id()
    }

    fn cgroup(&self) -> Option<&Path> {
        self.facts.cgroup_path()
    }

    fn filesystem(&self) -> Option<Filesystem> {
        self.facts.filesystem()
    }
}

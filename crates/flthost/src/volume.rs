//! One filesystem that is mounted below a guarded directory: what is known of it, and how that is told.

use serde_json::{Value, json};

use crate::events::Event;
use crate::mounts::Mount;

/// One mount, and what is known of it.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) mount: Mount,
    pub(crate) guard: Guard,
    /// A thread is opening it, or opening it again.
    pub(crate) busy: bool,
    /// The mount table has changed since that thread began.
    pub(crate) stale: bool,
}

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Not known yet.
    New,
    /// By the pair at this place; `whole`: with everything that is on its filesystem, wherever it is mounted.
    Own { place: usize, whole: bool },
    /// By the mark of a whole filesystem that is guarded anyway.
    Shared,
    /// Hidden under another mount, or neither a directory nor a file: nothing can be opened there.
    Unreached,
    /// Not at all.
    Refused {
        reason: String,
        /// Whether another try could end otherwise.
        again: bool,
    },
}

impl Volume {
    /// Nothing is known of it yet.
    pub(crate) const fn new(mount: Mount) -> Self {
        Self {
            mount,
            guard: Guard::New,
            busy: false,
            stale: false,
        }
    }

    /// What there is to tell of it.
    pub(crate) fn news(&self) -> Option<Event> {
        match &self.guard {
            Guard::Own { .. } | Guard::Shared => Some(self.event("guarded", None)),
            Guard::Refused { reason, .. } => Some(self.event("refused", Some(reason.clone()))),
            Guard::New | Guard::Unreached => None,
        }
    }

    /// What there is to tell when it has gone.
    pub(crate) fn farewell(&self) -> Option<Event> {
        matches!(self.guard, Guard::Own { .. } | Guard::Shared)
            .then(|| self.event("vanished", None))
    }

    fn event(&self, state: &'static str, reason: Option<String>) -> Event {
        Event::Volume {
            state,
            path: self.mount.point.display().to_string(),
            reason,
        }
    }

    /// What the command line is told of it.
    pub(crate) fn row(&self) -> Option<Value> {
        let (state, mark, reason) = match &self.guard {
            Guard::Own { whole: true, .. } => ("guarded", Some("filesystem"), None),
            Guard::Own { whole: false, .. } => ("guarded", Some("mount"), None),
            Guard::Shared => ("guarded", Some("shared"), None),
            Guard::Refused { reason, .. } => ("refused", None, Some(reason)),
            Guard::New if self.busy => ("opening", None, None),
            Guard::New | Guard::Unreached => return None,
        };
        let path = self.mount.point.display().to_string();
        Some(json!({
            "path": path, "type": self.mount.kind, "state": state, "mark": mark, "reason": reason,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::parse;

    #[test]
    fn what_is_told_and_what_is_listed_agree() {
        let mount = parse(b"40 22 8:2 / /g/a rw - ext4 x rw").pop().unwrap();
        let mut volume = Volume::new(mount);
        assert!(volume.news().is_none() && volume.farewell().is_none() && volume.row().is_none());
        volume.guard = Guard::Own {
            place: 3,
            whole: false,
        };
        assert_eq!(volume.row().unwrap()["mark"], "mount");
        assert!(volume.news().is_some() && volume.farewell().is_some());
        volume.guard = Guard::Refused {
            reason: "why".to_owned(),
            again: true,
        };
        assert_eq!(volume.row().unwrap()["reason"], "why");
        let news = serde_json::to_value(volume.news().unwrap()).unwrap();
        assert_eq!(
            (&news["event"], &news["state"]),
            (&"volume".into(), &"refused".into())
        );
        assert!(volume.farewell().is_none());
    }
}

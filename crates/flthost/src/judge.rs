//! What happens to what no service of a port has decided: its policies, until a surge of their denials shows that nobody
//! is there to decide anything. Then it is better to let operations go on than to lock everybody out.
//!
//! Only what no file and no opener can bring about counts as that, unless the administrator says otherwise: while services
//! that have died of files are missed, or answer others, nothing is released.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fanotify::Operation;
use crate::operation::Verdict;
use crate::policy::{Action, Cause, Policies};
use crate::say::say;

/// Which denials by policy release what they deny when they come as a surge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surge {
    /// None.
    Never,
    /// Those for want of a service.
    #[default]
    Absent,
    /// Also those for services that do not answer in time. Files that keep all services busy can bring that about.
    Silent,
}

/// Decides in the place of the services of one port.
#[derive(Debug)]
pub struct Judge {
    /// What the port is called, in words to the administrator.
    name: String,
    policies: Policies,
    surge: Surge,
    released: AtomicBool,
    /// There may be some in `denials`.
    has_denied: AtomicBool,
    /// A service has died with a file, and none has answered since: that none is there is the file's doing.
    blamed: AtomicBool,
    denials: Mutex<Option<Denials>>,
}

/// Denials since a service answered last.
#[derive(Debug)]
struct Denials {
    since: Instant,
    count: u32,
}

/// So many denials are a surge,
const MANY: u32 = 100;

/// if they go on for so long: longer than a service takes to start again.
const LONG: Duration = Duration::from_secs(5);

impl Surge {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Absent => "absent",
            Self::Silent => "silent",
        }
    }
}

impl Judge {
    /// For the port of this name.
    #[must_use]
    pub const fn new(name: String, policies: Policies, surge: Surge) -> Self {
        Self {
            name,
            policies,
            surge,
            released: AtomicBool::new(false),
            has_denied: AtomicBool::new(false),
            blamed: AtomicBool::new(false),
            denials: Mutex::new(None),
        }
    }

    /// What becomes of an operation.
    pub(crate) fn verdict(&self, kind: Operation, cause: Cause, reason: String) -> Verdict {
        let verdict = self.policies.verdict(kind, cause, reason);
        if verdict.action.denies() && self.counts(cause) && self.deny(Instant::now()) {
            return Verdict {
                action: Action::Allow,
                reason: "released: no service has answered for long".to_owned(),
                ..verdict
            };
        }
        verdict
    }

    /// A service has answered: somebody decides again.
    pub(crate) fn answered(&self) {
        if !self.has_denied.swap(false, Ordering::Relaxed) {
            self.blamed.store(false, Ordering::Relaxed);
            return;
        }
        self.blamed.store(false, Ordering::Relaxed);
        *self.lock() = None;
        if self.released.swap(false, Ordering::Relaxed) {
            say(format_args!(
                "port {}: a service answers again, and policies count again",
                self.name
            ));
        }
    }

    /// A service has died with a file.
    pub(crate) fn service_died(&self) {
        self.blamed.store(true, Ordering::Relaxed);
    }

    /// Whether operations go on that policy would deny.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    fn counts(&self, cause: Cause) -> bool {
        if self.blamed.load(Ordering::Relaxed) {
            return false;
        }
        match (self.surge, cause) {
            (Surge::Never, _) => false,
            (Surge::Absent | Surge::Silent, Cause::NoService) => true,
            (Surge::Silent, Cause::Timeout) => true,
            _ => false,
        }
    }

    /// Counts a denial; whether it is one too many.
    fn deny(&self, now: Instant) -> bool {
        let mut denials = self.lock();
        self.has_denied.store(true, Ordering::Relaxed);
        let denials = denials.get_or_insert(Denials {
            since: now,
            count: 0,
        });
        denials.count = denials.count.saturating_add(1);
        let lasted = now.saturating_duration_since(denials.since);
        let released = denials.count > MANY && lasted >= LONG;
        if released && !self.released.swap(true, Ordering::Relaxed) {
            say(format_args!(
                "port {}: no service has answered for {} s, and {} operations were denied for that; \
                 what is denied for that goes on now, until a service answers (--surge never keeps denying)",
                self.name,
                lasted.as_secs(),
                denials.count - 1
            ));
        }
        released
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Denials>> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(surge: Surge) -> Judge {
        Judge::new("scan".to_owned(), Policies::strict(), surge)
    }

    fn surge(judge: &Judge, cause: Cause) {
        let long_ago = Instant::now().checked_sub(2 * LONG);
        *judge.lock() = long_ago.map(|since| Denials { since, count: 0 });
        for _ in 0..MANY {
            assert!(denies(judge, cause), "not many yet");
        }
    }

    fn denies(judge: &Judge, cause: Cause) -> bool {
        let verdict = judge.verdict(Operation::Open, cause, String::new());
        verdict.action.denies()
    }

    #[test]
    fn a_surge_of_denials_for_want_of_services_releases_until_one_answers() {
        let judge = judge(Surge::Absent);
        surge(&judge, Cause::NoService);
        assert!(!denies(&judge, Cause::NoService) && judge.is_released());
        // What files and openers can bring about is denied all the same.
        for cause in [
            Cause::Timeout,
            Cause::Overload,
            Cause::Poison,
            Cause::Unscannable,
        ] {
            assert!(denies(&judge, cause), "{cause}");
        }
        judge.answered();
        assert!(denies(&judge, Cause::NoService) && !judge.is_released());
    }

    #[test]
    fn a_file_that_kills_services_buys_no_release() {
        let judge = judge(Surge::Silent);
        judge.service_died();
        for cause in [Cause::NoService, Cause::Timeout] {
            surge(&judge, cause);
            assert!(denies(&judge, cause), "{cause}");
        }
        judge.answered();
        surge(&judge, Cause::NoService);
        assert!(!denies(&judge, Cause::NoService), "this one has just gone");
    }

    #[test]
    fn many_denials_in_a_moment_are_no_surge_and_few_that_last_are_none() {
        let hasty = judge(Surge::Absent);
        for _ in 0..10 * MANY {
            assert!(denies(&hasty, Cause::NoService));
        }
        let rare = judge(Surge::Absent);
        surge(&rare, Cause::NoService);
        rare.answered();
        assert!(denies(&rare, Cause::NoService));
    }

    #[test]
    fn silence_counts_only_if_that_is_wanted_and_nothing_where_nothing_does() {
        let silent = judge(Surge::Silent);
        surge(&silent, Cause::Timeout);
        assert!(!denies(&silent, Cause::Timeout));
        for (surge_of, cause) in [
            (Surge::Absent, Cause::Timeout),
            (Surge::Never, Cause::NoService),
            (Surge::Silent, Cause::Overload),
        ] {
            let judge = judge(surge_of);
            surge(&judge, cause);
            assert!(denies(&judge, cause), "{cause}");
        }
    }
}

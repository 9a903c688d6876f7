//! What a filter is: a name, an altitude, what it says before an operation goes on, and what it is told afterwards.

use std::fmt;

use crate::notice::Notice;
use crate::operation::{Operation, Pended, Verdict};

/// Where a filter stands in the stack; higher ones are asked first. The numbers are those of the Windows load order
/// groups, such as 320,000-329,999 for anti-virus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Altitude(pub u32);

/// A filter. [`Self::pre_operation`] runs on the thread that reads the kernel's queue: it must not block, open files of the
/// guarded tree, or wait for anything; what takes time returns [`Pre::Pend`]. What is to be remembered of a file or a process
/// belongs into [`Contexts`](crate::Contexts).
///
/// ```
/// use flthost::{Altitude, Cause, Filter, Operation, OperationKind, Pre, Verdict};
///
/// struct NoExec;
///
/// impl Filter for NoExec {
///     fn name(&self) -> &str { "noexec" }
///     fn altitude(&self) -> Altitude { Altitude(385_000) }
///     fn pre_operation(&self, operation: &Operation) -> Pre {
///         match operation.kind() {
///             OperationKind::Exec => Pre::Complete(Verdict::deny(Cause::Filter, "nothing is executed here")),
///             _ => Pre::Pass,
///         }
///     }
/// }
/// ```
pub trait Filter: Send + Sync + 'static {
    /// The filter's name, for logs and listings.
    fn name(&self) -> &str;

    /// Where it stands.
    fn altitude(&self) -> Altitude;

    /// Whether the filter may take operations to decide them later ([`Pre::Pend`]). From the first such filter on,
    /// operations wait in a group of their own, where they slow nobody who does not. A filter that says no here and takes
    /// one all the same slows others, and nothing worse.
    ///
    /// An operation that comes to such a filter comes again, from the top, with [`Operation::is_repeated`]: filters above
    /// are asked twice, and have to say the same twice.
    fn may_wait(&self) -> bool {
        false
    }

    /// Whether opens of a file that all filters have allowed before, and that has not changed, may pass without this filter
    /// being asked again. Where one in the stack says no, as every filter does that does not say otherwise, verdicts are
    /// not kept in the kernel, and below the filters that ask services not at all.
    fn may_be_skipped(&self) -> bool {
        false
    }

    /// Called before the operation goes on.
    #[doc(alias = "PFLT_PRE_OPERATION_CALLBACK")]
    fn pre_operation(&self, operation: &Operation) -> Pre;

    /// Whether the filter wants to be told what has happened to files ([`Self::post_operation`]). Asked when the host
    /// and when a worker starts: where nobody wants it, the kernel is not asked to tell.
    fn wants_notices(&self) -> bool {
        false
    }

    /// Called after something has happened to a guarded file; nothing can be prevented any more. Lowest altitude first.
    ///
    /// All filters are told by one thread, which may wait and open files, and holds up no operation. A filter that takes
    /// too long loses notices, for all filters, and they are told so ([`NoticeKind::Lost`](crate::NoticeKind::Lost)). What
    /// filters do to guarded files themselves comes back to them: [`Notice::pid`] is this process then.
    ///
    /// ```
    /// use flthost::{Altitude, Filter, Notice, NoticeKind, Operation, Pre};
    ///
    /// struct Removals;
    ///
    /// impl Filter for Removals {
    ///     fn name(&self) -> &str { "removals" }
    ///     fn altitude(&self) -> Altitude { Altitude(385_100) }
    ///     fn pre_operation(&self, _: &Operation) -> Pre { Pre::Pass }
    ///     fn wants_notices(&self) -> bool { true }
    ///     fn post_operation(&self, notice: &Notice) {
    ///         if notice.kind() == NoticeKind::Delete {
    ///             flthost::say(format_args!("removed: {:?}", notice.path()));
    ///         }
    ///     }
    /// }
    /// ```
    #[doc(alias = "PFLT_POST_OPERATION_CALLBACK")]
    fn post_operation(&self, notice: &Notice) {
        let _ = notice;
    }

    /// Called every ten seconds or so by a thread that may take its time: forget what nothing else forgets.
    fn tidy(&self) {}
}

impl fmt::Debug for dyn Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.altitude().0)
    }
}

/// What a filter says to an operation.
pub enum Pre {
    /// Nothing: the next filter is asked.
    Pass,
    /// The operation is decided; filters below are not asked.
    Complete(Verdict),
    /// The filter takes the operation and decides later. The function gets it, and must not block either.
    Pend(Box<dyn FnOnce(Pended) + Send>),
}

impl fmt::Debug for Pre {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("Pass"),
            Self::Complete(verdict) => f.debug_tuple("Complete").field(verdict).finish(),
            Self::Pend(_) => f.write_str("Pend"),
        }
    }
}

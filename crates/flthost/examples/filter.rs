//! A filter of one's own: below the directories named as arguments, nothing is executed. Needs root.

use flthost::{Altitude, Cause, Filter, Operation, OperationKind, Pre, Verdict};
use flthost::{config::Config, supervisor};

struct NoExec;

#[rustfmt::skip]
impl Filter for NoExec {
    fn name(&self) -> &str { "noexec" }
    fn altitude(&self) -> Altitude { Altitude(385_000) }
    fn pre_operation(&self, operation: &Operation) -> Pre {
        if operation.kind() != OperationKind::Exec { return Pre::Pass }
        Pre::Complete(Verdict::deny(Cause::Filter, "nothing runs here"))
    }
}

fn main() -> Result<(), supervisor::StartError> {
    supervisor::run(&Config::guarding(std::env::args_os().skip(1)).filter(NoExec)).map(drop)
}

//! A filter of one's own: below the directories named as arguments, nothing is executed. Needs root.

use std::sync::Arc;

use flthost::config::Config;
use flthost::{Altitude, Cause, Filter, Operation, OperationKind, Pre, Verdict, supervisor};

struct NoExec;

#[rustfmt::skip]
impl Filter for NoExec {
    fn name(&self) -> &str { "noexec" }
    fn altitude(&self) -> Altitude { Altitude(385_000) }
    fn pre_operation(&self, operation: &Operation) -> Pre {
        match operation.kind() {
            OperationKind::Exec => Pre::Complete(Verdict::deny(Cause::Filter, "nothing runs here")),
            _ => Pre::Pass,
        }
    }
}

fn main() -> Result<(), supervisor::StartError> {
    let mut config = Config::guarding(std::env::args_os().skip(1));
    config.filters.push(Arc::new(NoExec));
    supervisor::run(&config)
}

//! What commands do: one file for each, from a resolved request to an outcome.
//!
//! Exit statuses come of it: an outcome is 0 or 1, an error is 2. Next rooms: the files of this folder.

use fltport::protocol::control;

use crate::Outcome;
use crate::request::Request;

mod demo;
mod explain;
mod guard;
mod host;
mod hosts;
mod list;
mod open;
mod status;

/// Does what was asked.
pub(crate) fn run(request: &Request) -> anyhow::Result<Outcome> {
    match request {
        Request::Demo(request) => demo::run(request),
        Request::Guard(request) => guard::run(request),
        Request::List(request) if request.kind == control::Request::Status => status::run(request),
        Request::List(request) => list::run(request),
        Request::Steer(request) => host::run(request),
        Request::Explain(request) => explain::run(request),
        Request::Open(paths) => open::run(paths),
    }
}

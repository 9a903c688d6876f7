//! What a host is told at its start.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fanotify::{Defaults, Operation as Kind, Response};
use crate::filter::Filter;
use crate::policy::{Cause, Policies};

/// The configuration of one filter host.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the host among others: its ports are below `\fltport\NAME`, or `\fltport` without a name.
    pub instance: Option<String>,
    /// Directories to guard.
    pub guards: Vec<PathBuf>,
    /// Directories below them whose files are not asked about.
    pub excludes: Vec<PathBuf>,
    /// Rules for the scanner: a file or a directory; its built-in rule without.
    pub rules: Option<PathBuf>,
    /// The scanner's program; none is started without.
    pub scanner: Option<PathBuf>,
    /// What happens to what no service decides.
    pub policies: Policies,
    /// Restarts of the worker within ten seconds before the supervisor answers by itself.
    pub restarts: usize,
    /// Nothing is denied, everything is shown.
    pub monitor: bool,
    /// The port directory, instead of this user's usual one.
    pub port_directory: Option<PathBuf>,
    /// End when standard input does.
    pub lifeline: bool,
    /// Filters besides those that come with the host.
    pub filters: Vec<Arc<dyn Filter>>,
}

impl Config {
    /// Guards these directories with the host's own filters, no scanner, and lenient policies.
    #[must_use]
    pub fn guarding(guards: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            instance: None,
            guards: guards.into_iter().map(Into::into).collect(),
            excludes: Vec::new(),
            rules: None,
            scanner: None,
            policies: Policies::lenient(),
            restarts: 5,
            monitor: false,
            port_directory: None,
            lifeline: false,
            filters: Vec::new(),
        }
    }

    /// What operations get that the host itself fails to decide.
    #[must_use]
    pub(crate) fn crash_defaults(&self) -> Defaults {
        if self.monitor {
            return Response::Allow.into();
        }
        let of = |kind| self.policies.action(kind, Cause::Crash).response();
        Defaults {
            open: of(Kind::Open),
            exec: of(Kind::Exec),
        }
    }

    /// With one filter more.
    #[must_use]
    pub fn filter(mut self, filter: impl Filter) -> Self {
        self.filters.push(Arc::new(filter));
        self
    }

    /// The name of one of this host's ports.
    #[must_use]
    pub fn port_name(&self, leaf: &str) -> String {
        match &self.instance {
            Some(instance) => format!("\\fltport\\{instance}\\{leaf}"),
            None => format!("\\fltport\\{leaf}"),
        }
    }
}

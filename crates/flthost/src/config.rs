//! What a host is told at its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::CacheMode;
use crate::fanotify::{Defaults, Operation as Kind, Response};
use crate::filter::{Altitude, Filter};
use crate::filters::Agree;
use crate::judge::Surge;
use crate::mutes::Sort;
use crate::policy::{Cause, Policies};
use crate::rule::Rule;
use crate::service_port::{SCAN, ServicePort};

/// The configuration of one filter host.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the host among others: its ports are below `\fltport\NAME`, or `\fltport` without a name.
    pub instance: Option<String>,
    /// Directories to guard.
    pub guards: Vec<PathBuf>,
    /// What is not asked about, and what is asked about only.
    pub mutes: Vec<(Sort, Rule)>,
    /// The ports at which services are asked: higher altitudes first, each only about what those above let go on.
    pub services: Vec<ServicePort>,
    /// What counts where several are asked side by side, as they are at one altitude.
    pub agree: Agree,
    /// Rules for the scanner: a file or a directory; its built-in rule without.
    pub rules: Option<PathBuf>,
    /// The scanner's program; none is started without.
    pub scanner: Option<PathBuf>,
    /// What happens to what no service decides.
    pub policies: Policies,
    /// Which denials by policy release what they deny when they come as a surge.
    pub surge: Surge,
    /// Restarts of the worker within ten seconds before the supervisor answers by itself.
    pub restarts: usize,
    /// Nothing is denied, everything is shown.
    pub monitor: bool,
    /// Which verdicts are kept, and where.
    pub cache: CacheMode,
    /// Time that a service may ask for beyond an operation's deadline, once.
    pub more_time: Duration,
    /// The port directory, instead of this user's usual one.
    pub port_directory: Option<PathBuf>,
    /// A guarded directory that is no mount point may have more than 10,000 directories.
    pub many_directories: bool,
    /// Take everything over from the host of this name that runs, and let that one end.
    pub take_over: bool,
    /// End when standard input does.
    pub lifeline: bool,
    /// Filesystems that are mounted below guarded directories are guarded too, whenever they appear.
    pub mounts: bool,
    /// Also those of servers and daemons (network, FUSE), which may keep opens of their files waiting.
    pub remote: bool,
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
            mutes: Vec::new(),
            services: vec![ServicePort::new(SCAN)],
            agree: Agree::All,
            rules: None,
            scanner: None,
            policies: Policies::lenient(),
            surge: Surge::default(),
            restarts: 5,
            monitor: false,
            cache: CacheMode::default(),
            more_time: Duration::from_secs(8),
            port_directory: None,
            many_directories: false,
            take_over: false,
            lifeline: false,
            mounts: true,
            remote: false,
            filters: Vec::new(),
        }
    }

    /// Whether nothing goes on that was not found clean, at any port.
    pub(crate) fn is_strict(&self) -> bool {
        let of_ports = self.services.iter().filter_map(|port| port.policies);
        let mut all = of_ports.chain([self.policies]);
        all.all(|policies| policies.is_strict())
    }

    /// Right above all services.
    pub(crate) fn cached_altitude(&self) -> Altitude {
        let highest = self.services.iter().map(|port| port.altitude.0).max();
        Altitude(highest.map_or(0, |highest| highest.saturating_add(1)))
    }

    /// Where verdicts may be kept beside these filters.
    pub(crate) fn cache_mode(&self) -> CacheMode {
        let must_see = |filter: &&Arc<dyn Filter>| !filter.may_be_skipped();
        let lowest = self
            .filters
            .iter()
            .filter(must_see)
            .map(|filter| filter.altitude())
            .min();
        match lowest {
            None => self.cache,
            // Filters above see every open before the worker's cache does.
            Some(lowest) if lowest > self.cached_altitude() => self.cache.min(CacheMode::Worker),
            Some(_) => CacheMode::Off,
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

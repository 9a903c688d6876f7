//! What a host is told at its start.

use std::path::PathBuf;

use crate::policy::Policies;

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
    /// Nothing is denied, everything is shown.
    pub monitor: bool,
    /// The port directory, instead of this user's usual one.
    pub port_directory: Option<PathBuf>,
    /// End when standard input does.
    pub lifeline: bool,
}

impl Config {
    /// The name of one of this host's ports.
    #[must_use]
    pub fn port_name(&self, leaf: &str) -> String {
        match &self.instance {
            Some(instance) => format!("\\fltport\\{instance}\\{leaf}"),
            None => format!("\\fltport\\{leaf}"),
        }
    }
}

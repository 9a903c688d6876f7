//! What this kernel cannot do of what a host makes use of, and what follows.
//!
//! The kernel is asked; its version says little. What has no consequence for the configuration is not told: why the kernel
//! could not open a file (told since Linux 6.13) changes nothing of what a host does.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::cache::CacheMode;
use crate::config::Config;
use crate::fanotify::{Class, DenyErrno, Group, Response};
use crate::lingering;
use crate::policy::Action;

/// What the kernel can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// Operations can be denied with an error of the host's choice (Linux 6.14).
    pub(crate) errnos: bool,
    /// Marks that go with their file can let it pass unasked (Linux 6.0).
    ignores: bool,
    /// Any thread can be named, also one of a process whose first has ended (Linux 6.9).
    threads: bool,
}

impl Kernel {
    /// Asks. Where there is no fanotify the host ends for that reason, whatever this says.
    pub(crate) fn ask() -> Self {
        let group = Group::new(Class::PreContent).ok();
        let file = memfd_create(c"fanotify-probe", MemfdFlags::CLOEXEC).ok();
        let errno = Response::DenyErrno(DenyErrno::Eio);
        let ignores = |group: &Group| {
            file.is_some_and(|file| group.ignore_evictable(file.as_fd(), None).is_ok())
        };
        Self {
            errnos: group.as_ref().is_some_and(|group| group.supports(errno)),
            ignores: group.as_ref().is_some_and(ignores),
            threads: lingering::is_possible(),
        }
    }

    /// What is missing for this configuration, a sentence for each; `slow` says whether something guarded may hang.
    pub(crate) fn missing(self, config: &Config, slow: bool) -> Vec<String> {
        let mut missing = Vec::new();
        let errnos = errnos(config);
        if !self.errnos && !errnos.is_empty() {
            missing.push(format!(
                "this kernel cannot deny with {}: opens fail with EPERM instead",
                errnos.join(", ")
            ));
        }
        if !self.ignores && config.cache_mode() == CacheMode::Kernel {
            let text = "this kernel keeps no verdicts: the host is asked at each open, and knows files from before";
            missing.push(text.to_owned());
        }
        if !self.threads && slow {
            let text = "this kernel takes nothing from a worker that was killed inside a hung filesystem: \
                        the next worker starts when that one is gone";
            missing.push(text.to_owned());
        }
        missing
    }
}

/// The errors, besides that of a plain denial, with which some policy denies.
fn errnos(config: &Config) -> Vec<&'static str> {
    let ports = config.services.iter().filter_map(|port| port.policies);
    let policies = std::iter::once(config.policies).chain(ports);
    let actions = policies.flat_map(|policies| [policies.open, policies.exec]);
    let mut names: Vec<_> = actions
        .flat_map(|actions| actions.list())
        .map(|(_, action)| action)
        .filter(|action| matches!(action, Action::Errno(errno) if *errno != DenyErrno::Eperm))
        .map(Action::name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_port::ServicePort;

    const OLD: Kernel = Kernel {
        errnos: false,
        ignores: false,
        threads: false,
    };

    #[test]
    fn only_what_the_configuration_makes_use_of_is_missed() {
        let mut config = Config::guarding(["/srv"]);
        config.cache = CacheMode::Off;
        config.policies.set("timeout=EPERM").unwrap();
        assert_eq!(OLD.missing(&config, false), [""; 0]);
        config.policies.set("exec:crash=EIO").unwrap();
        let mut port = ServicePort::new("av");
        port.policies = Some(config.policies);
        port.policies
            .as_mut()
            .unwrap()
            .set("timeout=EAGAIN")
            .unwrap();
        config.services.push(port);
        config.cache = CacheMode::Kernel;
        let missing = OLD.missing(&config, true);
        assert_eq!(missing.len(), 3, "{missing:?}");
        let words = "cannot deny with EAGAIN, EIO: opens fail with EPERM instead";
        assert!(missing[0].ends_with(words), "{missing:?}");
        let new = Kernel {
            errnos: true,
            ignores: true,
            threads: true,
        };
        assert_eq!(new.missing(&config, true), [""; 0]);
    }
}

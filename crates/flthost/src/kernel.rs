//! What this kernel cannot do of what a host makes use of, and what follows.
//!
//! The kernel is asked; its version says little. What has no consequence for the configuration is not told: why the kernel
//! could not open a file (told since Linux 6.13) changes nothing of what a host does.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::cache::CacheMode;
use crate::config::Config;
use crate::fanotify::{DenyErrno, Group, Response};
use crate::fanotify_watch::tells_of_layers;
use crate::lingering;
use crate::order;
use crate::policy::Action;

/// What the kernel can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// Operations can be denied with an error of the host's choice (Linux 6.14).
    pub(crate) errnos: bool,
    /// Marks that go with their file can let it pass unasked (Linux 6.0).
    ignores: bool,
    /// What overlays open and write in their layers is asked about and told (Linux 6.5).
    layers: bool,
    /// What one group allows is always seen in the next, as on Linux 6.1 and 6.18.
    pub(crate) splits: bool,
    /// Any thread can be named, also one of a process whose first has ended (Linux 6.9).
    threads: bool,
}

impl Kernel {
    /// Asks, by a group that the host has: another one may be more than a user may have, and that it could not be made
    /// would count as all that is missing. What is marked in it is gone when this returns.
    pub(crate) fn ask(group: Option<&Group>) -> Self {
        let file = memfd_create(c"fanotify-probe", MemfdFlags::CLOEXEC).ok();
        let file = file.as_ref().map(AsFd::as_fd);
        let errno = Response::DenyErrno(DenyErrno::Eio);
        let ignores =
            |group: &Group| file.is_some_and(|file| group.ignore_evictable(file, None).is_ok());
        Self {
            errnos: group.is_some_and(|group| group.supports(errno)),
            ignores: group.is_some_and(ignores),
            layers: file.is_some_and(tells_of_layers),
            splits: order::comes_to_the_next(),
            threads: lingering::is_possible(),
        }
    }

    /// Where verdicts are kept. Without word of what overlays write, the kernel would keep some for good that are wrong;
    /// the worker sees each open, and at what time the file was changed.
    pub(crate) fn cache_mode(self, config: &Config) -> CacheMode {
        match config.cache_mode() {
            CacheMode::Kernel if !(self.ignores && self.layers) => CacheMode::Worker,
            mode => mode,
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
        // Whatever is guarded: who may make user namespaces can mount an overlay.
        if !self.layers {
            let text = "this kernel does not ask about what is opened through an overlay: \
                        where guarded files are a layer of one, they can be opened there unasked";
            missing.push(text.to_owned());
        }
        if self.cache_mode(config) != config.cache_mode() {
            let text = "this kernel keeps no verdicts: the host is asked at each open, and knows files from before";
            missing.push(text.to_owned());
        }
        if !self.splits {
            let text = "this kernel may let an open pass unasked when somebody's watch of the file ends at that moment, between two \
                        groups above all: all is decided in the first, where many that wait slow the others; use a newer kernel";
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
        layers: true,
        splits: true,
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
            layers: true,
            splits: true,
            threads: true,
        };
        assert_eq!(new.missing(&config, true), [""; 0]);
    }

    #[test]
    fn a_kernel_that_says_nothing_of_overlays_keeps_no_verdicts() {
        let new = Kernel {
            errnos: true,
            ignores: true,
            layers: true,
            splits: true,
            threads: true,
        };
        let mute = Kernel {
            layers: false,
            ..new
        };
        let mut config = Config::guarding(["/srv"]);
        for (mode, instead, lines) in [
            (CacheMode::Kernel, CacheMode::Worker, 2),
            (CacheMode::Worker, CacheMode::Worker, 1),
            (CacheMode::Off, CacheMode::Off, 1),
        ] {
            config.cache = mode;
            assert_eq!(new.cache_mode(&config), mode);
            assert_eq!(mute.cache_mode(&config), instead);
            let missing = mute.missing(&config, false);
            assert_eq!(missing.len(), lines, "{missing:?}");
            assert!(missing[0].contains("overlay"), "{missing:?}");
        }
    }

    #[test]
    fn a_kernel_that_may_lose_an_open_between_two_groups_is_told_of() {
        let mut config = Config::guarding(["/srv"]);
        config.cache = CacheMode::Off;
        let loses = Kernel {
            splits: false,
            layers: true,
            ..OLD
        };
        let missing = loses.missing(&config, false);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].contains("between two groups"), "{missing:?}");
    }
}

//! Which mounts are to be guarded: those below guarded directories, but for exceptions that can be told by their names.
//!
//! Nothing here touches a filesystem.

use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::Dev;

use crate::config::Config;
use crate::marks::TargetKind;
use crate::mounts::Mount;
use crate::mutes::Sort;
use crate::rule::Subject;
use crate::stamp::Look;
use crate::start::Held;

/// What is to be guarded.
#[derive(Debug)]
pub(crate) struct Scope {
    guarded: Vec<Guarded>,
    excludes: Vec<PathBuf>,
    remote: bool,
}

/// A directory that was guarded from the start.
#[derive(Debug)]
struct Guarded {
    path: PathBuf,
    /// The mount that it was opened by.
    mount: Option<u64>,
    device: Dev,
    /// Whether its whole filesystem is guarded.
    whole: bool,
}

impl Scope {
    /// Below the directories that a host guards.
    pub(crate) fn of(held: &Held, config: &Config) -> Self {
        let guarded = held.guarded.iter().map(|guarded| Guarded {
            path: guarded.target.path().to_path_buf(),
            mount: Look::at(guarded.target.as_fd()).and_then(|look| look.mount),
            device: guarded.target.device(),
            whole: guarded.target.kind() == TargetKind::Filesystem,
        });
        // What is never asked about, whoever opens it.
        let excluded = config
            .mutes
            .iter()
            .filter_map(|(sort, rule)| match &rule.subject {
                Subject::Tree(path) if *sort == Sort::Mute && rule.is_always() => Some(path),
                _ => None,
            });
        Self {
            guarded: guarded.collect(),
            excludes: excluded.cloned().collect(),
            remote: config.remote,
        }
    }

    /// Whether a mount is to be guarded, or to be named because it is not.
    pub(crate) fn wants(&self, mount: &Mount) -> bool {
        let is_below = |guarded: &Guarded| match guarded.mount {
            // Also what is mounted over the directory itself: what people see there is not what was guarded.
            Some(id) => mount.point.starts_with(&guarded.path) && mount.id != id,
            None => mount.point.starts_with(&guarded.path) && mount.point != guarded.path,
        };
        let excluded = |path: &PathBuf| mount.point.starts_with(path);
        self.guarded.iter().any(is_below)
            && !self.excludes.iter().any(excluded)
            && !mount.is_automatic()
    }

    /// Whether a filesystem is mounted where nothing is guarded, too: a mark on all of it would reach too far.
    pub(crate) fn is_outside_too(&self, mounts: &[Mount], device: Dev) -> bool {
        let is_inside = |mount: &Mount| {
            let mut guarded = self.guarded.iter();
            guarded.any(|guarded| mount.point.starts_with(&guarded.path))
        };
        let mut same = mounts.iter().filter(|mount| mount.device == device);
        same.any(|mount| !is_inside(mount))
    }

    /// Whether the filesystem of a mount was guarded as a whole from the start.
    pub(crate) fn covers(&self, mount: &Mount) -> bool {
        let mut guarded = self.guarded.iter();
        guarded.any(|guarded| guarded.whole && guarded.device == mount.device)
    }

    /// Why a filesystem is not guarded, where its type alone says so.
    pub(crate) fn reason_against(&self, mount: &Mount) -> Option<String> {
        let kind = &mount.kind;
        if mount.is_interface() {
            return Some(format!(
                "{kind} has no files of its own, only the kernel's words"
            ));
        }
        (mount.is_remote() && !self.remote).then(|| {
            format!(
                "{kind} is behind a server or a daemon, which could keep every open waiting; --remote guards it all the same"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::parse;

    /// Guards `/g`, as a directory of the filesystem 8:1 that mount 22 shows, without `/g/not`.
    fn scope(whole: bool, remote: bool) -> Scope {
        Scope {
            guarded: vec![Guarded {
                path: "/g".into(),
                mount: Some(22),
                device: rustix::fs::makedev(8, 1),
                whole,
            }],
            excludes: vec!["/g/not".into()],
            remote,
        }
    }

    fn mount(line: &str) -> Mount {
        parse(line.as_bytes()).pop().unwrap()
    }

    #[test]
    fn what_is_mounted_below_or_over_a_guarded_directory_is_wanted() {
        let wants = |line| scope(false, false).wants(&mount(line));
        assert!(wants("40 22 8:2 / /g/a rw - ext4 x rw"));
        assert!(wants("40 22 8:2 / /g rw - ext4 x rw"));
        assert!(!wants("22 1 8:1 / /g rw - ext4 x rw"));
        assert!(!wants("40 22 8:2 / /gg rw - ext4 x rw"));
        assert!(!wants("40 22 8:2 / /g/not/a rw - ext4 x rw"));
        assert!(!wants("40 22 8:2 / /g/a rw - autofs x rw"));
    }

    #[test]
    fn a_filesystem_that_is_mounted_elsewhere_too_is_known() {
        let inside = "40 22 8:2 / /g/a rw - ext4 x rw\n41 22 8:2 /b /g/b rw - ext4 x rw\n";
        let outside = format!("{inside}42 1 8:2 / /other rw - ext4 x rw\n");
        let device = rustix::fs::makedev(8, 2);
        let scope = scope(false, false);
        assert!(!scope.is_outside_too(&parse(inside.as_bytes()), device));
        assert!(scope.is_outside_too(&parse(outside.as_bytes()), device));
    }

    #[test]
    fn a_bind_mount_of_a_filesystem_that_is_guarded_as_a_whole_is_covered() {
        let bound = mount("40 22 8:1 /b /g/b rw - ext4 x rw");
        assert!(scope(true, false).covers(&bound) && !scope(false, false).covers(&bound));
    }

    #[test]
    fn a_type_alone_can_speak_against_guarding() {
        let against = |remote, kind: &str| {
            let mount = mount(&format!("40 22 0:9 / /g/a rw - {kind} x rw"));
            scope(false, remote).reason_against(&mount)
        };
        assert!(against(false, "fuse.sshfs").unwrap().contains("--remote"));
        assert!(against(true, "proc").is_some());
        assert_eq!((against(true, "nfs4"), against(false, "xfs")), (None, None));
    }
}

//! Facts about one operation, looked up when they are first asked for and remembered.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::process::Pid;

use crate::filesystem::Filesystem;
use crate::mount_table::Mounts;
use crate::opener::{self, Cgroup, Credentials, Executable};
use crate::stamp::FileId;

/// A file's path, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath {
    /// As the mount that the file was reached by shows it.
    pub path: PathBuf,
    /// What that means.
    pub validity: Validity,
}

/// What a path is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The path that the host's own mount namespace shows.
    Plain,
    /// The file was reached by a mount of another mount namespace: the path may look like one of the host's and is none.
    OtherNamespace,
    /// The file was reached by a mount that is in no namespace that is known: as a rule it is a layer seen from below an
    /// overlay, and the path is that inside the layer.
    Layer,
    /// The host's own path, on an overlay, whose files may change places and numbers.
    Overlay,
    /// The file has no path any more: this was its last one. A file whose name ends in ` (deleted)` looks the same.
    Unlinked,
}

impl Validity {
    /// Whether the path is what the host's own mount namespace shows, so that it can be compared with the host's paths.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Plain | Self::Overlay)
    }

    /// The validity in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OtherNamespace => "other_namespace",
            Self::Layer => "layer",
            Self::Overlay => "overlay",
            Self::Unlinked => "unlinked",
        }
    }
}

/// Where facts about an operation come from, and those that are known already.
#[derive(Debug)]
pub(crate) struct Facts {
    opener: Option<Pid>,
    file: Arc<OwnedFd>,
    /// The mount by which the file was reached.
    mount: Option<u64>,
    filesystem: Option<Filesystem>,
    mounts: Arc<Mounts>,
    ours: OnceLock<bool>,
    shown: OnceLock<Option<PathBuf>>,
    path: OnceLock<Option<FilePath>>,
    credentials: OnceLock<Option<Credentials>>,
    program: OnceLock<Option<PathBuf>>,
    program_id: OnceLock<Option<FileId>>,
    executable: OnceLock<Option<Executable>>,
    cgroup_path: OnceLock<Option<PathBuf>>,
    cgroup: OnceLock<Option<Cgroup>>,
}

impl Facts {
    pub(crate) fn new(
        opener: Option<Pid>,
        file: Arc<OwnedFd>,
        mount: Option<u64>,
        filesystem: Option<Filesystem>,
        mounts: Arc<Mounts>,
    ) -> Self {
        Self {
            opener,
            file,
            mount,
            filesystem,
            mounts,
            ours: OnceLock::new(),
            shown: OnceLock::new(),
            path: OnceLock::new(),
            credentials: OnceLock::new(),
            program: OnceLock::new(),
            program_id: OnceLock::new(),
            executable: OnceLock::new(),
            cgroup_path: OnceLock::new(),
            cgroup: OnceLock::new(),
        }
    }

    pub(crate) const fn filesystem(&self) -> Option<Filesystem> {
        self.filesystem
    }

    /// Whether the file was reached by a mount of this namespace.
    pub(crate) fn is_ours(&self) -> bool {
        let known = || self.mount.is_some_and(|mount| self.mounts.has(mount));
        *self.ours.get_or_init(known)
    }

    /// The path that can be compared with the host's own; nothing where it is another's, or the file's last.
    pub(crate) fn own_path(&self) -> Option<&Path> {
        let path = self.shown()?;
        (self.is_ours() && !is_unlinked(path)).then_some(path)
    }

    pub(crate) fn path(&self) -> Option<&FilePath> {
        let look = || {
            Some(FilePath {
                path: self.shown()?.to_path_buf(),
                validity: self.validity(),
            })
        };
        self.path.get_or_init(look).as_ref()
    }

    pub(crate) fn validity(&self) -> Validity {
        if !self.is_ours() {
            let seen_by = |pid| opener::has_mount(pid, self.mount?);
            return match self.opener.and_then(seen_by) {
                Some(false) => Validity::Layer,
                _ => Validity::OtherNamespace,
            };
        }
        if self.shown().is_some_and(is_unlinked) {
            return Validity::Unlinked;
        }
        match self.filesystem {
            Some(filesystem) if filesystem.is_overlay() => Validity::Overlay,
            _ => Validity::Plain,
        }
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        let look = || opener::credentials(self.opener?);
        self.credentials.get_or_init(look).as_ref()
    }

    /// The path of the opener's program; asks no filesystem.
    pub(crate) fn program(&self) -> Option<&Path> {
        let look = || opener::executable_path(self.opener?);
        self.program.get_or_init(look).as_deref()
    }

    pub(crate) fn program_id(&self) -> Option<FileId> {
        let look = || opener::executable_id(self.opener?);
        *self.program_id.get_or_init(look)
    }

    pub(crate) fn executable(&self) -> Option<&Executable> {
        let look = || {
            Some(Executable {
                path: self.program()?.to_path_buf(),
                id: self.program_id(),
            })
        };
        self.executable.get_or_init(look).as_ref()
    }

    pub(crate) fn cgroup_path(&self) -> Option<&Path> {
        let look = || opener::cgroup_path(self.opener?);
        self.cgroup_path.get_or_init(look).as_deref()
    }

    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        let look = || {
            let path = self.cgroup_path()?;
            Some(Cgroup {
                path: path.to_path_buf(),
                id: opener::cgroup_id(path),
            })
        };
        self.cgroup.get_or_init(look).as_ref()
    }

    fn shown(&self) -> Option<&Path> {
        let look = || path_of(self.file.as_fd());
        self.shown.get_or_init(look).as_deref()
    }
}

/// Whether the kernel shows this path as that of a file that has none any more.
fn is_unlinked(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")
}

/// The path of an open file as the kernel shows it to this process.
pub(crate) fn path_of(file: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Look;

    fn facts(file: std::fs::File, filesystem: Option<Filesystem>) -> Facts {
        let mount = Look::at(file.as_fd()).unwrap().mount;
        let own = Some(rustix::process::getpid());
        Facts::new(
            own,
            Arc::new(file.into()),
            mount,
            filesystem,
            Arc::default(),
        )
    }

    #[test]
    fn a_file_of_ours_is_plain_until_it_is_unlinked() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::File::open(named.path()).unwrap();
        let (before, again) = (facts(open(), None), facts(open(), None));
        let path = before.path().unwrap();
        assert_eq!(path.validity, Validity::Plain);
        assert_eq!(before.own_path(), Some(path.path.as_path()));
        named.close().unwrap();
        assert_eq!(again.path().unwrap().validity, Validity::Unlinked);
        assert_eq!(again.own_path(), None);
        // What has been looked up stays as it was.
        assert_eq!(before.path().unwrap().validity, Validity::Plain);
    }

    #[test]
    fn a_mount_that_is_nobodys_is_a_layer_and_a_path_on_an_overlay_is_ours() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let overlay = Filesystem::named("overlay").ok();
        let mut facts = facts(file, overlay);
        assert_eq!(facts.validity(), Validity::Overlay);
        assert!(facts.own_path().is_some());
        facts.mount = Some(u64::MAX);
        facts.ours = OnceLock::new();
        assert_eq!(facts.validity(), Validity::Layer);
        assert_eq!(facts.own_path(), None);
        facts.opener = None;
        assert_eq!(facts.validity(), Validity::OtherNamespace);
    }
}

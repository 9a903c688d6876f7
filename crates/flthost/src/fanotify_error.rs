//! Why there is no group, or no mark, to be had; what each means to whoever runs the host.

use rustix::io::Errno;

/// Why there is no fanotify group to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// `EPERM`: the process lacks the capability, or a seccomp filter stands before the call.
    #[error(
        "not permitted to use fanotify: run as root (sudo), outside of a user namespace; \
         needs CAP_SYS_ADMIN"
    )]
    NotPermitted,
    /// `ENOSYS`: the kernel has no fanotify.
    #[error("this kernel has no fanotify: use one built with CONFIG_FANOTIFY")]
    NoFanotify,
    /// `EINVAL`: fanotify is there, but cannot veto.
    #[error(
        "this kernel's fanotify has no permission events: use one built with \
         CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
    )]
    NoPermissionEvents,
    /// `EMFILE`: this process or this user has too many.
    #[error(
        "too many open files or fanotify groups: raise RLIMIT_NOFILE or \
         /proc/sys/fs/fanotify/max_user_groups"
    )]
    TooMany,
    /// `ENFILE`: the whole system has too many.
    #[error("the system's table of open files is full: raise /proc/sys/fs/file-max")]
    SystemFull,
    /// A process that opens a file in memory was not seen in time.
    #[error(
        "cannot find out in which order this kernel asks two groups: no process could be started, or it did not get to \
         run in time; start again"
    )]
    NoOrder,
    /// Any other error of the system calls.
    #[error("cannot create a fanotify group: {0}")]
    Os(Errno),
}

impl GroupError {
    pub(crate) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::NOSYS => Self::NoFanotify,
            Errno::INVAL => Self::NoPermissionEvents,
            Errno::MFILE => Self::TooMany,
            Errno::NFILE => Self::SystemFull,
            other => Self::Os(other),
        }
    }
}

/// Why a mark could not be set or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarkError {
    /// `EINVAL`: as a rule the filesystem is one (proc, sysfs) where opens must not wait.
    #[error("this filesystem (or this kernel) refuses fanotify marks of this kind")]
    Unsupported,
    /// `EOPNOTSUPP`, `ENODEV`: the filesystem has no file handles or no id.
    #[error("this filesystem cannot name its directories in events (no file handles or no id)")]
    NoHandles,
    /// `EXDEV`: a btrfs subvolume with an id of its own.
    #[error(
        "this is a subvolume whose id differs from its filesystem's: watch it as its own target"
    )]
    Subvolume,
    /// `EPERM`, `EACCES`: the kernel or a security module does not let this process mark.
    #[error("not permitted to mark this: needs CAP_SYS_ADMIN and read access")]
    NotPermitted,
    /// `ENOSPC`: the user's limit of marks.
    #[error("too many fanotify marks: raise /proc/sys/fs/fanotify/max_user_marks")]
    TooMany,
    /// `ENOENT`: there is no such mark to remove.
    #[error("it was not marked")]
    NotMarked,
    /// `ENOTDIR`: a directory was expected.
    #[error("not a directory")]
    NotDirectory,
    /// Any other error of the system call.
    #[error("cannot mark: {0}")]
    Os(Errno),
}

impl MarkError {
    pub(crate) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::INVAL => Self::Unsupported,
            Errno::OPNOTSUPP | Errno::NODEV => Self::NoHandles,
            Errno::XDEV => Self::Subvolume,
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            Errno::NOSPC => Self::TooMany,
            Errno::NOENT => Self::NotMarked,
            Errno::NOTDIR => Self::NotDirectory,
            other => Self::Os(other),
        }
    }
}

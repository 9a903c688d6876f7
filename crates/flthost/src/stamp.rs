//! What a file looked like at one moment: which it is, and whether it has changed since.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, StatxFlags, makedev, statx};
use rustix::io::Errno;

/// Which file, among all of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// As in `st_dev`.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What a file looked like. Two equal ones mean that nobody wrote to it in between, if the time of change of the first was
/// already old enough to show another change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which file.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// Of the last change to anything, in seconds and nanoseconds.
    pub changed: (i64, u32),
    /// Of the last change to its content.
    pub modified: (i64, u32),
    /// Of its making, where the filesystem knows; tells apart two files that have had one number.
    pub born: (i64, u32),
    /// Type and permissions.
    pub mode: u16,
    /// Its owner.
    pub owner: u32,
    /// Names that it has.
    pub links: u32,
}

/// What one look at an open file shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The file.
    pub(crate) stamp: Stamp,
    /// The mount by which it was reached; nothing before Linux 5.8.
    pub(crate) mount: Option<u64>,
}

impl Look {
    /// Looks as [`Stamp::of`] does.
    pub(crate) fn at(file: BorrowedFd<'_>) -> Option<Self> {
        Self::try_at(file).ok()
    }

    /// As [`Self::at`], and why not.
    pub(crate) fn try_at(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let stat = statx(file, c"", flags, wanted)?;
        let told = StatxFlags::from_bits_retain(stat.stx_mask);
        let stamp = Stamp {
            id: FileId {
                device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
                inode: stat.stx_ino,
            },
            size: stat.stx_size,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            mode: stat.stx_mode,
            owner: stat.stx_uid,
            links: stat.stx_nlink,
        };
        let mount = told.contains(StatxFlags::MNT_ID).then_some(stat.stx_mnt_id);
        Ok(Self { stamp, mount })
    }
}

impl Stamp {
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode.into()).is_file()
    }

    /// Whether root alone can write to it.
    pub(crate) const fn is_of_root(&self) -> bool {
        self.owner == 0 && self.mode & OTHERS_WRITE == 0
    }

    /// Takes it as the kernel has it, without asking a server or a daemon: whoever answers operations must not wait for a
    /// filesystem. Nothing if there is no telling.
    ///
    /// # References
    /// statx(2), `AT_STATX_DONT_SYNC`.
    #[must_use]
    pub fn of(file: BorrowedFd<'_>) -> Option<Self> {
        Look::at(file).map(|look| look.stamp)
    }
}

/// Permission of the group or of others to write. With an access control list the group's bits are the list's mask.
const OTHERS_WRITE: u16 = 0o022;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_write_shows_and_a_look_does_not() {
        let mut file = tempfile::tempfile().unwrap();
        let first = Stamp::of(file.as_fd()).unwrap();
        assert_eq!(Stamp::of(file.as_fd()), Some(first));
        file.write_all(b"more").unwrap();
        let second = Stamp::of(file.as_fd()).unwrap();
        assert_eq!(second.id, first.id);
        assert_ne!(second, first);
        let other = tempfile::tempfile().unwrap();
        assert_ne!(Stamp::of(other.as_fd()).unwrap().id, first.id);
    }
}

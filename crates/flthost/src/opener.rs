//! The process behind an operation, as `/proc` shows it: whose it is, what it executes, where it is accounted.
//!
//! Everything is read with a bound, and nothing of the process's own files is opened: an executable on a filesystem that
//! hangs must not hold up whoever answers operations. A process that is gone, or of another pid namespace, has no facts.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::process::Pid;

use crate::filesystem::Filesystem;
use crate::stamp::FileId;

/// The four ids of one kind that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Whoever started it.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// Whose rights it can take again.
    pub saved: u32,
    /// Whose rights it has on files.
    pub filesystem: u32,
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User ids.
    pub users: Ids,
    /// Group ids, without the supplementary ones.
    pub groups: Ids,
}

/// The program that a process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Its path, as the mount namespace of whoever started it shows it.
    pub path: PathBuf,
    /// Which file it is; nothing where its filesystem does not say.
    pub id: Option<FileId>,
}

/// Where a process is accounted: its group of the unified hierarchy (version 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The path below the hierarchy's root, such as `/system.slice/cron.service`.
    pub path: PathBuf,
    /// Its number, where the hierarchy is mounted in the usual place.
    pub id: Option<u64>,
}

/// Where the unified hierarchy is mounted, if it is in one of the usual places: alone, or beside those of version 1.
pub(crate) fn hierarchy() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<&Path>> = OnceLock::new();
    let unified = |place: &&Path| {
        let kind = File::open(place).ok().and_then(Filesystem::of);
        kind.is_some_and(|kind| kind == Filesystem::CGROUP2)
    };
    *FOUND.get_or_init(|| {
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        places.map(Path::new).into_iter().find(unified)
    })
}

/// The ids are among the first lines of a status, whose first can be as long as a name with every character escaped.
const STATUS_BYTES: u64 = 1_024;

/// A line for each hierarchy, of which version 1 has a dozen; a path has at most 4096 bytes.
const CGROUP_BYTES: u64 = 16 * 1_024;

/// Mounts of the opener's namespace that are looked through, in bytes. Those of a container take some thousand.
const MOUNTS_BYTES: u64 = 256 * 1_024;

impl Ids {
    /// Whether all of them are this one.
    #[must_use]
    pub fn are_all(&self, id: u32) -> bool {
        self.list() == [id; 4]
    }

    /// Whether one of them is this one.
    #[must_use]
    pub fn include(&self, id: u32) -> bool {
        self.list().contains(&id)
    }

    const fn list(&self) -> [u32; 4] {
        [self.real, self.effective, self.saved, self.filesystem]
    }
}

/// Whose a process is. Its leading thread's: another thread may have taken other rights.
pub(crate) fn credentials(pid: Pid) -> Option<Credentials> {
    let status = read(pid, "status", STATUS_BYTES)?;
    let ids = |name: &[u8]| {
        let mut lines = status.split(|byte| *byte == b'\n');
        let line = lines.find_map(|line| line.strip_prefix(name))?;
        let mut ids = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let mut id = || ids.next()?.parse().ok();
        Some(Ids {
            real: id()?,
            effective: id()?,
            saved: id()?,
            filesystem: id()?,
        })
    };
    Some(Credentials {
        users: ids(b"Uid:")?,
        groups: ids(b"Gid:")?,
    })
}

/// The path of the program that a process executes. Asks no filesystem.
pub(crate) fn executable_path(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(entry(pid, "exe")).ok()
}

/// Which file a process executes. A network filesystem may be asked whether it is still there: whoever answers
/// operations calls this only for a program whose path a rule names.
pub(crate) fn executable_id(pid: Pid) -> Option<FileId> {
    id_of(Path::new(&entry(pid, "exe")))
}

/// Which file is at this path.
pub(crate) fn id_of(path: &Path) -> Option<FileId> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some(FileId {
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
    })
}

/// The group of a process in the unified hierarchy.
pub(crate) fn cgroup_path(pid: Pid) -> Option<PathBuf> {
    let text = read(pid, "cgroup", CGROUP_BYTES)?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::"))?;
    Some(OsString::from_vec(path.to_vec()).into())
}

/// The number of a group, which is that of its directory.
pub(crate) fn cgroup_id(path: &Path) -> Option<u64> {
    let below = path.strip_prefix("/").ok()?;
    id_of(&hierarchy()?.join(below)).map(|id| id.inode)
}

/// Whether the mount namespace of a process has this mount; nothing where that cannot be read, or only in part.
pub(crate) fn has_mount(pid: Pid, mount: u64) -> Option<bool> {
    let text = read(pid, "mountinfo", MOUNTS_BYTES)?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let found = lines.any(|line| mount_of(line) == Some(mount));
    let whole = u64::try_from(text.len()).is_ok_and(|length| length < MOUNTS_BYTES);
    (found || whole).then_some(found)
}

/// The id of the mount that a line of a mountinfo is about.
pub(crate) fn mount_of(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn read(pid: Pid, name: &str, most: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(entry(pid, name)).ok()?;
    file.take(most).read_to_end(&mut text).ok()?;
    // Opened while the process lived, and read when it did not.
    (!text.is_empty()).then_some(text)
}

fn entry(pid: Pid, name: &str) -> String {
    format!("/proc/{}/{name}", pid.as_raw_nonzero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_what_it_is() {
        let own = rustix::process::getpid();
        let credentials = credentials(own).unwrap();
        assert!(
            credentials
                .users
                .include(rustix::process::geteuid().as_raw())
        );
        assert!(
            credentials
                .groups
                .include(rustix::process::getegid().as_raw())
        );
        let program = std::env::current_exe().unwrap();
        assert_eq!(executable_path(own).as_ref(), Some(&program));
        assert_eq!(executable_id(own), id_of(&program));
        assert!(executable_id(own).is_some());
        assert_eq!(has_mount(own, u64::MAX), Some(false));
    }

    #[test]
    fn a_process_is_in_a_group_that_has_a_number() {
        let group = cgroup_path(rustix::process::getpid());
        let (Some(group), true) = (group, hierarchy().is_some()) else {
            println!("skipped: no unified hierarchy of cgroups");
            return;
        };
        assert!(group.is_absolute());
        assert!(cgroup_id(&group).is_some());
        assert_eq!(cgroup_id(Path::new("/no/such/group")), None);
    }

    #[test]
    fn all_four_ids_count() {
        let mut ids = Ids {
            real: 7,
            effective: 7,
            saved: 7,
            filesystem: 7,
        };
        assert!(ids.are_all(7) && ids.include(7) && !ids.include(8));
        ids.real = 8;
        assert!(!ids.are_all(7) && ids.include(7) && ids.include(8));
    }

    #[test]
    fn a_line_of_mounts_begins_with_its_id() {
        assert_eq!(mount_of(b"31 22 8:1 /srv /data rw - ext4 x rw"), Some(31));
        assert_eq!(mount_of(b""), None);
        assert_eq!(mount_of(b"x 1"), None);
    }
}

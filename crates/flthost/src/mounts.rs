//! What is mounted where, as the kernel lists it, and being told when that changes.
//!
//! Nothing here touches a filesystem: a hung one can be listed. What is done about a mount is [`crate::volumes`]'s business.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Dev, makedev};

/// One mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its id, which another mount may get when this one is gone.
    pub(crate) id: u64,
    /// The id of the mount that it is on.
    pub(crate) parent: u64,
    /// The device number of its filesystem.
    pub(crate) device: Dev,
    /// What of the filesystem it shows: `/` for all of it.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// The filesystem's type, with its subtype behind a dot.
    pub(crate) kind: String,
}

impl Mount {
    /// Whether the other is this mount, perhaps moved to another place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let all = |mount: &Self| {
            (
                mount.id,
                mount.device,
                mount.root.clone(),
                mount.kind.clone(),
            )
        };
        all(self) == all(other)
    }

    /// Whether its filesystem is a server's or a daemon's, who may keep whoever uses it waiting for ever.
    ///
    /// By the name of its type: asking the filesystem itself could wait already.
    pub(crate) fn is_remote(&self) -> bool {
        let (kind, _) = self.kind.split_once('.').unwrap_or((&self.kind, ""));
        REMOTE.contains(&kind)
    }

    /// Whether its files are this machine's and nobody else's, as far as the name of its type tells.
    pub(crate) fn is_local(&self) -> bool {
        LOCAL.contains(&self.kind.as_str())
    }

    /// Whether it has nothing that anybody could execute or read out, only the kernel's own words.
    pub(crate) fn is_interface(&self) -> bool {
        INTERFACES.contains(&self.kind.as_str())
    }

    /// Whether it is only a place where something else gets mounted when it is used.
    pub(crate) fn is_automatic(&self) -> bool {
        self.kind == "autofs"
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let (major, minor) = str::from_utf8(fields.next()?).ok()?.split_once(':')?;
        let device = makedev(major.parse().ok()?, minor.parse().ok()?);
        let (root, point) = (path(fields.next()?), path(fields.next()?));
        // Options follow, and as many optional fields as there are, up to a dash.
        let mut fields = fields.skip_while(|field| *field != b"-");
        let kind = String::from_utf8_lossy(fields.nth(1)?).into_owned();
        Some(Self {
            id,
            parent,
            device,
            root,
            point,
            kind,
        })
    }
}

/// All mounts. What cannot be read is left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(Mount::parse).collect()
}

/// Those that can be reached only through a filesystem that may keep whoever walks there waiting, or are of one: by id.
pub(crate) fn behind_remote(mounts: &[Mount]) -> HashMap<u64, bool> {
    let by_id: HashMap<u64, &Mount> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    let is_behind = |mount: &Mount| {
        let mut at = Some(mount);
        // As many steps as there are mounts: the list may have changed while it was written.
        for _ in 0..mounts.len() {
            match at {
                Some(mount) if mount.is_remote() => return true,
                Some(mount) => at = by_id.get(&mount.parent).copied(),
                None => break,
            }
        }
        false
    };
    let each = mounts.iter().map(|mount| (mount.id, is_behind(mount)));
    each.collect()
}

/// A path as the list has it: spaces and the like stand there as octal numbers.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *byte == b'\\');
        let number =
            octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match number {
            Some(number) => {
                bytes.push(number);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The list of mounts, and word of its changes.
#[derive(Debug)]
pub(crate) struct MountList {
    file: File,
}

impl MountList {
    /// Opens the list of this process's mount namespace.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # References
    /// proc_pid_mountinfo(5).
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/mountinfo").map(|file| Self { file })
    }

    /// All mounts, now.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Mount>> {
        let mut text = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut text)?;
        Ok(parse(&text))
    }

    /// Waits until something was mounted, moved or unmounted since the last wait, or since the list was opened.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # References
    /// proc_pid_mounts(5), "poll".
    pub(crate) fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.file, PollFlags::PRI)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Filesystems that have files of their own on this machine: those whose files are closed without a wait (`closer.rs`).
const LOCAL: [&str; 12] = [
    "tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "msdos", "iso9660",
    "squashfs",
];

/// Types of filesystems behind which is a server or a daemon. What FUSE programs add behind a dot does not matter.
const REMOTE: [&str; 22] = [
    "fuse",
    "fuseblk",
    "virtiofs",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "coda",
    "lustre",
    "gpfs",
    "orangefs",
    "pvfs2",
    "beegfs",
    "glusterfs",
    "davfs",
    "ncpfs",
    "ocfs2",
    "gfs2",
];

/// Types of filesystems that the kernel talks by. Some refuse marks, and the others would gain nothing by them.
const INTERFACES: [&str; 20] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "debugfs",
    "tracefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "configfs",
    "pstore",
    "bpf",
    "efivarfs",
    "nsfs",
    "mqueue",
    "binfmt_misc",
    "fusectl",
    "rpc_pipefs",
    "resctrl",
];

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
        31 22 0:44 / /mnt/a\\040b\\134c rw - nfs4 server:/x rw\n\
        32 31 8:2 /sub /mnt/a\\040b\\134c/local rw master:2 propagate_from:1 - xfs /dev/b rw\n\
        garbage\n\n33 22 8 / / rw - ext4 x rw\n34 22 0:9 / /home rw - fuse.sshfs me@there: rw\n";

    #[test]
    fn mounts_are_read_with_the_names_that_they_have() {
        let mounts = parse(LIST);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[1].point, PathBuf::from("/mnt/a b\\c"));
        assert_eq!((mounts[2].id, mounts[2].parent), (32, 31));
        assert_eq!(mounts[2].root, PathBuf::from("/sub"));
        assert_eq!(mounts[2].device, makedev(8, 2));
        assert_eq!(mounts[2].kind, "xfs");
    }

    #[test]
    fn what_a_server_or_a_daemon_is_behind_is_remote_and_what_is_below_is_behind_it() {
        let mounts = parse(LIST);
        let remote: Vec<_> = mounts.iter().map(Mount::is_remote).collect();
        assert_eq!(remote, [false, true, false, true]);
        let behind = behind_remote(&mounts);
        assert_eq!((behind[&22], behind[&32]), (false, true));
    }

    #[test]
    fn mounts_in_a_circle_are_no_trouble() {
        let mounts = parse(b"1 2 8:1 / /a rw - ext4 a rw\n2 1 8:1 / /b rw - ext4 a rw\n");
        assert!(behind_remote(&mounts).values().all(|behind| !behind));
    }

    #[test]
    fn the_list_of_this_process_is_read_again_and_again() {
        let mut list = MountList::open().unwrap();
        let (once, twice) = (list.read().unwrap(), list.read().unwrap());
        assert!(once.iter().any(|mount| mount.point.as_os_str() == "/"));
        assert!(!twice.is_empty());
    }
}

//! What kind of filesystem a file is on, by the number that statfs(2) gives.
//!
//! It is asked for once for each guarded directory, when that is opened: later a network filesystem could keep whoever
//! asks it waiting.

use std::fmt;
use std::os::fd::AsFd;

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filesystem(u32);

/// Kinds that have a name here.
const NAMES: [(&str, u32); 26] = [
    ("9p", 0x0102_1997),
    ("bcachefs", 0xca45_1a4e),
    ("btrfs", 0x9123_683e),
    ("ceph", 0x00c3_6400),
    ("cifs", 0xff53_4d42),
    ("ecryptfs", 0xf15f),
    ("erofs", 0xe0f5_e1e2),
    ("exfat", 0x2011_bab0),
    ("ext4", 0xef53),
    ("f2fs", 0xf2f5_2010),
    ("fuse", 0x6573_5546),
    ("gfs2", 0x0116_1970),
    ("hfsplus", 0x482b),
    ("iso9660", 0x9660),
    ("jfs", 0x3153_464a),
    ("nfs", 0x6969),
    ("nilfs2", 0x3434),
    ("ntfs3", 0x7366_746e),
    ("ocfs2", 0x7461_636f),
    ("overlay", 0x794c_7630),
    ("ramfs", 0x8584_58f6),
    ("smb2", 0xfe53_4d42),
    ("squashfs", 0x7371_7368),
    ("tmpfs", 0x0102_1994),
    ("udf", 0x1501_3346),
    ("xfs", 0x5846_5342),
];

impl Filesystem {
    /// The unified hierarchy of cgroups.
    pub(crate) const CGROUP2: Self = Self(0x6367_7270);

    /// That of an open file.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number has 32 bits, in a type that differs between machines"
    )]
    pub fn of(file: impl AsFd) -> Option<Self> {
        Some(Self(rustix::fs::fstatfs(file).ok()?.f_type as u32))
    }

    /// That with this name, or with this number in hexadecimal. `ext2`, `ext3` and `ext4` have one number.
    ///
    /// # Errors
    /// Says which names there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let same = match name {
            "ext2" | "ext3" => "ext4",
            other => other,
        };
        let number = || u32::from_str_radix(name.strip_prefix("0x")?, 16).ok();
        let known = NAMES.iter().find(|(known, _)| *known == same);
        let found = known.map(|(_, magic)| *magic).or_else(number);
        found.map(Self).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            format!(
                "{name}: no known type of filesystem; there are {names}, or write its number as stat -f -c %t shows it, with 0x"
            )
        })
    }

    /// Whether what it shows lies on other filesystems, layer upon layer.
    #[must_use]
    pub fn is_overlay(self) -> bool {
        self.name() == Some("overlay")
    }

    /// Its name, if it has one here.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let mut names = NAMES.iter();
        let found = names.find(|(_, magic)| *magic == self.0);
        found.map(|(name, _)| *name)
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same() {
        let tmpfs = Filesystem::named("tmpfs").unwrap();
        assert_eq!(Filesystem::named("0x1021994"), Ok(tmpfs));
        assert_eq!(tmpfs.to_string(), "tmpfs");
        assert_eq!(Filesystem::named("ext3"), Filesystem::named("ext4"));
        assert!(Filesystem::named("overlay").unwrap().is_overlay());
        assert_eq!(Filesystem::named("0x77").unwrap().to_string(), "0x77");
        assert!(Filesystem::named("ntfs").unwrap_err().contains("ntfs3"));
    }

    #[test]
    fn proc_is_none_of_the_known_ones_and_has_a_number() {
        let proc = Filesystem::of(std::fs::File::open("/proc").unwrap()).unwrap();
        assert_eq!(proc.to_string(), "0x9fa0");
    }
}

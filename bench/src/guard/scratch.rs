//! A tmpfs of this run, with a file for each opener, and small ones that a slow service is asked about.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// It, until this value is dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: tempfile::TempDir,
    made: Instant,
}

/// Openers that have a file of their own.
pub const OPENERS: usize = 64;

/// Files that a slow service is asked about.
pub const SLOW: usize = 10_000;

/// By their size a slow service knows them, without a look at a name.
pub const SLOW_SIZE: u64 = 1;

/// How old a file must be before a verdict about it may be kept; see the host's cache.
const SETTLED: Duration = Duration::from_millis(1_200);

impl Scratch {
    /// Mounts it and makes the files.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // A page for each slow file, and some.
        mount(
            "fltbench",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            c"size=96m",
        )
        .context("cannot mount a tmpfs")?;
        let mut scratch = Self {
            directory,
            made: Instant::now(),
        };
        for opener in 0..OPENERS {
            std::fs::write(scratch.file(opener), [b'x'; 4096])?;
        }
        std::fs::create_dir(scratch.path().join("slow"))?;
        for number in 0..SLOW {
            std::fs::write(
                slow_file(scratch.path(), number),
                [b'x'; SLOW_SIZE as usize],
            )?;
        }
        std::fs::write(scratch.eicar(), eicar())?;
        scratch.made = Instant::now();
        Ok(scratch)
    }

    /// Its mount point.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The file of an opener.
    pub fn file(&self, opener: usize) -> PathBuf {
        self.path().join(opener.to_string())
    }

    /// A file that every scanner denies.
    pub fn eicar(&self) -> PathBuf {
        self.path().join("eicar")
    }

    /// Waits until verdicts about the files may be kept.
    pub fn settle(&self) {
        std::thread::sleep(SETTLED.saturating_sub(self.made.elapsed()));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path().display());
        }
    }
}

/// A small file on the scratch that is mounted there.
pub fn slow_file(scratch: &Path, number: usize) -> PathBuf {
    scratch.join("slow").join(number.to_string())
}

/// The test file that scanners agree to call a virus, put together here: nothing may find it in this program.
pub fn eicar() -> Vec<u8> {
    const BACKWARDS: &[u8] =
        b"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\\4[PA@%P!O5X";
    BACKWARDS.iter().rev().copied().collect()
}

//! A tree of files as they are found on real disks, on an ext4 in an image: sizes from a distribution with many small
//! files and few large ones, a git repository, and some sources to compile. Everything is in the page cache.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};

use super::text;
use crate::random::Random;

/// It, until this value is dropped.
#[derive(Debug)]
pub struct Tree {
    directory: tempfile::TempDir,
    /// Files that are read.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    made: Instant,
}

/// Mean size of a file.
const MEAN: f64 = 10_240.0;

/// How far sizes spread, as the deviation of their logarithm: then half of the files are below a fifth of the mean.
const SPREAD: f64 = 1.8;

/// The largest file.
const LARGEST: usize = 1 << 20;

/// Sources that are compiled.
pub const SOURCES: usize = 32;

/// How old files must be before a verdict about them may be kept.
const SETTLED: Duration = Duration::from_millis(1_200);

impl Tree {
    /// Makes the image, mounts it, fills it, and reads everything once.
    pub fn new(files: usize, seed: u64) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let image = tempfile::NamedTempFile::new()?;
        let room = (files as f64 * MEAN * 3.0) as u64 + (128 << 20);
        image.as_file().set_len(room)?;
        // Nothing is left for the kernel to do in the background later.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", lazy])
            .arg(image.path()))?;
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,noatime"])
            .args([image.path(), directory.path()]))?;
        // The mount keeps the image; nobody else has to, so nothing is left behind.
        drop(image);
        let mut tree = Self {
            directory,
            files,
            bytes: 0,
            made: Instant::now(),
        };
        tree.fill(&mut Random(seed))?;
        tree.warm()?;
        tree.made = Instant::now();
        Ok(tree)
    }

    /// Its mount point.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file that no case reads.
    pub fn probe(&self) -> PathBuf {
        self.path().join("probe")
    }

    /// Waits until verdicts about the files may be kept.
    pub fn settle(&self) {
        std::thread::sleep(SETTLED.saturating_sub(self.made.elapsed()));
    }

    fn fill(&mut self, random: &mut Random) -> Result<()> {
        let words = words(random);
        let drawn: Vec<f64> = (0..self.files)
            .map(|_| (SPREAD * random.normal()).exp())
            .collect();
        let old = SystemTime::now() - Duration::from_hours(1);
        let scale = MEAN * self.files as f64 / drawn.iter().sum::<f64>();
        for (number, size) in drawn.iter().enumerate() {
            let size = ((size * scale) as usize).clamp(1, LARGEST);
            let start = random.next() as usize % (words.len() - size);
            let file = file(self.path(), self.files, number);
            if let Some(parent) = file.parent().filter(|_| number % IN_ONE == 0) {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, words.get(start..start + size).unwrap_or_default())?;
            // What is as young as git's index would be read again by each `git status`.
            File::options().write(true).open(&file)?.set_modified(old)?;
            self.bytes += size as u64;
        }
        fs::write(self.probe(), "probe")?;
        sources(&self.path().join("src"))?;
        let repository = repository(self.path());
        run(git(&repository).args(["init", "-q"]))?;
        run(git(&repository).args(["add", "-A"]))?;
        run(git(&repository).args(["commit", "-q", "-m", "All"]))
    }

    /// Into the page cache, and everything to the disk: no case has to wait for either.
    fn warm(&self) -> Result<()> {
        let mut bytes = Vec::new();
        for number in 0..self.files {
            bytes.clear();
            File::open(file(self.path(), self.files, number))?.read_to_end(&mut bytes)?;
        }
        run(git(&repository(self.path())).args(["status", "--porcelain"]))?;
        rustix::fs::sync();
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path().display());
        }
    }
}

/// Files in one directory, and directories in the one above.
const IN_ONE: usize = 50;

/// One of the tree's files: the first ones, a few thousand of many, are those of the repository.
pub fn file(root: &Path, files: usize, number: usize) -> PathBuf {
    let top = match number {
        number if number < files * 3 / 20 => repository(root),
        _ => root.join("files"),
    };
    let directory = number / IN_ONE;
    top.join(format!("{}/{directory}/{number}.txt", directory / IN_ONE))
}

/// Where the repository is.
pub fn repository(root: &Path) -> PathBuf {
    root.join("repository")
}

/// One of the sources.
pub fn source(root: &Path, number: usize) -> PathBuf {
    root.join(format!("src/unit{number}.c"))
}

/// git there, by itself: nobody's configuration counts.
pub fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"])
        .args(["-c", "gc.auto=0", "-C"])
        .arg(repository)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .stdout(Stdio::null());
    command
}

/// Text that a file is cut from.
fn words(random: &mut Random) -> Vec<u8> {
    let mut words = Vec::with_capacity(LARGEST * 2);
    while words.len() < LARGEST * 2 {
        let mut bits = random.next();
        for _ in 0..=bits % 9 {
            bits /= 11;
            words.push(b'a' + (bits % 23) as u8);
        }
        words.push(if bits.is_multiple_of(8) { b'\n' } else { b' ' });
    }
    words
}

/// Small programs that share a header.
fn sources(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let mut header = String::from("#pragma once\n#include <stdio.h>\n#include <stdlib.h>\n");
    for number in 0..200 {
        writeln!(header, "int shared{number}(int value);")?;
    }
    fs::write(folder.join("shared.h"), header)?;
    for unit in 0..SOURCES {
        let mut source = String::from("#include \"shared.h\"\n");
        for number in 0..20 {
            writeln!(
                source,
                "int unit{unit}_{number}(int value) {{ return shared{number}(value) + {number}; }}"
            )?;
        }
        fs::write(folder.join(format!("unit{unit}.c")), source)?;
    }
    Ok(())
}

/// Runs a program that has to succeed, and says nothing but why it did not.
pub fn run(command: &mut Command) -> Result<()> {
    let name = text(Path::new(command.get_program()));
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name}: {}, {}",
        output.status,
        errors.trim()
    );
    Ok(())
}

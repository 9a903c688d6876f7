//! The programs that this one starts: the daemons in its own folder, never ones found elsewhere.
//!
//! No environment variable and no search path chooses them, because they run with the rights of root. Next room:
//! `host.rs`, which starts one.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// Where the daemons are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `flthostd`.
    pub(crate) host: PathBuf,
    /// `fltscand`.
    pub(crate) scanner: PathBuf,
    /// Whether the host was named on the command line: a stand-in, which needs no privilege.
    pub(crate) stand_in: bool,
}

impl Programs {
    /// Those in the folder of `executable`, or beside a `stand_in` for the host.
    pub(crate) fn beside(executable: &Path, stand_in: Option<PathBuf>) -> Self {
        let named = stand_in.is_some();
        let host = stand_in.unwrap_or_else(|| executable.with_file_name("flthostd"));
        Self {
            scanner: host.with_file_name("fltscand"),
            host,
            stand_in: named,
        }
    }

    /// Lets the scanner check rules.
    ///
    /// Fails if it found mistakes, which it has shown by then.
    pub(crate) fn check_rules(&self, rules: &Path) -> anyhow::Result<()> {
        let checked = Command::new(&self.scanner)
            .args(["check", "--rules"])
            .arg(rules)
            .stdin(Stdio::null())
            .output()
            .with_context(|| cannot_start(&self.scanner))?;
        if checked.status.success() {
            return Ok(());
        }
        let mut errors = io::stderr().lock();
        let shown = errors
            .write_all(&checked.stdout)
            .and_then(|()| errors.write_all(&checked.stderr));
        // With a closed standard error the exit status still tells.
        shown.ok();
        bail!(
            "{} has rules that cannot be used; mend the lines above and start again",
            rules.display()
        );
    }

    /// Says early that the host is not there.
    pub(crate) fn ensure_host_exists(&self) -> anyhow::Result<()> {
        ensure!(self.host.is_file(), cannot_start(&self.host));
        Ok(())
    }
}

/// What to do about a program that does not start.
pub(crate) fn cannot_start(program: &Path) -> String {
    format!(
        "cannot start {}; fltctl, flthostd and fltscand belong in one folder: install or build all three",
        program.display()
    )
}

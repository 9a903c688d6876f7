//! The programs that this one starts: the daemons in its own folder, never ones found elsewhere.
//!
//! No environment variable and no search path chooses them, because they run with the rights of root. Next room:
//! `host.rs`, which starts one.

use std::path::{Path, PathBuf};

use anyhow::ensure;

/// Where the daemons are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `flthostd`.
    pub(crate) host: PathBuf,
    /// Whether the host was named on the command line: a stand-in, which needs no privilege.
    pub(crate) stand_in: bool,
}

impl Programs {
    /// Those in the folder of `executable`, or beside a `stand_in` for the host.
    pub(crate) fn beside(executable: &Path, stand_in: Option<PathBuf>) -> Self {
        let named = stand_in.is_some();
        let host = stand_in.unwrap_or_else(|| executable.with_file_name("flthostd"));
        Self {
            host,
            stand_in: named,
        }
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

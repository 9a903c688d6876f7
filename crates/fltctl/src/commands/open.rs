//! `fltctl open`: opens files, and says how it went. The demo's other process.
//!
//! One line for each file, in order: `ok MICROS` or `refused ERRNO MICROS`. Both the writing and the reading of these
//! lines are here.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::Outcome;

/// How an open went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The errno that it was refused with, if it was.
    pub(crate) refused: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Attempt {
    /// Reads what [`run`] has written.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let refused = match words.next()? {
            "ok" => None,
            "refused" => Some(words.next()?.to_owned()),
            _ => return None,
        };
        let took = Duration::from_micros(words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { refused, took })
    }

    fn make(path: &Path) -> Self {
        let start = Instant::now();
        let result = File::open(path).and_then(|mut file| file.read(&mut [0]));
        let took = start.elapsed();
        let refused = result.err().map(|error| errno_name(&error));
        Self { refused, took }
    }

    fn to_line(&self) -> String {
        let micros = self.took.as_micros();
        self.refused.as_ref().map_or_else(
            || format!("ok {micros}"),
            |errno| format!("refused {errno} {micros}"),
        )
    }
}

/// Opens each file.
pub(super) fn run(paths: &[PathBuf]) -> anyhow::Result<Outcome> {
    let mut all = Outcome::Yes;
    for path in paths {
        let attempt = Attempt::make(path);
        if attempt.refused.is_some() {
            all = Outcome::No;
        }
        writeln!(io::stdout(), "{}", attempt.to_line())?;
    }
    Ok(all)
}

fn errno_name(error: &io::Error) -> String {
    let Some(errno) = Errno::from_io_error(error) else {
        return "unknown".to_owned();
    };
    let named = NAMES.iter().find(|(known, _)| *known == errno);
    named.map_or_else(
        || format!("errno-{}", errno.raw_os_error()),
        |(_, name)| (*name).to_owned(),
    )
}

/// What the kernel may say to an open that a filter has refused, and what it says without one.
const NAMES: [(Errno, &str); 10] = [
    (Errno::PERM, "EPERM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::IO, "EIO"),
    (Errno::BUSY, "EBUSY"),
    (Errno::TXTBSY, "ETXTBSY"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::NOENT, "ENOENT"),
    (Errno::ISDIR, "EISDIR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_written_can_be_read() {
        for refused in [None, Some("EPERM".to_owned())] {
            let attempt = Attempt {
                refused,
                took: Duration::from_micros(77),
            };
            assert_eq!(Attempt::parse(&attempt.to_line()), Some(attempt));
        }
        for wrong in ["", "ok", "ok x", "refused 7", "fine 7", "ok 7 8"] {
            assert_eq!(Attempt::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_refusal_has_the_name_of_its_errno() {
        let missing = Attempt::make(Path::new("/no/such/file"));
        assert_eq!(missing.refused.as_deref(), Some("ENOENT"));
        assert_eq!(errno_name(&io::Error::from_raw_os_error(63)), "errno-63");
    }
}

//! YARA rules: where they come from, and what is said when they are wrong.
//!
//! For turning files or handed-over descriptors into one compiled set. A set is all or nothing: a rule that is
//! dropped in silence is a hole, so any error refuses the whole set, and every error of every file is reported at
//! once with its place. Not for scanning: the next room is `scan.rs`, whose `Engine` borrows the set.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io, str};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::eicar;
use crate::scan::{ReadError, read_whole};

/// A compiled set of rules, shared by all workers.
///
/// Each source is a namespace of its own: two files may use the same rule name, and no rule can refer to a rule of
/// another file. `include` is refused, because the service has no right to open what it would name.
pub struct Rules {
    compiled: yara_x::Rules,
    warnings: Vec<RuleProblem>,
}

impl Rules {
    /// Whether what these rules say of a file follows from its content alone: not if they can ask what time it is.
    #[must_use]
    pub fn look_at_content_only(&self) -> bool {
        !self.compiled.imports().any(|module| module == "time")
    }

    /// Compiles the sources into one set.
    ///
    /// # Errors
    ///
    /// [`RulesError::Invalid`] with every problem of every source, or [`RulesError::NoRules`] if there is nothing to
    /// look for: a set without rules would call every file clean.
    pub fn compile(sources: impl IntoIterator<Item = RuleSource>) -> Result<Self, RulesError> {
        let mut compiler = yara_x::Compiler::new();
        compiler.enable_includes(false);
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for (place, RuleSource { name, text }) in sources.into_iter().enumerate() {
            let text = match str::from_utf8(&text) {
                Ok(text) => text,
                Err(error) => {
                    let (valid, offset) = (String::from_utf8_lossy(&text), error.valid_up_to());
                    let message = "not UTF-8 text".to_owned();
                    problems.push(RuleProblem::new(&name, &valid, offset, message));
                    continue;
                }
            };
            let (old_errors, old_warnings) = (compiler.errors().len(), compiler.warnings().len());
            // The number keeps two sources apart even if their parent gave them the same name.
            compiler.new_namespace(&format!("{place}{PLACE_ENDS}{name}"));
            // The result itself holds only the first error.
            if compiler.add_source(text).is_err() {
                for error in compiler.errors().iter().skip(old_errors) {
                    let label = error.labels().next();
                    let label = label.map(|label| (label.span().start(), label.text().to_owned()));
                    problems.push(RuleProblem::reported(&name, text, error.title(), label));
                }
            }
            for warning in compiler.warnings().iter().skip(old_warnings) {
                let label = warning.labels().next();
                let label = label.map(|label| (label.span().start(), label.text().to_owned()));
                warnings.push(RuleProblem::reported(&name, text, warning.title(), label));
            }
        }
        if !problems.is_empty() {
            return Err(RulesError::Invalid { problems });
        }
        let compiled = compiler.build();
        if compiled.iter().next().is_none() {
            return Err(RulesError::NoRules);
        }
        Ok(Self { compiled, warnings })
    }

    /// Compiles the built-in set, which knows nothing but the EICAR test file.
    ///
    /// # Errors
    ///
    /// None that a caller could cause; the type is that of [`Rules::compile`].
    pub fn builtin() -> Result<Self, RulesError> {
        Self::compile([RuleSource::builtin()])
    }

    /// The number of rules in the set.
    pub fn count(&self) -> usize {
        self.compiled.iter().count()
    }

    /// What the compiler found odd but legal, such as a pattern that will be slow.
    pub fn warnings(&self) -> &[RuleProblem] {
        &self.warnings
    }

    pub(crate) fn compiled(&self) -> &yara_x::Rules {
        &self.compiled
    }

    /// The place of a rule's source among the sources.
    pub(crate) fn place(rule: &yara_x::Rule<'_, '_>) -> Option<usize> {
        let (place, _) = rule.namespace().split_once(PLACE_ENDS)?;
        place.parse().ok()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("count", &self.count())
            .field("warnings", &self.warnings)
            .finish()
    }
}

/// The text of one rule file and the name that messages use for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSource {
    /// What the file is called in messages, usually its path.
    pub name: String,
    /// The file's content; that it is UTF-8 is checked by [`Rules::compile`].
    pub text: Vec<u8>,
}

impl RuleSource {
    /// The built-in rule, see [`rule_source`](crate::rule_source).
    pub fn builtin() -> Self {
        Self {
            name: "built-in".to_owned(),
            text: eicar::rule_source().into_bytes(),
        }
    }

    /// Reads a rule file, or all rule files of a directory.
    ///
    /// Of a directory, every `*.yar` and `*.yara` directly in it is read, in the order of the names; folders in it
    /// are not entered, and hidden files (an editor's leftovers) are passed over. A link counts as what it points to.
    ///
    /// # Errors
    ///
    /// If the path does not exist, is neither a file nor a directory, or is a directory without rule files, and if
    /// any of the files cannot be read or is too large.
    pub fn collect(path: &Path) -> Result<Vec<Self>, RulesError> {
        let (file, kind) = open(path)?;
        if !kind.is_dir() {
            return Self::from_descriptors([(name_of(path), file)]);
        }
        let unreadable = |error| RulesError::Unreadable {
            name: name_of(path),
            error,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?.path();
            if is_rule_file(&entry) {
                paths.push(entry);
            }
        }
        if paths.is_empty() {
            return Err(RulesError::EmptyDirectory {
                path: path.to_owned(),
            });
        }
        paths.sort();
        paths
            .iter()
            .map(|path| Self::read(name_of(path), &open(path)?.0))
            .collect()
    }

    /// Reads rule files from descriptors that somebody else opened, each with its name for messages.
    ///
    /// This is the way of a service that may not open paths. The descriptors are read by position, from the start.
    ///
    /// # Errors
    ///
    /// If one of them is not a regular file, cannot be read or is too large.
    pub fn from_descriptors(
        files: impl IntoIterator<Item = (String, OwnedFd)>,
    ) -> Result<Vec<Self>, RulesError> {
        files
            .into_iter()
            .map(|(name, file)| Self::read(name, &file))
            .collect()
    }

    fn read(name: String, file: &OwnedFd) -> Result<Self, RulesError> {
        let mut text = Vec::new();
        match read_whole(file.as_fd(), &mut text, MAX_SOURCE, None) {
            Ok(length) => text.truncate(length),
            Err(ReadError::TooLarge { size }) => return Err(RulesError::TooLarge { name, size }),
            Err(ReadError::NotRegular) => return Err(RulesError::NotAFile { name }),
            Err(ReadError::Os(errno)) => {
                return Err(RulesError::Unreadable {
                    name,
                    error: errno.into(),
                });
            }
            Err(ReadError::NoMemory) => {
                return Err(RulesError::Unreadable {
                    name,
                    error: io::ErrorKind::OutOfMemory.into(),
                });
            }
            Err(ReadError::TimedOut) => {
                return Err(RulesError::Unreadable {
                    name,
                    error: io::ErrorKind::TimedOut.into(),
                });
            }
        }
        Ok(Self { name, text })
    }
}

/// One thing the compiler has to say, and where.
///
/// Displayed as `file:line:column: message`, which editors and terminals can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}:{line}:{column}: {message}")]
pub struct RuleProblem {
    /// The name of the [`RuleSource`].
    pub source_name: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The compiler's words.
    pub message: String,
}

impl RuleProblem {
    fn new(source_name: &str, text: &str, offset: usize, message: String) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let last_line = before.rsplit('\n').next().unwrap_or(before);
        Self {
            source_name: source_name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
            message,
        }
    }

    /// Makes one of a report of YARA-X; the first label is the one that says what is wrong, others are context.
    fn reported(
        source_name: &str,
        text: &str,
        title: &str,
        label: Option<(usize, String)>,
    ) -> Self {
        let (offset, message) = match label {
            Some((offset, detail)) if detail.is_empty() => (offset, title.to_owned()),
            Some((offset, detail)) => (offset, format!("{title}: {detail}")),
            None => (0, title.to_owned()),
        };
        Self::new(source_name, text, offset, message)
    }
}

/// Why there is no set of rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The path leads to nothing.
    #[error("{}: no such file or directory", path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// It is a socket, a pipe, a device, or (inside a directory of rules) a directory.
    #[error("{name}: not a regular file")]
    NotAFile {
        /// The name of the source.
        name: String,
    },
    /// The directory has no rule file.
    #[error("{}: no *.yar or *.yara file in this directory", path.display())]
    EmptyDirectory {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file is larger than any honest rule file.
    #[error("{name}: {size} bytes, a rule file may have {MAX_SOURCE}")]
    TooLarge {
        /// The name of the source.
        name: String,
        /// Its size, or what was seen of it.
        size: u64,
    },
    /// The operating system refused to open or read it.
    #[error("{name}: {error}")]
    Unreadable {
        /// The name of the source.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// The rules are wrong; displayed with one line for each problem.
    #[error("{}", lines(problems))]
    Invalid {
        /// Every problem of every source, in the order of the sources.
        problems: Vec<RuleProblem>,
    },
    /// The sources are fine but hold no rule.
    #[error("no rules: nothing would ever be found")]
    NoRules,
}

/// Opens a file or directory; never waits (a FIFO would), and follows links because operators use them.
fn open(path: &Path) -> Result<(OwnedFd, FileType), RulesError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).and_then(|file| {
        rustix::fs::fstat(&file).map(|stat| (file, FileType::from_raw_mode(stat.st_mode)))
    });
    opened.map_err(|errno| match errno {
        Errno::NOENT => RulesError::Missing {
            path: path.to_owned(),
        },
        // What opening a socket, or a device that nobody drives, says.
        Errno::NXIO | Errno::NODEV => RulesError::NotAFile {
            name: name_of(path),
        },
        errno => RulesError::Unreadable {
            name: name_of(path),
            error: errno.into(),
        },
    })
}

fn is_rule_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && path
            .extension()
            .is_some_and(|extension| extension == "yar" || extension == "yara")
}

fn name_of(path: &Path) -> String {
    path.display().to_string()
}

fn lines(problems: &[RuleProblem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// What stands between the place and the name of a source in the name of its namespace.
const PLACE_ENDS: char = ':';

/// The most that is read of one rule file.
///
/// The largest public collections, packed into one file, have about 10 MiB; a parent that hands over the wrong
/// descriptor must not make the service load a disk image.
const MAX_SOURCE: u64 = 16 << 20;

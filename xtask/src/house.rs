//! The house rules that no compiler knows: lengths, where `unsafe` may stand, what must not be left behind.
//!
//! A rule is a row of [`RULES`]: a pure function from one file to the lines it objects to. CONTRIBUTING.md gives the
//! reasons. What clippy or rustfmt can check does not belong here. `check.rs` runs this as one of its steps.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::source::{code, has_word, lines_where, without_tests};

#[cfg(test)]
mod tests;

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    rule: &'static Rule,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { name, advice, .. } = self.rule;
        write!(f, "{}:{}: {name}: {advice}", self.path, self.line)
    }
}

/// Checks every file that git knows or would add, below `root`.
///
/// # Errors
///
/// When a rule is broken (each place was printed by then), or git or a file cannot be read.
pub(crate) fn inspect_repository(root: &Path) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    for path in listed_files(root)? {
        let full = root.join(&path);
        // A file deleted but still in git's index, a link or a submodule has no text of its own.
        if full
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
        {
            let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
            findings.extend(inspect(&path, &bytes));
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!(
            "{count} lines break a house rule. What to do: each line above says it, CONTRIBUTING.md says why"
        ),
    }
}

/// What all rules say about one file; `path` is relative to the repository, with forward slashes.
fn inspect(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let text = String::from_utf8_lossy(bytes);
    let file = File {
        path,
        text: &text,
        code: code(&text),
    };
    let broken = RULES
        .iter()
        .flat_map(|rule| (rule.find)(&file).into_iter().map(move |line| (rule, line)));
    broken
        .map(|(rule, line)| Finding {
            path: path.to_owned(),
            line,
            rule,
        })
        .collect()
}

/// Tracked files, and new ones that are not ignored.
fn listed_files(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing = git
        .output()
        .context("cannot start git, which lists the files to check")?;
    if !listing.status.success() {
        bail!(
            "git cannot list the files: {}",
            String::from_utf8_lossy(&listing.stderr).trim()
        );
    }
    let names = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
    /// The text without comments and literals.
    code: String,
}

impl File<'_> {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_code(&self) -> bool {
        [".rs", ".py", ".c", ".h"]
            .iter()
            .any(|extension| self.path.ends_with(extension))
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    /// Tests in files of their own: `tests.rs`, or anything in a folder `tests`.
    fn is_test(&self) -> bool {
        self.name() == "tests.rs" || self.path.split('/').any(|folder| folder == "tests")
    }
}

/// One house rule.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    /// What to do about it.
    advice: &'static str,
    find: fn(&File<'_>) -> Vec<usize>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Rule {}

static RULES: [Rule; 8] = [
    Rule {
        name: "long file",
        advice: "over 600 lines: split it by what it is about, or move its tests to a sibling tests.rs",
        find: too_long,
    },
    Rule {
        name: "unsafe outside the OS edge",
        advice: "move it behind a safe function of a named edge file (peer, memory, ring, fanotify, ...: see CONTRIBUTING.md)",
        find: misplaced_unsafe,
    },
    Rule {
        name: "ignored test",
        advice: "let it decide at run time: print `skipped: <what is missing>` and return",
        find: ignored_test,
    },
    Rule {
        name: "left open",
        advice: "finish it, or open an issue and say in prose what is missing",
        find: left_open,
    },
    Rule {
        name: "panic on a peer's bytes",
        advice: "no unwrap or expect here, nor a method of that name: return an error that says who is wrong",
        find: unwraps_near_peer,
    },
    Rule {
        name: "atomics past sync.rs",
        advice: "take atomics from crate::sync, so that a model checker can stand in for them",
        find: foreign_atomics,
    },
    Rule {
        name: "somebody's machine",
        advice: "say it with a path that exists for every reader",
        find: workplace_path,
    },
    Rule {
        name: "stored EICAR string",
        advice: "assemble it at run time, or scanners quarantine every clone",
        find: stored_eicar,
    },
];

/// The longest code file.
const MAX_LINES: usize = 600;

/// What a file that may contain unsafe code is called at the start of its name.
const EDGE_FILES: [&str; 10] = [
    "peer",
    "memory",
    "fltlib",
    "overlapped",
    "fanotify",
    "fuse",
    "supervisor",
    "futex",
    "ring",
    "doorbell",
];

/// Where a peer's bytes pass, so that a panic would be that peer's weapon.
const NEAR_PEER: [&str; 2] = ["crates/fltport-engine/src/", "crates/fltport/src/sys/"];

/// Top folders that people keep their clones in; a path through one means nothing to other readers.
const WORKPLACES: [&str; 2] = ["work", "farm"];

fn too_long(file: &File<'_>) -> Vec<usize> {
    let long = file.is_code() && file.text.lines().count() > MAX_LINES;
    if long {
        vec![MAX_LINES + 1]
    } else {
        Vec::new()
    }
}

fn misplaced_unsafe(file: &File<'_>) -> Vec<usize> {
    let edge = EDGE_FILES
        .iter()
        .any(|start| file.name().starts_with(start));
    if !file.is_rust() || edge {
        return Vec::new();
    }
    lines_where(&file.code, |line| has_word(line, "unsafe"))
}

fn ignored_test(file: &File<'_>) -> Vec<usize> {
    if !file.is_rust() {
        return Vec::new();
    }
    lines_where(&file.code, |line| {
        let attribute = line
            .split_once("#[")
            .map_or("", |(_, attribute)| attribute.trim_start());
        attribute.starts_with("ignore")
            || attribute.starts_with("cfg_attr") && has_word(attribute, "ignore")
    })
}

fn left_open(file: &File<'_>) -> Vec<usize> {
    const MARKERS: [&str; 3] = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    if !file.is_code() {
        return Vec::new();
    }
    let mut lines = lines_where(file.text, |line| {
        MARKERS.iter().any(|marker| line.contains(marker))
    });
    if file.is_rust() {
        let stub = |line: &str| {
            ["todo", "unimplemented"]
                .iter()
                .any(|name| is_macro_call(line, name))
        };
        lines.extend(lines_where(&file.code, stub));
    }
    lines
}

fn unwraps_near_peer(file: &File<'_>) -> Vec<usize> {
    let near = NEAR_PEER.iter().any(|folder| file.path.starts_with(folder));
    if !near || !file.is_rust() || file.is_test() {
        return Vec::new();
    }
    lines_where(&without_tests(&file.code), |line| {
        line.contains(".unwrap()") || line.contains(".expect(")
    })
}

fn foreign_atomics(file: &File<'_>) -> Vec<usize> {
    let ours = file.path.starts_with("crates/fltport/src/") && file.is_rust();
    if !ours || file.is_test() || file.name() == "sync.rs" {
        return Vec::new();
    }
    let foreign =
        |line: &str| line.contains("std::sync::atomic") || line.contains("core::sync::atomic");
    lines_where(&without_tests(&file.code), foreign)
}

fn workplace_path(file: &File<'_>) -> Vec<usize> {
    let starts_a_path = |before: &str| {
        !before
            .chars()
            .next_back()
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    };
    lines_where(file.text, |line| {
        WORKPLACES.iter().any(|folder| {
            let path = format!("/{folder}/");
            line.match_indices(&path)
                .any(|(at, _)| starts_a_path(&line[..at]))
        })
    })
}

fn stored_eicar(file: &File<'_>) -> Vec<usize> {
    let plain = eicar();
    let escaped = plain.replace('\\', r"\\");
    lines_where(file.text, |line| {
        line.contains(&plain) || line.contains(&escaped)
    })
}

/// The antivirus test string, put together here because its bytes must not stand in any file.
fn eicar() -> String {
    [
        r"X5O!P%@AP[4\PZX54(P^)7CC)7}",
        "$EICAR-STANDARD-",
        "ANTIVIRUS-TEST-FILE!",
        "$H+H*",
    ]
    .concat()
}

fn is_macro_call(line: &str, name: &str) -> bool {
    line.split_once('!')
        .is_some_and(|_| has_word(line, name) && line.contains(&format!("{name}!")))
}

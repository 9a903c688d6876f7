//! One rule about operations: a subject, a kind of operation, and perhaps an end. Parsing only; `mutes.rs` applies it.
//!
//! As text: `[open:|exec:][TIME:]KIND=VALUE`, such as `tree=/srv/cache`, `exec:user=backup`, `open:10m:process=/usr/bin/make`.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fanotify::Operation as Kind;
use crate::filesystem::Filesystem;
use crate::opener::{hierarchy, id_of};
use crate::stamp::FileId;

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it is about.
    pub(crate) subject: Subject,
    /// For opens.
    pub(crate) opens: bool,
    /// For executions.
    pub(crate) executions: bool,
    /// From then on it is none any more.
    pub(crate) expires: Option<Instant>,
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One file.
    Path(PathBuf),
    /// A directory with everything below it.
    Tree(PathBuf),
    /// A program: which file it was when it was last looked at.
    Process(PathBuf, Option<FileId>),
    /// A user.
    User(u32),
    /// A group of processes, with the groups below it.
    Cgroup(PathBuf),
    /// A kind of filesystem.
    Filesystem(Filesystem),
}

/// How a rule's value becomes a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It has to exist now, and links are followed: somebody has typed it.
    Now,
    /// As it stands: another program says it, and looking could take long.
    Never,
}

/// Longest text of a rule: a path, and what stands before it.
pub const RULE_MAX: usize = 4_096 + 64;

impl Rule {
    /// Whether it is for every operation, and has no end.
    pub(crate) const fn is_always(&self) -> bool {
        self.opens && self.executions && self.expires.is_none()
    }

    /// The rule that somebody has typed. What it names has to exist.
    ///
    /// # Errors
    /// Says what is right instead.
    pub fn typed(text: &str) -> Result<Self, String> {
        Self::parse(text, Look::Now)
    }

    /// The rule that another program says: paths are absolute, without links, and users are numbers. What it names need
    /// not exist; nothing is looked at.
    ///
    /// # Errors
    /// Says what is right instead.
    pub fn said(text: &str) -> Result<Self, String> {
        Self::parse(text, Look::Never)
    }

    /// A directory with everything below it, for opens and executions.
    ///
    /// # Errors
    /// Says what is right instead.
    pub fn below(directory: &Path) -> Result<Self, String> {
        let name = directory.display();
        let path = std::fs::canonicalize(directory)
            .map_err(|error| format!("{name}: {error}; give the path of something that exists"))?;
        if !path.is_dir() {
            return Err(format!(
                "{name} is no directory; for a file write --mute path={name}"
            ));
        }
        Ok(Self {
            subject: Subject::Tree(path),
            opens: true,
            executions: true,
            expires: None,
        })
    }

    /// Whether it is about this kind of operation.
    #[must_use]
    pub const fn is_about(&self, kind: Kind) -> bool {
        match kind {
            Kind::Open => self.opens,
            Kind::Exec => self.executions,
        }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    fn parse(text: &str, look: Look) -> Result<Self, String> {
        let (head, value) = text.split_once('=').ok_or_else(|| {
            format!(
                "{text}: write KIND=VALUE, where KIND is one of {KINDS}, such as tree=/srv/cache"
            )
        })?;
        let mut words: Vec<_> = head.split(':').collect();
        let kind = words.pop().unwrap_or_default();
        let (mut opens, mut executions, mut expires) = (true, true, None);
        for word in words {
            match word {
                "open" => executions = false,
                "exec" => opens = false,
                time => {
                    let time = duration(time).ok_or_else(|| {
                        format!("{text}: before the kind there may be open:, exec:, or a time such as 10m:")
                    })?;
                    expires = Instant::now().checked_add(time);
                }
            }
        }
        if !opens && !executions {
            return Err(format!(
                "{text}: open: and exec: exclude each other; without both the rule is for both"
            ));
        }
        let subject = subject(kind, value, look).map_err(|why| format!("{text}: {why}"))?;
        Ok(Self {
            subject,
            opens,
            executions,
            expires,
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.opens, self.executions) {
            (true, false) => f.write_str("open:")?,
            (false, true) => f.write_str("exec:")?,
            _ => {}
        }
        match &self.subject {
            Subject::Path(path) => write!(f, "path={}", path.display()),
            Subject::Tree(path) => write!(f, "tree={}", path.display()),
            Subject::Process(path, _) => write!(f, "process={}", path.display()),
            Subject::User(user) => write!(f, "user={user}"),
            Subject::Cgroup(path) => write!(f, "cgroup={}", path.display()),
            Subject::Filesystem(filesystem) => write!(f, "fstype={filesystem}"),
        }
    }
}

fn subject(kind: &str, value: &str, look: Look) -> Result<Subject, String> {
    if value.is_empty() {
        return Err("nothing stands after the =".to_owned());
    }
    Ok(match kind {
        "path" => {
            let path = path(value, look)?;
            if look == Look::Now && path.is_dir() {
                return Err(format!("this is a directory; write tree={value}"));
            }
            Subject::Path(path)
        }
        "tree" => {
            let path = path(value, look)?;
            if look == Look::Now && !path.is_dir() {
                return Err(format!("this is no directory; write path={value}"));
            }
            Subject::Tree(path)
        }
        "process" => {
            let path = path(value, look)?;
            if look == Look::Now && !path.is_file() {
                return Err("this is no file; give the path of a program".to_owned());
            }
            let id = match look {
                Look::Now => id_of(&path),
                Look::Never => None,
            };
            Subject::Process(path, id)
        }
        "user" => Subject::User(user(value, look)?),
        "cgroup" => Subject::Cgroup(cgroup(value, look)?),
        "fstype" => Subject::Filesystem(Filesystem::named(value)?),
        other => return Err(format!("{other}: no such kind; there are {KINDS}")),
    })
}

fn path(value: &str, look: Look) -> Result<PathBuf, String> {
    if look == Look::Now {
        return std::fs::canonicalize(value)
            .map_err(|error| format!("{value}: {error}; give the path of something that exists"));
    }
    plain(Path::new(value)).ok_or_else(|| "the path must be absolute, without . and ..".to_owned())
}

/// An absolute path without steps back.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut steps = path.components();
    let absolute = steps.next() == Some(Component::RootDir);
    let whole = absolute && steps.all(|step| matches!(step, Component::Normal(_)));
    // Collected, because two slashes are one.
    whole.then(|| path.components().collect())
}

/// The number of a user, by name or number.
pub(crate) fn user_named(value: &str) -> Result<u32, String> {
    user(value, Look::Now)
}

fn user(value: &str, look: Look) -> Result<u32, String> {
    if let Ok(number) = value.parse() {
        return Ok(number);
    }
    if look == Look::Never {
        return Err("the user must be a number".to_owned());
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let mut lines = users.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut fields| {
        (fields.next() == Some(value)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| {
        format!("{value}: no such user in /etc/passwd; give the user's number if others know it")
    })
}

fn cgroup(value: &str, look: Look) -> Result<PathBuf, String> {
    let Some(root) = hierarchy() else {
        return Err("no unified hierarchy of cgroups (version 2) is mounted here".to_owned());
    };
    let below = match Path::new(value).strip_prefix(root) {
        Ok(below) => Path::new("/").join(below),
        Err(_) => PathBuf::from(value),
    };
    let path = plain(&below).ok_or_else(|| {
        let root = root.display();
        format!("write the group as /proc/PID/cgroup shows it after 0::, such as /system.slice, or its path below {root}")
    })?;
    let directory = root.join(path.strip_prefix("/").unwrap_or(&path));
    if look == Look::Now && !directory.is_dir() {
        return Err(format!("{} does not exist", directory.display()));
    }
    Ok(path)
}

/// A time such as `90s`, `10m`, `2h`, `1d`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u32 = number.parse().ok().filter(|number| *number > 0)?;
    Some(Duration::from_secs(u64::from(number) * seconds))
}

const KINDS: &str = "path, tree, process, user, cgroup, fstype";

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Rule {
        Rule::typed(text).unwrap()
    }

    #[test]
    fn a_rule_is_for_both_kinds_of_operation_unless_it_says_for_which() {
        let kinds = |text| {
            let rule = typed(text);
            (rule.is_about(Kind::Open), rule.is_about(Kind::Exec))
        };
        assert_eq!(kinds("tree=/usr"), (true, true));
        assert_eq!(kinds("open:tree=/usr"), (true, false));
        assert_eq!(kinds("exec:user=root"), (false, true));
        assert_eq!(typed("exec:user=root").to_string(), "exec:user=0");
        assert_eq!(typed("tree=/usr/../etc").to_string(), "tree=/etc");
    }

    #[test]
    fn a_rule_ends_after_its_time() {
        let rule = typed("exec:10m:fstype=tmpfs");
        let now = Instant::now();
        assert!(!rule.is_over(now) && rule.is_over(now + Duration::from_secs(600)));
        assert!(!rule.is_about(Kind::Open));
        assert!(typed("user=0").expires.is_none());
    }

    #[test]
    fn a_program_is_found_out_when_the_rule_is_typed_and_not_when_it_is_said() {
        let program = std::env::current_exe().unwrap();
        let text = format!("process={}", program.display());
        let id = id_of(&program);
        assert!(id.is_some());
        assert_eq!(typed(&text).subject, Subject::Process(program.clone(), id));
        let said = Rule::said(&text).unwrap().subject;
        assert_eq!(said, Subject::Process(program, None));
    }

    #[test]
    fn a_group_has_the_path_of_the_unified_hierarchy() {
        let Some(root) = hierarchy() else {
            println!("skipped: no unified hierarchy of cgroups");
            assert!(Rule::typed("cgroup=/").unwrap_err().contains("version 2"));
            return;
        };
        let all = format!("cgroup={}", root.display());
        assert_eq!(typed(&all).to_string(), "cgroup=/");
        let said = |text| Rule::typed(text).unwrap_err();
        assert!(said("cgroup=system.slice").contains("/proc/PID/cgroup"));
        assert!(said("cgroup=/no/such/group").contains("does not exist"));
        assert!(Rule::said("cgroup=/no/such/group").is_ok());
    }

    #[test]
    fn mistakes_say_what_is_right() {
        for (text, right) in [
            ("/srv", "KIND=VALUE"),
            ("folder=/srv", "fstype"),
            ("tree=", "nothing stands after"),
            ("tree=/does/not/exist", "exists"),
            ("tree=/etc/passwd", "path=/etc/passwd"),
            ("path=/usr", "tree=/usr"),
            ("process=/usr", "a program"),
            ("process=/does/not/exist", "exists"),
            ("user=nobody-has-this-name", "number"),
            ("fstype=ntfs", "ntfs3"),
            ("read:tree=/usr", "exec:"),
            ("0m:tree=/usr", "10m:"),
            ("open:exec:tree=/usr", "both"),
        ] {
            let said = Rule::typed(text).unwrap_err();
            assert!(said.contains(right) && said.starts_with(text), "{said}");
        }
    }

    #[test]
    fn what_another_program_says_is_taken_as_it_stands_or_not_at_all() {
        for text in ["tree=/does//not/exist", "user=7"] {
            assert!(Rule::said(text).is_ok(), "{text}");
        }
        for text in ["tree=relative", "path=/a/../b", "user=root", "process=x"] {
            assert!(Rule::said(text).is_err(), "{text}");
        }
        let rule = Rule::said("tree=/does//not/exist/").unwrap();
        assert_eq!(rule.to_string(), "tree=/does/not/exist");
    }
}

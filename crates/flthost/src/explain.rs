//! Why a file is asked about, or is not: what guards it, and which rules match, in words.
//!
//! The file is looked at without being opened. This runs on a thread of the control port, in nobody's way.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fltport::protocol::explain::Explain;
use rustix::fs::{CWD, Dev, Mode, OFlags, openat};
use serde_json::{Value, json};

use crate::facts::path_of;
use crate::fanotify::{Group, Operation as Kind};
use crate::filesystem::Filesystem;
use crate::guarded::Guarded;
use crate::marks::TargetKind;
use crate::mutes::{Entry, Match, Mutes, Sort, Subjects};
use crate::opener::{Ids, id_of};
use crate::pair::Pair;
use crate::rule::user_named;
use crate::stamp::{FileId, Look};

/// A guarded directory, as far as explaining needs it.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    device: Dev,
    kind: TargetKind,
    pair: Arc<Pair>,
}

impl Watched {
    pub(crate) fn of(guarded: &Guarded) -> Self {
        Self {
            path: guarded.target.path().to_path_buf(),
            device: guarded.target.device(),
            kind: guarded.target.kind(),
            pair: Arc::clone(&guarded.pair),
        }
    }

    /// The guarded directory, and its filesystem.
    pub(crate) fn place(&self) -> (&Path, Dev) {
        (&self.path, self.device)
    }

    /// Whether this guards a file, by the mark on its filesystem or on its directory.
    fn covers(&self, id: FileId, directory: Option<FileId>) -> bool {
        id.device == self.device
            && match self.kind {
                TargetKind::Filesystem => true,
                TargetKind::Directory => directory
                    .is_some_and(|directory| is_marked(&self.pair.questions, directory.inode)),
            }
    }
}

/// Whether a group has a mark on the inode of this number; it shows all its marks itself.
fn is_marked(group: &Group, inode: u64) -> bool {
    let marks = format!("/proc/self/fdinfo/{}", group.as_fd().as_raw_fd());
    let wanted = format!("fanotify ino:{inode:x} ");
    File::open(marks).is_ok_and(|marks| {
        let mut lines = BufReader::new(marks).lines().map_while(Result::ok);
        lines.any(|line| line.starts_with(&wanted))
    })
}

/// An operation that somebody thinks of.
struct Imagined {
    kind: Kind,
    path: PathBuf,
    filesystem: Option<Filesystem>,
    program: Option<PathBuf>,
    program_id: Option<FileId>,
    users: Option<Ids>,
}

impl Subjects for Imagined {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn own_path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn users(&self) -> Option<Ids> {
        self.users
    }

    fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    fn program_id(&self) -> Option<FileId> {
        self.program_id
    }

    fn cgroup(&self) -> Option<&Path> {
        None
    }

    fn filesystem(&self) -> Option<Filesystem> {
        self.filesystem
    }
}

/// Explains.
pub(crate) fn explain(question: &Explain<'_>, watched: &[Watched], mutes: &Mutes) -> Value {
    match try_explain(question, watched, mutes) {
        Ok(value) => value,
        Err(why) => json!({ "path": question.path.to_string_lossy(), "error": why }),
    }
}

fn try_explain(
    question: &Explain<'_>,
    watched: &[Watched],
    mutes: &Mutes,
) -> Result<Value, String> {
    let typed = question.path.display();
    if !question.path.is_absolute() {
        return Err(format!("{typed}: give an absolute path"));
    }
    let failed = |error: rustix::io::Errno| format!("{typed}: {error}");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat(CWD, question.path, flags, Mode::empty()).map_err(failed)?;
    let look = Look::at(file.as_fd()).ok_or_else(|| format!("{typed}: cannot be looked at"))?;
    let path = path_of(file.as_fd()).ok_or_else(|| format!("{typed}: has no path"))?;
    let user = question.user.map(user_named).transpose()?;
    // A directory is opened too, but what is asked about are the files in it.
    let directory = if path.is_dir() {
        Some(path.as_path())
    } else {
        path.parent()
    };
    let directory = directory.and_then(id_of);
    let guard = watched
        .iter()
        .find(|guard| guard.covers(look.stamp.id, directory));
    let Some(guard) = guard else {
        let words = format!(
            "{} is not guarded: no mark of this host covers it",
            path.display()
        );
        return Ok(json!({ "path": path.to_string_lossy(), "guarded": false, "words": [words] }));
    };
    let mark = match guard.kind {
        TargetKind::Filesystem => "filesystem",
        TargetKind::Directory => "directory",
    };
    let place = match guard.kind {
        TargetKind::Filesystem => "its whole filesystem is marked, for",
        TargetKind::Directory => "its directory is marked, for",
    };
    let mut words = vec![format!(
        "{} is guarded: {place} --guard {}",
        path.display(),
        guard.path.display()
    )];
    let mut imagined = Imagined {
        kind: Kind::Open,
        path,
        filesystem: guard.pair.filesystem.get().copied(),
        program: question.process.map(Path::to_path_buf),
        program_id: question.process.and_then(id_of),
        users: user.map(|id| Ids {
            real: id,
            effective: id,
            saved: id,
            filesystem: id,
        }),
    };
    let mut asked = [None; 2];
    for (asked, kind) in asked.iter_mut().zip([Kind::Open, Kind::Exec]) {
        imagined.kind = kind;
        let (answer, why) = judge(&imagined, mutes);
        *asked = answer;
        words.push(why);
    }
    Ok(json!({
        "path": imagined.path.to_string_lossy(), "guarded": true, "mark": mark, "by": guard.path.to_string_lossy(),
        "asked_open": asked[0], "asked_exec": asked[1], "words": words,
    }))
}

/// Whether an operation is asked about, if that can be told, and why.
fn judge(imagined: &Imagined, mutes: &Mutes) -> (Option<bool>, String) {
    let what = match imagined.kind {
        Kind::Open => "opens",
        Kind::Exec => "executions",
    };
    let (entries, now) = (mutes.entries(), Instant::now());
    let matching = |sort: Sort, matched: Match| -> Vec<&Entry> {
        let about = entries.iter().map(AsRef::as_ref).filter(|entry: &&Entry| {
            entry.sort == sort && entry.rule.is_about(imagined.kind) && !entry.rule.is_over(now)
        });
        about
            .filter(|entry| entry.matches(imagined) == matched)
            .collect()
    };
    if let Some(mute) = matching(Sort::Mute, Match::Yes).first() {
        return (
            Some(false),
            format!("{what} are not asked about: {}", named(mute)),
        );
    }
    let lists =
        [Match::Yes, Match::No, Match::Unknown].map(|matched| matching(Sort::Only, matched));
    let [listed, not_listed, perhaps_listed] = lists;
    if listed.is_empty() && perhaps_listed.is_empty() && !not_listed.is_empty() {
        let why = format!("{what} are not asked about: no --only rule for them matches");
        return (Some(false), why);
    }
    let mut doubts = matching(Sort::Mute, Match::Unknown);
    if listed.is_empty() {
        doubts.extend(perhaps_listed);
    }
    if doubts.is_empty() {
        let why = match listed.first() {
            Some(only) => format!("{what} are asked about: {}", named(only)),
            None => format!("{what} are asked about: no rule says otherwise"),
        };
        return (Some(true), why);
    }
    let mut why = format!("whether {what} are asked about depends on who opens: ");
    for (place, doubt) in doubts.iter().enumerate() {
        let comma = if place == 0 { "" } else { "; " };
        // Writing to a string does not fail.
        write!(why, "{comma}{}", named(doubt)).ok();
    }
    why += " (say who with --process and --user; of a group of processes only an open itself can tell)";
    (None, why)
}

fn named(entry: &Entry) -> String {
    let whose = match entry.origin.pid() {
        Some(pid) => format!("asked for by the service with process {pid}"),
        None => "from the host's start".to_owned(),
    };
    format!("--{} {} ({whose})", entry.sort.name(), entry.rule)
}

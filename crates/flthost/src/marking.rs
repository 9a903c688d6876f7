//! Marking what is guarded, in the worker: at its start, and for as long as directories and filesystems appear.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::events::Guard;
use crate::fanotify::Group;
use crate::guarded::Guarded;
use crate::marks::{MarkedTree, TargetKind, TreeError, follow_with, mark_tree_with};
use crate::say::say;
use crate::threads::fail;

impl Guarded {
    /// Its groups in the order in which they have to be marked: what triage lets pass must be asked about.
    fn groups(&self) -> [&Group; 2] {
        [&self.pair.questions, &self.pair.triage]
    }

    fn mark(&self) -> Result<MarkedTree, TreeError> {
        let (groups, notifier) = (self.groups(), self.notifier.as_deref());
        mark_tree_with(&groups, &self.watch, notifier, &self.target)
    }

    fn follow(&self) -> Result<MarkedTree, TreeError> {
        let (groups, notifier) = (self.groups(), self.notifier.as_deref());
        follow_with(&groups, &self.watch, notifier, &self.target)
    }
}

/// Directories that a tree may have without a word: beyond, marking and following take noticeable time and memory of the
/// kernel.
const DIRECTORIES: u64 = 10_000;

/// Marks what is guarded. A restarted worker finds the marks of the first: what fails then is said, and guarding goes on.
///
/// `many`: a tree may have more than [`DIRECTORIES`].
pub(crate) fn mark(guarded: &[Guarded], first: bool, many: bool) -> Result<Vec<Guard>, String> {
    let mut guards = Vec::new();
    for guarded in guarded {
        let target = &guarded.target;
        let kind = match target.kind() {
            TargetKind::Filesystem => "filesystem",
            TargetKind::Directory => "directory",
        };
        let marked = match guarded.mark() {
            Ok(marked) => marked,
            Err(error) => {
                let text = format!("cannot guard {}: {error}", target.path().display());
                if first {
                    return Err(text);
                }
                say(text);
                MarkedTree::default()
            }
        };
        if first && !many && marked.directories > DIRECTORIES {
            return Err(format!(
                "{} has {} directories, and each needs a mark of its own: guard the mount point that it is on, or add --many-directories",
                target.path().display(),
                marked.directories
            ));
        }
        if target.kind() == TargetKind::Filesystem {
            guarded.pair.set_whole();
            let dir = target.as_fd().try_clone_to_owned();
            let followed = dir
                .map_err(|error| error.to_string())
                .and_then(|dir| guarded.pair.follow_attributes(dir));
            if let Err(error) = followed {
                say(format_args!(
                    "the kernel keeps no verdicts about {}: {error}",
                    target.path().display()
                ));
            }
            // What an earlier worker's services have found clean is for this one's to say again.
            guarded.pair.forget_in_kernel();
        }
        guards.push(Guard {
            path: target.path().display().to_string(),
            kind,
            directories: marked.directories,
        });
    }
    Ok(guards)
}

/// Marks new directories for as long as the process lives.
pub(crate) fn keep_following(guarded: &Guarded) -> ! {
    loop {
        match poll(&mut [PollFd::new(&guarded.watch, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => fail(format_args!("cannot wait for new directories: {error}")),
        }
        match guarded.follow() {
            Ok(_) => {}
            Err(error @ TreeError::Watch(_)) => {
                fail(format_args!("new directories are no longer seen: {error}"));
            }
            Err(error) => {
                say(format_args!("a directory is not guarded: {error}"));
                mark_again(guarded);
            }
        }
    }
}

/// What was to be marked is known only by looking: marks the whole tree, until that succeeds, ever more rarely.
fn mark_again(guarded: &Guarded) {
    let mut pause = Duration::from_secs(1);
    loop {
        thread::sleep(pause);
        if guarded.mark().is_ok() {
            return say("all directories are guarded again");
        }
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

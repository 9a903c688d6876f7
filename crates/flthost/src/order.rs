//! What the kernel does between two groups, found out with files that nobody else has.
//!
//! Forks, so the process must have one thread.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, inotify};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::fanotify::{AnswerBuffer, Class, Group, Response};
use crate::polling;
use crate::supervisor_os::{fork, reap};

/// Who was asked about an open.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    one: bool,
    other: bool,
    one_first: bool,
}

/// Whether the kernel asks `one` before `other`; nothing if that does not show.
///
/// In which order it asks two groups of one class is not documented, but it is the same for all files.
pub(crate) fn is_asked_first(one: &Group, other: &Group) -> Option<bool> {
    let file = rustix::fs::memfd_create(c"fanotify-order", MemfdFlags::CLOEXEC).ok()?;
    one.mark_file(file.as_fd()).ok()?;
    other.mark_file(file.as_fd()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || drop(rustix::fs::open(&path, READ, Mode::empty()));
    let asked = ask(one, other, open, || ())?;
    (asked.one || asked.other).then_some(asked.one_first)
}

/// Whether an open that one group has allowed is always seen in the next.
///
/// Between the two the kernel looks at anybody's marks of the file again, such as the watch of a file manager
/// (`fsnotify_prepare_user_wait`). Would one that has gone meanwhile let the open pass, whoever can watch a file could have
/// it opened unasked. Where that cannot be found out, no.
pub(crate) fn comes_to_the_next() -> bool {
    let asked = || {
        let root = scratch()?;
        let created = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&root, c"file", created, Mode::RUSR).ok()?);
        let (one, other) = (
            Group::new(Class::PreContent).ok()?,
            Group::new(Class::PreContent).ok()?,
        );
        one.mark_directory(root.as_fd()).ok()?;
        other.mark_directory(root.as_fd()).ok()?;
        let watches = inotify::init(inotify::CreateFlags::CLOEXEC).ok()?;
        let path = format!("/proc/self/fd/{}/file", root.as_raw_fd());
        let watch = inotify::add_watch(&watches, path, inotify::WatchFlags::MODIFY).ok()?;
        let open = || drop(rustix::fs::openat(&root, c"file", READ, Mode::empty()));
        ask(&one, &other, open, || {
            inotify::remove_watch(&watches, watch).ok();
        })
    };
    asked().is_some_and(|asked| asked.one && asked.other)
}

/// A filesystem that nobody sees, gone with the descriptor.
fn scratch() -> Option<OwnedFd> {
    let made = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    rustix::mount::fsconfig_create(&made).ok()?;
    let attributes = MountAttrFlags::empty();
    let root = rustix::mount::fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes).ok()?;
    // That is a mere path, which older kernels mark nothing by.
    rustix::fs::openat(&root, c".", READ | OFlags::DIRECTORY, Mode::empty()).ok()
}

/// Lets another process open something, and answers for both groups; `at_first` is done while the first one asked thinks.
fn ask(one: &Group, other: &Group, open: impl Fn(), at_first: impl FnOnce()) -> Option<Asked> {
    let opener = fork(|| {
        open();
        0
    })
    .ok()?;
    let mut asked = Asked::default();
    let mut at_first = Some(at_first);
    let mut buffer = AnswerBuffer::new();
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(one, PollFlags::IN),
            PollFd::new(other, PollFlags::IN),
            PollFd::new(&opener.pidfd, PollFlags::IN),
        ];
        let polled = polling::wait(&mut fds, left);
        let [by_one, by_other, ended] = fds.map(|fd| !fd.revents().is_empty());
        if (by_one || by_other)
            && let Some(at_first) = at_first.take()
        {
            asked.one_first = by_one;
            at_first();
        }
        asked.one |= by_one;
        asked.other |= by_other;
        for (group, waits) in [(one, by_one), (other, by_other)] {
            if waits {
                group.answer_all(&mut buffer, Response::Allow.into()).ok()?;
            }
        }
        if ended || matches!(polled, Ok(0)) {
            break;
        }
    }
    // It has ended, unless something keeps it; then it is not waited for.
    rustix::process::pidfd_send_signal(&opener.pidfd, rustix::process::Signal::KILL).ok();
    reap(opener.pid);
    Some(asked)
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// Time for a process that does next to nothing.
const PATIENCE: Duration = Duration::from_secs(10);

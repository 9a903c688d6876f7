//! The bare loop: the least that anybody who wants to be asked about opens has to do, in the same language and by the
//! same calls as the host. It allows everything.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use fltbench_common::end_with_parent;
use flthost::fanotify::{Class, Event, EventBuffer, Group, Response};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

use super::{Ended, this_program, until};

/// Where the loop says that it guards: a directory, because making one opens nothing, and the loop cannot answer itself.
const SIGN: &str = ".guarded";

/// The loop, until this value is dropped.
#[derive(Debug)]
pub struct Bare {
    _process: Ended,
}

impl Bare {
    /// Starts it for the filesystem that is mounted here; it guards when this returns.
    pub fn start(directory: &Path) -> Result<Self> {
        let process = Ended::start(this_program("allow-all")?.arg(directory))?;
        let sign = directory.join(SIGN);
        until("the bare loop guards", 5, || Ok(sign.exists()))?;
        std::fs::remove_dir(sign)?;
        Ok(Self { _process: process })
    }
}

/// Reads an event, allows it, closes.
pub fn allow_all(path: &Path) -> Result<()> {
    end_with_parent()?;
    let directory = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let group = Arc::new(Group::new(Class::Content)?);
    group.mark_filesystem(directory.as_fd())?;
    std::fs::create_dir(path.join(SIGN))?;
    let mut buffer = EventBuffer::with_capacity(64);
    loop {
        poll(&mut [PollFd::new(&*group, PollFlags::IN)], None)?;
        for event in group.read(&mut buffer, Response::Allow)? {
            if let Event::Permission { permission, .. } = event {
                drop(permission.answer(Response::Allow));
            }
        }
    }
}

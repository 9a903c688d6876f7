//! The mounts of this host's namespace: a path is to be believed only if its file was reached by one of them.
//!
//! Not the opener's namespace counts but the mount: an opener can have a thread in another namespace, a directory that
//! somebody has handed over, or a mount that is in no namespace. The kernel tells a reader of mountinfo that something
//! has changed as soon as it has, and before it gives a mount's id to another. So as long as it says nothing, a known id
//! still means the mount that it meant when it was read.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::opener::mount_of;
use crate::polling::is_ready;

/// The mounts of this process's namespace.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Option<File>,
    /// In order.
    ids: Vec<u64>,
}

/// What is read of the table; what is beyond counts as foreign. It is the room for some forty thousand mounts.
const TABLE_BYTES: usize = 4 << 20;

/// What is read at a time.
const CHUNK: usize = 16 << 10;

impl Mounts {
    /// Whether this mount is one of them. What cannot be found out is none. Reads the table if it has changed.
    pub(crate) fn has(&self, mount: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refresh();
        state.ids.binary_search(&mount).is_ok()
    }
}

impl State {
    fn refresh(&mut self) {
        let fresh = self.table.is_none();
        if fresh {
            self.table = File::open("/proc/self/mountinfo").ok();
        }
        let Some(table) = &mut self.table else {
            return;
        };
        // Looked at before it is read, so that a change meanwhile shows next time.
        let quiet = is_ready(&*table, PollFlags::PRI, Duration::ZERO) == Ok(false);
        if quiet && !fresh {
            return;
        }
        self.ids.clear();
        if read_ids(table, &mut self.ids).is_err() {
            self.ids.clear();
            self.table = None;
        }
        self.ids.sort_unstable();
    }
}

/// The first number of each line.
fn read_ids(table: &mut File, ids: &mut Vec<u64>) -> std::io::Result<()> {
    table.rewind()?;
    let mut chunk = vec![0; CHUNK];
    // The beginning of a line, up to its first space.
    let (mut begun, mut complete) = (Vec::with_capacity(24), false);
    let mut left = TABLE_BYTES;
    while left > 0 {
        let length = table.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        left = left.saturating_sub(length);
        for &byte in chunk.get(..length).unwrap_or_default() {
            match byte {
                b'\n' => complete = false,
                _ if complete => {}
                b' ' => {
                    ids.extend(mount_of(&begun));
                    begun.clear();
                    complete = true;
                }
                _ if begun.len() < 24 => begun.push(byte),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::stamp::Look;

    #[test]
    fn an_ordinary_file_is_reached_by_a_mount_of_ours_and_a_pipe_is_not() {
        let mounts = Mounts::default();
        let directory = File::open("/").unwrap();
        let mount = Look::at(directory.as_fd()).unwrap().mount.unwrap();
        assert!(mounts.has(mount) && mounts.has(mount));
        assert!(!mounts.has(u64::MAX));
        let (pipe, _other) = std::io::pipe().unwrap();
        let foreign = Look::at(pipe.as_fd()).and_then(|look| look.mount);
        assert!(!foreign.is_some_and(|mount| mounts.has(mount)));
    }
}

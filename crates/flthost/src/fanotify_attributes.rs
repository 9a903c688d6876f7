//! Hearing that a file has got another owner or other permissions: then who may write to it is another question.
//!
//! A notification group for single files. [`crate::pair`] uses it for those whose verdict the kernel keeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::fanotify::{DirectoryHandle, GroupError, MarkError, init_bounded, mark};
use crate::fanotify_record::Records;
use crate::fanotify_watch::Located;

/// Tells when attributes of files change.
#[derive(Debug)]
pub(crate) struct Attributes {
    fd: OwnedFd,
}

impl Attributes {
    /// Of no file yet.
    ///
    /// # Errors
    /// [`GroupError`] says what is missing.
    ///
    /// # References
    /// fanotify_init(2), `FAN_REPORT_FID`.
    pub(crate) fn new() -> Result<Self, GroupError> {
        let fd = init_bounded(libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID);
        let fd = fd.map_err(GroupError::from_errno)?;
        Ok(Self { fd })
    }

    /// Tells of this file from now on, for as long as the kernel has it in memory: as long as it ignores it elsewhere.
    ///
    /// # Errors
    /// See [`MarkError`].
    ///
    /// # References
    /// fanotify_mark(2), `FAN_ATTRIB`, `FAN_MARK_EVICTABLE`.
    pub(crate) fn watch(&self, file: BorrowedFd<'_>) -> Result<(), MarkError> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_EVICTABLE;
        mark(self.as_fd(), flags, libc::FAN_ATTRIB, file).map_err(MarkError::from_errno)
    }

    /// Takes what is in the queue: files whose attributes have changed; nothing in the place of what was lost.
    ///
    /// # Errors
    /// Those of read(2).
    ///
    /// # References
    /// fanotify(7), `struct fanotify_event_info_fid`.
    pub(crate) fn read(&self, mut each: impl FnMut(Option<DirectoryHandle>)) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut bytes)) {
            Ok(length) => length,
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for record in Records::new(bytes.get(..length).unwrap_or_default()) {
            let infos = record.iter().flat_map(|record| record.infos());
            let mut files = infos.filter(|info| info.kind == libc::FAN_EVENT_INFO_TYPE_FID);
            let file = files.next().and_then(|info| Located::parse(info.body));
            each(file.map(|file| file.handle));
        }
        Ok(())
    }
}

impl AsFd for Attributes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Room for some fifty events, and small enough for the stack.
const BYTES: usize = 8_192;

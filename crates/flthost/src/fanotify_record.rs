//! The form in which the kernel tells of events: records, and the information records behind each.
//!
//! Only lengths and fields; what becomes of the descriptors in them is [`crate::fanotify_event`]'s business. Fields are
//! copied out, so the bytes need no alignment.

use std::os::fd::RawFd;

use crate::fanotify::Operation;

/// One `struct fanotify_event_metadata` and the information records behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) mask: u64,
    pub(crate) fd: RawFd,
    pub(crate) pid: i32,
    info: &'a [u8],
}

impl<'a> Record<'a> {
    /// The operation that waits; nothing if none does.
    pub(crate) fn operation(&self) -> Option<Operation> {
        if self.mask & libc::FAN_OPEN_EXEC_PERM != 0 {
            Some(Operation::Exec)
        } else {
            (self.mask & libc::FAN_OPEN_PERM != 0).then_some(Operation::Open)
        }
    }

    pub(crate) fn infos(&self) -> Infos<'a> {
        Infos { rest: self.info }
    }
}

/// The bytes at this place are no event record of the known version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Walks the records that one `read` brought; yields `Malformed` once and ends when a length or
/// the version is wrong. Fields are copied out, so the bytes need no alignment.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split(&mut self) -> Option<Record<'a>> {
        let (mut head, _) = self
            .rest
            .split_first_chunk::<METADATA_LEN>()
            .map(|(h, t)| (&h[..], t))?;
        let event_len = usize::try_from(u32::from_ne_bytes(take(&mut head)?)).ok()?;
        let [version, _reserved] = take(&mut head)?;
        let metadata_len = usize::from(u16::from_ne_bytes(take(&mut head)?));
        if version != VERSION || metadata_len < METADATA_LEN || event_len < metadata_len {
            return None;
        }
        let (event, rest) = self.rest.split_at_checked(event_len)?;
        let record = Record {
            mask: u64::from_ne_bytes(take(&mut head)?),
            fd: i32::from_ne_bytes(take(&mut head)?),
            pid: i32::from_ne_bytes(take(&mut head)?),
            info: event.get(metadata_len..)?,
        };
        self.rest = rest;
        Some(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.ok_or(Malformed))
    }
}

/// One information record: its type and what follows its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Info<'a> {
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

impl Info<'_> {
    /// The opener's pidfd, if that is what this record has.
    pub(crate) fn pidfd(&self) -> Option<RawFd> {
        let mut body = self.body;
        (self.kind == libc::FAN_EVENT_INFO_TYPE_PIDFD).then_some(())?;
        take(&mut body).map(RawFd::from_ne_bytes)
    }
}

/// Walks information records; unknown types are for the caller to skip, a wrong length ends it.
#[derive(Debug)]
pub(crate) struct Infos<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Infos<'a> {
    type Item = Info<'a>;

    fn next(&mut self) -> Option<Info<'a>> {
        let mut head = std::mem::take(&mut self.rest);
        let all = head;
        let [kind, _padding] = take(&mut head)?;
        let len = usize::from(u16::from_ne_bytes(take(&mut head)?));
        let (record, rest) = all.split_at_checked(len)?;
        let body = record.get(INFO_HEADER_LEN..)?;
        self.rest = rest;
        Some(Info { kind, body })
    }
}

/// Takes the next `N` bytes off the front.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Size of `struct fanotify_event_metadata`.
pub(crate) const METADATA_LEN: usize = size_of::<libc::fanotify_event_metadata>();
/// Size of `struct fanotify_event_info_header`.
const INFO_HEADER_LEN: usize = 4;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;

#[cfg(test)]
mod tests;

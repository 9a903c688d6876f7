//! What a client process did, one record for each deed, in a file that survives its SIGKILL.
//!
//! A record is written when the deed is done, by one write of sixteen bytes: a number, what it was, and a length.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;

macro_rules! events {
    ($($name:ident $text:literal,)*) => {
        /// What a client can have done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event { $($name,)* }

        impl Event {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

events! {
    Got "client: got a message",
    GotTiny "client: got a tiny message",
    GotAttachment "client: got an attachment",
    GetTimedOut "client: cancelled a get",
    GetWithdrawn "client: withdrew a posted get",
    GetTooSmall "client: get too small",
    GetEnded "client: get ended by the end",
    Polled "client: polled",
    ReplyOk "client: reply ok",
    ReplyOkTiny "client: reply to a tiny message ok",
    ReplyTooLong "client: reply too long",
    ReplyNoWaiter "client: reply finds nobody",
    ReplyGone "client: reply ended by the end",
    ReplyForgotten "client: reply not waited for",
    ReplySecond "client: second reply finds nobody",
    Detached "client: left a question to its deadline",
    Dropped "client: dropped a question",
    Answered "client: request answered",
    Refused "client: request refused",
    Warned "client: request answered with a warning",
    RequestGone "client: request ended by the end",
    RequestBadLength "client: request of no bytes, or over the limit",
    Connected "client: connected",
    ConnectRefused "client: connect refused by the filter",
    ConnectLimit "client: connect over the limit",
    ConnectNoPort "client: connect finds no port",
    ConnectLost "client: connect ended by the end",
    Closed "client: closed",
    HungUp "client: hung up",
}

/// One deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) event: Event,
    pub(crate) length: u32,
}

const SIZE: usize = 16;

/// Where a client writes.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        file.map(Self)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes a record; after it returns the record is with the kernel.
    pub(crate) fn note(&self, event: Event, number: u64, length: usize) {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8] = event as u8;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        bytes[12..].copy_from_slice(&length.to_le_bytes());
        (&self.0)
            .write_all(&bytes)
            .expect("a journal takes records");
    }
}

/// All records of a client that is gone.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let bytes = match std::fs::read(path) {
        // Killed before it had one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let records = bytes.chunks_exact(SIZE).map(|bytes| {
        let number = bytes.first_chunk::<8>().copied().map(u64::from_le_bytes);
        let length = bytes.last_chunk::<4>().copied().map(u32::from_le_bytes);
        let event = bytes
            .get(8)
            .and_then(|event| Event::ALL.get(usize::from(*event)));
        match (number, length, event) {
            (Some(number), Some(length), Some(event)) => Ok(Record {
                number,
                event: *event,
                length,
            }),
            _ => anyhow::bail!("{} holds something else", path.display()),
        }
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::{Event, Journal, Record, read};

    #[test]
    fn a_journal_is_read_as_it_was_written_and_half_a_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert_eq!(read(&path).unwrap(), []);
        let journal = Journal::open(&path).unwrap();
        journal.note(Event::ReplyOk, u64::MAX - 1, 70_000);
        std::io::Write::write_all(&mut &journal.0, &[1; 15]).unwrap();
        let record = Record {
            number: u64::MAX - 1,
            event: Event::ReplyOk,
            length: 70_000,
        };
        assert_eq!(read(&path).unwrap(), [record]);
    }
}

//! What a service asks of a filter host that lets it: to stop asking about something for a while.
//!
//! The request goes over the connection that the questions come from, as `FilterSendMessage`; the response is the rule's
//! number. A rule is text as the host's command line has it, without a time, such as `tree=/srv/cache` or
//! `exec:user=1000`; paths are absolute and without links, users are numbers.

use fltport_engine::NtStatus;

use crate::client::Client;
use crate::error::CallError;

/// A request about mutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request<'a> {
    /// What this rule matches is not to be asked about.
    Add {
        /// How long; the host refuses zero and more than an hour. It ends with the connection in any case.
        seconds: u32,
        /// The rule.
        rule: &'a str,
    },
    /// A rule of this connection is to end.
    Remove {
        /// Its number.
        id: u64,
    },
}

const ADD: u32 = 1;
const REMOVE: u32 = 2;

impl<'a> Request<'a> {
    /// The request in these bytes; `None` for one that this version does not know.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first_chunk()?;
        match u32::from_le_bytes(*kind) {
            ADD => {
                let (seconds, rule) = rest.split_first_chunk()?;
                Some(Self::Add {
                    seconds: u32::from_le_bytes(*seconds),
                    rule: std::str::from_utf8(rule).ok()?,
                })
            }
            REMOVE => Some(Self::Remove {
                id: u64::from_le_bytes(rest.try_into().ok()?),
            }),
            _ => None,
        }
    }

    /// The request as bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Add { seconds, rule } => {
                let mut bytes = ADD.to_le_bytes().to_vec();
                bytes.extend(seconds.to_le_bytes());
                bytes.extend(rule.as_bytes());
                bytes
            }
            Self::Remove { id } => {
                let mut bytes = REMOVE.to_le_bytes().to_vec();
                bytes.extend(id.to_le_bytes());
                bytes
            }
        }
    }

    /// Asks a host; gives the rule's number.
    ///
    /// # Errors
    /// As [`Client::send`]. `STATUS_ACCESS_DENIED` if the host was not started with `--grant-mutes`,
    /// `STATUS_INVALID_PARAMETER` for a rule or a time that it does not take, `STATUS_INSUFFICIENT_RESOURCES` if this
    /// connection has as many as it may, `STATUS_NOT_FOUND` for a number that is none of this connection's.
    pub fn send(self, client: &Client) -> Result<u64, CallError> {
        let bytes = client.send(&self.to_bytes(), 8)?;
        let id = bytes.as_slice().try_into().map(u64::from_le_bytes);
        id.map_err(|_| CallError::Status(NtStatus::INVALID_PARAMETER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let add = Request::Add {
            seconds: 60,
            rule: "tree=/srv/Grüße",
        };
        for request in [add, Request::Remove { id: 77 }] {
            assert_eq!(Request::parse(&request.to_bytes()), Some(request));
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        let not_text = [&1_u32.to_le_bytes()[..], &[0; 4], &[0xff]].concat();
        let long = [&2_u32.to_le_bytes()[..], &[0; 9]].concat();
        for bytes in [&b""[..], b"x", &[1, 0, 0, 0], &[3; 12], &not_text, &long] {
            assert_eq!(Request::parse(bytes), None, "{bytes:?}");
        }
    }
}

//! A question to a host's control port: whether a file is guarded, and whether opening it would be asked about.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fltport_engine::NtStatus;

use super::control::Request;
use crate::client::Client;
use crate::error::CallError;

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explain<'a> {
    /// The file, by an absolute path.
    pub path: &'a Path,
    /// The program that would open it.
    pub process: Option<&'a Path>,
    /// The user who would: a name or a number.
    pub user: Option<&'a str>,
}

impl<'a> Explain<'a> {
    /// The question in these bytes.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&Request::Explain.to_bytes())?;
        let mut parts = rest.split(|byte| *byte == 0);
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let path = |bytes| Path::new(OsStr::from_bytes(bytes));
        let question = Self {
            path: path(next()?),
            process: next().map(path),
            user: match next() {
                Some(user) => Some(std::str::from_utf8(user).ok()?),
                None => None,
            },
        };
        parts.next().is_none().then_some(question)
    }

    /// The question as bytes: a path has no zero in it, so one ends each part.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Request::Explain.to_bytes().to_vec();
        bytes.extend(self.path.as_os_str().as_bytes());
        bytes.push(0);
        bytes.extend(
            self.process
                .map_or(&[][..], |path| path.as_os_str().as_bytes()),
        );
        bytes.push(0);
        bytes.extend(self.user.unwrap_or_default().as_bytes());
        bytes
    }

    /// Asks over a connection to a control port; gives the response's JSON text.
    ///
    /// # Errors
    /// As [`Client::send`]; a response that is no text is `STATUS_INVALID_PARAMETER`.
    pub fn send(self, client: &Client) -> Result<String, CallError> {
        let bytes = client.send(&self.to_bytes(), client.max_message())?;
        String::from_utf8(bytes).map_err(|_| CallError::Status(NtStatus::INVALID_PARAMETER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let whole = Explain {
            path: Path::new("/srv/a file"),
            process: Some(Path::new("/usr/bin/make")),
            user: Some("backup"),
        };
        let bare = Explain {
            process: None,
            user: None,
            ..whole
        };
        let user = Explain {
            process: None,
            ..whole
        };
        for question in [whole, bare, user] {
            assert_eq!(Explain::parse(&question.to_bytes()), Some(question));
        }
    }

    #[test]
    fn what_is_no_question_is_none() {
        for bytes in [
            &b""[..],
            &[7, 0, 0, 0],
            &[7, 0, 0, 0, 0, 0],
            b"\x07\0\0\0/a\0b\0c\0d",
        ] {
            assert_eq!(Explain::parse(bytes), None, "{bytes:?}");
        }
    }
}

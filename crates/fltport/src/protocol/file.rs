//! Questions of a filter host about file operations, and what a service answers.
//!
//! The file itself comes as the message's attachment: open for reading only, to be read by position. Opening it again,
//! by whatever path, would ask the same question once more.

use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Protocol;

/// The protocol of a filter host and its services.
#[derive(Clone, Copy, Debug)]
pub enum FileProtocol {}

impl Protocol for FileProtocol {
    type Question = Question;
    type Answer = Answer;
    type Request = Request;
    type Response = [u8; 8];
}

/// May this operation go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Question {
    /// Names the operation in logs; unique for one host.
    pub id: u64,
    /// What is to be done with the file: an [`Operation`].
    pub operation: u32,
    /// The process that wants to (thread group id), zero if it is not in the host's pid namespace.
    pub pid: u32,
    /// The device that the file is on, as in `st_dev`.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
    /// The file's size in bytes when the question was asked.
    pub size: u64,
    /// What the path that the attached file shows is worth: a [`PathValidity`].
    pub path: u32,
    /// Zero.
    pub reserved: u32,
    /// When the operation is decided without this service, in nanoseconds of the system's monotonic clock
    /// (`CLOCK_MONOTONIC`); the message's own deadline is later by what the service may ask for.
    pub deadline: u64,
}

impl Question {
    /// What a deadline in so much time is in a question.
    #[must_use]
    pub fn deadline_in(time: Duration) -> u64 {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        crate::clock::system_nanos().saturating_add(nanos)
    }

    /// Time left until the operation is decided without this service.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        Duration::from_nanos(self.deadline.saturating_sub(crate::clock::system_nanos()))
    }
}

/// What the path of a question's file is worth. It is shown by `/proc/self/fd`, for people and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum PathValidity {
    /// The path that the host's mount namespace shows.
    Plain = 1,
    /// That of another mount namespace, which may look like one of the host's and is none.
    OtherNamespace = 2,
    /// That inside a layer of an overlay, or of a mount that is in no namespace.
    Layer = 3,
    /// The host's own, on an overlay.
    Overlay = 4,
    /// The last one that the file had.
    Unlinked = 5,
}

impl PathValidity {
    /// The validity in a question; `None` for one that this version does not know.
    #[must_use]
    pub const fn parse(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Plain),
            2 => Some(Self::OtherNamespace),
            3 => Some(Self::Layer),
            4 => Some(Self::Overlay),
            5 => Some(Self::Unlinked),
            _ => None,
        }
    }
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Operation {
    /// Opened.
    Open = 1,
    /// Executed.
    Exec = 2,
}

impl Operation {
    /// The operation of a question; `None` for one that this version does not know.
    #[must_use]
    pub const fn parse(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Open),
            2 => Some(Self::Exec),
            _ => None,
        }
    }
}

/// What a service asks of the host, with [`crate::Client::send`] over the connection on which it gets its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// A [`Wish`].
    pub wish: u32,
    /// For [`Wish::MoreTime`]: how much, in milliseconds.
    pub millis: u32,
    /// For [`Wish::MoreTime`]: the question's [`Question::id`].
    pub id: u64,
}

/// What a service may want. The numbers are none of those of [`super::mute`], whose requests go the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Wish {
    /// More time for one question: granted once, as far as the host's configuration allows. The response is the time
    /// left from now, in milliseconds; the service's own clock of the message does not show it.
    MoreTime = 0x101,
    /// All verdicts of this service are to be forgotten: its rules are other ones now.
    Forget = 0x102,
}

impl Wish {
    /// The wish of a request; `None` for one that this version does not know.
    #[must_use]
    pub const fn parse(value: u32) -> Option<Self> {
        match value {
            0x101 => Some(Self::MoreTime),
            0x102 => Some(Self::Forget),
            _ => None,
        }
    }
}

impl Request {
    /// Asks for more time for a question.
    #[must_use]
    pub const fn more_time(id: u64, millis: u32) -> Self {
        Self {
            wish: Wish::MoreTime as u32,
            millis,
            id,
        }
    }

    /// Asks to forget what this service has said.
    #[must_use]
    pub const fn forget() -> Self {
        Self {
            wish: Wish::Forget as u32,
            millis: 0,
            id: 0,
        }
    }
}

/// What the service says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// A [`Verdict`].
    pub verdict: u32,
    /// Bytes of `reason` that count.
    reason_length: u16,
    flags: u16,
    reason: [u8; REASON_MAX],
}

/// The verdict follows from the file's content, and from nothing else.
const CONTENT_ONLY: u16 = 1;

/// Longest reason in bytes: the name of a rule, or a few words.
pub const REASON_MAX: usize = 120;

/// What a service may say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u32)]
pub enum Verdict {
    /// The operation may go on.
    Allow = 1,
    /// It may not.
    Deny = 2,
    /// The service cannot tell: the file is too large, took too long, or cannot be read. The host's policy decides.
    Unscannable = 3,
}

impl Answer {
    /// An answer with a reason, which is cut to [`REASON_MAX`] bytes at a character.
    #[must_use]
    pub fn new(verdict: Verdict, reason: &str) -> Self {
        let mut length = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = [0; REASON_MAX];
        for (into, from) in bytes.iter_mut().zip(reason.bytes().take(length)) {
            *into = from;
        }
        let reason_length = u16::try_from(length).unwrap_or(0);
        Self {
            verdict: verdict as u32,
            reason_length,
            flags: 0,
            reason: bytes,
        }
    }

    /// Says that the verdict follows from the file's content, and not from who asks, when, or what for: the host may
    /// answer for the same content without asking again.
    #[must_use]
    pub const fn of_content_only(mut self) -> Self {
        self.flags |= CONTENT_ONLY;
        self
    }

    /// Whether the verdict follows from the file's content only.
    #[must_use]
    pub const fn is_of_content_only(&self) -> bool {
        self.flags & CONTENT_ONLY != 0
    }

    /// The verdict; `None` for a value that is none, which a host treats as a service that cannot tell.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        match self.verdict {
            1 => Some(Verdict::Allow),
            2 => Some(Verdict::Deny),
            3 => Some(Verdict::Unscannable),
            _ => None,
        }
    }

    /// The reason as text, without control characters: it goes to terminals and logs.
    #[must_use]
    pub fn reason(&self) -> String {
        let length = usize::from(self.reason_length).min(REASON_MAX);
        let text =
            String::from_utf8_lossy(self.reason.get(..length).unwrap_or_default()).into_owned();
        text.chars()
            .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_at_a_character_and_has_no_control_characters() {
        let long = "ä".repeat(REASON_MAX);
        let answer = Answer::new(Verdict::Deny, &long);
        assert_eq!(answer.reason(), "ä".repeat(REASON_MAX / 2));
        assert_eq!(
            Answer::new(Verdict::Deny, "a\x1b[2J").reason(),
            "a\u{FFFD}[2J"
        );
    }

    #[test]
    fn a_lie_about_the_length_reads_what_is_there() {
        let mut answer = Answer::new(Verdict::Allow, "rule");
        answer.reason_length = u16::MAX;
        assert!(answer.reason().starts_with("rule"));
        answer.verdict = 77;
        assert_eq!(answer.verdict(), None);
    }
}

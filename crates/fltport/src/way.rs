//! How the questions of a connection travel: through memory that both sides see, or as packets, and why.

use std::fmt;
use std::io;

/// How the questions of a connection travel, of [`crate::Client::way`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// No get was posted yet, or the filter has not said whether there is memory.
    Undecided,
    /// Through memory that both sides see.
    Memory,
    /// As packets on the connection's socket, like everything else: slower, and the same otherwise.
    Packets(PacketsReason),
}

/// Why there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PacketsReason {
    /// The filter gives this connection none: its port was made so, its system has none to give (it is told so, see
    /// [`crate::Builder::notice`]), or another process with the same handle has it.
    Filter,
    /// The filter's memory is of another version than this side knows.
    Version,
    /// This process has no room for the descriptors that the memory takes: raise its limit (`RLIMIT_NOFILE`).
    NoDescriptors,
    /// Both ends are in one process.
    Here,
    /// The system gave no mapping, or nothing to notice the end of the filter's process by.
    System(io::ErrorKind),
}

impl PacketsReason {
    pub(crate) fn of(error: &io::Error) -> Self {
        if crate::sys::lacks_descriptors(error) {
            return Self::NoDescriptors;
        }
        Self::System(error.kind())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => f.write_str("not decided yet"),
            Self::Memory => f.write_str("through memory"),
            Self::Packets(why) => write!(f, "as packets: {why}"),
        }
    }
}

impl fmt::Display for PacketsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter => f.write_str("the filter gives no memory"),
            Self::Version => f.write_str("the filter's memory is of another version"),
            Self::NoDescriptors => f.write_str("no descriptors are left in this process"),
            Self::Here => f.write_str("both ends are in one process"),
            Self::System(kind) => write!(f, "this system has no room for the memory ({kind})"),
        }
    }
}

/// What a port does otherwise than it would, for want of something: told once for each port, see
/// [`crate::Builder::notice`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// This system gives no memory for questions at the moment; those of the connection that asked are packets. Linux before
    /// 5.14 cannot do it; a limit of descriptors, of file sizes or of memory may be in the way.
    NoMemory(io::Error),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory(error) => {
                write!(
                    f,
                    "questions go as packets, which is slower: there is no memory for them ({error})"
                )
            }
        }
    }
}

//! One host gives everything that guards to the next one, without an operation being lost.
//!
//! The worker gives, because it lives where its supervisor may not; the next host's supervisor takes, before it starts a
//! worker of its own. Operations that wait go over with their files under the same descriptor numbers, because that is how
//! the kernel tells answers apart. Until the next host has said that it has everything, the old one can still go on.
//!
//! ```text
//!   next host                    old worker
//!   HELLO            ──────▶     readers stop
//!                    ◀──────     Room, Pair..., Guard..., Pending..., End   (with descriptors)
//!   TAKEN            ──────▶     gives its names back
//!                    ◀──────     GONE; it ends, and its supervisor with it
//! ```

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::config::Config;
use crate::polling::is_ready;

/// What goes over in one packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The next host is here, and of this version.
    Hello,
    /// Descriptor numbers below this are in use by what follows; pairs from this place on are spare ones.
    Room { numbers: u32, first_spare: u32 },
    /// The two groups of a pair; whether closing one of its files may wait for somebody, and what the journal knows of it.
    Pair { slow: bool, spare: u64 },
    /// A guarded directory and its watch; the pair at this place guards it.
    Guard { pair: u32, path: PathBuf },
    /// An operation that waits, with its file.
    Pending(Waiting),
    /// The old host's standard error.
    Words,
    /// That was all.
    End,
    /// The next host has everything.
    Taken,
    /// The old host has given its names back, and does nothing more.
    Gone,
}

/// An operation that waits for an answer, as one host tells another of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The number of its descriptor, by which it has to be answered.
    pub(crate) number: i32,
    /// Its group, by its place.
    pub(crate) group: u32,
    /// Whether it is an execution.
    pub(crate) exec: bool,
    /// The process, or 0.
    pub(crate) pid: i32,
}

/// The connected socket.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

/// The first bytes of each packet: other versions are refused.
const MAGIC: [u8; 4] = *b"flh1";

/// Longest packet in bytes: a path and what is around it.
const LONGEST: usize = 8_192;

/// Descriptors in a packet.
const FILES: usize = 2;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

impl Frame {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        match self {
            Self::Hello => bytes.push(1),
            Self::Room {
                numbers,
                first_spare,
            } => {
                bytes.push(2);
                bytes.extend(numbers.to_le_bytes());
                bytes.extend(first_spare.to_le_bytes());
            }
            Self::Pair { slow, spare } => {
                bytes.push(3);
                bytes.extend(u32::from(*slow).to_le_bytes());
                bytes.extend(spare.to_le_bytes());
            }
            Self::Guard { pair, path } => {
                bytes.push(4);
                bytes.extend(pair.to_le_bytes());
                bytes.extend(path.as_os_str().as_encoded_bytes());
            }
            Self::Pending(waiting) => {
                bytes.push(5);
                bytes.extend(waiting.number.to_le_bytes());
                bytes.extend(waiting.group.to_le_bytes());
                bytes.extend(u32::from(waiting.exec).to_le_bytes());
                bytes.extend(waiting.pid.to_le_bytes());
            }
            Self::Words => bytes.push(6),
            Self::End => bytes.push(7),
            Self::Taken => bytes.push(8),
            Self::Gone => bytes.push(9),
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.strip_prefix(&MAGIC)?.split_first()?;
        let mut word = || {
            let (word, more) = rest.split_first_chunk::<4>()?;
            rest = more;
            Some(u32::from_le_bytes(*word))
        };
        let frame = match kind {
            1 => Self::Hello,
            2 => Self::Room {
                numbers: word()?,
                first_spare: word()?,
            },
            3 => Self::Pair {
                slow: word()? != 0,
                spare: u64::from(word()?) | u64::from(word()?) << 32,
            },
            4 => {
                let pair = word()?;
                let path = std::os::unix::ffi::OsStrExt::from_bytes(std::mem::take(&mut rest));
                let path: &std::ffi::OsStr = path;
                Self::Guard {
                    pair,
                    path: path.into(),
                }
            }
            5 => Self::Pending(Waiting {
                number: word()?.cast_signed(),
                group: word()?,
                exec: word()? != 0,
                pid: word()?.cast_signed(),
            }),
            6 => Self::Words,
            7 => Self::End,
            8 => Self::Taken,
            9 => Self::Gone,
            _ => return None,
        };
        rest.is_empty().then_some(frame)
    }
}

impl Wire {
    /// Connects to the host that is to be replaced. Only one that runs as this user is talked to.
    pub(crate) fn connect(config: &Config) -> io::Result<Self> {
        let (address, _folder) = address(config)?;
        let socket = socket()?;
        rustix::net::connect(&socket, &address)?;
        let wire = Self(socket);
        wire.check_user()?;
        Ok(wire)
    }

    /// Whether the other side is this user: others have no business here, whatever the file's permissions are.
    pub(crate) fn check_user(&self) -> io::Result<()> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0)?;
        if peer.uid == rustix::process::geteuid() {
            return Ok(());
        }
        let text = "the other side of a handover is another user";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    pub(crate) fn send(&self, frame: &Frame, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = frame.to_bytes();
        loop {
            let parts = [IoSlice::new(&bytes)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.0, &parts, &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::NOBUFS
                    | rustix::io::Errno::TOOMANYREFS,
                ) => self.wait(PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) fn receive(&self) -> io::Result<(Frame, Vec<OwnedFd>)> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        self.wait(PollFlags::IN)?;
        let message = rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut files = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = ancillary {
                files.extend(fds);
            }
        }
        let bytes = bytes.get(..message.bytes).unwrap_or_default();
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let frame = Frame::from_bytes(bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the other host speaks another version of the handover",
            )
        })?;
        Ok((frame, files))
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        if is_ready(&self.0, what, PATIENCE)? {
            return Ok(());
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Where a host listens for the next one; see [`remove_door`].
#[derive(Debug)]
pub(crate) struct Door(OwnedFd);

impl Door {
    /// Opens the door. The folder is that of the host's ports, which are there.
    pub(crate) fn open(config: &Config) -> io::Result<Self> {
        let (address, _folder) = address(config)?;
        let path = path(config);
        // Of a worker that was killed: a host's name is its own, as its ports are.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket()?;
        rustix::net::bind(&socket, &address)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rustix::net::listen(&socket, 1)?;
        Ok(Self(socket))
    }

    /// Waits for the next host.
    pub(crate) fn next(&self) -> io::Result<Wire> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, flags))?;
        let wire = Wire(socket);
        wire.check_user()?;
        Ok(wire)
    }
}

/// Takes a host's door away, as it ends.
pub(crate) fn remove_door(config: &Config) {
    // As a rule it is there; without it nobody can take over, and nobody is to.
    fs::remove_file(path(config)).ok();
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// The socket's path: beside the host's ports.
fn path(config: &Config) -> PathBuf {
    let directory = config.port_directory.clone();
    let mut path = directory.unwrap_or_else(fltport::default_directory);
    path.push("fltport");
    path.extend(config.instance.as_deref());
    path.join("handover")
}

/// An address for the path, however long that is; it holds for as long as the folder's descriptor is open.
fn address(config: &Config) -> io::Result<(SocketAddrUnix, OwnedFd)> {
    let path = path(config);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder.as_fd());
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{number}/handover"))?;
    Ok((address, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_others_are_refused() {
        let waiting = Waiting {
            number: 77,
            group: 3,
            exec: true,
            pid: -1,
        };
        let guard = Frame::Guard {
            pair: 2,
            path: "/srv/a b".into(),
        };
        for frame in [
            Frame::Hello,
            Frame::Room {
                numbers: 20_000,
                first_spare: 3,
            },
            Frame::Pair {
                slow: true,
                spare: u64::MAX - 7,
            },
            guard,
            Frame::Pending(waiting),
            Frame::Words,
            Frame::End,
            Frame::Taken,
            Frame::Gone,
        ] {
            let bytes = frame.to_bytes();
            assert_eq!(Frame::from_bytes(&bytes).as_ref(), Some(&frame));
            let other = [b"flh2", bytes.get(4..).unwrap()].concat();
            assert_eq!(Frame::from_bytes(&other), None);
        }
        for bytes in [
            &b""[..],
            b"flh1",
            b"flh1\x0a",
            b"flh1\x02\0\0",
            b"flh1\x01more",
        ] {
            assert_eq!(Frame::from_bytes(bytes), None);
        }
    }
}

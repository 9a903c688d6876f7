//! Port names as sockets in a directory: `\Folder\Name` is `Folder/Name.port` below the port directory.
//!
//! A name is taken under a lock file, so that two hosts cannot fight for it and the socket of a dead host is taken over.
//! The socket is bound under a temporary name and renamed, so nobody ever connects to half a port. Everything goes
//! through directory descriptors: no symbolic link is followed and nothing outside the directory is touched.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fltport_engine::PortName;
use fltport_engine::name::fold;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::peer;
use super::socket::Socket;
use crate::error::{ConnectError, ListenError};
use crate::sync::{Ordering, StaticAtomicU64};
use crate::sys::host_uid;

/// The directory below which port names live.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

/// A name that this process has taken, and the socket that listens there. Dropping it gives the name back.
#[derive(Debug)]
pub(crate) struct TakenName {
    folder: OwnedFd,
    file: String,
    inode: u64,
    socket: Arc<OwnedFd>,
    lock_file: String,
    _lock: OwnedFd,
    /// The folders of the name, outermost first, each with the folder that it is in.
    folders: Vec<(OwnedFd, String)>,
}

/// One entry of the port directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// The port's name.
    pub name: String,
    /// Whether a living host serves it; otherwise a dead one left the socket behind. Of another user's port only that
    /// user and root can tell, others are told that it is served.
    pub served: bool,
}

const SUFFIX: &str = ".port";
const LOCK_SUFFIX: &str = ".lock";

impl Directory {
    /// `path`, or where this user's ports are: `/run/fltport` for root, `$XDG_RUNTIME_DIR/fltport` for others, or
    /// `FLTPORT_DIR`. The environment does not count for root, nor in a process that has just gained rights.
    pub(crate) fn resolve(path: Option<&Path>) -> Self {
        if let Some(path) = path {
            return Self(path.to_path_buf());
        }
        let trusted = host_uid() != 0 && !peer::gained_rights();
        let variable = |name| std::env::var_os(name).filter(|value| trusted && !value.is_empty());
        let own = variable("FLTPORT_DIR").map(PathBuf::from);
        let own =
            own.or_else(|| variable("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("fltport")));
        Self(own.unwrap_or_else(|| PathBuf::from("/run/fltport")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes `name`, and listens. `open_to_all`: whether users other than root and this one may reach the socket, where
    /// the port then decides.
    pub(crate) fn take(
        &self,
        name: &PortName,
        open_to_all: bool,
    ) -> Result<TakenName, ListenError> {
        // A host that ends takes its empty folders away, perhaps while they are opened here.
        for _ in 1..LOCK_TRIES {
            match self.try_take(name, open_to_all) {
                Err(ListenError::NoFolder(_)) => {}
                Err(ListenError::System { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.try_take(name, open_to_all)
    }

    fn try_take(&self, name: &PortName, open_to_all: bool) -> Result<TakenName, ListenError> {
        let (folder, folders, shown) = self.folder_for_listening(name)?;
        let leaf = name.components().last().unwrap_or_default();
        let file = format!("{leaf}{SUFFIX}");
        let system = |doing, source: Errno| ListenError::System {
            doing,
            path: shown.join(&file),
            source: source.into(),
        };
        let lock_file = format!("{}{LOCK_SUFFIX}", fold(leaf));
        let lock = lock(&folder, &lock_file)
            .map_err(|source| system("cannot lock the name", source))?
            .ok_or_else(|| ListenError::Taken(shown.join(&file)))?;
        remove_same_name(&folder, leaf).map_err(|source| match source {
            Errno::EXIST => ListenError::NotAPort(shown.join(&file)),
            other => system("cannot look for the name", other),
        })?;

        let socket = socket().map_err(|source| system("cannot make a socket", source))?;
        // Older kernels cannot; there a client that attaches something is found out when it is read.
        peer::refuse_descriptors(&socket).ok();
        let temporary = temporary_name();
        // Left by a dead process that had this process id.
        rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()).ok();
        let address = through(&folder, &temporary)
            .map_err(|source| system("cannot address the socket", source))?;
        rustix::net::bind(&socket, &address)
            .map_err(|source| system("cannot bind the socket", source))?;
        let mode = if open_to_all {
            Mode::from_raw_mode(0o666)
        } else {
            Mode::from_raw_mode(0o600)
        };
        let published = rustix::fs::chmodat(&folder, &temporary, mode, AtFlags::empty())
            .and_then(|()| rustix::net::listen(&socket, BACKLOG))
            .and_then(|()| rustix::fs::statat(&folder, &temporary, AtFlags::SYMLINK_NOFOLLOW))
            .and_then(|stat| {
                rustix::fs::renameat(&folder, &temporary, &folder, &file).map(|()| stat.st_ino)
            });
        let inode = published.map_err(|source| {
            rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()).ok();
            system("cannot publish the socket", source)
        })?;
        Ok(TakenName {
            folder,
            file,
            inode,
            socket: Arc::new(socket),
            lock_file,
            _lock: lock,
            folders,
        })
    }

    /// Connects to `name` and checks who listens there: root, this user, or `trusted`.
    pub(crate) fn connect(&self, name: &PortName, trusted: &[u32]) -> Result<Socket, ConnectError> {
        let system = |doing, source: Errno| ConnectError::System {
            doing,
            source: source.into(),
        };
        let not_found = || ConnectError::NotFound {
            name: name.to_string(),
            directory: self.0.clone(),
        };
        let mut folder = open_folder(CWD, &self.0).map_err(|error| match error {
            Errno::NOENT => not_found(),
            other => system("cannot open the port directory", other),
        })?;
        let mut shown = self.0.clone();
        let parts: Vec<_> = name.components().collect();
        let (leaf, folders) = parts.split_last().ok_or_else(not_found)?;
        for part in folders {
            shown.push(part);
            folder = open_folder(&folder, *part).map_err(|error| match error {
                Errno::NOENT => ConnectError::NoFolder(shown.clone()),
                Errno::NOTDIR | Errno::LOOP => ConnectError::NotAPort(shown.clone()),
                other => system("cannot open a folder of the name", other),
            })?;
        }
        let file = format!("{leaf}{SUFFIX}");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node =
            rustix::fs::openat(&folder, &file, flags, Mode::empty()).map_err(
                |error| match error {
                    Errno::NOENT => not_found(),
                    other => system("cannot look the port up", other),
                },
            )?;
        let stat =
            rustix::fs::fstat(&node).map_err(|error| system("cannot look at the port", error))?;
        if !FileType::from_raw_mode(stat.st_mode).is_socket() {
            return Err(ConnectError::NotAPort(shown.join(&file)));
        }
        let socket = socket().map_err(|error| system("cannot make a socket", error))?;
        // Through the descriptor, so that a long name fits the address and a swapped file is not reached.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", node.as_raw_fd()))
            .map_err(|error| system("cannot address the port", error))?;
        retry(|| rustix::net::connect(&socket, &address)).map_err(|error| match error {
            // The socket of a host that is no more.
            Errno::CONNREFUSED => not_found(),
            Errno::ACCESS => ConnectError::Refused(fltport_engine::NtStatus::ACCESS_DENIED),
            Errno::PROTOTYPE => ConnectError::NotAPort(shown.join(&file)),
            other => system("cannot connect", other),
        })?;
        let (_, listener) = peer::identify(&socket).map_err(|source| ConnectError::System {
            doing: "cannot see who listens",
            source,
        })?;
        if listener.uid != 0 && listener.uid != host_uid() && !trusted.contains(&listener.uid) {
            return Err(ConnectError::ForeignListener { uid: listener.uid });
        }
        Ok(Socket::new(socket))
    }

    /// Opens the folder that the name lives in, making the port directory and folders below it where they are missing.
    /// Also gives the folders of the name, each with the one that it is in, and the path for people.
    fn folder_for_listening(&self, name: &PortName) -> Result<NameFolder, ListenError> {
        let mut shown = self.0.clone();
        let system = |path: &Path, source: Errno| match source {
            Errno::NOENT => ListenError::NoFolder(path.to_path_buf()),
            other => ListenError::System {
                doing: "cannot open the folder",
                path: path.to_path_buf(),
                source: other.into(),
            },
        };
        make_folder(CWD, &self.0).map_err(|source| system(&shown, source))?;
        let mut folder = open_folder(CWD, &self.0).map_err(|source| system(&shown, source))?;
        let parts: Vec<_> = name.components().collect();
        let mut folders = Vec::new();
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            shown.push(part);
            make_folder(&folder, Path::new(part)).map_err(|source| system(&shown, source))?;
            let inner = open_folder(&folder, *part).map_err(|source| system(&shown, source))?;
            folders.push((std::mem::replace(&mut folder, inner), (*part).to_owned()));
        }
        Ok((folder, folders, shown))
    }
}

impl TakenName {
    pub(super) const fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }
}

impl Drop for TakenName {
    fn drop(&mut self) {
        // Nobody can connect any more; those who did can still be told.
        rustix::net::shutdown(&*self.socket, Shutdown::Read).ok();
        let ours = rustix::fs::statat(&self.folder, &self.file, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_ino == self.inode);
        if ours {
            // Nothing to be done about a failure: the next host takes the stale socket over.
            rustix::fs::unlinkat(&self.folder, &self.file, AtFlags::empty()).ok();
        }
        // While it is locked: whoever waits for it finds another file under the name, and starts again.
        rustix::fs::unlinkat(&self.folder, &self.lock_file, AtFlags::empty()).ok();
        for (outer, part) in self.folders.iter().rev() {
            // Fails where something else is in it.
            rustix::fs::unlinkat(outer, part, AtFlags::REMOVEDIR).ok();
        }
    }
}

/// The ports below a directory, in the order of their names. A name whose lock is free is of a dead host.
pub(crate) fn list(directory: &Directory) -> io::Result<Vec<PortEntry>> {
    let mut found = Vec::new();
    let mut folders = vec![(directory.path().to_path_buf(), String::new())];
    while let Some((path, prefix)) = folders.pop() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = entry.file_type()?;
            if kind.is_dir() && prefix.matches('\\').count() < DEPTH {
                folders.push((entry.path(), format!("{prefix}\\{name}")));
            } else if let Some(leaf) = name.strip_suffix(SUFFIX) {
                let lock = path.join(format!("{}{LOCK_SUFFIX}", fold(leaf)));
                found.push(PortEntry {
                    name: format!("{prefix}\\{leaf}"),
                    served: is_locked(&lock),
                });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Folders below the port directory that a listing descends into.
const DEPTH: usize = 8;

/// Connects that may wait for the host; each costs the kernel one socket.
const BACKLOG: i32 = 128;

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn make_folder(at: impl std::os::fd::AsFd, path: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdirat(at, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn open_folder(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// The address of a file below an open folder, however long the folder's path is.
fn through(folder: &OwnedFd, file: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{file}", folder.as_raw_fd()))
}

/// Locks a file for as long as it is open; `None` where a living process has it. Other users cannot open the file: whoever
/// can, even for reading only, can hold the lock and so keep the name from its host.
fn lock(folder: &OwnedFd, file: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..LOCK_TRIES {
        let lock = rustix::fs::openat(folder, file, flags, Mode::from_raw_mode(0o600))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // Its last holder may have taken the file away meanwhile: then it locks nothing.
            Ok(()) if is_still(folder, file, &lock) => return Ok(Some(lock)),
            // A listing looks at locks by taking them for a moment.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Ok(()) | Err(Errno::INTR) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(None)
}

/// Whether an open file is the one under a name.
fn is_still(folder: &OwnedFd, file: &str, open: &OwnedFd) -> bool {
    let named = rustix::fs::statat(folder, file, AtFlags::SYMLINK_NOFOLLOW);
    let ours = rustix::fs::fstat(open);
    matches!((named, ours), (Ok(named), Ok(ours)) if named.st_ino == ours.st_ino)
}

/// The folder of a name, the folders above it with their parts, and the path for people.
type NameFolder = (OwnedFd, Vec<(OwnedFd, String)>, PathBuf);

const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

fn is_locked(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(lock) => lock,
        // Not this user's to see. The host of a socket that exists is more likely alive than not.
        Err(error) => return error == Errno::ACCESS,
    };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Removes sockets that a dead host left under this name, in whatever case: the lock of the folded name is ours. Fails
/// with `EEXIST` where something else has the name; that is somebody's, and stays.
fn remove_same_name(folder: &OwnedFd, leaf: &str) -> Result<(), Errno> {
    let wanted = fold(leaf);
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = OsString::from_vec(entry.file_name().to_bytes().to_vec()).into_string()
        else {
            continue;
        };
        if name
            .strip_suffix(SUFFIX)
            .is_some_and(|other| fold(other) == wanted)
        {
            let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !FileType::from_raw_mode(stat.st_mode).is_socket() {
                return Err(Errno::EXIST);
            }
            rustix::fs::unlinkat(folder, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn temporary_name() -> String {
    static NEXT: StaticAtomicU64 = StaticAtomicU64::new(0);
    format!(
        ".new-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

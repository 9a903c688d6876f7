//! Sockets in the case's directory, for everybody who talks through one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{Context, PATIENCE};

/// The path of the case's socket.
pub fn prepared(context: &Context) -> (PathBuf, String) {
    let path = context.directory.path().join("socket");
    let text = path.display().to_string();
    (path, text)
}

/// A listening socket.
///
/// # Errors
///
/// The system's.
pub fn listen(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let listener = socket(kind)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&listener, 128)?;
    Ok(listener)
}

/// A connected socket; waits until somebody listens.
///
/// # Errors
///
/// The system's, or nobody listens.
pub fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let end = Instant::now() + PATIENCE;
    let address = SocketAddrUnix::new(path)?;
    loop {
        let socket = socket(kind)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(error) if Instant::now() > end => return Err(error).context("nobody listens"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}

fn socket(kind: SocketType) -> Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

//! Handles that go to other processes: a client connects on a bare socket, a program that it starts inherits that.
//!
//! The library's client keeps the numbers of its calls in its own process; what another process can use is the socket.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use fltport::NtStatus;
use fltport_engine::wire::{FRAME_MAX, ToClient, ToHost};
use rustix::net::{RecvFlags, SendFlags};
use zerocopy::IntoBytes;

use super::agent::become_user;
use crate::backend::Done;

/// Starts a program that inherits a connected socket as its standard input, and runs as `user`. Succeeds if that does;
/// this process keeps its own handle until then.
pub(super) fn bequeath(socket: &OwnedFd, user: Option<u32>) -> anyhow::Result<Done> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("heir")
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::null());
    if let Some(user) = user {
        command.arg("--user").arg(user.to_string());
    }
    Ok(Done::Is(command.status()?.success()))
}

/// Starts a program as any other, and looks whether it has a socket of this process.
pub(super) fn leave_nothing() -> anyhow::Result<Done> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("inventory").stdin(Stdio::null());
    let output = command.stderr(Stdio::null()).output()?;
    anyhow::ensure!(output.status.success(), "the inventory failed");
    Ok(Done::Is(output.stdout.is_empty()))
}

/// Names the sockets that this process was started with.
///
/// # Errors
/// The system's.
pub fn inventory() -> anyhow::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // The directory's own descriptor may be gone.
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        if target.starts_with("socket:") {
            println!("{target}");
        }
    }
    Ok(())
}

/// Uses the connected socket that is its standard input: sends a request, gets one message, answers it with its process
/// id. `user` is changed to first.
///
/// # Errors
/// Anything that does not work as it would for who connected.
pub fn inherit(user: Option<u32>) -> anyhow::Result<()> {
    if let Some(user) = user {
        become_user(user)?;
    }
    let request = ToHost::Request {
        request: 1,
        capacity: 16,
        length: 4,
    };
    let (answer, echoed) = exchange(&request, b"heir")?;
    anyhow::ensure!(
        matches!(
            answer,
            ToClient::RequestDone {
                status: NtStatus::SUCCESS,
                ..
            }
        ) && echoed == b"heir",
        "a request ended as {answer:?}"
    );
    let (message, _) = exchange(&ToHost::Get { get: 2, size: 256 }, b"")?;
    let ToClient::Message { header, .. } = message else {
        anyhow::bail!("a get ended as {message:?}");
    };
    let pid = std::process::id().to_le_bytes();
    let reply = ToHost::Reply {
        reply: 3,
        message_id: header.message_id,
        status: NtStatus::SUCCESS,
        length: 4,
    };
    let (done, _) = exchange(&reply, &pid)?;
    anyhow::ensure!(
        matches!(
            done,
            ToClient::ReplyDone {
                status: NtStatus::SUCCESS,
                ..
            }
        ),
        "a reply ended as {done:?}"
    );
    Ok(())
}

/// Sends a frame; what the host says to it.
fn exchange(frame: &ToHost, payload: &[u8]) -> anyhow::Result<(ToClient, Vec<u8>)> {
    let socket = std::io::stdin();
    let bytes = [frame.header().as_bytes(), payload].concat();
    rustix::net::send(socket.as_fd(), &bytes, SendFlags::NOSIGNAL).context("cannot send")?;
    let mut buffer = vec![0; FRAME_MAX];
    let (length, _) = rustix::net::recv(socket.as_fd(), &mut buffer, RecvFlags::empty())
        .context("cannot receive")?;
    let (answer, payload) = ToClient::parse(&buffer[..length])?;
    Ok((answer, payload.to_vec()))
}

//! A client process: does what the story tells it on standard input, and says on standard output how each call ended.

use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fltport::{ClientPort, NtStatus, Peer, PortHandler, ServerPort};
use fltport_engine::wire::{FRAME_MAX, ToClient, ToHost};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::board::Board;
use super::clients::{Call, Clients, Way};
use super::heir::{bequeath, leave_nothing};
use crate::backend::{Done, Op};

/// The program that plays client processes, where it is not this one.
pub(super) static AGENT: OnceLock<PathBuf> = OnceLock::new();

/// Names the program that plays client processes: this suite's own, for a program that is not it. The first call counts.
pub fn use_agent(program: &Path) {
    AGENT.get_or_init(|| program.to_path_buf());
}

/// How an operation ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line(pub(super) Op, pub(super) Done);

/// Serves a story until its end of standard input. `user` is changed to first, before there is a second thread.
///
/// # Errors
/// The system's: the user cannot be changed to, a pipe is broken.
pub fn serve(directory: &Path, user: Option<u32>) -> anyhow::Result<()> {
    if let Some(user) = user {
        become_user(user)?;
    }
    let board = Arc::new(Board::default());
    let clients = Clients::new(Way::Directory(directory.into()), Arc::clone(&board));
    let mut hosts = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let (op, call): (Op, Call) = serde_json::from_str(&line?)?;
        match call {
            Call::Garbage { name } => tell(op, garbage(directory, &name)?)?,
            Call::Narrow { name, size, reply } => tell(op, narrow(directory, &name, size, reply)?)?,
            Call::Host { name } => {
                let builder = ServerPort::builder(&name).directory(directory);
                hosts.push(builder.max_connections(4).listen(Host)?);
                tell(op, Done::Is(true))?;
            }
            Call::Exit => end_here(),
            Call::Exec => return Err(become_another(directory, user).into()),
            // Calls are made on threads that this one starts: each of them is the new user from now on.
            Call::Become { user } => {
                become_user(user)?;
                tell(op, Done::Is(true))?;
            }
            Call::Bequeath { name, heir } => {
                let (socket, _) = greeted(directory, &name, usize::BITS)?;
                tell(op, bequeath(&socket, heir)?)?;
            }
            Call::LeaveNothing => tell(op, leave_nothing()?)?,
            // No end of their own.
            Call::Cancel { .. } | Call::Abandon { .. } | Call::Duplicate { .. } | Call::Forget => {
                clients.start(op, call)
            }
            _ => {
                clients.start(op, call);
                let board = Arc::clone(&board);
                std::thread::spawn(move || {
                    if let Some(done) = board.take(op, std::time::Duration::MAX / 4) {
                        tell(op, done).ok();
                    }
                });
            }
        }
    }
    Ok(())
}

/// Ends this process with its clients connected: nothing is dropped first.
#[expect(clippy::exit, reason = "that is what is tested")]
fn end_here() -> ! {
    std::process::exit(0)
}

/// This program anew, in the same process: it has none of the clients that were connected. Returns why not.
fn become_another(directory: &Path, user: Option<u32>) -> std::io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = std::process::Command::new(program);
    command.arg("agent").arg(directory);
    if let Some(user) = user {
        command.arg("--user").arg(user.to_string());
    }
    command.exec()
}

/// Makes the calling thread, and those that it starts, another user without rights.
pub(super) fn become_user(user: u32) -> anyhow::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(user),
        rustix::fs::Gid::from_raw(user),
    );
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn tell(op: Op, done: Done) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(&Line(op, done))?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}

/// Greets as a client does, then sends what is no frame; waits until the host has hung up.
fn garbage(directory: &Path, name: &str) -> anyhow::Result<Done> {
    let (socket, _) = greeted(directory, name, usize::BITS)?;
    let mut buffer = [0; 256];
    rustix::net::send(&socket, &[0xA5; 100], SendFlags::NOSIGNAL)?;
    let (end, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    Ok(Done::Is(end == 0))
}

/// Gets one message and answers it with its first bytes, as a client that says it has 32 bits.
fn narrow(directory: &Path, name: &str, size: u32, reply: u32) -> anyhow::Result<Done> {
    let (socket, answer) = greeted(directory, name, 32)?;
    let accepted = matches!(
        answer,
        ToClient::Connected {
            status: NtStatus::SUCCESS,
            ..
        }
    );
    anyhow::ensure!(accepted, "connect ended as {answer:?}");
    let mut buffer = vec![0; FRAME_MAX];
    let get = ToHost::Get { get: 1, size };
    rustix::net::send(&socket, get.header().as_bytes(), SendFlags::NOSIGNAL)?;
    let (length, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    let (message, payload) = ToClient::parse(&buffer[..length])?;
    let ToClient::Message { header, .. } = message else {
        anyhow::bail!("a get ended as {message:?}");
    };
    let answer = ToHost::Reply {
        reply: 2,
        message_id: header.message_id,
        status: NtStatus::SUCCESS,
        length: reply,
    };
    let first = &payload[..usize::try_from(reply)?];
    let frame = [answer.header().as_bytes(), first].concat();
    rustix::net::send(&socket, &frame, SendFlags::NOSIGNAL)?;
    let (length, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    match ToClient::parse(&buffer[..length])?.0 {
        ToClient::ReplyDone { status, .. } => Ok(Done::Replied(status.to_hresult().0)),
        other => anyhow::bail!("a reply ended as {other:?}"),
    }
}

/// A bare socket that has greeted with this pointer width, and what it was told.
fn greeted(directory: &Path, name: &str, bits: u32) -> anyhow::Result<(OwnedFd, ToClient)> {
    let file = format!("{}.port", name.trim_start_matches('\\'));
    let address = SocketAddrUnix::new(directory.join(file))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &address)?;
    let hello = ToHost::Hello { bits, length: 0 };
    rustix::net::send(&socket, hello.header().as_bytes(), SendFlags::NOSIGNAL)?;
    let mut buffer = [0; 256];
    let (length, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    let (answer, _) = ToClient::parse(&buffer[..length])?;
    Ok((socket, answer))
}

/// A filter that only exists, to be killed.
struct Host;

impl PortHandler for Host {
    type Connection = ();

    fn connect(&self, _: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        Ok(())
    }
}

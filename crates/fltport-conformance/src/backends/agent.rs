//! A client process: does what the story tells it on standard input, and says on standard output how each call ended.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fltport::{ClientPort, NtStatus, Peer, PortHandler, ServerPort};
use fltport_engine::wire::ToHost;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::board::Board;
use super::clients::{Call, Clients, Way};
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
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(user),
            rustix::fs::Gid::from_raw(user),
        );
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let board = Arc::new(Board::default());
    let clients = Clients::new(Way::Directory(directory.into()), Arc::clone(&board));
    let mut hosts = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let (op, call): (Op, Call) = serde_json::from_str(&line?)?;
        match call {
            Call::Garbage { name } => tell(op, garbage(directory, &name)?)?,
            Call::Host { name } => {
                let builder = ServerPort::builder(&name).directory(directory);
                hosts.push(builder.max_connections(4).listen(Host)?);
                tell(op, Done::Is(true))?;
            }
            // No end of their own.
            Call::Cancel { .. } | Call::Duplicate { .. } => clients.start(op, call),
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
    let file = format!("{}.port", name.trim_start_matches('\\'));
    let address = SocketAddrUnix::new(directory.join(file))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &address)?;
    let hello = ToHost::Hello {
        bits: usize::BITS,
        length: 0,
    };
    rustix::net::send(&socket, hello.header().as_bytes(), SendFlags::NOSIGNAL)?;
    let mut buffer = [0; 256];
    let (answer, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    rustix::net::send(&socket, &[0xA5; 100], SendFlags::NOSIGNAL)?;
    let (end, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    Ok(Done::Is(answer != 0 && end == 0))
}

/// A filter that only exists, to be killed.
struct Host;

impl PortHandler for Host {
    type Connection = ();

    fn connect(&self, _: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        Ok(())
    }
}

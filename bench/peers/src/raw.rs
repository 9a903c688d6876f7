//! Sockets and nothing else: what everybody who parks and copies through the kernel can be measured against.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other, connect, listen, prepared};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketType, accept, recv, recvmsg, send, sendmsg,
};

/// The other process, and the socket to it.
pub fn start(context: &Context, kind: SocketType) -> Result<(Other, OwnedFd)> {
    let (path, text) = prepared(context);
    let listener = listen(&path, kind)?;
    let other = Other::start(&context.spec, &text)?;
    Ok((other, accept(&listener)?))
}

/// The socket of the other process.
pub fn join(answer: &Answer, kind: SocketType) -> Result<OwnedFd> {
    connect(Path::new(&answer.endpoint), kind)
}

/// Questions and answers are packets.
pub fn packets(context: &Context) -> Result<Figures> {
    let (other, socket) = start(context, SocketType::SEQPACKET)?;
    let question = vec![7; context.spec.size];
    let mut reply = vec![0; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.windowed(
        context.spec.window,
        || send_all(&socket, &question),
        |()| receive_all(&socket, &mut reply),
    )?;
    meter.finish()
}

/// The answering side of [`packets`].
pub fn answer_packets(answer: &Answer) -> Result<()> {
    let socket = join(answer, SocketType::SEQPACKET)?;
    let mut bytes = vec![0; answer.spec.size];
    loop {
        receive_all(&socket, &mut bytes)?;
        send_all(&socket, &bytes)?;
    }
}

/// Packets that nobody answers.
pub fn packets_one_way(context: &Context) -> Result<Figures> {
    let (other, socket) = start(context, SocketType::SEQPACKET)?;
    let message = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| send_all(&socket, &message))?;
    meter.finish()
}

/// The taking side of [`packets_one_way`].
pub fn take_packets(answer: &Answer) -> Result<()> {
    let socket = join(answer, SocketType::SEQPACKET)?;
    let mut bytes = vec![0; answer.spec.size];
    loop {
        receive_all(&socket, &mut bytes)?;
    }
}

/// One whole packet.
pub fn send_all(socket: impl AsFd, bytes: &[u8]) -> Result<()> {
    let sent = send(socket, bytes, SendFlags::NOSIGNAL)?;
    ensure!(sent == bytes.len(), "a packet was cut");
    Ok(())
}

/// One packet of just this length.
pub fn receive_all(socket: impl AsFd, bytes: &mut [u8]) -> Result<()> {
    let wanted = bytes.len();
    let (length, _) = recv(socket, bytes, RecvFlags::empty())?;
    ensure!(length == wanted, "a packet of another length");
    Ok(())
}

/// Every question carries an open file.
pub fn files(context: &Context) -> Result<Figures> {
    let (other, socket) = start(context, SocketType::SEQPACKET)?;
    let path = context.directory.path().join("attached");
    std::fs::write(&path, b"attached")?;
    let file = std::fs::File::open(path)?;
    let question = vec![7; context.spec.size];
    let mut reply = vec![0; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        ensure!(
            control.push(SendAncillaryMessage::ScmRights(&files)),
            "no room for a file"
        );
        sendmsg(
            &socket,
            &[IoSlice::new(&question)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        receive_all(&socket, &mut reply)
    })?;
    meter.finish()
}

/// The answering side of [`files`]: closes what it gets.
pub fn answer_files(answer: &Answer) -> Result<()> {
    let socket = join(answer, SocketType::SEQPACKET)?;
    let mut bytes = vec![0; answer.spec.size];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        ensure!(got.bytes > 0, "the asking process is gone");
        control.drain().for_each(drop);
        send_all(&socket, &bytes)?;
    }
}

/// Questions and answers follow each other in a stream; both sides know their length.
pub fn stream(context: &Context) -> Result<Figures> {
    let (other, socket) = start(context, SocketType::STREAM)?;
    let socket = UnixStream::from(socket);
    let question = vec![7; context.spec.size];
    let mut reply = vec![0; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.windowed(
        context.spec.window,
        || Ok((&socket).write_all(&question)?),
        |()| Ok((&socket).read_exact(&mut reply)?),
    )?;
    meter.finish()
}

/// The answering side of [`stream`].
pub fn answer_stream(answer: &Answer) -> Result<()> {
    let mut socket = UnixStream::from(join(answer, SocketType::STREAM)?);
    let mut bytes = vec![0; answer.spec.size];
    loop {
        socket.read_exact(&mut bytes)?;
        socket.write_all(&bytes)?;
    }
}

/// Messages in a stream that nobody answers, each with a call of its own.
pub fn stream_one_way(context: &Context) -> Result<Figures> {
    let (other, socket) = start(context, SocketType::STREAM)?;
    let mut socket = UnixStream::from(socket);
    let message = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| Ok(socket.write_all(&message)?))?;
    meter.finish()
}

/// The taking side of [`stream_one_way`].
pub fn take_stream(answer: &Answer) -> Result<()> {
    let mut socket = UnixStream::from(join(answer, SocketType::STREAM)?);
    let mut bytes = vec![0; answer.spec.size];
    loop {
        socket.read_exact(&mut bytes)?;
    }
}

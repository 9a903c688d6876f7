//! ZeroMQ over a Unix socket.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other, prepared};
use zmq::{DEALER, PULL, PUSH, ROUTER, Socket, SocketType};

fn bound(context: &zmq::Context, path: &Path, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    // What is unsent at the end is nobody's concern.
    socket.set_linger(0)?;
    socket.bind(&address(path))?;
    Ok(socket)
}

fn connected(context: &zmq::Context, path: &Path, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    socket.connect(&address(path))?;
    Ok(socket)
}

fn address(path: &Path) -> String {
    format!("ipc://{}", path.display())
}

/// DEALER to DEALER.
pub fn measure(context: &Context) -> Result<Figures> {
    let (path, text) = prepared(context);
    let library = zmq::Context::new();
    let socket = bound(&library, &path, DEALER)?;
    let other = Other::start(&context.spec, &text)?;
    let question = vec![7; context.spec.size];
    let mut reply = zmq::Message::new();
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.windowed(
        context.spec.window,
        || Ok(socket.send(question.as_slice(), 0)?),
        |()| {
            socket.recv(&mut reply, 0)?;
            ensure!(reply.len() == question.len(), "a reply too short");
            Ok(())
        },
    )?;
    meter.finish()
}

/// The answering side of [`measure`].
pub fn answer(answer: &Answer) -> Result<()> {
    let library = zmq::Context::new();
    let socket = connected(&library, Path::new(&answer.endpoint), DEALER)?;
    let mut message = zmq::Message::new();
    loop {
        socket.recv(&mut message, 0)?;
        socket.send(&*message, 0)?;
    }
}

/// PUSH to PULL; the library sends several at a time.
pub fn one_way(context: &Context) -> Result<Figures> {
    let (path, text) = prepared(context);
    let library = zmq::Context::new();
    let socket = bound(&library, &path, PUSH)?;
    let other = Other::start(&context.spec, &text)?;
    let message = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| Ok(socket.send(message.as_slice(), 0)?))?;
    meter.finish()
}

/// The taking side of [`one_way`].
pub fn take(answer: &Answer) -> Result<()> {
    let library = zmq::Context::new();
    let socket = connected(&library, Path::new(&answer.endpoint), PULL)?;
    let mut message = zmq::Message::new();
    loop {
        socket.recv(&mut message, 0)?;
    }
}

/// A new socket for each question.
pub fn connects(context: &Context) -> Result<Figures> {
    let (path, text) = prepared(context);
    let other = Other::start(&context.spec, &text)?;
    let library = zmq::Context::new();
    let question = vec![7; context.spec.size];
    let exchange = || {
        let socket = connected(&library, &path, DEALER)?;
        socket.send(question.as_slice(), 0)?;
        ensure!(socket.recv_bytes(0)?.len() == question.len(), "cut");
        Ok(socket)
    };
    // The library tries again after a while if the other side is not there yet.
    exchange()?;
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(exchange)?;
    meter.finish()
}

/// The answering side of [`connects`], which has to tell its clients apart.
pub fn serve(answer: &Answer) -> Result<()> {
    let library = zmq::Context::new();
    let socket = bound(&library, Path::new(&answer.endpoint), ROUTER)?;
    loop {
        let mut parts = socket.recv_multipart(0)?.into_iter();
        let client = parts.next().context("a message from nobody")?;
        socket.send(client, zmq::SNDMORE)?;
        socket.send(parts.next().unwrap_or_default(), 0)?;
    }
}

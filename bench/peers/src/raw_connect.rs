//! Bare SOCK_SEQPACKET connections: how long one takes to make, and what it costs while it is idle.

use std::path::Path;

use anyhow::Result;
use fltbench_common::{Answer, Context, Figures, Meter, Other, connect, listen, prepared};
use rustix::net::{SocketType, accept};

use crate::gate::{Gate, idle_connections};
use crate::raw::{receive_all, send_all};

/// Connects again and again; with a first question if the case wants one.
pub fn connects(context: &Context) -> Result<Figures> {
    let asks = context.spec.kind.ends_with("-ask");
    let (path, text) = prepared(context);
    let other = Other::start(&context.spec, &text)?;
    drop(connect(&path, SocketType::SEQPACKET)?);
    let mut bytes = vec![0; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| {
        let socket = connect(&path, SocketType::SEQPACKET)?;
        if asks {
            receive_all(&socket, &mut bytes)?;
            send_all(&socket, &bytes)?;
        }
        Ok(socket)
    })?;
    meter.finish()
}

/// Accepts, and asks if the case wants it.
pub fn serve(answer: &Answer) -> Result<()> {
    let listener = listen(Path::new(&answer.endpoint), SocketType::SEQPACKET)?;
    let mut bytes = vec![7; answer.spec.size];
    loop {
        let socket = accept(&listener)?;
        if answer.spec.kind.ends_with("-ask") {
            // The first client only tries, and is gone.
            send_all(&socket, &bytes).ok();
            receive_all(&socket, &mut bytes).ok();
        }
    }
}

/// Memory of idle connections.
pub fn idle(context: &Context) -> Result<Figures> {
    let (path, text) = prepared(context);
    let listener = listen(&path, SocketType::SEQPACKET)?;
    let mut held = Vec::new();
    idle_connections(context, &text, |_| {
        held.push(accept(&listener)?);
        Ok(())
    })
}

/// The connecting side of [`idle`].
pub fn hold(answer: &Answer) -> Result<()> {
    let path = Path::new(&answer.endpoint);
    Gate::hold(answer, |_| connect(path, SocketType::SEQPACKET))
}

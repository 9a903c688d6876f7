//! ipc-channel: two channels of bytes, one each way.

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

/// What the other process hands over: where to ask, and where answers come from.
type Ends = (IpcBytesSender, IpcBytesReceiver);

fn start(context: &Context) -> Result<(Other, Ends)> {
    let (server, name) = IpcOneShotServer::<Ends>::new()?;
    let other = Other::start(&context.spec, &name)?;
    let (_, ends) = server.accept()?;
    Ok((other, ends))
}

/// Questions and answers.
pub fn measure(context: &Context) -> Result<Figures> {
    let (other, (to, from)) = start(context)?;
    let question = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.windowed(
        context.spec.window,
        || Ok(to.send(&question)?),
        |()| {
            let reply = from.recv()?;
            ensure!(reply.len() == question.len(), "a reply too short");
            Ok(())
        },
    )?;
    meter.finish()
}

/// Messages that nobody answers.
pub fn one_way(context: &Context) -> Result<Figures> {
    let (other, (to, _from)) = start(context)?;
    let message = vec![7; context.spec.size];
    let mut meter = Meter::new(&context.spec, context.clock, other.pid());
    meter.closed_loop(|| Ok(to.send(&message)?))?;
    meter.finish()
}

/// The answering side of both.
pub fn answer(answer: &Answer) -> Result<()> {
    let (to, questions) = ipc::bytes_channel()?;
    let (answers, from) = ipc::bytes_channel()?;
    IpcSender::<Ends>::connect(answer.endpoint.clone())?.send((to, from))?;
    let replies = answer.spec.kind == "ipc-channel";
    loop {
        let question = questions.recv()?;
        if replies {
            answers.send(&question)?;
        }
    }
}

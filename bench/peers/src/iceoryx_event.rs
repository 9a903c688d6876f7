//! iceoryx2 where both sides sleep: a question and a notification, and a blocking listener for the answer's.

use anyhow::Result;
use fltbench_common::{Answer, Context, Figures, Meter, Other, prepared};
use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::service::ipc::Service;
use iceoryx2::service::port_factory::event::PortFactory;

use crate::iceoryx::{STOP, ask, client, node, open, server, service_name, taken, wait_for_server};

/// Wakes the answering, or the asking side.
fn events(node: &Node<Service>, endpoint: &str, to: &str) -> Result<PortFactory<Service>> {
    let name = service_name(&format!("{endpoint}-{to}"))?;
    Ok(node.service_builder(&name).event().open_or_create()?)
}

fn listener(events: &PortFactory<Service>) -> Result<Listener<Service>> {
    Ok(events.listener_builder().create()?)
}

fn notifier(events: &PortFactory<Service>) -> Result<Notifier<Service>> {
    Ok(events.notifier_builder().create()?)
}

/// Asks, and sleeps until there is an answer.
pub fn measure(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let (_, text) = prepared(context);
    let node = node(&text)?;
    let (to, from) = (events(&node, &text, "to")?, events(&node, &text, "from")?);
    let answers = listener(&from)?;
    let other = Other::start(spec, &text)?;
    let service = open(&node, &text, spec.window)?;
    wait_for_server(&service)?;
    let (client, waker) = (client(&service, spec.size)?, notifier(&to)?);
    let question = vec![7; spec.size];
    let mut reply = vec![0; spec.size];
    let mut meter = Meter::new(spec, context.clock, other.pid());
    meter.windowed(
        spec.window,
        || {
            let pending = ask(&client, &question)?;
            waker.notify()?;
            Ok(pending)
        },
        |pending| {
            while !taken(&pending, &mut reply)? {
                answers.blocking_wait(|_| {})?;
            }
            Ok(())
        },
    )?;
    let figures = meter.finish()?;
    let pending = ask(&client, STOP)?;
    waker.notify()?;
    other.wait()?;
    drop(pending);
    Ok(figures)
}

/// Sleeps until there are questions.
pub fn answer(answer: &Answer) -> Result<()> {
    let node = node(&answer.endpoint)?;
    let (to, from) = (
        events(&node, &answer.endpoint, "to")?,
        events(&node, &answer.endpoint, "from")?,
    );
    let (questions, waker) = (listener(&to)?, notifier(&from)?);
    let service = open(&node, &answer.endpoint, answer.spec.window)?;
    // The asking side starts when it sees this port, so everything else is there before.
    let server = server(&service, answer.spec.size)?;
    loop {
        let Some(request) = server.receive()? else {
            questions.blocking_wait(|_| {})?;
            continue;
        };
        if request.payload() == STOP {
            return Ok(());
        }
        let response = request.loan_slice_uninit(request.payload().len())?;
        response.write_from_slice(request.payload()).send()?;
        waker.notify()?;
    }
}

//! iceoryx2: request and response by polling, messages one way, and its connections.

use std::path::Path;

use anyhow::{Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other, prepared};
use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::{
    BackpressureStrategy, Path as FolderPath, PortFactory as _, SemanticString, ServiceName,
};
use iceoryx2::service::ipc::Service;
use iceoryx2::service::port_factory::publish_subscribe;
use iceoryx2::service::port_factory::request_response::PortFactory;

use crate::gate::{Gate, idle_connections};

/// The service of a case.
pub type Asking = PortFactory<Service, [u8], (), [u8], ()>;

type Asker = Client<Service, [u8], (), [u8], ()>;

type Answerer = Server<Service, [u8], (), [u8], ()>;

type Publishing = publish_subscribe::PortFactory<Service, [u8], ()>;

/// A question on its way.
pub type Pending = PendingResponse<Service, [u8], (), [u8], ()>;

/// Questions that a client may have in flight unless told otherwise.
const USUAL_WINDOW: usize = 4;

/// A question that wants no answer; shorter than any other.
pub const STOP: &[u8] = b"stop";

/// A node whose files are in the case's directory, whatever else runs on this machine.
pub fn node(endpoint: &str) -> Result<Node<Service>> {
    let bad_path = || anyhow::anyhow!("a directory that iceoryx2 cannot use: {endpoint}");
    let directory = Path::new(endpoint).parent().and_then(Path::to_str);
    let path = FolderPath::new(directory.ok_or_else(bad_path)?.as_bytes());
    let mut config = Config::default();
    config.global.set_root_path(&path.map_err(|_| bad_path())?);
    Ok(NodeBuilder::new().config(&config).create()?)
}

/// The service, named after the case's directory: its shared memory is not in there, and cases must never meet.
pub fn open(node: &Node<Service>, name: &str, window: usize) -> Result<Asking> {
    let mut builder = node
        .service_builder(&service_name(name)?)
        .request_response::<[u8], [u8]>();
    // More than the usual makes every round trip slower, so only a case with more has it.
    if window > USUAL_WINDOW {
        builder = builder
            .max_active_requests_per_client(window)
            .max_loaned_requests(window);
    }
    Ok(builder.open_or_create()?)
}

/// Of any service of the case.
pub fn service_name(endpoint: &str) -> Result<ServiceName> {
    Ok(endpoint.replace('/', "-").as_str().try_into()?)
}

/// The port that asks.
pub fn client(service: &Asking, size: usize) -> Result<Asker> {
    Ok(service
        .client_builder()
        .initial_max_slice_len(size)
        .create()?)
}

/// The port that answers.
pub fn server(service: &Asking, size: usize) -> Result<Answerer> {
    Ok(service
        .server_builder()
        .initial_max_slice_len(size)
        .create()?)
}

/// Sends a question.
pub fn ask(client: &Asker, question: &[u8]) -> Result<Pending> {
    let request = client.loan_slice_uninit(question.len())?;
    Ok(request.write_from_slice(question).send()?)
}

/// Takes the answer if it is there.
pub fn taken(pending: &Pending, reply: &mut [u8]) -> Result<bool> {
    let Some(response) = pending.receive()? else {
        return Ok(false);
    };
    ensure!(response.payload().len() == reply.len(), "a reply too short");
    reply.copy_from_slice(response.payload());
    Ok(true)
}

fn wait(pending: &Pending, reply: &mut [u8]) -> Result<()> {
    let mut failed = None;
    Meter::spin_until(|| {
        taken(pending, reply).unwrap_or_else(|error| {
            failed = Some(error);
            true
        })
    })?;
    failed.map_or(Ok(()), Err)
}

/// Waits until the other process has its port, before which questions reach nobody.
pub fn wait_for_server(service: &Asking) -> Result<()> {
    Meter::spin_until(|| service.dynamic_config().number_of_servers() > 0)
}

/// Both sides spin.
pub fn poll(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let (_, text) = prepared(context);
    let other = Other::start(spec, &text)?;
    let node = node(&text)?;
    let service = open(&node, &text, spec.window)?;
    wait_for_server(&service)?;
    let client = client(&service, spec.size)?;
    let question = vec![7; spec.size];
    let mut reply = vec![0; spec.size];
    let mut meter = Meter::new(spec, context.clock, other.pid());
    meter.windowed(
        spec.window,
        || ask(&client, &question),
        |pending| wait(&pending, &mut reply),
    )?;
    let figures = meter.finish()?;
    stop(&client, other)?;
    Ok(figures)
}

/// Tells the other process to end by itself: killed, it would leave its shared memory behind.
pub fn stop(client: &Asker, other: Other) -> Result<()> {
    let pending = ask(client, STOP)?;
    other.wait()?;
    drop(pending);
    Ok(())
}

/// The answering side of [`poll`] and [`connects`].
pub fn answer_poll(answer: &Answer) -> Result<()> {
    let node = node(&answer.endpoint)?;
    let service = open(&node, &answer.endpoint, answer.spec.window)?;
    let server = server(&service, answer.spec.size)?;
    loop {
        let Some(request) = server.receive()? else {
            std::hint::spin_loop();
            continue;
        };
        if request.payload() == STOP {
            return Ok(());
        }
        let response = request.loan_slice_uninit(request.payload().len())?;
        response.write_from_slice(request.payload()).send()?;
    }
}

/// From a service that is open to a port that asks; or from nothing at all to a first answer.
pub fn connects(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let asks = spec.kind.ends_with("-ask");
    let (_, text) = prepared(context);
    let other = Other::start(spec, &text)?;
    let node = self::node(&text)?;
    let service = open(&node, &text, 1)?;
    wait_for_server(&service)?;
    let question = vec![7; spec.size];
    let mut reply = vec![0; spec.size];
    let mut meter = Meter::new(spec, context.clock, other.pid());
    meter.closed_loop(|| {
        if !asks {
            return Ok((client(&service, spec.size)?, None));
        }
        let node = self::node(&text)?;
        let service = open(&node, &text, 1)?;
        let client = client(&service, spec.size)?;
        wait(&ask(&client, &question)?, &mut reply)?;
        Ok((client, Some((service, node))))
    })?;
    let figures = meter.finish()?;
    stop(&client(&service, spec.size)?, other)?;
    Ok(figures)
}

/// Memory of idle clients of one server, with the library's default limits.
pub fn idle(context: &Context) -> Result<Figures> {
    let (_, text) = prepared(context);
    let node = self::node(&text)?;
    let service = crowded(&node, &text, context.spec.window)?;
    let server = server(&service, context.spec.size)?;
    idle_connections(context, &text, |number| {
        // A server connects to a client when it looks for questions.
        let there = || service.dynamic_config().number_of_clients() > number;
        Meter::spin_until(there)?;
        ensure!(server.receive()?.is_none(), "a question from nowhere");
        Ok(())
    })
}

/// The clients of [`idle`].
pub fn hold(answer: &Answer) -> Result<()> {
    let node = self::node(&answer.endpoint)?;
    let service = crowded(&node, &answer.endpoint, answer.spec.window)?;
    Gate::hold(answer, |_| client(&service, answer.spec.size))
}

fn crowded(node: &Node<Service>, name: &str, clients: usize) -> Result<Asking> {
    let builder = node
        .service_builder(&service_name(name)?)
        .request_response::<[u8], [u8]>();
    Ok(builder.max_clients(clients + 1).open_or_create()?)
}

/// Messages that nobody answers; a full queue holds the sender up, so that none is lost.
pub fn one_way(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let (_, text) = prepared(context);
    let other = Other::start(spec, &text)?;
    let node = self::node(&text)?;
    let service = publishing(&node, &text)?;
    Meter::spin_until(|| service.dynamic_config().number_of_subscribers() > 0)?;
    let publisher = service
        .publisher_builder()
        .initial_max_slice_len(spec.size)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let message = vec![7; spec.size];
    let mut meter = Meter::new(spec, context.clock, other.pid());
    let send = |bytes: &[u8]| -> Result<()> {
        let sample = publisher.loan_slice_uninit(bytes.len())?;
        sample.write_from_slice(bytes).send()?;
        Ok(())
    };
    meter.closed_loop(|| send(&message))?;
    let figures = meter.finish()?;
    send(STOP)?;
    other.wait()?;
    Ok(figures)
}

/// The taking side of [`one_way`].
pub fn take(answer: &Answer) -> Result<()> {
    let node = self::node(&answer.endpoint)?;
    let subscriber = publishing(&node, &answer.endpoint)?
        .subscriber_builder()
        .create()?;
    let mut bytes = vec![0; answer.spec.size];
    loop {
        let Some(sample) = subscriber.receive()? else {
            std::hint::spin_loop();
            continue;
        };
        if sample.payload() == STOP {
            return Ok(());
        }
        bytes.copy_from_slice(sample.payload());
    }
}

fn publishing(node: &Node<Service>, name: &str) -> Result<Publishing> {
    let builder = node
        .service_builder(&service_name(name)?)
        .publish_subscribe::<[u8]>();
    Ok(builder
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(64)
        .open_or_create()?)
}

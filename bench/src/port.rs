//! Ports, as their users see them: what is measured here is what everything else is compared with. One short function
//! for each way of using a port.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use anyhow::{Context as _, Result, ensure};
use fltbench_common::{Answer, Context, Figures, Meter, Other, PATIENCE};
use fltport::{Client, ClientPort, Connector, NtStatus, Outbound, Peer, PortHandler, ServerPort};

/// The only port of a case.
pub const NAME: &str = r"\Bench";

/// The longest that any call may take: a case must fail rather than hang.
pub const LIMIT: fltport::Timeout = fltport::Timeout::after(PATIENCE);

/// Runs the case on the asking side.
pub fn measure(context: &Context) -> Result<Figures> {
    let spec = &context.spec;
    let host = Host::start(context, 1)?;
    match spec.kind.as_str() {
        "port-notify" => host.notify(context),
        "port-attach" => host.attach(context),
        _ if spec.window > 1 => host.window(context),
        _ => host.ask(context),
    }
}

/// A server port with one connected client, which is the other process.
#[derive(Debug)]
pub struct Host {
    /// The connection.
    pub port: ClientPort,
    /// The other process; ends before the port does.
    pub other: Other,
    /// Where further connections arrive.
    _ports: mpsc::Receiver<ClientPort>,
    _server: ServerPort,
}

impl Host {
    /// Makes a port for so many connections, starts the other process and waits for its first.
    pub fn start(context: &Context, connections: u32) -> Result<Self> {
        let (sender, ports) = mpsc::channel();
        let server = ServerPort::builder(NAME)
            .directory(context.directory.path())
            .max_connections(connections)
            .spin(context.spec.spin)
            .shared_memory(true)
            .listen(Accept(Mutex::new(sender)))?;
        let directory = context.directory.path().display().to_string();
        let other = Other::start(&context.spec, &directory)?;
        let port = ports
            .recv_timeout(PATIENCE)
            .context("the other process did not connect")?;
        Ok(Self {
            port,
            other,
            _ports: ports,
            _server: server,
        })
    }

    /// Each sending thread asks, and waits for the reply.
    fn ask(&self, context: &Context) -> Result<Figures> {
        let port = &self.port;
        Meter::threads(&context.spec, context.clock, self.other.pid(), |_| {
            let payload = vec![7u8; context.spec.size];
            let mut reply = payload.clone();
            Ok(move || {
                let (_, length) = port.ask_into(&payload, &mut reply, LIMIT)?;
                ensure!(length == payload.len(), "a reply too short");
                Ok(())
            })
        })
    }

    /// One thread keeps several questions in flight.
    fn window(&self, context: &Context) -> Result<Figures> {
        let capacity = u32::try_from(context.spec.size)?;
        let payload = vec![7u8; context.spec.size];
        let mut reply = payload.clone();
        let mut meter = Meter::new(&context.spec, context.clock, self.other.pid());
        meter.windowed(
            context.spec.window,
            || Ok(self.port.begin_ask(&payload, capacity, LIMIT)?),
            |asked| {
                let (_, length) = asked.wait_into(&mut reply)?;
                ensure!(length == payload.len(), "a reply too short");
                Ok(())
            },
        )?;
        meter.finish()
    }

    /// Each call returns when the message was taken; nobody replies.
    fn notify(&self, context: &Context) -> Result<Figures> {
        let payload = vec![7u8; context.spec.size];
        let mut meter = Meter::new(&context.spec, context.clock, self.other.pid());
        meter.closed_loop(|| Ok(self.port.notify(&payload, LIMIT)?))?;
        meter.finish()
    }

    /// Every question carries an open file.
    fn attach(&self, context: &Context) -> Result<Figures> {
        let capacity = u32::try_from(context.spec.size)?;
        let payload = vec![7u8; context.spec.size];
        let path = context.directory.path().join("attached");
        std::fs::write(&path, b"attached")?;
        let file = Arc::new(std::fs::File::open(&path)?.into());
        let mut meter = Meter::new(&context.spec, context.clock, self.other.pid());
        meter.closed_loop(|| {
            let question = Outbound::new(&payload).attach(Arc::clone(&file));
            Ok(self.port.ask(question, capacity, LIMIT).map(drop)?)
        })?;
        meter.finish()
    }
}

/// The answering side.
pub fn answer(answer: &Answer) -> Result<()> {
    let spec = &answer.spec;
    let client = client(&answer.endpoint, spec.spin)?;
    match spec.kind.as_str() {
        "port-tokio" => echo_tokio(client),
        "port-notify" => take(&client),
        _ => std::thread::scope(|scope| {
            // As many gets as messages can be under way, shared out among the threads.
            let ahead = (spec.window / spec.receivers.max(1)).max(1);
            let client = &client;
            for _ in 1..spec.receivers {
                scope.spawn(move || echo(client, ahead));
            }
            echo(client, ahead)
        }),
    }
}

/// Connects to the case's port; the other side may not be there yet.
pub fn client(directory: &str, spin: bool) -> Result<Client> {
    let connector = Connector::new().directory(Path::new(directory)).spin(spin);
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        match connector.connect(NAME, b"") {
            Ok(client) => return Ok(client),
            Err(error) if std::time::Instant::now() > end => return Err(error)?,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}

/// A receiving thread: replies with what it got.
fn echo(client: &Client, ahead: usize) -> Result<()> {
    let mut payload = Vec::new();
    if ahead == 1 {
        while let Ok(message) = client.next_message() {
            payload.clear();
            payload.extend_from_slice(message.payload());
            message.reply(&payload)?;
        }
        return Ok(());
    }
    for message in client.messages(ahead) {
        let message = message?;
        payload.clear();
        payload.extend_from_slice(message.payload());
        message.reply(&payload)?;
    }
    Ok(())
}

/// A receiving thread that has nothing to say.
fn take(client: &Client) -> Result<()> {
    for message in client.messages(AHEAD) {
        drop(message?);
    }
    Ok(())
}

/// Gets that a receiver of messages without replies posts ahead.
const AHEAD: usize = 16;

/// The same as [`echo`] as a task.
fn echo_tokio(client: Client) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let client = fltport::tokio::Client::new(client)?;
        let mut payload = Vec::new();
        loop {
            let message = client.next_message().await?;
            payload.clear();
            payload.extend_from_slice(message.payload());
            client.reply(message, &payload).await?;
        }
    })
}

/// Hands every connection to whoever reads the other end of the channel.
#[derive(Debug)]
pub struct Accept(pub Mutex<mpsc::Sender<ClientPort>>);

impl PortHandler for Accept {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        let sender = self.0.lock().map_err(|_| NtStatus::UNSUCCESSFUL)?;
        sender.send(port).map_err(|_| NtStatus::UNSUCCESSFUL)
    }
}

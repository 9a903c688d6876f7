//! Round trips between two processes: a bare SOCK_SEQPACKET echo, and a port.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fltport::{
    Client, ClientPort, Connector, NtStatus, Outbound, Peer, PortHandler, ServerPort, Timeout,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::stats::{Sample, Table};

const PORT: &str = r"\Bench";

/// Measures all transport cases on one core and across two.
pub fn measure(quick: bool, table: &mut Table) -> Result<()> {
    let (repetitions, time) = if quick { (3, 60) } else { (7, 250) };
    let time = Duration::from_millis(time);
    let cores = std::thread::available_parallelism()?.get();
    for (placement, peer_core) in [("one core", 0), ("two cores", 1)] {
        if peer_core >= cores {
            println!("skipped: round trips on two cores, this machine has one");
            continue;
        }
        pin(0)?;
        let mut cases: Vec<(String, Vec<Sample>)> = Vec::new();
        for _ in 0..repetitions {
            let bare = [64, 4096].map(|size| (format!("bare seqpacket echo, {size} B"), size));
            for (name, size) in bare {
                record(&mut cases, &name, bare_echo(size, peer_core, time)?);
            }
            for (name, sample) in port_cases(peer_core, time)? {
                record(&mut cases, &name, sample);
            }
        }
        let bare = |size: &str| {
            cases
                .iter()
                .find(|(name, _)| name.starts_with("bare") && name.contains(size))
                .map(|(_, s)| s.clone())
        };
        for (name, samples) in &cases {
            let against = if name.contains("4096") {
                bare("4096")
            } else {
                bare("64 B")
            };
            let against = against.filter(|_| !name.starts_with("bare"));
            table.add(&format!("{name}; {placement}"), samples, against.as_deref());
        }
    }
    Ok(())
}

fn record(cases: &mut Vec<(String, Vec<Sample>)>, name: &str, sample: Sample) {
    match cases.iter_mut().find(|(other, _)| other == name) {
        Some((_, samples)) => samples.push(sample),
        None => cases.push((name.to_owned(), vec![sample])),
    }
}

fn bare_echo(size: usize, core: usize, time: Duration) -> Result<Sample> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("s");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    rustix::net::listen(&listener, 1)?;
    let peer = Other::start(&[
        "socket-peer".into(),
        path.display().to_string(),
        core.to_string(),
    ])?;
    let socket = rustix::net::accept(&listener)?;
    let mut buffer = vec![7u8; size];
    let sample = timed(time, || {
        rustix::net::send(&socket, &buffer, SendFlags::empty())?;
        rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        Ok(())
    });
    drop(socket);
    peer.end()?;
    sample
}

/// The other side of [`bare_echo`].
pub fn socket_peer(path: &Path, core: usize) -> Result<()> {
    pin(core)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut buffer = vec![0u8; 8192];
    loop {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        rustix::net::send(&socket, &buffer[..length], SendFlags::empty())?;
    }
}

struct Accept(Mutex<mpsc::Sender<ClientPort>>);

impl PortHandler for Accept {
    type Connection = ();

    fn connect(&self, port: ClientPort, _: &Peer, _: &[u8]) -> Result<(), NtStatus> {
        self.0
            .lock()
            .map_err(|_| NtStatus::UNSUCCESSFUL)?
            .send(port)
            .map_err(|_| NtStatus::UNSUCCESSFUL)
    }
}

fn port_cases(core: usize, time: Duration) -> Result<Vec<(String, Sample)>> {
    let directory = tempfile::tempdir()?;
    let (sender, ports) = mpsc::channel();
    let server = ServerPort::builder(PORT)
        .directory(directory.path())
        .listen(Accept(Mutex::new(sender)))?;
    let peer = Other::start(&[
        "port-peer".into(),
        directory.path().display().to_string(),
        core.to_string(),
    ])?;
    let port = ports
        .recv_timeout(Duration::from_secs(5))
        .context("the peer did not connect")?;
    let limit = Timeout::after(Duration::from_secs(5));
    let mut done = Vec::new();
    for size in [64, 4096] {
        let payload = vec![7u8; size];
        let sample = timed(time, || Ok(port.ask(&payload, 8192, limit).map(drop)?))?;
        done.push((format!("port, ask and reply, {size} B"), sample));
    }
    let file = tempfile::NamedTempFile::new()?;
    let file = Arc::new(File::open(file.path())?.into());
    let with_file = || {
        Ok(port
            .ask(Outbound::new(&[7; 64]).attach(Arc::clone(&file)), 64, limit)
            .map(drop)?)
    };
    done.push((
        "port, ask with an open file, 64 B".to_owned(),
        timed(time, with_file)?,
    ));
    drop(server);
    peer.end()?;
    Ok(done)
}

/// The other side of [`port_cases`].
pub fn port_peer(directory: &Path, core: usize) -> Result<()> {
    pin(core)?;
    let client: Client = Connector::new().directory(directory).connect(PORT, b"")?;
    while let Ok(message) = client.next_message() {
        let payload = message.payload().to_vec();
        message.reply(&payload).ok();
    }
    Ok(())
}

/// Another process of this program.
pub struct Other(Child);

impl Other {
    /// Starts it with these arguments.
    pub fn start(arguments: &[String]) -> Result<Self> {
        Ok(Self(
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .spawn()?,
        ))
    }

    /// Waits until it has ended by itself.
    pub fn end(mut self) -> Result<()> {
        anyhow::ensure!(self.0.wait()?.success(), "the other process failed");
        Ok(())
    }

    /// Ends it.
    pub fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

/// Times an operation, again and again, after a warm-up of a quarter of `time`.
pub fn timed(time: Duration, mut operation: impl FnMut() -> Result<()>) -> Result<Sample> {
    let warm = Instant::now();
    while warm.elapsed() < time / 4 {
        operation()?;
    }
    let mut nanos = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    while start.elapsed() < time {
        let begin = Instant::now();
        operation()?;
        nanos.push(u64::try_from(begin.elapsed().as_nanos())?);
    }
    Ok(Sample::new(nanos, start.elapsed()))
}

/// Keeps this process, all threads that it will start included, on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).context("cannot choose a core")
}

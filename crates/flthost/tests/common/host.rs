//! A `flthostd` of the test's own, services that answer it, and listeners to its events.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fltport::protocol::control::Request;
use fltport::protocol::file::{Answer, Verdict};
use fltport::{Client, Connector, Message};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use zerocopy::IntoBytes;

use super::{Place, text};

/// Time for what should take none.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A running host, which guards when this exists. Dropping it ends it and waits.
pub(crate) struct Host {
    child: Child,
    lifeline: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
    pub(crate) ports: PathBuf,
}

impl Host {
    /// Guards the whole tmpfs, without a scanner.
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        let ports = place.outside("ports");
        let mut command = command(&ports);
        command.args(["--no-scanner", "--guard", text(&place.root)]);
        Self::run(command.args(arguments), ports)
    }

    /// Starts it, and does not wait until it guards.
    pub(crate) fn spawn(command: &mut Command, ports: PathBuf) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let mut stderr = child.stderr.take().unwrap();
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut bytes) {
                let words = String::from_utf8_lossy(&bytes[..length]);
                heard.lock().unwrap().push_str(&words);
            }
        });
        Self::of(child, said, ports)
    }

    /// Starts it with its words in a file, which is not read here, and waits until it guards.
    pub(crate) fn logging(command: &mut Command, ports: PathBuf, log: fs::File) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let host = Self::of(child.unwrap(), Arc::default(), ports);
        assert_eq!(host.listen().next()["event"], "started");
        host
    }

    fn of(mut child: Child, said: Arc<Mutex<String>>, ports: PathBuf) -> Self {
        let lifeline = child.stdin.take();
        Self {
            child,
            lifeline,
            said,
            ports,
        }
    }

    pub(crate) fn run(command: &mut Command, ports: PathBuf) -> Self {
        let host = Self::spawn(command, ports);
        let first = host.listen();
        assert_eq!(first.next()["event"], "started", "{}", host.said());
        host
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until the host has said this.
    pub(crate) fn says(&self, words: &str) {
        until(words, || self.said().contains(words));
    }

    pub(crate) fn supervisor(&self) -> u32 {
        self.child.id()
    }

    /// The process that answers now.
    pub(crate) fn worker(&self) -> u32 {
        let worker = &self.status()["worker"];
        u32::try_from(worker.as_u64().unwrap()).unwrap()
    }

    /// The supervisor's child, which answers now or soon; nothing while there is none.
    pub(crate) fn child(&self) -> Option<u32> {
        let supervisor = self.supervisor();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let children = fs::read_to_string(children).unwrap_or_default();
        children.split_whitespace().next()?.parse().ok()
    }

    /// Waits until another worker than this one answers.
    pub(crate) fn next_worker(&self, old: u32) -> u32 {
        until("the next worker comes", || {
            self.connect_to("control").is_some() && self.worker() != old
        });
        self.worker()
    }

    pub(crate) fn status(&self) -> Value {
        let answer = self.try_within(|| {
            let control = self.connect_to("control")?;
            Request::Status.send(&control).ok()
        });
        serde_json::from_str(&answer).unwrap()
    }

    /// The processes that are connected to its ports.
    pub(crate) fn connections(&self) -> Vec<u32> {
        self.connected_to("")
    }

    /// The processes that are connected to ports whose name ends so.
    pub(crate) fn connected_to(&self, port: &str) -> Vec<u32> {
        let list = self.list(Request::Connections);
        let is_there = |entry: &&Value| entry["port"].as_str().unwrap().ends_with(port);
        let ids = list.iter().filter(is_there);
        let ids = ids.filter_map(|entry| entry["pid"].as_u64());
        ids.map(|id| u32::try_from(id).unwrap()).collect()
    }

    /// The names of its filters, in the order in which they are asked.
    pub(crate) fn filters(&self) -> Vec<String> {
        let list = self.list(Request::Filters);
        let names = list.iter().map(|filter| filter["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    fn list(&self, request: Request) -> Vec<Value> {
        let answer = self.try_within(|| request.send(&self.connect_to("control")?).ok());
        serde_json::from_str(&answer).unwrap()
    }

    /// One of the host's counters of operations.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        self.status()["operations"][counter].as_u64().unwrap()
    }

    pub(crate) fn kill_worker(&self) {
        kill(self.worker(), Signal::KILL);
    }

    pub(crate) fn connect_to(&self, port: &str) -> Option<Client> {
        let name = format!(r"\fltport\test\{port}");
        Connector::new()
            .directory(&self.ports)
            .connect(&name, b"")
            .ok()
    }

    /// A service's connection.
    pub(crate) fn connect(&self) -> Client {
        self.try_within(|| self.connect_to("scan"))
    }

    pub(crate) fn listen(&self) -> Listener {
        Listener::new(self.try_within(|| self.connect_to("events")))
    }

    /// A service that gives these answers, and ends with the connection.
    pub(crate) fn serve(&self, answer: impl FnMut(&Client, Message) + Send + 'static) -> Service {
        Service::new(self.connect(), answer)
    }

    /// As [`Self::serve`], at another port.
    pub(crate) fn serve_at(
        &self,
        port: &str,
        answer: impl FnMut(&Client, Message) + Send + 'static,
    ) -> Service {
        Service::new(self.try_within(|| self.connect_to(port)), answer)
    }

    pub(crate) fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    /// Waits for the supervisor's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the host ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn try_within<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        let mut done = None;
        until(&self.said(), || {
            done = attempt();
            done.is_some()
        });
        done.unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.lifeline = None;
        let end = Instant::now() + SOON;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > end {
                self.child.kill().ok();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A service that connects again whenever its host is gone, and denies bad files.
pub(crate) struct Faithful {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Faithful {
    pub(crate) fn new(host: &Host) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (ended, ports) = (Arc::clone(&end), host.ports.clone());
        let thread = thread::spawn(move || {
            let connector = Connector::new().directory(&ports);
            while !ended.load(Ordering::Relaxed) {
                if let Ok(client) = connector.connect(r"\fltport\test\scan", b"") {
                    while let Ok(question) = client.next_message() {
                        judge(question);
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let thread = Some(thread);
        Self { end, thread }
    }
}

impl Drop for Faithful {
    /// The host has to have ended before.
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if !thread::panicking() {
            self.thread.take().unwrap().join().ok();
        }
    }
}

/// The command line of a host called `test`, without what it guards.
pub(crate) fn command(ports: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flthostd"));
    command.args(["--instance", "test", "--lifeline", "--port-directory"]);
    command.arg(ports);
    command
}

/// Runs a host that is expected not to start; gives its exit code and what it said.
pub(crate) fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lifeline = child.stdin.take(); // waiting would close it
    let output = child.wait_with_output().unwrap();
    drop(lifeline);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

/// A thread that answers a host's questions.
pub(crate) struct Service {
    pub(crate) client: Arc<Client>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn new(client: Client, mut answer: impl FnMut(&Client, Message) + Send + 'static) -> Self {
        let client = Arc::new(client);
        let own = Arc::clone(&client);
        let thread = thread::spawn(move || {
            while let Ok(message) = own.next_message() {
                answer(&own, message);
            }
        });
        Self {
            client,
            thread: Some(thread),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.client.close();
        self.thread.take().unwrap().join().ok();
    }
}

/// The name of the file that a question is about.
pub(crate) fn name(question: &Message) -> String {
    let file = question.attachment().unwrap().as_raw_fd();
    let path = fs::read_link(format!("/proc/self/fd/{file}")).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

pub(crate) fn allow(question: Message) {
    answer(question, Verdict::Allow);
}

pub(crate) fn answer(question: Message, verdict: Verdict) {
    // A host that was killed meanwhile takes no answer.
    question
        .reply(Answer::new(verdict, "a reason").as_bytes())
        .ok();
}

/// Denies files whose name begins with `bad`.
pub(crate) fn judge(question: Message) {
    let bad = name(&question).starts_with("bad");
    answer(question, if bad { Verdict::Deny } else { Verdict::Allow });
}

/// What a host tells, in order.
pub(crate) struct Listener {
    client: Arc<Client>,
    events: Receiver<Value>,
}

impl Listener {
    fn new(client: Client) -> Self {
        let client = Arc::new(client);
        let own = Arc::clone(&client);
        let (sender, events) = channel();
        thread::spawn(move || {
            while let Ok(message) = own.next_message() {
                let event = serde_json::from_slice(message.payload()).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { client, events }
    }

    pub(crate) fn next(&self) -> Value {
        self.events.recv_timeout(SOON).unwrap()
    }

    /// The next decision about a file of this name.
    pub(crate) fn decision(&self, name: &str) -> Value {
        loop {
            let event = self.next();
            let path = event["path"].as_str().unwrap_or_default();
            if event["event"] == "decision" && Path::new(path).file_name() == Some(OsStr::new(name))
            {
                return event;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.client.close();
    }
}

/// A process that opens and reads a file, and is ended if that takes too long.
pub(crate) fn start_opener(path: &Path) -> Child {
    Command::new("timeout")
        .args(["15", "cat", text(path)])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What became of opening a file, and how long that took.
pub(crate) fn try_open(path: &Path) -> (Result<String, String>, Duration) {
    let start = Instant::now();
    let result = super::outcome(start_opener(path));
    (result, start.elapsed())
}

pub(crate) fn opens(path: &Path) -> bool {
    try_open(path).0.is_ok()
}

pub(crate) fn kill(process: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(pid, signal).ok();
}

pub(crate) fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits for something that should not take long.
pub(crate) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !happened() {
        assert!(Instant::now() < end, "does not happen: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The real scanner, where it was built beside the host.
pub(crate) fn scanner() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_flthostd")).with_file_name("fltscand");
    built.is_file().then_some(built)
}

//! A host as a program: a port in a process of its own, whose callbacks do what contexts and requests tell them.
//!
//! [`super::stage`] starts it, asks it what it has counted, and looks at its process from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fltport::{
    Access, Caller, ClientPort, NtStatus, Peer, PortHandler, Refusal, SendError, ServerPort,
    Timeout,
};

use super::child::{say, wait_for_the_end};
use super::deadly::Deadly;
use super::look::{allow_descriptors, look, own_cpu_time};
use super::{LONG, NAME, peer_rights, until};

/// What a host program counts, and the door that callbacks wait at.
#[derive(Clone, Default)]
struct Program(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    door: Condvar,
    deadly: Deadly,
    /// Says each answer that came aloud, for whoever survives this process.
    loud: bool,
}

#[derive(Default)]
struct Counts {
    connects: u64,
    disconnects: u64,
    /// What the port has said that it has to do without.
    notices: Vec<String>,
    /// Connections that have not had their disconnect callback, without those of the check.
    live: BTreeMap<u64, ClientPort>,
    well: BTreeSet<u64>,
    /// Disconnect callbacks of connections that were not live.
    twice: u64,
    /// Sends that have not ended.
    pending: u64,
    asked: u64,
    /// What became of the questions of askers, since somebody asked last.
    words: Vec<String>,
    open: bool,
}

/// How a question is asked: by a thread that waits and takes so many bytes, or by one that is called.
#[derive(Clone, Copy)]
enum Way {
    Waits(u32),
    Calls,
}

/// A connection's cookie.
struct Cookie {
    port: ClientPort,
    id: u64,
}

/// Plays the host: `told` is the directory, then options. Ends when its starter lets go of it, and says what it has
/// counted and that nothing is left.
pub(crate) fn play(told: &[String]) {
    let option = |name: &str| {
        let mut values = told.iter().filter_map(|option| option.strip_prefix(name));
        values.next().map(str::to_string)
    };
    let most: u32 = option("max=").map_or(64, |text| text.parse().unwrap());
    assert!(allow_descriptors(u64::from(most) + 200));
    let program = Program(Arc::new(Shared {
        deadly: option("die=").map_or_else(Deadly::default, |text| Deadly::told(&text)),
        loud: option("loud").is_some(),
        ..Shared::default()
    }));
    let before = look(std::process::id());
    let port = ServerPort::builder(NAME)
        .shared_memory(option("packets").is_none())
        .directory(&told[0])
        .access(Access::everyone())
        .max_connections(most)
        .notice({
            let counts = Arc::clone(&program.0);
            move |notice| {
                let mut counts = counts.counts.lock().unwrap();
                counts.notices.push(notice.to_string());
            }
        })
        .listen(program.clone())
        .unwrap();
    if option("rights").is_some() {
        peer_rights::accept_descriptors();
    }
    say("listening");
    wait_for_the_end();
    program.step("end");
    port.shutdown();
    program.step("ended");
    until("nothing is left of the port", || {
        let now = look(std::process::id());
        now.descriptors <= before.descriptors && now.threads + now.callbacks <= before.threads
    });
    let counts = program.counts();
    say(&format!("over {}", counts.text()));
}

impl Program {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step that this process may have been told to die at.
    fn step(&self, name: &str) {
        self.0.deadly.step(name);
    }

    /// Waits until the door is open.
    fn pass_the_door(&self) {
        let mut counts = self.counts();
        while !counts.open {
            counts = self.0.door.wait(counts).unwrap();
        }
    }

    /// A send, counted while it lasts.
    fn ask(
        &self,
        port: &ClientPort,
        bytes: &[u8],
        wait: Timeout,
        way: Way,
    ) -> Result<fltport::Reply, SendError> {
        self.counts().pending += 1;
        let result = match way {
            Way::Waits(capacity) => port.ask(bytes, capacity, wait),
            Way::Calls => {
                let (sender, ended) = std::sync::mpsc::channel();
                let pending = port.ask_then(bytes, 64, wait, move |result| {
                    sender.send(result).unwrap();
                });
                let result = ended.recv().unwrap();
                drop(pending);
                // Told once.
                assert!(ended.recv().is_err());
                result
            }
        };
        self.counts().pending -= 1;
        result
    }

    /// What becomes of a question of so many bytes.
    fn ask_in_words(&self, port: &ClientPort, bytes: usize, wait: Timeout, way: Way) -> String {
        match self.ask(port, &vec![7; bytes], wait, way) {
            Ok(reply) => String::from_utf8_lossy(&reply.bytes).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Asks for as long as the connection lasts. Each question is its own answer.
    fn ask_on(&self, port: &ClientPort, asker: u64) {
        loop {
            self.step("ask");
            let number = {
                let mut counts = self.counts();
                counts.asked += 1;
                counts.asked
            };
            let id = format!("{asker}.{number}");
            let word = match self.ask(port, id.as_bytes(), LONG, Way::Waits(64)) {
                Ok(reply) if reply.bytes == id.as_bytes() => format!("got {id}"),
                // The client dropped the message.
                Ok(reply) if reply.status == NtStatus::CANCELLED => format!("none {id}"),
                Err(SendError::Disconnected { .. }) => return,
                other => format!("wrong {id} {other:?}").replace(' ', "_"),
            };
            if self.0.loud {
                say(&word);
            }
            self.step("asked");
            self.counts().words.push(word.replace(' ', ":"));
        }
    }

    /// What a request asks for, if it is one of these.
    fn command(&self, cookie: &Cookie, caller: Caller, words: &[&str]) -> Option<String> {
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        let wait = |at: usize| match words[at] {
            "never" => Timeout::Never,
            millis => Timeout::after(Duration::from_millis(millis.parse().unwrap())),
        };
        let ask = |port: &ClientPort, way| self.ask_in_words(port, number(1), wait(2), way);
        let each = |act: &dyn Fn(&ClientPort) -> String| {
            let mut others = self.counts().live.clone();
            others.remove(&cookie.id);
            others.values().map(act).collect::<Vec<_>>().join("\n")
        };
        Some(match words {
            ["state"] => self.counts().text(),
            ["words"] => std::mem::take(&mut self.counts().words).join(" "),
            ["open"] => {
                self.counts().open = true;
                self.0.door.notify_all();
                String::new()
            }
            ["shut"] => {
                self.counts().open = false;
                String::new()
            }
            ["wait"] => {
                self.pass_the_door();
                String::new()
            }
            ["close"] => {
                self.step("closing");
                cookie.port.close();
                self.step("closed");
                String::new()
            }
            ["cpu"] => own_cpu_time().as_nanos().to_string(),
            ["who"] => caller.pid.to_string(),
            ["notices"] => self.counts().notices.join("; "),
            ["info"] => format!("{:?}", cookie.port.info()),
            ["ask", _, _] => ask(&cookie.port, Way::Waits(64)),
            ["ask", _, _, capacity] => ask(&cookie.port, Way::Waits(capacity.parse().unwrap())),
            ["then", _, _] => ask(&cookie.port, Way::Calls),
            ["each", _, _] => each(&|port| ask(port, Way::Waits(64))),
            ["each-then", _, _] => each(&|port| ask(port, Way::Calls)),
            ["each-files", _, _] => each(&|port| send_files(port, number(1), wait(2)).to_string()),
            ["each-info"] => each(&|port| format!("{:?}", port.info())),
            _ => return None,
        })
    }
}

/// Sends so many open files, each its own, until one is not taken in time. Says how many were.
fn send_files(port: &ClientPort, count: usize, wait: Timeout) -> usize {
    let send = || {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let message = fltport::Outbound::new(b"file").attach(Arc::new(file.into()));
        port.notify(message, wait).is_ok()
    };
    (0..count).take_while(|_| send()).count()
}

impl PortHandler for Program {
    type Connection = Cookie;

    fn connect(&self, port: ClientPort, _: &Peer, context: &[u8]) -> Result<Cookie, NtStatus> {
        self.step("connect");
        match context {
            b"refused" => return Err(NtStatus::ACCESS_DENIED),
            b"door" => self.pass_the_door(),
            // Until the client is gone, and not for long.
            b"slow" => drop(port.notify(b"early", Timeout::after(Duration::from_millis(200)))),
            _ => {}
        }
        let id = port.info().id;
        let mut counts = self.counts();
        counts.connects += 1;
        if context == b"well" {
            counts.well.insert(id);
        } else {
            counts.live.insert(id, port.clone());
        }
        drop(counts);
        let askers = if context == b"work" { ASKERS } else { 0 };
        for asker in 0..askers {
            let (program, port) = (self.clone(), port.clone());
            std::thread::spawn(move || program.ask_on(&port, id * ASKERS + asker));
        }
        self.step("connected");
        Ok(Cookie { port, id })
    }

    fn message(
        &self,
        cookie: &Cookie,
        caller: Caller,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Refusal> {
        self.step("message");
        let text = String::from_utf8_lossy(&input[..input.len().min(64)]).into_owned();
        let words: Vec<_> = text.trim_end().split(' ').collect();
        let answer = self.command(cookie, caller, &words);
        let answer = answer.map_or_else(|| input.to_vec(), String::into_bytes);
        let length = answer.len().min(output.len());
        output[..length].copy_from_slice(&answer[..length]);
        self.step("answered");
        Ok(length)
    }

    fn disconnect(&self, cookie: Cookie, _: &Peer) {
        self.step("disconnect");
        let mut counts = self.counts();
        counts.disconnects += 1;
        let was_live = counts.live.remove(&cookie.id).is_some() || counts.well.remove(&cookie.id);
        counts.twice += u64::from(!was_live);
        drop(counts);
        self.step("disconnected");
    }
}

impl Counts {
    fn text(&self) -> String {
        let live = self.live.len();
        let Self {
            connects,
            disconnects,
            twice,
            pending,
            ..
        } = self;
        format!("{connects} {disconnects} {live} {twice} {pending}")
    }
}

/// Threads that ask on each connection with the context `work`.
pub(crate) const ASKERS: u64 = 2;

//! A service that is a process of its own, so that it can be killed: this test program again, run with only its test
//! `server`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use fltport::{Connector, Message};

use super::host::{Host, judge, until};

/// A service that runs. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
}

/// What a service does with a question.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// Denies bad files.
    Judge,
    /// Never answers.
    Hold,
    /// Opens the file by its path, and by its descriptor, before it judges: that asks about the file again.
    Reopen,
    /// As `Judge`, but reads the file `library` beside each file first, as a service does that loads parts of itself late.
    Load,
}

impl Server {
    /// Starts it, and waits until the host knows it.
    pub(crate) fn start(host: &Host, manner: Manner) -> Self {
        let server = Self::lone(&host.ports, manner);
        // By its process: one that was killed before may still be counted.
        until("the service is connected", || {
            host.connections().contains(&server.id())
        });
        server
    }

    /// Starts it; it connects when there is a host.
    pub(crate) fn lone(ports: &Path, manner: Manner) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server", "--nocapture"])
            .env("SERVER_PORTS", ports)
            .env("SERVER_MANNER", format!("{manner:?}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The body of the test `server`.
pub(crate) fn run() {
    let Some(ports) = std::env::var_os("SERVER_PORTS").map(PathBuf::from) else {
        return;
    };
    // Whatever happens, this process does not stay.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(90));
        std::process::abort();
    });
    let manner = std::env::var("SERVER_MANNER").unwrap();
    let mut held = Vec::new();
    loop {
        let connector = Connector::new().directory(&ports);
        if let Ok(client) = connector.connect(r"\fltport\test\scan", b"") {
            while let Ok(question) = client.next_message() {
                match manner.as_str() {
                    "Hold" => held.push(question),
                    other => {
                        prepare(other, &question);
                        judge(question);
                    }
                }
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn prepare(manner: &str, question: &Message) {
    let number = question.attachment().unwrap().as_raw_fd();
    let own = PathBuf::from(format!("/proc/self/fd/{number}"));
    let path = fs::read_link(&own).unwrap();
    match manner {
        "Reopen" => {
            File::open(path).ok();
            File::open(own).ok();
        }
        "Load" => {
            fs::read(path.with_file_name("library")).ok();
        }
        _ => {}
    }
}

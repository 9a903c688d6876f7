//! Processes of a test's own: the test binary itself, started again for one of its tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};

use rustix::process::{Pid, Signal};

use super::{LIMIT, until};

/// Threads of a test in a process of its own: the harness's, the test's, its watchdog, and the one that watches hosts.
const OWN_THREADS: usize = 4;

const ROLE: &str = "FLTPORT_TEST_ROLE";

/// A process that plays a role, ended with this value.
pub(crate) struct Process {
    child: Child,
    lines: Mutex<mpsc::Receiver<String>>,
    input: Option<ChildStdin>,
}

/// The role of this process, if it was started by [`Process::start`]: its name and what it was told.
pub(crate) fn role() -> Option<(String, Vec<String>)> {
    let text = std::env::var(ROLE).ok()?;
    let mut parts = text.split('\n').map(str::to_string);
    let name = parts.next()?;
    Some((name, parts.collect()))
}

/// Runs `test` in a process where nothing else runs, so that its descriptors and threads can be counted.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if role().is_some_and(|(role, _)| role == name) {
        // What a process has once and for all is there before anything is counted.
        super::Host::new().assert_well();
        until("that host is gone", || super::threads() <= OWN_THREADS);
        return test();
    }
    let mut process = Process::start(name, name, &[], |_| ()).unwrap();
    // For as long as it takes: the watchdog of the test runs in both.
    let status = process.child.wait().unwrap();
    process
        .last_words()
        .iter()
        .for_each(|line| println!("{line}"));
    assert!(status.success(), "{name} failed on its own");
}

/// Says something to the process that started this one.
pub(crate) fn say(what: &str) {
    println!("\n{what}");
    std::io::stdout().flush().unwrap();
}

/// Waits until the process that started this one is gone, or ends this one.
pub(crate) fn wait_for_the_end() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// The next line that the process which started this one has told it; `None` when it is to end.
pub(crate) fn next_line() -> Option<String> {
    let mut line = String::new();
    let length = std::io::stdin().read_line(&mut line).unwrap();
    (length > 0).then(|| line.trim_end().to_string())
}

impl Process {
    /// Starts this test binary again, for the test `test` in the role `role`.
    pub(crate) fn start(
        test: &str,
        role: &str,
        told: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let role = [&[role], told].concat().join("\n");
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines: Mutex::new(lines),
            input,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process says something that starts with `what`; gives the rest.
    pub(crate) fn hear(&self, what: &str) -> String {
        let lines = self.lines.lock().unwrap();
        loop {
            // It may have much to do first, on a machine that has much to do.
            let line = lines.recv_timeout(4 * LIMIT);
            let line = line.unwrap_or_else(|_| panic!("the process never said {what}"));
            if let Some(rest) = line.strip_prefix(what) {
                return rest.trim().to_string();
            }
        }
    }

    /// Tells the process a line.
    pub(crate) fn tell(&mut self, what: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    /// Lets the process go on to its end: it finds nothing more to read.
    pub(crate) fn let_go(&mut self) {
        self.input = None;
    }

    /// What the process has said that nobody has heard yet. It is gone: otherwise this waits for its end.
    pub(crate) fn last_words(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        let words = std::iter::from_fn(|| match lines.recv_timeout(LIMIT) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody holds its output open"),
        });
        words.collect()
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the process, and waits until it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.id());
        until("the process has stopped", || {
            let text = std::fs::read_to_string(&stat).unwrap();
            text.rsplit(')').next().unwrap().starts_with(" T")
        });
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills the process, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the process ends", || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

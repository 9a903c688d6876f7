//! Processes of a test's own: the test binary itself, started again for one of its tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use super::{LIMIT, until};

const ROLE: &str = "FLTPORT_TEST_ROLE";

/// A process that plays a role, ended with this value.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    _input: Option<ChildStdin>,
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
        return test();
    }
    let mut process = Process::start(name, name, &[], |_| ()).unwrap();
    assert!(process.wait().success(), "{name} failed on its own");
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
            lines,
            _input: input,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process says something that starts with `what`; gives the rest.
    pub(crate) fn hear(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|_| panic!("the process never said {what}"));
            if let Some(rest) = line.strip_prefix(what) {
                return rest.trim().to_string();
            }
        }
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

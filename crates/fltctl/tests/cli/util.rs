//! A folder with ports, a stand-in host and its script; and a running `fltctl` that is watched.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What everything here must be done in.
pub(crate) const SOON: Duration = Duration::from_secs(15);

pub(crate) const STARTED: &str = r#"{"event":"started","instance":"guard-1","worker":7,"guards":[{"path":"/x","directories":3}],"strict":false}"#;
pub(crate) const DENIED: &str = r#"{"event":"decision","time_ms":1790000000000,"id":17,"operation":"open","path":"/x/f","pid":55,"process":"cat","verdict":"deny","cause":"service","reason":"EICAR_Test_File","micros":1834}"#;
pub(crate) const ALLOWED: &str = r#"{"event":"decision","id":18,"operation":"open","path":"/x/plain","verdict":"allow","cause":"service"}"#;

/// Where a test plays.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: tempfile::TempDir,
}

/// A running `fltctl`.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Receiver<String>,
    pub(crate) stderr: Receiver<String>,
}

impl Stage {
    /// With a host that plays `script`.
    pub(crate) fn new(script: &[&str]) -> Self {
        let stage = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["bin", "guarded", "ports"] {
            std::fs::create_dir(stage.path(folder)).unwrap();
        }
        std::os::unix::fs::symlink(fake_host(), stage.path("bin/flthostd")).unwrap();
        std::fs::write(stage.path("script"), script.join("\n")).unwrap();
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `fltctl COMMAND` with the ports of this stage.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut fltctl = fltctl();
        fltctl
            .arg(command)
            .arg("--port-directory")
            .arg(self.path("ports"));
        fltctl.env("FAKE_HOST_SCRIPT", self.path("script"));
        fltctl.env("TMPDIR", self.folder.path());
        fltctl
    }

    /// `fltctl guard` with the stand-in host.
    pub(crate) fn guard(&self) -> Command {
        let mut fltctl = self.command("guard");
        fltctl
            .arg(self.path("guarded"))
            .arg("--daemon")
            .arg(self.path("bin/flthostd"));
        fltctl
    }

    /// Whether the host has ended in order, or does so soon.
    pub(crate) fn host_ends(&self) -> bool {
        soon(|| self.path("script.ended").exists())
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// A child whose standard output goes elsewhere.
    pub(crate) fn watch(child: Child, stderr: ChildStderr) -> Self {
        Self {
            child,
            stdout: channel().1,
            stderr: lines(stderr),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub(crate) fn next_line(&self) -> String {
        self.stdout
            .recv_timeout(SOON)
            .expect("no line on standard output")
    }

    /// Waits for a line on standard error.
    pub(crate) fn expect_notice(&self, part: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.stderr.recv_timeout(SOON) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {part:?} on standard error, but {seen:#?}");
    }

    /// Waits for the end; gives the exit status and the rest of standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        let rest: Vec<_> = self.stderr.iter().collect();
        (status.code(), rest.join("\n"))
    }
}

/// Waits for a child, which must not take long.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    let ended = soon(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if !ended {
        child.kill().unwrap();
        panic!("it did not end");
    }
    status.unwrap()
}

/// The program under test.
pub(crate) fn fltctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fltctl"))
}

/// Runs to the end; exit status, standard output, standard error.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Whether it becomes true in time.
pub(crate) fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    holds()
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn fake_host() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap();
    let host = built.join("examples/fake_host");
    assert!(
        host.is_file(),
        "examples/fake_host.rs is not built; `cargo test -p fltctl` without --test builds it"
    );
    host
}

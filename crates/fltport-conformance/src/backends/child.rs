//! Client processes of a story: this program again, told what to do line by line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use super::agent::{AGENT, Line};
use super::board::Board;
use super::clients::Call;
use crate::backend::{Op, Who};

/// The client processes of one story, started when they are first spoken to.
#[derive(Debug)]
pub(super) struct Children {
    directory: PathBuf,
    board: Arc<Board>,
    running: BTreeMap<Who, Process>,
    connects: BTreeMap<Op, Who>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
}

impl Children {
    pub(super) fn new(directory: &Path, board: Arc<Board>) -> Self {
        Self {
            directory: directory.into(),
            board,
            running: BTreeMap::new(),
            connects: BTreeMap::new(),
        }
    }

    /// Has a process do something; its end goes to the board.
    pub(super) fn start(&mut self, who: Who, op: Op, call: Call) {
        if matches!(call, Call::Connect { .. }) {
            self.connects.insert(op, who);
        }
        let mut line = serde_json::to_string(&(op, call)).expect("a call is text");
        line.push('\n');
        // One that was killed takes nothing more; nothing of it ends either.
        self.process(who).input.write_all(line.as_bytes()).ok();
    }

    /// Which process has made a connect.
    pub(super) fn home_of(&self, op: Op) -> Option<Who> {
        self.connects.get(&op).copied()
    }

    pub(super) fn pid(&mut self, who: Who) -> u32 {
        self.process(who).child.id()
    }

    /// Kills a process and waits until it is gone.
    pub(super) fn kill(&mut self, who: Who) {
        if let Some(mut process) = self.running.remove(&who) {
            process.child.kill().expect("the process is killed");
            process.child.wait().expect("the process is reaped");
        }
    }

    /// Has a process end by itself, and waits until it is gone.
    pub(super) fn exit(&mut self, who: Who, op: Op) {
        self.start(who, op, Call::Exit);
        if let Some(mut process) = self.running.remove(&who) {
            process.child.wait().expect("the process is reaped");
        }
    }

    /// Tells every process.
    pub(super) fn tell_all(&mut self, op: Op, call: &Call) {
        let all: Vec<_> = self.running.keys().copied().collect();
        all.into_iter()
            .for_each(|who| self.start(who, op, call.clone()));
    }

    /// Stops a process; it takes part in nothing any more.
    pub(super) fn stop(&mut self, who: Who) {
        let pid = self.pid(who).cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)
            .expect("the process is stopped");
    }

    /// Ends all.
    pub(super) fn end(&mut self) {
        let all: Vec<_> = self.running.keys().copied().collect();
        all.into_iter().for_each(|who| self.kill(who));
    }

    fn process(&mut self, who: Who) -> &mut Process {
        let (directory, board) = (&self.directory, &self.board);
        self.running
            .entry(who)
            .or_insert_with(|| spawn(who, directory, Arc::clone(board)))
    }
}

fn spawn(who: Who, directory: &Path, board: Arc<Board>) -> Process {
    let program = AGENT
        .get()
        .cloned()
        .unwrap_or_else(|| std::env::current_exe().expect("this program has a path"));
    let mut command = Command::new(program);
    command
        .arg("agent")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(user) = who.user {
        command.arg("--user").arg(user.to_string());
    }
    let mut child = command.spawn().expect("a client process is started");
    let input = child.stdin.take().expect("its input is a pipe");
    let output = child.stdout.take().expect("its output is a pipe");
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Line(op, done): Line = serde_json::from_str(&line).expect("a line of a client");
            board.finish(op, done);
        }
    });
    Process { child, input }
}

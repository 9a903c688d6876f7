//! What is to be done: arguments resolved against the surroundings (files, terminal, own folder).
//!
//! Every later room takes these settings as they are and asks nothing about arguments again. Whether a request may be
//! granted (privilege, rules that compile) is found out by `commands/`, which is next.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use fltport::protocol::control;

use crate::args::{Args, Command, DemoArgs, ExplainArgs, GuardArgs, HostCommand, ListArgs};
use crate::programs::Programs;
use crate::terminal;

/// A resolved command.
#[derive(Debug)]
pub(crate) enum Request {
    /// Show that the whole path works.
    Demo(Demo),
    /// Guard directories.
    Guard(Guard),
    /// List something.
    List(List),
    /// Do something to a host that runs.
    Steer(Steer),
    /// Explain what hosts do about a file.
    Explain(Explain),
    /// Open files, and say how it went.
    Open(Vec<PathBuf>),
}

/// `fltctl host`.
#[derive(Debug)]
pub(crate) struct Steer {
    /// The host's name; `None` for the one without.
    pub(crate) instance: Option<String>,
    /// Where ports are.
    pub(crate) port_directory: Option<PathBuf>,
    /// What is done.
    pub(crate) what: Steering,
}

/// What can be done to a host.
#[derive(Debug)]
pub(crate) enum Steering {
    /// Another one takes over.
    Upgrade {
        /// Its program, instead of the one at the old one's place.
        program: Option<PathBuf>,
    },
    /// It lets everything go on, and ends.
    Release,
}

/// `fltctl demo`.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Leave the scratch directory behind.
    pub(crate) keep: bool,
    /// What the host is to do; the directory comes later.
    pub(crate) host: HostRequest,
    /// This program, which also opens the files.
    pub(crate) executable: PathBuf,
    /// Whether PASS and FAIL are coloured.
    pub(crate) colour: bool,
}

/// `fltctl guard`.
#[derive(Debug)]
pub(crate) struct Guard {
    /// What the host is to do.
    pub(crate) host: HostRequest,
    /// How its events are shown.
    pub(crate) view: View,
}

/// What a `flthostd` is started with.
#[derive(Clone, Debug)]
pub(crate) struct HostRequest {
    /// The programs to start.
    pub(crate) programs: Programs,
    /// The name of the instance: its ports are `\fltport\NAME\...`.
    pub(crate) instance: String,
    /// The directories, absolute.
    pub(crate) guards: Vec<PathBuf>,
    /// Rules, absolute.
    pub(crate) rules: Option<PathBuf>,
    /// What happens where nothing could be decided.
    pub(crate) policy: Policy,
    /// What happens for single causes, in the host's words.
    pub(crate) policies: Vec<String>,
    /// What is not asked about, in the host's words.
    pub(crate) mutes: Vec<String>,
    /// What is asked about only, in the host's words.
    pub(crate) onlys: Vec<String>,
    /// Directories whose files are not asked about, absolute.
    pub(crate) excludes: Vec<PathBuf>,
    /// The port whose services may ask for mutes.
    pub(crate) grant_mutes: Option<String>,
    /// The host's default otherwise.
    pub(crate) deadline_ms: Option<u32>,
    /// Whether a tree may have very many directories.
    pub(crate) many_directories: bool,
    /// Which other filesystems are guarded that are mounted below the directories.
    pub(crate) mounts: Mounts,
    /// Further options, in the host's words.
    pub(crate) more: Vec<OsString>,
    /// Where ports are.
    pub(crate) port_directory: Option<PathBuf>,
}

/// Which filesystems are guarded that are mounted below guarded directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Those of this machine.
    Local,
    /// Also those behind servers and daemons.
    All,
    /// None.
    Nothing,
}

/// What happens where nothing could be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// As the host's defaults say.
    Usual,
    /// Denied.
    Strict,
    /// Nothing is ever denied.
    Monitor,
}

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As they came, one JSON object in a line.
    Json,
    /// One line for people.
    Human {
        /// Plain allows too.
        all: bool,
        /// With colours.
        colour: bool,
    },
}

/// A listing.
#[derive(Debug)]
pub(crate) struct List {
    /// Of what.
    pub(crate) kind: control::Request,
    /// JSON instead of a table.
    pub(crate) json: bool,
    /// Where ports are.
    pub(crate) port_directory: Option<PathBuf>,
    /// Columns of the terminal; `None` elsewhere.
    pub(crate) width: Option<u16>,
}

/// `fltctl explain`.
#[derive(Clone, Debug)]
pub(crate) struct Explain {
    /// The file, absolute.
    pub(crate) path: PathBuf,
    /// The program, absolute and without links.
    pub(crate) process: Option<PathBuf>,
    /// The user, in the host's words.
    pub(crate) user: Option<String>,
    /// JSON instead of sentences.
    pub(crate) json: bool,
    /// Where ports are.
    pub(crate) port_directory: Option<PathBuf>,
}

/// What a request depends on besides its arguments.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// This program's own file.
    pub(crate) executable: PathBuf,
    /// This process.
    pub(crate) process: u32,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
    /// Whether colours are welcome there.
    pub(crate) colour: bool,
    /// Its columns.
    pub(crate) width: Option<u16>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn look() -> anyhow::Result<Self> {
        let stdout = std::io::stdout();
        Ok(Self {
            executable: std::env::current_exe().context("cannot find this program's own file")?,
            process: std::process::id(),
            terminal: stdout.is_terminal(),
            colour: terminal::wants_colour(&stdout),
            width: terminal::columns(&stdout),
        })
    }
}

impl Request {
    /// Resolves what was typed.
    pub(crate) fn resolve(args: Args, here: &Surroundings) -> anyhow::Result<Self> {
        let Args {
            port_directory,
            command,
        } = args;
        // Made absolute, because it is handed on to other processes.
        let port_directory = port_directory
            .map(|path| std::path::absolute(&path).context("--port-directory is empty"))
            .transpose()?;
        Ok(match command {
            Command::Demo(args) => Self::Demo(demo(args, port_directory, here)),
            Command::Guard(args) => Self::Guard(guard(args, port_directory, here)?),
            Command::Status(args) => list(control::Request::Status, &args, port_directory, here),
            Command::Ports(args) => list(control::Request::Ports, &args, port_directory, here),
            Command::Connections(args) => {
                list(control::Request::Connections, &args, port_directory, here)
            }
            Command::Filters(args) => list(control::Request::Filters, &args, port_directory, here),
            Command::Instances(args) => {
                list(control::Request::Instances, &args, port_directory, here)
            }
            Command::Host(HostCommand::Upgrade(args)) => Self::Steer(Steer {
                instance: args.host.instance,
                port_directory,
                what: Steering::Upgrade {
                    program: args.program,
                },
            }),
            Command::Host(HostCommand::Release(args)) => Self::Steer(Steer {
                instance: args.instance,
                port_directory,
                what: Steering::Release,
            }),
            Command::Mutes(args) => list(control::Request::Mutes, &args, port_directory, here),
            Command::Explain(args) => Self::Explain(explain(args, port_directory)?),
            Command::Open { paths } => Self::Open(paths),
        })
    }
}

impl HostRequest {
    /// The command line of `flthostd`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--instance".into(), self.instance.clone().into()];
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        for guard in &self.guards {
            option("--guard", guard.into());
        }
        if let Some(rules) = &self.rules {
            option("--rules", rules.into());
        }
        for policy in &self.policies {
            option("--policy", policy.into());
        }
        for mute in &self.mutes {
            option("--mute", mute.into());
        }
        for only in &self.onlys {
            option("--only", only.into());
        }
        for directory in &self.excludes {
            option("--exclude", directory.into());
        }
        if let Some(port) = &self.grant_mutes {
            option("--grant-mutes", port.into());
        }
        if let Some(limit) = self.deadline_ms {
            option("--deadline-ms", limit.to_string().into());
        }
        if let Some(directory) = &self.port_directory {
            option("--port-directory", directory.into());
        }
        match self.policy {
            Policy::Usual => {}
            Policy::Strict => arguments.push("--strict".into()),
            Policy::Monitor => arguments.push("--monitor".into()),
        }
        match self.mounts {
            Mounts::Local => {}
            Mounts::All => arguments.push("--remote".into()),
            Mounts::Nothing => arguments.push("--no-mounts".into()),
        }
        if self.many_directories {
            arguments.push("--many-directories".into());
        }
        arguments.push("--lifeline".into());
        arguments.extend(self.more.iter().cloned());
        arguments
    }

    /// The name of the port of events.
    pub(crate) fn events_port(&self) -> String {
        format!(r"\fltport\{}\events", self.instance)
    }
}

fn demo(args: DemoArgs, port_directory: Option<PathBuf>, here: &Surroundings) -> Demo {
    let host = HostRequest {
        programs: Programs::beside(&here.executable, args.daemon),
        instance: format!("demo-{}", here.process),
        guards: Vec::new(),
        rules: None,
        policy: Policy::Usual,
        policies: Vec::new(),
        mutes: Vec::new(),
        onlys: Vec::new(),
        excludes: Vec::new(),
        grant_mutes: None,
        deadline_ms: Some(DEMO_DEADLINE_MS),
        many_directories: false,
        mounts: Mounts::Local,
        more: Vec::new(),
        port_directory,
    };
    Demo {
        keep: args.keep,
        host,
        executable: here.executable.clone(),
        colour: here.colour,
    }
}

fn guard(
    args: GuardArgs,
    port_directory: Option<PathBuf>,
    here: &Surroundings,
) -> anyhow::Result<Guard> {
    let mut guards = Vec::new();
    for typed in &args.directories {
        let found = existing(typed, "give the path of a directory that exists")?;
        if !found.is_dir() {
            bail!(
                "{} is not a directory; give the directory that it is in",
                typed.display()
            );
        }
        if !guards.contains(&found) {
            guards.push(found);
        }
    }
    let rules = args.rules.as_deref().map(|typed| {
        existing(
            typed,
            "give a file with YARA rules, or a directory of such files",
        )
    });
    // What it is, the host says.
    let excludes = args
        .excludes
        .iter()
        .map(|typed| existing(typed, "give the path of a directory that exists"));
    let host = HostRequest {
        programs: Programs::beside(&here.executable, args.daemon),
        instance: format!("guard-{}", here.process),
        guards,
        rules: rules.transpose()?,
        policy: match (args.strict, args.monitor) {
            (true, _) => Policy::Strict,
            (_, true) => Policy::Monitor,
            _ => Policy::Usual,
        },
        policies: args.policies,
        mutes: args.mutes,
        onlys: args.onlys,
        excludes: excludes.collect::<Result<_, _>>()?,
        grant_mutes: args.grant_mutes,
        deadline_ms: args.deadline_ms,
        many_directories: args.many_directories,
        mounts: match (args.no_mounts, args.remote) {
            (true, _) => Mounts::Nothing,
            (_, true) => Mounts::All,
            _ => Mounts::Local,
        },
        more: args.more,
        port_directory,
    };
    let view = if args.json || !here.terminal {
        View::Json
    } else {
        View::Human {
            all: args.all,
            colour: here.colour,
        }
    };
    Ok(Guard { host, view })
}

fn list(
    kind: control::Request,
    args: &ListArgs,
    port_directory: Option<PathBuf>,
    here: &Surroundings,
) -> Request {
    Request::List(List {
        kind,
        json: args.json,
        port_directory,
        width: here.width,
    })
}

fn explain(args: ExplainArgs, port_directory: Option<PathBuf>) -> anyhow::Result<Explain> {
    let process = args.process.as_deref();
    let process = process.map(|typed| existing(typed, "give the path of a program"));
    Ok(Explain {
        // Whether it exists is for the host to say, which may see another tree.
        path: std::path::absolute(&args.path).context("the path is empty")?,
        process: process.transpose()?,
        user: args.user,
        json: args.json,
        port_directory,
    })
}

/// The path, absolute and without links, of something that exists.
fn existing(typed: &Path, advice: &str) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(typed)
        .with_context(|| format!("cannot use {} ({advice})", typed.display()))
}

/// Long enough for a busy machine, short enough that a demonstration in which nothing answers is over soon.
const DEMO_DEADLINE_MS: u32 = 3_000;

#[cfg(test)]
mod tests;

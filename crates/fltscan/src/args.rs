//! The command line of `fltscand`: what was typed, and what it means.
//!
//! [`Typed`] is what clap understands, [`Action`] what is to be done. Not for doing it, and nothing is opened here: the
//! next room is `main.rs`.

use std::num::NonZeroUsize;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use fltscan::{Limits, Settings};

/// Scans the files that a filter host asks about.
///
/// Answers the questions of one port until the port's host ends the connection. Rules are compiled before the connection
/// is made: a scanner that is connected is ready.
#[derive(Debug, Parser)]
#[command(name = "fltscand", version, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
#[command(group = ArgGroup::new("where").required(true).args(["connect_fd", "port"]))]
pub(crate) struct Typed {
    #[command(subcommand)]
    command: Option<Command>,

    /// Use the connected socket that the parent process handed over with this number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    connect_fd: Option<RawFd>,

    /// Connect to the port of this name, such as '\ScannerPort'
    #[arg(long, value_name = "NAME")]
    port: Option<String>,

    /// Look for the port in this directory instead of this user's usual one
    #[arg(
        long,
        value_name = "DIR",
        requires = "port",
        conflicts_with = "connect_fd"
    )]
    port_directory: Option<PathBuf>,

    /// Read rules from this inherited descriptor; NAME is for messages [default: the EICAR test file's rule]
    #[arg(long, value_name = "FD=NAME", value_parser = numbered_name)]
    rules_fd: Vec<(RawFd, String)>,

    /// Read rules from this file, or from all *.yar and *.yara files of this directory
    #[arg(long, value_name = "PATH", requires = "port", conflicts_with_all = ["rules_fd", "connect_fd"])]
    rules: Option<PathBuf>,

    /// Files to scan at a time [default: one for each core, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Largest file to scan, in bytes; each thread may hold one in memory
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_file)]
    max_file: u64,

    /// Longest time for one file in milliseconds; less if the asker waits for less
    #[arg(long, value_name = "MS", default_value_t = default_millis())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    time_ms: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile rules and say what is wrong with them, if anything
    ///
    /// Problems are written to standard error as `file:line:column: message`. The exit code is 0 if the rules can be
    /// used and 1 if not.
    Check {
        /// A rule file, or a directory with *.yar and *.yara files
        #[arg(long, value_name = "PATH")]
        rules: PathBuf,
    },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Compile rules and report.
    Check {
        /// Where they are.
        rules: PathBuf,
    },
    /// Answer questions.
    Serve(Serve),
}

/// How to serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Serve {
    pub(crate) door: Door,
    pub(crate) rules: RulesFrom,
    pub(crate) settings: Settings,
}

/// Where the questions come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// A connected socket of the parent.
    Inherited(RawFd),
    /// A port with a name.
    Named {
        name: String,
        directory: Option<PathBuf>,
    },
}

/// Where the rules come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RulesFrom {
    BuiltIn,
    Inherited(Vec<(RawFd, String)>),
    Path(PathBuf),
}

impl Typed {
    pub(crate) fn resolve(self) -> Action {
        if let Some(Command::Check { rules }) = self.command {
            return Action::Check { rules };
        }
        let door = match (self.connect_fd, self.port) {
            (Some(number), _) => Door::Inherited(number),
            // The group says that one of the two is there; an empty name is refused by the port.
            (None, port) => Door::Named {
                name: port.unwrap_or_default(),
                directory: self.port_directory,
            },
        };
        let rules = match self.rules {
            Some(path) => RulesFrom::Path(path),
            None if self.rules_fd.is_empty() => RulesFrom::BuiltIn,
            None => RulesFrom::Inherited(self.rules_fd),
        };
        let threads = self.threads.map(usize::from).and_then(NonZeroUsize::new);
        let limits = Limits {
            max_file: self.max_file,
            time: Duration::from_millis(self.time_ms),
        };
        let settings = Settings {
            threads: threads.unwrap_or_else(|| Settings::default().threads),
            limits,
        };
        Action::Serve(Serve {
            door,
            rules,
            settings,
        })
    }
}

fn numbered_name(typed: &str) -> Result<(RawFd, String), String> {
    let parts = typed.split_once('=').filter(|(_, name)| !name.is_empty());
    let (number, name) = parts.ok_or("write it as FD=NAME, such as 4=worms.yar")?;
    match number.parse() {
        Ok(number) if number > 2 => Ok((number, name.to_owned())),
        _ => Err(format!(
            "{number} is not the number of a descriptor above 2"
        )),
    }
}

fn default_millis() -> u64 {
    u64::try_from(Limits::default().time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn a_host_hands_over_a_socket_and_rules() {
        let serve = serve("--connect-fd 7 --rules-fd 4=a.yar --rules-fd 5=b=c --threads 3");
        assert_eq!(serve.door, Door::Inherited(7));
        let rules = vec![(4, "a.yar".to_owned()), (5, "b=c".to_owned())];
        assert_eq!(serve.rules, RulesFrom::Inherited(rules));
        assert_eq!(serve.settings.threads.get(), 3);
        assert_eq!(serve.settings.limits, Limits::default());
    }

    #[test]
    fn a_named_port_may_come_with_a_directory_and_rules_of_a_path() {
        let serve = serve(r"--port \P --port-directory d --rules r --max-file 9 --time-ms 8");
        let (name, directory) = (r"\P".to_owned(), Some("d".into()));
        assert_eq!(serve.door, Door::Named { name, directory });
        assert_eq!(serve.rules, RulesFrom::Path("r".into()));
        let limits = Limits {
            max_file: 9,
            time: Duration::from_millis(8),
        };
        assert_eq!(serve.settings.limits, limits);
    }

    #[test]
    fn without_rules_the_built_in_one_is_used() {
        assert_eq!(serve("--connect-fd 3").rules, RulesFrom::BuiltIn);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "check",
            "--rules r",
            "--connect-fd 2",
            "--connect-fd -1",
            "--connect-fd 3 --port p",
            "--connect-fd 3 --rules r",
            "--connect-fd 3 --port-directory d",
            "--connect-fd 3 --rules-fd 4",
            "--connect-fd 3 --rules-fd 4=",
            "--connect-fd 3 --rules-fd 0=a",
            "--connect-fd 3 --threads 0",
            "--connect-fd 3 --time-ms 0",
            "--port p --rules r --rules-fd 4=a",
            "--connect-fd 3 check --rules r",
        ] {
            let refused = typed(line).is_err_and(|error| error.exit_code() == 2);
            assert!(refused, "fltscand {line}");
        }
    }

    fn typed(line: &str) -> Result<Typed, clap::Error> {
        Typed::try_parse_from(std::iter::once("fltscand").chain(line.split_whitespace()))
    }

    fn serve(line: &str) -> Serve {
        match typed(line).unwrap().resolve() {
            Action::Serve(serve) => serve,
            check @ Action::Check { .. } => panic!("{check:?}"),
        }
    }
}

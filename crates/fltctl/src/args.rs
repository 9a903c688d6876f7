//! What was typed: the definition of the command line, from which parser and help texts follow.
//!
//! No I/O and no decisions here; `request.rs` is next and turns this into settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Guard directories, watch decisions, list what filter hosts have
///
/// fltctl shows and steers fltport: a filter host takes file operations from the kernel and asks services, through
/// ports, whether they may go on.
#[derive(Debug, Parser)]
#[command(
    name = "fltctl",
    version,
    after_help = "Try it:\n  sudo fltctl demo\n\nExit status: 0 it is so, 1 it is not, 2 usage or environment error."
)]
pub(crate) struct Args {
    /// Where port names live, instead of /run/fltport (root) or $XDG_RUNTIME_DIR/fltport (others)
    #[arg(long, global = true, value_name = "DIR", display_order = 100)]
    pub(crate) port_directory: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show in a few seconds that the whole path works, on a scratch directory
    ///
    /// Guards a new directory with a clean file and the harmless EICAR test file in it, opens both from another
    /// process, and shows what was asked, what was answered and why. PASS means that the clean file opened and the
    /// test file did not. Everything is removed afterwards.
    #[command(after_help = "Example:\n  sudo fltctl demo")]
    Demo(DemoArgs),

    /// Guard directories until Ctrl-C, and show what happens
    ///
    /// Every open below the directories waits for the scanner's verdict. On a terminal, what was denied or could not
    /// be decided is shown, with the time in UTC; elsewhere every event is one line of JSON. Whatever becomes of the
    /// output, the guard goes on; when fltctl ends in any way, the guard ends.
    ///
    /// Not covered, because the kernel does not ask: renaming, deleting, linking, changing permissions or attributes.
    /// Not seen: hard links from outside, and files after they were moved out.
    #[command(
        after_help = "Examples:\n  sudo fltctl guard ~/Downloads\n  sudo fltctl guard --monitor --rules my.yar /srv/upload\n  sudo fltctl guard /srv -- --service av@400000 --cache off"
    )]
    Guard(GuardArgs),

    /// Say how each host is: what it guards, who is connected, what was decided, and what is wrong
    #[command(
        after_help = "Example:\n  sudo fltctl status\n\nExit status: 0 all is well, 1 something is wrong or no host runs, 2 usage or environment error."
    )]
    Status(ListArgs),

    /// List port names, who serves them and how many are connected
    #[command(after_help = "Example:\n  sudo fltctl ports")]
    Ports(ListArgs),

    /// List the connections of all ports: who, and what is waiting, answered, late
    #[command(after_help = "Example:\n  sudo fltctl connections --json")]
    Connections(ListArgs),

    /// List the filters of all hosts by altitude
    #[command(after_help = "Example:\n  sudo fltctl filters")]
    Filters(ListArgs),

    /// List what filters are attached to
    #[command(after_help = "Example:\n  sudo fltctl instances")]
    Instances(ListArgs),

    /// Upgrade a host that runs, or release everything it holds
    #[command(subcommand, after_help = "Example:\n  sudo fltctl host upgrade")]
    Host(HostCommand),

    /// List what hosts are told not to ask about, or to ask about only: how often, and by whom
    #[command(after_help = "Example:\n  sudo fltctl mutes")]
    Mutes(ListArgs),

    /// Say whether a file is guarded, and whether opening it would be asked about, and why
    ///
    /// The file is looked at without being opened. Who would open it matters where rules are about processes and users.
    #[command(
        after_help = "Example:\n  sudo fltctl explain /srv/upload/file --user www-data\n\nExit status: 0 it is guarded, 1 it is not, 2 usage or environment error."
    )]
    Explain(ExplainArgs),

    /// Open each file, read a byte, and say how it went: the other process of `demo`
    #[command(hide = true)]
    Open {
        /// The files.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

/// What can be done to a host that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Let another flthostd take over, without losing an operation or letting one through
    ///
    /// Starts the flthostd that is installed where the running one was, with the same arguments. It takes over the groups
    /// of the kernel, what is guarded, and every operation that waits; then the old one ends. Where anything fails the old
    /// one goes on.
    #[command(after_help = "Example:\n  sudo fltctl host upgrade")]
    Upgrade(UpgradeArgs),

    /// Break-glass: allow everything that waits, and end the host
    ///
    /// When even this cannot be started any more, a shell can do the same: kill -USR1 PROCESS, with flthostd's first
    /// process.
    #[command(after_help = "Example:\n  sudo fltctl host release")]
    Release(HostArgs),
}

/// Which host.
#[derive(Debug, clap::Args)]
pub(crate) struct HostArgs {
    /// The host's name, where it has one
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
}

/// `fltctl host upgrade`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// The new program, instead of the one that is installed where the running one was
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

/// `fltctl demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Leave the scratch directory behind
    #[arg(long)]
    pub(crate) keep: bool,

    /// Another program in the place of flthostd
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) daemon: Option<PathBuf>,
}

/// `fltctl guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardArgs {
    /// Directories to guard, with everything below them
    #[arg(required = true, value_name = "DIR")]
    pub(crate) directories: Vec<PathBuf>,

    /// YARA rules: a file, or a directory of files [default: the EICAR test file only]
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) rules: Option<PathBuf>,

    /// Deny everything that cannot be decided (too slow, no scanner, too large)
    #[arg(long, conflicts_with = "monitor")]
    pub(crate) strict: bool,

    /// Deny nothing; show what would have been denied
    #[arg(long)]
    pub(crate) monitor: bool,

    /// How long an open may wait for its verdict [default: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=600_000))]
    pub(crate) deadline_ms: Option<u32>,

    /// Sets what happens for one cause, such as timeout=deny, unscannable=allow, overload=EAGAIN
    #[arg(long = "policy", value_name = "CAUSE=ACTION")]
    pub(crate) policies: Vec<String>,

    /// Do not guard other filesystems that are mounted below a guarded directory
    #[arg(long)]
    pub(crate) no_mounts: bool,

    /// Guard a directory that is no mount point, and has more than 10,000 directories
    #[arg(long)]
    pub(crate) many_directories: bool,

    /// Guard network and FUSE filesystems below a guarded directory too
    #[arg(long, conflicts_with = "no_mounts")]
    pub(crate) remote: bool,

    /// What is not asked about: path=FILE, tree=DIR, process=FILE, user=NAME, cgroup=PATH, fstype=NAME; open: or exec:
    /// before it for opens or executions alone, a time such as 10m: for a while
    #[arg(long = "mute", value_name = "KIND=VALUE")]
    pub(crate) mutes: Vec<String>,

    /// Ask only about what one of these matches; written as for --mute
    #[arg(long = "only", value_name = "KIND=VALUE")]
    pub(crate) onlys: Vec<String>,

    /// Directory whose files are not asked about: as --mute tree=DIR
    #[arg(long = "exclude", value_name = "DIR")]
    pub(crate) excludes: Vec<PathBuf>,

    /// Let services of this port ask for mutes of their own, for an hour at most
    #[arg(long, value_name = "PORT", value_parser = ["scan"])]
    pub(crate) grant_mutes: Option<String>,

    /// JSON lines on a terminal too
    #[arg(long)]
    pub(crate) json: bool,

    /// Show plain allows too (JSON lines always have everything)
    #[arg(long)]
    pub(crate) all: bool,

    /// Further options of flthostd, as its --help has them
    #[arg(last = true, value_name = "OPTION OF FLTHOSTD")]
    pub(crate) more: Vec<OsString>,

    /// Another program in the place of flthostd
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) daemon: Option<PathBuf>,
}

/// `fltctl explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// The program that would open it
    #[arg(long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,

    /// The user who would: a name or a number
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,

    /// One JSON array instead of sentences
    #[arg(long)]
    pub(crate) json: bool,
}

/// The listings.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// One JSON array instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Args;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_that_is_shown_has_an_example() {
        for command in Args::command().get_subcommands() {
            let example = command.get_after_help().map(ToString::to_string);
            let shown = !command.is_hide_set();
            assert!(
                !shown || example.is_some_and(|text| text.contains("fltctl")),
                "{} has no example",
                command.get_name()
            );
        }
    }
}

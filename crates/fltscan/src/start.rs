//! The two things that `fltscand` does: check rules, and serve.
//!
//! For the order of a start (take what the parent gave, compile the rules, connect last) and for what goes to which
//! stream. Not for answering questions: that is the library's [`Service`].

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use fltport::{Client, Connector};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use fltscan::{RuleProblem, RuleSource, Rules, Service};

use crate::args::{Door, RulesFrom, Serve};
use crate::peer_fds;

/// Compiles the rules and says how many there are, or what is wrong.
pub(crate) fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let rules = match RuleSource::collect(path).and_then(Rules::compile) {
        Ok(rules) => rules,
        Err(error) => {
            quietly(writeln!(io::stderr(), "{error}"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in rules.warnings() {
        let RuleProblem {
            source_name,
            line,
            column,
            message,
        } = warning;
        let text = format!("{source_name}:{line}:{column}: warning: {message}");
        quietly(writeln!(io::stderr(), "{text}"))?;
    }
    let count = rules.count();
    let plural = if count == 1 { "" } else { "s" };
    quietly(writeln!(io::stdout(), "{count} rule{plural}, ok"))?;
    Ok(ExitCode::SUCCESS)
}

/// Answers questions until the connection is over.
pub(crate) fn serve(serve: Serve) -> anyhow::Result<ExitCode> {
    let Serve {
        door,
        rules,
        settings,
    } = serve;
    // No dump of a scanner that a file has killed: while one is written the host would wait for it. And no other process
    // of the same user may look into this one.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot turn core dumps off")?;
    let connect = opener(door)?;
    let rules = Rules::compile(sources(rules)?)?;
    let summary = Service::new(&rules, settings).run(connect)?;
    // The connection is over; that there is nobody to read this any more is likely.
    writeln!(io::stderr(), "fltscand: connection over: {summary}").ok();
    Ok(ExitCode::SUCCESS)
}

type Connect = Box<dyn FnOnce() -> Result<Client, fltport::ConnectError>>;

/// Takes the socket of the parent now; connects when called.
fn opener(door: Door) -> anyhow::Result<Connect> {
    Ok(match door {
        Door::Inherited(number) => {
            let socket = peer_fds::take(number).context("--connect-fd")?;
            Box::new(move || Client::from_fd(socket, b""))
        }
        Door::Named { name, directory } => Box::new(move || {
            let connector = Connector::new();
            let connector = match directory {
                Some(directory) => connector.directory(directory),
                None => connector,
            };
            connector.connect(&name, b"")
        }),
    })
}

fn sources(rules: RulesFrom) -> anyhow::Result<Vec<RuleSource>> {
    Ok(match rules {
        RulesFrom::BuiltIn => vec![RuleSource::builtin()],
        RulesFrom::Path(path) => RuleSource::collect(&path)?,
        RulesFrom::Inherited(numbers) => {
            let taken = numbers
                .into_iter()
                .map(|(number, name)| Ok((name, peer_fds::take(number)?)));
            let taken: io::Result<Vec<_>> = taken.collect();
            RuleSource::from_descriptors(taken.context("--rules-fd")?)?
        }
    })
}

/// A reader that has seen enough is no error.
fn quietly(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

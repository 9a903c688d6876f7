//! The service of the host's cases: it looks at nothing, so that what is measured is the way there and back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fltbench_common::end_with_parent;
use fltport::protocol::TypedClient;
use fltport::protocol::file::{Answer, FileProtocol, Verdict};
use fltport::{Client, Connector};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::scratch::SLOW_SIZE;

/// What it says.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Manner {
    /// Allows everything, each time.
    Allow,
    /// Allows everything, and says that this depends on the content alone; never answers about slow files.
    Content,
    /// Allows everything, each time; never answers about slow files.
    Slow,
}

impl Manner {
    /// As a word of the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Content => "content",
            Self::Slow => "slow",
        }
    }
}

/// Answers until the host goes.
pub fn answer(directory: &Path, manner: Manner) -> Result<()> {
    end_with_parent()?;
    // Each question that is kept holds a descriptor.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;
    let client = TypedClient::<FileProtocol>::new(connect(directory, "scan")?);
    let allow = Answer::new(Verdict::Allow, "");
    let allow = match manner {
        Manner::Content => allow.of_content_only(),
        Manner::Allow | Manner::Slow => allow,
    };
    let keeps = !matches!(manner, Manner::Allow);
    let mut kept = Vec::new();
    while let Ok(message) = client.next_message() {
        if keeps && message.question().size == SLOW_SIZE {
            kept.push(message);
            continue;
        }
        message.reply(&allow).ok();
    }
    Ok(())
}

/// A connection to one of the ports of the case's host, which may be about to start.
pub fn connect(directory: &Path, port: &str) -> Result<Client> {
    let name = format!(r"\fltport\bench\{port}");
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match Connector::new().directory(directory).connect(&name, b"") {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > end => return Err(error).context("cannot connect"),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

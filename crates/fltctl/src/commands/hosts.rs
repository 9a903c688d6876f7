//! All filter hosts that can be reached, asked side by side: each has a limit, so that one that hangs does not hide the
//! others.
//!
//! A host is whoever serves a port `\fltport\...\control`. Next rooms: `list.rs`, `status.rs` and `explain.rs`, which ask.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fltport::{CallError, Client, ConnectError, Connector, PortEntry};
use serde_json::Value;

use crate::render::escape;
use crate::table::Row;

/// What hosts said, and what went wrong with the others.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The rows of each host, by its name.
    pub(super) by_host: BTreeMap<String, Vec<Row>>,
    /// In words.
    pub(super) errors: Vec<String>,
}

impl Answers {
    /// All rows, each with its host.
    pub(super) fn rows(self) -> Vec<Row> {
        let of_host = |(host, rows): (String, Vec<Row>)| {
            rows.into_iter().map(move |mut row| {
                row.insert("host".to_owned(), Value::String(host.clone()));
                row
            })
        };
        self.by_host.into_iter().flat_map(of_host).collect()
    }
}

/// The names in the port directory.
pub(super) fn entries(directory: Option<&Path>) -> anyhow::Result<Vec<PortEntry>> {
    fltport::list_ports(directory).with_context(|| {
        let place = directory.map_or_else(String::new, |path| format!(" {}", path.display()));
        format!("cannot read the port directory{place}; look at its permissions, or name another with --port-directory")
    })
}

/// Asks every host among these names, by `question`, whose answer is a list of objects.
pub(super) fn ask_all(
    directory: Option<&Path>,
    entries: &[PortEntry],
    question: impl Fn(&Client) -> Result<String, CallError> + Clone + Send + 'static,
) -> Answers {
    let mut hosts: BTreeMap<String, String> = entries
        .iter()
        .filter(|entry| entry.served)
        .filter_map(|entry| Some((host_of(&entry.name)?, entry.name.clone())))
        .collect();
    let (answer, answered) = channel();
    for (host, port) in hosts.clone() {
        let (answer, question) = (answer.clone(), question.clone());
        let directory = directory.map(Path::to_path_buf);
        // Not joined: one that hangs ends with this process.
        std::thread::spawn(move || {
            let said = ask(directory.as_deref(), &port, question);
            // Nobody listens any more once the limit has passed.
            answer.send((host, said)).ok();
        });
    }
    drop(answer);
    let mut answers = Answers::default();
    let end = Instant::now() + LIMIT;
    while let Ok((host, said)) =
        answered.recv_timeout(end.saturating_duration_since(Instant::now()))
    {
        let port = hosts.remove(&host).unwrap_or_default();
        match said {
            Ok(Some(rows)) => drop(answers.by_host.insert(host, rows)),
            // It ended between the listing and the question.
            Ok(None) => {}
            Err(error) => answers.errors.push(format!("{port}: {error:#}")),
        }
    }
    for port in hosts.into_values() {
        let limit = LIMIT.as_secs();
        answers.errors.push(format!(
            "{port}: no answer within {limit} s; its host hangs or is very busy"
        ));
    }
    answers
}

/// What each host says in one object, and whether some could not be asked, which is said. As JSON it is written at once.
pub(super) fn objects(
    directory: Option<&Path>,
    json: bool,
    question: impl Fn(&Client) -> Result<String, CallError> + Clone + Send + 'static,
) -> anyhow::Result<(Vec<Row>, bool)> {
    let entries = entries(directory)?;
    // As a list of one.
    let answers = ask_all(directory, &entries, move |client| {
        question(client).map(|text| format!("[{text}]"))
    });
    for error in &answers.errors {
        // With a closed standard error the exit status still tells.
        writeln!(io::stderr(), "fltctl: {}", escape(error)).ok();
    }
    // Its worker's name, which nobody answers at: it is being replaced, or policy decides, or the host was killed.
    let silent = entries.iter().filter(|entry| !entry.served);
    let silent: Vec<_> = silent.filter_map(|entry| host_of(&entry.name)).collect();
    for host in &silent {
        let text = "no worker answers; its supervisor decides by policy, or the host was killed and guards nothing";
        writeln!(io::stderr(), "fltctl: {}: {text}", escape(host)).ok();
    }
    let failed = !(answers.errors.is_empty() && silent.is_empty());
    let rows = answers.rows();
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else if rows.is_empty() && !failed {
        writeln!(out, "no filter host is running, so nothing is guarded")?;
    }
    Ok((rows, failed))
}

/// Asks one host; `None` if it is not there any more.
fn ask(
    directory: Option<&Path>,
    port: &str,
    question: impl Fn(&Client) -> Result<String, CallError>,
) -> anyhow::Result<Option<Vec<Row>>> {
    let connector = Connector::new();
    let connector = match directory {
        Some(directory) => connector.directory(directory),
        None => connector,
    };
    let client = match connector.connect(port, b"") {
        Ok(client) => client,
        Err(ConnectError::NotFound { .. } | ConnectError::NoFolder(_)) => return Ok(None),
        Err(error) if rustix::process::geteuid().is_root() => return Err(error.into()),
        Err(error) => return Err(anyhow::Error::new(error).context("try it with sudo")),
    };
    let text = question(&client)
        .context("the host did not answer the question; is it of another version?")?;
    let rows = serde_json::from_str(&text)
        .context("the answer is not a list of objects; is the host of another version?")?;
    Ok(Some(rows))
}

/// The host whose control port this is: `\fltport\guard-12\control` is of `guard-12`, `\fltport\control` of the system.
fn host_of(port: &str) -> Option<String> {
    let parts: Vec<_> = port.split('\\').collect();
    let ["", first, between @ .., last] = parts.as_slice() else {
        return None;
    };
    let ours = first.eq_ignore_ascii_case("fltport") && last.eq_ignore_ascii_case("control");
    ours.then(|| {
        if between.is_empty() {
            SYSTEM.to_owned()
        } else {
            between.join("\\")
        }
    })
}

/// The name of the host without a name.
const SYSTEM: &str = "system";

/// How long all hosts together may take.
const LIMIT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_ports_are_found_under_any_instance_and_under_none() {
        let host = |port| host_of(port);
        assert_eq!(
            host(r"\fltport\guard-12\control").as_deref(),
            Some("guard-12")
        );
        assert_eq!(host(r"\fltport\control").as_deref(), Some("system"));
        assert_eq!(host(r"\FltPort\a\b\Control").as_deref(), Some(r"a\b"));
        for other in [
            r"\control",
            r"\fltport",
            r"\fltport\guard-12\events",
            r"\other\control",
            "control",
            "",
        ] {
            assert_eq!(host(other), None, "{other}");
        }
    }
}

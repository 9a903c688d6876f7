//! `fltctl ports | connections | filters | instances`: asks every host that can be reached, and merges the answers.
//!
//! A host is whoever serves a port `\fltport\...\control`. Hosts are asked side by side and each has a limit, so that one
//! that hangs does not hide the others. Next room: `table.rs`.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fltport::protocol::control;
use fltport::{ConnectError, Connector, PortEntry};
use serde_json::{Value, json};

use crate::Outcome;
use crate::render::escape;
use crate::request::List;
use crate::table::{self, Row};

/// Lists.
pub(super) fn run(request: &List) -> anyhow::Result<Outcome> {
    let directory = request.port_directory.as_deref();
    let entries = fltport::list_ports(directory).with_context(|| {
        let place = directory.map_or_else(String::new, |path| format!(" {}", path.display()));
        format!("cannot read the port directory{place}; look at its permissions, or name another with --port-directory")
    })?;
    let answers = ask_all(directory, &entries, request.kind);
    let asking_failed = !answers.errors.is_empty();
    for error in &answers.errors {
        // With a closed standard error the exit status still tells.
        writeln!(io::stderr(), "fltctl: {}", escape(error)).ok();
    }
    let rows = match request.kind {
        control::Request::Ports => ports(&entries, answers),
        _ => answers.rows(),
    };
    let text = if request.json {
        serde_json::to_string_pretty(&rows)?
    } else if !rows.is_empty() {
        table::table(request.kind, &rows, request.width)
    } else if asking_failed {
        String::new()
    } else {
        table::nothing(request.kind, rustix::process::geteuid().is_root()).to_owned()
    };
    if !text.is_empty() {
        writeln!(io::stdout(), "{text}")?;
    }
    Ok(if rows.is_empty() && asking_failed {
        Outcome::No
    } else {
        Outcome::Yes
    })
}

/// What hosts said, and what went wrong with the others.
#[derive(Debug, Default)]
struct Answers {
    by_host: BTreeMap<String, Vec<Row>>,
    errors: Vec<String>,
}

impl Answers {
    /// All rows, each with its host.
    fn rows(self) -> Vec<Row> {
        let of_host = |(host, rows): (String, Vec<Row>)| {
            rows.into_iter().map(move |mut row| {
                row.insert("host".to_owned(), Value::String(host.clone()));
                row
            })
        };
        self.by_host.into_iter().flat_map(of_host).collect()
    }
}

fn ask_all(directory: Option<&Path>, entries: &[PortEntry], kind: control::Request) -> Answers {
    let mut hosts: BTreeMap<String, String> = entries
        .iter()
        .filter(|entry| entry.served)
        .filter_map(|entry| Some((host_of(&entry.name)?, entry.name.clone())))
        .collect();
    let (answer, answered) = channel();
    for (host, port) in hosts.clone() {
        let answer = answer.clone();
        let directory = directory.map(Path::to_path_buf);
        // Not joined: one that hangs ends with this process.
        std::thread::spawn(move || {
            let said = ask(directory.as_deref(), &port, kind);
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

/// Asks one host; `None` if it is not there any more.
fn ask(
    directory: Option<&Path>,
    port: &str,
    kind: control::Request,
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
    let text = kind
        .send(&client)
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

/// The names in the port directory, with what their hosts say of them.
fn ports(entries: &[PortEntry], answers: Answers) -> Vec<Row> {
    let mut told: BTreeMap<String, Row> = BTreeMap::new();
    for row in answers.by_host.into_values().flatten() {
        if let Some(name) = row.get("name").and_then(Value::as_str) {
            told.insert(name.to_ascii_lowercase(), row);
        }
    }
    let mut rows = Vec::new();
    for entry in entries {
        let state = if entry.served { "served" } else { "stale" };
        let known = told.remove(&entry.name.to_ascii_lowercase());
        let field = |name| known.as_ref().and_then(|row| row.get(name).cloned());
        let mut row = Row::new();
        row.insert("name".to_owned(), json!(entry.name));
        row.insert("state".to_owned(), json!(state));
        for name in ["connections", "max_connections"] {
            row.insert(name.to_owned(), field(name).unwrap_or(Value::Null));
        }
        rows.push(row);
    }
    // Ports without a name in the directory: their clients were handed a connection.
    for mut row in told.into_values() {
        row.insert("state".to_owned(), json!("private"));
        rows.push(row);
    }
    rows
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

    #[test]
    fn ports_have_what_their_host_says_whatever_the_case_of_the_name() {
        let entry = |name: &str, served| PortEntry {
            name: name.to_owned(),
            served,
        };
        let entries = [entry(r"\A\Events", true), entry(r"\Old", false)];
        let said = r#"[{"name":"\\a\\events","connections":2,"max_connections":8},{"name":"\\a\\scan","connections":1}]"#;
        let answers = Answers {
            by_host: BTreeMap::from([("a".to_owned(), serde_json::from_str(said).unwrap())]),
            errors: Vec::new(),
        };
        let rows = Value::from_iter(ports(&entries, answers));
        assert_eq!(
            rows,
            json!([
                {"name": r"\A\Events", "state": "served", "connections": 2, "max_connections": 8},
                {"name": r"\Old", "state": "stale", "connections": null, "max_connections": null},
                {"name": r"\a\scan", "state": "private", "connections": 1},
            ])
        );
    }
}

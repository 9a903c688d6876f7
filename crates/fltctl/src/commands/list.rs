//! `fltctl ports | connections | filters | instances | mutes`: asks every host that can be reached, and merges the
//! answers. Next rooms: `hosts.rs`, which asks, and `table.rs`.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use fltport::PortEntry;
use fltport::protocol::control;
use serde_json::{Value, json};

use crate::Outcome;
use crate::commands::hosts::{self, Answers};
use crate::render::escape;
use crate::request::List;
use crate::table::{self, Row};

/// Lists.
pub(super) fn run(request: &List) -> anyhow::Result<Outcome> {
    let directory = request.port_directory.as_deref();
    let entries = hosts::entries(directory)?;
    let kind = request.kind;
    let answers = hosts::ask_all(directory, &entries, move |client| kind.send(client));
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

#[cfg(test)]
mod tests {
    use super::*;

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

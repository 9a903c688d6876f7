//! `fltctl explain`: whether a file is guarded, and whether opening it would be asked about, as each host says itself.
//!
//! Nothing is decided here, and nothing is opened. Next room: `hosts.rs`, which asks.

use std::io::{self, Write as _};

use fltport::protocol;
use serde_json::Value;

use crate::Outcome;
use crate::commands::hosts;
use crate::render::escape;
use crate::request::Explain;
use crate::table::Row;

/// Explains. It is so if some host guards the file.
pub(super) fn run(request: &Explain) -> anyhow::Result<Outcome> {
    let directory = request.port_directory.as_deref();
    let asked = request.clone();
    let (rows, _) = hosts::objects(directory, request.json, move |client| {
        let question = protocol::explain::Explain {
            path: &asked.path,
            process: asked.process.as_deref(),
            user: asked.user.as_deref(),
        };
        question.send(client)
    })?;
    let mut out = io::stdout();
    for line in rows.iter().filter(|_| !request.json).flat_map(lines) {
        writeln!(out, "{line}")?;
    }
    let guarded = rows
        .iter()
        .any(|row| row.get("guarded") == Some(&Value::Bool(true)));
    Ok(if guarded { Outcome::Yes } else { Outcome::No })
}

/// What one host says, a sentence a line.
fn lines(row: &Row) -> Vec<String> {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let host = row.get("host").map(text).unwrap_or_default();
    let words = row.get("words").and_then(Value::as_array);
    let words = words.into_iter().flatten();
    let words = words.chain(row.get("error"));
    words
        .map(|line| format!("{host}: {}", text(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_has_its_host_and_steers_no_terminal() {
        let said = r#"[{"host":"guard-1","words":["/x/\u001b[2J is guarded","opens are asked about"]},
            {"host":"system","error":"/x: No such file"}]"#;
        let rows: Vec<Row> = serde_json::from_str(said).unwrap();
        let lines: Vec<_> = rows.iter().flat_map(lines).collect();
        assert_eq!(
            lines,
            [
                r"guard-1: /x/\u{1b}[2J is guarded",
                "guard-1: opens are asked about",
                "system: /x: No such file"
            ]
        );
    }
}

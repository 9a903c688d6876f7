//! `fltctl status`: how each filter host is, in sentences, and whether anything is wrong.
//!
//! What is wrong is judged here, from what hosts say of themselves. Next room: `hosts.rs`, which asks.

use std::io::{self, Write as _};

use fltport::protocol::control;
use serde_json::Value;

use crate::Outcome;
use crate::commands::hosts;
use crate::render::escape;
use crate::request::List;
use crate::table::Row;

/// Shows. It is so if some host runs, and nothing is wrong with any.
pub(super) fn run(request: &List) -> anyhow::Result<Outcome> {
    let directory = request.port_directory.as_deref();
    let ask = |client: &_| control::Request::Status.send(client);
    let (rows, failed) = hosts::objects(directory, request.json, ask)?;
    let mut out = io::stdout();
    let mut well = !failed && !rows.is_empty();
    for status in rows.into_iter().map(Status) {
        let wrong = status.wrong();
        well &= wrong.is_empty();
        if request.json {
            continue;
        }
        writeln!(out, "{}", status.title())?;
        for (name, text) in status.lines() {
            writeln!(out, "  {name:<11} {}", escape(&text))?;
        }
        for text in wrong {
            writeln!(out, "  {:<11} {}", "WRONG", escape(&text))?;
        }
    }
    Ok(if well { Outcome::Yes } else { Outcome::No })
}

/// What one host says of itself. What it does not say, as an older one may, is left out.
struct Status(Row);

impl Status {
    fn at<'a>(&'a self, path: &[&str]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        let start = self.0.get(*first);
        rest.iter().fold(start, |value, name| value?.get(*name))
    }

    fn number(&self, path: &[&str]) -> Option<u64> {
        self.at(path)?.as_u64()
    }

    fn is(&self, name: &str) -> bool {
        self.at(&[name]).and_then(Value::as_bool) == Some(true)
    }

    fn list(&self, path: &[&str]) -> &[Value] {
        let list = self.at(path).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    fn title(&self) -> String {
        let text = |name| self.at(&[name]).and_then(Value::as_str).unwrap_or("?");
        let process = |name| {
            let number = self.number(&[name]).filter(|number| *number > 0);
            number.map_or_else(|| "none".to_owned(), |number| number.to_string())
        };
        let monitor = if self.is("monitor") {
            ", monitor: nothing is denied"
        } else {
            ""
        };
        format!(
            "{}: flthostd {}, supervisor {}, worker {}{monitor}",
            escape(text("host")),
            escape(text("version")),
            process("supervisor"),
            process("worker"),
        )
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        for guard in self.list(&["guards"]) {
            let mark = match guard["kind"].as_str() {
                Some("filesystem") => "the whole filesystem".to_owned(),
                _ => format!("{} directories", guard["directories"]),
            };
            lines.push(("guards", format!("{} ({mark})", words(&guard["path"]))));
        }
        for volume in self.list(&["volumes"]) {
            let reason = volume["reason"].as_str();
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let text = format!(
                "{} {}{reason}",
                words(&volume["path"]),
                words(&volume["state"])
            );
            lines.push(("mounted", text));
        }
        for port in self.list(&["service_ports"]) {
            let text = format!(
                "{} at {}: {} connected, {} questions with them, {} waiting",
                words(&port["port"]),
                port["altitude"],
                port["services"],
                port["with_services"],
                port["waiting"]
            );
            lines.push(("services", text));
        }
        let count = |name| self.number(&["operations", name]).unwrap_or(0);
        lines.push((
            "operations",
            format!(
                "{} allowed, {} denied, {} pending; {} decided by services, {} by policy, {} known from before",
                count("allowed"),
                count("denied"),
                count("pending"),
                count("by_service"),
                count("by_policy"),
                count("cached"),
            ),
        ));
        if let Some(deadline) = self.number(&["policies", "deadline_ms"]) {
            let causes = [
                "timeout",
                "no_service",
                "overload",
                "crash",
                "unscannable",
                "poison",
            ];
            let action = |cause| {
                let action = self.at(&["policies", cause]).and_then(Value::as_str);
                action.map(|action| format!("{cause}={action}"))
            };
            let actions: Vec<_> = causes.into_iter().filter_map(action).collect();
            let text = format!("after {deadline} ms; {}", actions.join(" "));
            lines.push(("policies", text));
        }
        for missing in self.list(&["missing"]) {
            lines.push(("kernel", words(missing)));
        }
        for other in self.list(&["others", "programs"]) {
            let shared = other["shared"].as_array().into_iter().flatten();
            let shared: Vec<_> = shared.map(words).collect();
            let place = match &shared[..] {
                [] => "elsewhere".to_owned(),
                places => format!("on the filesystems of {}", places.join(", ")),
            };
            let text = format!(
                "{} (process {}) answers for files too, {place}",
                words(&other["program"]),
                other["pid"]
            );
            lines.push(("beside", text));
        }
        lines
    }

    /// What somebody should look after.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.number(&["supervisor"]) == Some(0) {
            let text = "the supervisor has died: when the worker dies too, everything is allowed; mend with: fltctl host upgrade";
            wrong.push(text.to_owned());
        }
        for port in self.list(&["service_ports"]) {
            // Otherwise another is asked while nobody is there.
            let is_kept = port["kept"].as_bool() != Some(false);
            if is_kept && port["services"] == 0 {
                let text = "no service is connected, and policy decides";
                wrong.push(format!("{}: {text}", words(&port["port"])));
            }
            if port["released"].as_bool() == Some(true) {
                let text = "no service has answered for long, and what is denied for that goes on";
                wrong.push(format!("{}: {text}", words(&port["port"])));
            }
        }
        let refused = |volume: &&Value| volume["state"].as_str() == Some("refused");
        for volume in self.list(&["volumes"]).iter().filter(refused) {
            wrong.push(format!("{} is not guarded", words(&volume["path"])));
        }
        wrong
    }
}

/// Text as it is, and anything else as JSON.
fn words(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        Status(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_is_wrong_is_said_and_what_is_well_is_not() {
        let well = status(
            r#"{"host":"guard-1","version":"1","supervisor":5,"worker":6,"services":1,
            "service_ports":[{"port":"scan","altitude":1,"services":1,"with_services":0,"waiting":0,"released":false}]}"#,
        );
        assert_eq!(well.wrong(), [""; 0]);
        assert_eq!(well.title(), "guard-1: flthostd 1, supervisor 5, worker 6");
        let ill = status(
            r#"{"host":"guard-1","supervisor":0,"worker":6,"services":0,"monitor":true,
            "service_ports":[{"port":"scan","services":0,"released":true}],"volumes":[{"path":"/x","state":"refused"}]}"#,
        );
        let wrong = ill.wrong().join("\n");
        for word in [
            "supervisor has died",
            "no service",
            "scan:",
            "/x is not guarded",
        ] {
            assert!(wrong.contains(word), "{wrong}");
        }
        assert!(
            ill.title()
                .ends_with("supervisor none, worker 6, monitor: nothing is denied")
        );
    }

    #[test]
    fn a_host_that_says_little_is_shown_all_the_same() {
        let lines = status("{}").lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(status("{}").title().starts_with("?: flthostd ?"));
    }
}

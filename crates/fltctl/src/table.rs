//! Listings: rows of JSON objects as a table for people.
//!
//! What a host says is data: columns that a listing knows are shown, others are for `--json`. Next room:
//! `commands/list.rs`, which asks.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use fltport::protocol::control;
use serde_json::{Map, Value};

use crate::render::escape;

/// A row of a listing, as hosts tell it.
pub(crate) type Row = Map<String, Value>;

/// A column: its title, the field it shows, and how.
type Column = (&'static str, &'static str, CellAlignment);

const LEFT: CellAlignment = CellAlignment::Left;
const RIGHT: CellAlignment = CellAlignment::Right;

/// The table of `rows`, at most `width` wide.
pub(crate) fn table(kind: control::Request, rows: &[Row], width: Option<u16>) -> String {
    let columns = columns(kind);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(
        columns
            .iter()
            .map(|(title, _, side)| Cell::new(title).set_alignment(*side)),
    );
    for row in rows {
        table.add_row(
            columns
                .iter()
                .map(|(_, field, side)| Cell::new(shown(row.get(*field))).set_alignment(*side)),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// What is said instead of an empty table.
pub(crate) const fn nothing(kind: control::Request, root: bool) -> &'static str {
    match (kind, root) {
        (control::Request::Ports, true) => {
            "no ports here; start a filter host with: fltctl guard DIR"
        }
        (control::Request::Ports, false) => {
            "no ports of this user; those of root are listed by: sudo fltctl ports"
        }
        (control::Request::Mutes, _) => {
            "no rules: hosts of this user ask about everything they guard; say otherwise with: fltctl guard --mute KIND=VALUE"
        }
        (_, true) => "no filter host is running; start one with: fltctl guard DIR",
        (_, false) => {
            "no filter host of this user is running; those of root are listed with sudo, and started with: sudo fltctl guard DIR"
        }
    }
}

const fn columns(kind: control::Request) -> &'static [Column] {
    match kind {
        control::Request::Ports => &[
            ("PORT", "name", LEFT),
            ("STATE", "state", LEFT),
            ("CONNECTIONS", "connections", RIGHT),
            ("MAX", "max_connections", RIGHT),
        ],
        control::Request::Connections => &[
            ("HOST", "host", LEFT),
            ("PORT", "port", LEFT),
            ("ID", "id", RIGHT),
            ("PID", "pid", RIGHT),
            ("UID", "uid", RIGHT),
            ("GETS", "gets", RIGHT),
            ("WAITING", "waiting", RIGHT),
            ("OUTSTANDING", "outstanding", RIGHT),
            ("DELIVERED", "delivered", RIGHT),
            ("REPLIED", "replied", RIGHT),
            ("TIMEOUTS", "timed_out", RIGHT),
            ("LATE", "late_replies", RIGHT),
        ],
        control::Request::Filters => &[
            ("HOST", "host", LEFT),
            ("FILTER", "name", LEFT),
            ("ALTITUDE", "altitude", RIGHT),
            ("INSTANCES", "instances", RIGHT),
        ],
        control::Request::Instances => &[
            ("HOST", "host", LEFT),
            ("FILTER", "filter", LEFT),
            ("ALTITUDE", "altitude", RIGHT),
            ("VOLUME", "volume", LEFT),
            ("MARK", "mark", LEFT),
            ("DIRECTORIES", "directories", RIGHT),
        ],
        control::Request::Mutes => &[
            ("HOST", "host", LEFT),
            ("ID", "id", RIGHT),
            ("SORT", "sort", LEFT),
            ("RULE", "rule", LEFT),
            ("HITS", "hits", RIGHT),
            ("SECONDS LEFT", "expires_s", RIGHT),
            ("ORIGIN", "origin", LEFT),
            ("PID", "pid", RIGHT),
        ],
        // A host's status is no listing.
        _ => &[("HOST", "host", LEFT)],
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => escape(text),
        Some(other) => escape(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Row> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn columns_line_up_and_unknown_values_are_a_dash() {
        let rows = rows(
            r#"[{"name":"\\fltport\\events","state":"served","connections":1,"max_connections":16},
                {"name":"\\Old","state":"stale","connections":null,"later":true}]"#,
        );
        let expected = [
            r"PORT             STATE   CONNECTIONS  MAX",
            r"\fltport\events  served            1   16",
            r"\Old             stale             -    -",
        ];
        let table = table(control::Request::Ports, &rows, None);
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let rows = rows(
            r#"[{"host":"guard-12","filter":"ask","altitude":"320000","volume":"/a/very/long/path/to/some/directory/that/is/guarded","mark":"directory","directories":3}]"#,
        );
        let table = table(control::Request::Instances, &rows, Some(60));
        assert!(
            table.lines().all(|line| line.chars().count() <= 60),
            "{table}"
        );
        assert!(table.lines().count() > 2);
    }

    #[test]
    fn what_hosts_say_cannot_steer_the_terminal() {
        let rows = rows(r#"[{"name":"\u001b[2J","host":["\u009b"]}]"#);
        let table = table(control::Request::Filters, &rows, None);
        assert!(
            !table.chars().any(|c| c.is_control() && c != '\n'),
            "{table:?}"
        );
    }
}

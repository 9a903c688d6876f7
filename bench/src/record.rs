//! A whole run as it is kept: `results.json`, and what is made of it, `results.md` and the charts. Nothing that is shown
//! comes from anywhere else, so that a reader of one can check the other.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cases::{Case, Group, Measure, Role, Waits};
use crate::machine::Machine;
use crate::sample::{Run, Sample};
use crate::{charts, report};

/// What was measured, and where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The machine, at the start.
    pub machine: Machine,
    /// Ordered the cases.
    pub seed: u64,
    /// A short run.
    pub quick: bool,
    /// How often each case was run.
    pub repetitions: usize,
    /// How often a case was run again because the cores had moved.
    pub run_again: usize,
    /// Groups of cases that are compared with each other.
    pub tables: Vec<Table>,
}

/// A group and what was measured of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// The first part of its cases' names.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// What its rows are compared by.
    pub measure: Measure,
    /// The row that all others are compared with, if it is not fltport's.
    pub base: Option<String>,
    /// One for each case.
    pub rows: Vec<Row>,
}

/// A case and its repetitions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The name in the table.
    pub label: String,
    /// What it is there for.
    pub role: Role,
    /// How it waits.
    pub waits: Waits,
    /// What its process was told.
    pub command: String,
    /// In the order of the repetitions; what stands at the same place in two rows of a table is a pair.
    pub runs: Vec<Run>,
}

/// The file that everything else is made of.
const RECORD: &str = "results.json";

/// Its tables.
const TABLES: &str = "results.md";

impl Record {
    /// The table of this name.
    pub fn table(&self, id: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.id == id)
    }

    /// The samples of all cases.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        let rows = self.tables.iter().flat_map(|table| &table.rows);
        rows.flat_map(|row| &row.runs).filter_map(Run::sample)
    }

    /// Keeps the run in a folder: the numbers, the tables and the charts.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(fields) = &mut value {
            // For other programs; what is read back is computed again.
            fields.insert("derived".to_owned(), report::derived(self));
        }
        let mut text = String::new();
        lay_out(&value, 0, &mut text);
        text.push('\n');
        write(&folder.join(RECORD), &text)?;
        self.show(folder)
    }

    /// Reads the numbers of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let record = serde_json::from_str(&text);
        record.with_context(|| format!("{} is no record of a run", path.display()))
    }

    /// Writes the tables and the charts of the numbers into their folder.
    pub fn show(&self, folder: &Path) -> Result<()> {
        for (name, text) in self.shown() {
            write(&folder.join(name), &text)?;
        }
        Ok(())
    }

    /// The files that are made of the numbers.
    fn shown(&self) -> Vec<(String, String)> {
        let mut files = vec![(TABLES.to_owned(), report::page(self))];
        files.extend(charts::all(self));
        files
    }
}

impl Table {
    /// Of a group of which nothing was measured yet.
    pub fn of(group: &Group) -> Self {
        let row = |case: &Case| Row {
            label: case.label.clone(),
            role: case.role,
            waits: case.waits,
            command: case.spec.to_words().join(" "),
            runs: Vec::new(),
        };
        Self {
            id: group.id.clone(),
            title: group.title.clone(),
            measure: group.measure,
            base: group.base.map(str::to_owned),
            rows: group.cases.iter().map(row).collect(),
        }
    }

    /// The row of this name.
    pub fn row(&self, label: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.label == label)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The longest value that is kept on one line.
const LINE: usize = 240;

/// JSON with a line for each thing that is short enough, so that two runs can be compared line by line.
fn lay_out(value: &Value, depth: usize, out: &mut String) {
    let line = value.to_string();
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            let named = |(name, part)| (format!("{}: ", Value::from(name)), part);
            fields
                .iter()
                .map(|(name, part)| (name.as_str(), part))
                .map(named)
                .collect()
        }
        Value::Array(parts) => parts.iter().map(|part| (String::new(), part)).collect(),
        _ => Vec::new(),
    };
    if line.len() <= LINE || parts.is_empty() {
        out.push_str(&line);
        return;
    }
    let (open, close) = if value.is_object() {
        ('{', '}')
    } else {
        ('[', ']')
    };
    out.push(open);
    for (number, (name, part)) in parts.iter().enumerate() {
        out.push_str(if number > 0 { ",\n" } else { "\n" });
        out.push_str(&" ".repeat(depth + 1));
        out.push_str(name);
        lay_out(part, depth + 1, out);
    }
    out.push('\n');
    out.push_str(&" ".repeat(depth));
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::{RECORD, Record, lay_out};
    use std::path::Path;

    /// The first file of the folder that is not what its numbers give.
    fn changed(record: &Record, folder: &Path) -> Option<String> {
        let differs = |(name, text): &(String, String)| {
            !std::fs::read_to_string(folder.join(name)).is_ok_and(|kept| kept == *text)
        };
        record
            .shown()
            .into_iter()
            .find(differs)
            .map(|(name, _)| name)
    }

    #[test]
    fn what_is_shown_of_the_kept_runs_is_what_their_numbers_give() {
        for kept in ["docs/bench", "docs/bench-guard"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(kept);
            let record = Record::read(&folder).unwrap();
            let changed = changed(&record, &folder);
            assert!(
                changed.is_none(),
                "{changed:?} is not what {RECORD} gives: run `cargo xtask bench --render {kept}`"
            );
            assert!(!record.quick, "a quick run is not kept");
        }
    }

    #[test]
    fn a_run_that_was_kept_is_read_back_and_a_changed_table_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let record = crate::report::tests::record();
        record.keep(folder.path()).unwrap();
        let again = Record::read(folder.path()).unwrap();
        assert_eq!(changed(&again, folder.path()), None);
        let path = folder.path().join("results.md");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("2.00", "3.00")).unwrap();
        assert_eq!(
            changed(&again, folder.path()).as_deref(),
            Some("results.md")
        );
    }

    #[test]
    fn short_values_stand_on_one_line() {
        let value = serde_json::json!({ "a": [1, 2], "b": vec!["long"; 100] });
        let mut text = String::new();
        lay_out(&value, 0, &mut text);
        assert!(text.starts_with("{\n \"a\": [1,2],\n \"b\": [\n  \"long\",\n"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}

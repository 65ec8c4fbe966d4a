//! What a prepared statement must hold, and how a row is named for people.

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::decode::Problem;
use super::wire::Column;

/// Two columns of one name cannot both be stored.
pub(super) fn check_names(columns: &[Column]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    match columns.iter().find(|column| !seen.insert(column.name.to_lowercase())) {
        None => Ok(()),
        Some(column) => {
            let message = format!("two columns are named `{}`", column.name);
            Err(Error::new(ErrorKind::Configuration, "prepare query", message)
                .with_hint("name them apart: SELECT a.id AS a_id, b.id AS b_id"))
        }
    }
}

/// The lake looks the key's columns up by their exact names.
pub(super) fn check_key(key: &[String], columns: &[Column]) -> Result<()> {
    match key.iter().find(|name| !columns.iter().any(|column| column.name == **name)) {
        None => Ok(()),
        Some(name) => Err(no_column("key", name, columns)),
    }
}

pub(super) fn no_column(what: &str, name: &str, columns: &[Column]) -> Error {
    let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    Error::new(ErrorKind::NotFound, "prepare query", format!("there is no column `{name}`, which `{what}` names"))
        .with_hint(format!("the columns are: {}", known.join(", ")))
}

/// What identifies a row of a batch.
pub(super) fn row_identity(batch: &RecordBatch, identity: &[usize], row: usize, rows_before: u64) -> Value {
    let options = FormatOptions::default();
    let mut fields = Map::new();
    for index in identity {
        if let Ok(formatter) = ArrayFormatter::try_new(batch.column(*index), &options) {
            let text = formatter.value(row).to_string();
            fields.insert(batch.schema().field(*index).name().clone(), Value::String(text));
        }
    }
    if fields.is_empty() { json!({ "row": rows_before + row as u64 + 1 }) } else { Value::Object(fields) }
}

pub(super) fn quarantined(problem: Problem, columns: &[Column], row: Value) -> QuarantineItem {
    QuarantineItem {
        reason: problem.reason,
        column: columns.get(problem.column).map(|column| column.name.clone()),
        row,
        content: problem.content,
        detail: problem.detail.to_owned(),
    }
}

//! The columns of a table or query: what they must be called, and how they name a row for people.

use std::collections::BTreeSet;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use portolan_model::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

/// A column as its engine describes it.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// Two columns of one name cannot both be stored.
pub(crate) fn check_names(columns: &[impl Named]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match columns.iter().map(Named::name).find(|name| !seen.insert(name.to_lowercase())) {
        None => Ok(()),
        Some(name) => {
            let message = format!("two columns are named `{name}`");
            Err(Error::new(ErrorKind::Configuration, "prepare query", message)
                .with_hint("name them apart: SELECT a.id AS a_id, b.id AS b_id"))
        }
    }
}

/// The lake looks the key's columns up by their exact names.
pub(crate) fn check_key(key: &[String], columns: &[impl Named]) -> Result<()> {
    match key.iter().find(|name| !columns.iter().any(|column| column.name() == name.as_str())) {
        None => Ok(()),
        Some(name) => Err(no_column("key", name, columns)),
    }
}

pub(crate) fn no_column(what: &str, name: &str, columns: &[impl Named]) -> Error {
    let known: Vec<&str> = columns.iter().map(Named::name).collect();
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

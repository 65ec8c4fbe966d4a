//! What a prepared statement must hold, and what of its rows cannot be stored.

use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Result};
use serde_json::Value;

use super::columns::Selected;
use super::decode::Problem;
use super::wire::Column;
use crate::relational;

fn names(columns: &[Column]) -> impl Iterator<Item = &str> {
    columns.iter().map(|column| column.name.as_str())
}

/// Two columns of one name cannot both be stored.
pub(super) fn check_names(columns: &[Column]) -> Result<()> {
    relational::check_names(names(columns))
}

/// The lake looks the key's columns up by their exact names.
pub(super) fn check_key(key: &[String], columns: &[Column]) -> Result<()> {
    relational::check_key(key, names(columns))
}

pub(super) fn no_column(what: &str, name: &str, columns: &[Column]) -> Error {
    relational::no_column(what, name, names(columns))
}

pub(super) fn null_cursor(name: &str) -> Error {
    Error::new(ErrorKind::Data, "read rows", format!("a row has NULL in cursor `{name}`: it could never be recognised"))
        .with_hint(format!("declare the column NOT NULL, or use query = \"SELECT … WHERE {name} IS NOT NULL\""))
}

pub(super) fn quarantined(problem: Problem, columns: &[Selected], row: Value) -> QuarantineItem {
    QuarantineItem {
        reason: problem.reason,
        column: columns.get(problem.column).map(|selected| selected.column.name.clone()),
        row,
        content: problem.content,
        detail: problem.detail.to_owned(),
    }
}

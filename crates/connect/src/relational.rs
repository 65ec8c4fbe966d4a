//! What sources of tables and queries share: their window for late rows, what a statement's columns must be called, and how
//! a row is named for people.

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use portolan_model::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How far behind the last cursor a read starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum LateWindow {
    /// In units of a numeric cursor.
    Number(u64),
    /// In time, for a temporal cursor.
    Time(portolan_model::config::DurationText),
}

impl<'de> Deserialize<'de> for LateWindow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = LateWindow;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a whole number (numeric cursor) or a duration such as \"10min\" (temporal cursor)")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<LateWindow, E> {
                u64::try_from(number).map(LateWindow::Number).map_err(|_| E::custom("a window is not negative"))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<LateWindow, E> {
                Ok(LateWindow::Number(number))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<LateWindow, E> {
                portolan_model::config::DurationText::parse(text).map(LateWindow::Time).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Two columns of one name cannot both be stored.
pub(crate) fn check_names<'a>(columns: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    match columns.into_iter().find(|name| !seen.insert(name.to_lowercase())) {
        None => Ok(()),
        Some(name) => {
            let message = format!("two columns are named `{name}`");
            Err(Error::new(ErrorKind::Configuration, "prepare query", message)
                .with_hint("name them apart: SELECT a.id AS a_id, b.id AS b_id"))
        }
    }
}

/// The lake looks the key's columns up by their exact names.
pub(crate) fn check_key<'a>(key: &[String], columns: impl Iterator<Item = &'a str>) -> Result<()> {
    let columns: Vec<&str> = columns.collect();
    match key.iter().find(|name| !columns.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(no_column("key", name, columns.into_iter())),
    }
}

pub(crate) fn no_column<'a>(what: &str, name: &str, columns: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = columns.collect();
    Error::new(ErrorKind::NotFound, "prepare query", format!("there is no column `{name}`, which `{what}` names"))
        .with_hint(format!("the columns are: {}", known.join(", ")))
}

/// What identifies a row of a batch.
pub(crate) fn row_identity(batch: &RecordBatch, identity: &[usize], row: usize, rows_before: u64) -> Value {
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

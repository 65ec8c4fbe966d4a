//! The values of one column, as bytes until a batch is full, and what they become then.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, StringArray, StringBuilder};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use portolan_model::source::QuarantineItem;
use serde_json::Value;

use crate::format::inference::Traits;
use crate::format::{ColumnType, Item, quarantine_text};

/// A column on its way.
pub(super) struct Column {
    /// The field's name as it came.
    pub(super) raw_name: Box<[u8]>,
    pub(super) name: String,
    pub(super) cells: Cells,
    pub(super) traits: Traits,
}

/// The values of a column.
pub(super) enum Cells {
    Bytes { data: Vec<u8>, ends: Vec<i32>, valid: Vec<bool> },
    Integers(Vec<Option<i64>>),
    Doubles(Vec<Option<f64>>),
}

impl Cells {
    /// No strings yet.
    pub(super) fn bytes() -> Self {
        Self::Bytes { data: Vec::new(), ends: vec![0], valid: Vec::new() }
    }

    /// Fills the rows that have none with null.
    pub(super) fn pad(&mut self, rows: usize) {
        match self {
            Self::Bytes { data, ends, valid } if valid.len() < rows => {
                ends.resize(rows + 1, data.len() as i32);
                valid.resize(rows, false);
            }
            Self::Bytes { .. } => {}
            Self::Integers(values) => values.resize(rows, None),
            Self::Doubles(values) => values.resize(rows, None),
        }
    }

    /// Adds a value for the row after the first `row`; one that is there for it already is taken out and returned.
    pub(super) fn push_bytes(&mut self, row: usize, value: &[u8]) -> Option<Vec<u8>> {
        let Self::Bytes { data, ends, valid } = self else { return None };
        let mut before = None;
        if valid.len() > row {
            let start = ends[row] as usize;
            before = Some(data.split_off(start));
            ends.truncate(row + 1);
            valid.truncate(row);
        } else if valid.len() < row {
            ends.resize(row + 1, data.len() as i32);
            valid.resize(row, false);
        }
        data.extend_from_slice(value);
        ends.push(data.len() as i32);
        valid.push(true);
        before
    }

    /// The string of a row.
    pub(super) fn value(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Bytes { data, ends, valid } if valid.get(row) == Some(&true) => {
                data.get(ends[row] as usize..ends[row + 1] as usize)
            }
            _ => None,
        }
    }
}

/// A column of text, and beside it one of what is not UTF-8, where there is some.
pub(super) fn texts(cells: &Cells, rows: usize) -> (ArrayRef, Option<ArrayRef>) {
    let Cells::Bytes { data, ends, valid } = cells else { return (Arc::new(StringArray::new_null(rows)), None) };
    if std::str::from_utf8(data).is_ok() {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends.clone()));
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid.as_slice()));
        // Fails where a character of the whole is cut between two values, each of which is not UTF-8 then.
        if let Ok(array) = StringArray::try_new(offsets, Buffer::from_slice_ref(data), nulls) {
            return (Arc::new(array), None);
        }
    }
    let mut texts = StringBuilder::with_capacity(rows, data.len());
    let mut blobs = BinaryBuilder::new();
    for row in 0..rows {
        match cells.value(row).map(|value| std::str::from_utf8(value).map_err(|_| value)) {
            None => {
                texts.append_null();
                blobs.append_null();
            }
            Some(Ok(text)) => {
                texts.append_value(text);
                blobs.append_null();
            }
            Some(Err(bytes)) => {
                texts.append_null();
                blobs.append_value(bytes);
            }
        }
    }
    (Arc::new(texts.finish()), Some(Arc::new(blobs.finish())))
}

/// A column of a configured or inferred type.
pub(super) fn typed(
    column: &Column,
    type_: ColumnType,
    rows: usize,
    identity_of: &dyn Fn(usize) -> Value,
    items: &mut Vec<Item>,
) -> ArrayRef {
    let mut builder = type_.builder(rows);
    for row in 0..rows {
        let Some(value) = column.cells.value(row) else {
            builder.push_null();
            continue;
        };
        let pushed = match std::str::from_utf8(value) {
            Ok("") if type_ != ColumnType::Text => {
                builder.push_null();
                Ok(())
            }
            Ok(text) => builder.push_text(text),
            Err(_) => {
                builder.push_null();
                Err("it is not UTF-8".to_owned())
            }
        };
        if let Err(detail) = pushed {
            items.push(Item::Quarantine(QuarantineItem {
                reason: "value_not_exact",
                column: Some(column.name.clone()),
                row: identity_of(row),
                content: quarantine_text(value),
                detail,
            }));
        }
    }
    builder.finish()
}

/// A field has the name that a blob's column would have: the bytes go to the quarantine.
pub(super) fn quarantine_blobs(
    array: &ArrayRef,
    column: &str,
    identity_of: &dyn Fn(usize) -> Value,
    items: &mut Vec<Item>,
) {
    let Some(blobs) = array.as_binary_opt::<i32>() else { return };
    for row in (0..blobs.len()).filter(|row| blobs.is_valid(*row)) {
        items.push(Item::Quarantine(QuarantineItem {
            reason: "value_not_utf8",
            column: Some(column.trim_end_matches("__blob").to_owned()),
            row: identity_of(row),
            content: quarantine_text(blobs.value(row)),
            detail: format!("it is not UTF-8, and a field named `{column}` has its place"),
        }));
    }
}

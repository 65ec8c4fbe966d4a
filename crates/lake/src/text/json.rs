//! One value of an Arrow array as JSON.
//!
//! Promise: the value can be told from the text; what JSON has no form for (times, blobs, NaN) is a string.

use arrow::array::{Array, AsArray};
use arrow::datatypes as ty;

use super::write;
use crate::digest::hex;
use crate::types::Kind;

/// Appends the JSON of `array[row]`. False if there is none, for an instant beyond the calendar; `out` then holds
/// something partial.
pub(crate) fn value(array: &dyn Array, row: usize, kind: &Kind, out: &mut String) -> bool {
    if array.is_null(row) {
        out.push_str("null");
        return true;
    }
    match kind {
        Kind::Boolean
        | Kind::Int8
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::UInt8
        | Kind::UInt16
        | Kind::UInt32
        | Kind::UInt64
        | Kind::Decimal(..)
        | Kind::Json => write::value(array, row, kind, out),
        Kind::Float32 => float(f64::from(array.as_primitive::<ty::Float32Type>().value(row)), out),
        Kind::Float64 => float(array.as_primitive::<ty::Float64Type>().value(row), out),
        Kind::Varchar => string(array.as_string::<i32>().value(row), out),
        Kind::Blob => string(&hex(array.as_binary::<i32>().value(row)), out),
        Kind::Date
        | Kind::Time
        | Kind::TimestampMs
        | Kind::Timestamp
        | Kind::TimestampTz
        | Kind::TimestampNs
        | Kind::Uuid => {
            let mut text = String::new();
            write::value(array, row, kind, &mut text) && string(&text, out)
        }
        Kind::List(element) => {
            let items = array.as_list::<i32>().value(row);
            each('[', ']', items.len(), out, |index, out| value(&items, index, &element.kind, out))
        }
        Kind::Struct(fields) => {
            let parts = array.as_struct();
            each('{', '}', fields.len(), out, |index, out| {
                let field = &fields[index];
                string(&field.name, out);
                out.push(':');
                value(parts.column(index), row, &field.kind, out)
            })
        }
        // Keys need not be texts: pairs.
        Kind::Map(key, item) => {
            let entries = array.as_map().value(row);
            each('[', ']', entries.len(), out, |index, out| {
                each('[', ']', 2, out, |part, out| match part {
                    0 => value(entries.column(0), index, &key.kind, out),
                    _ => value(entries.column(1), index, &item.kind, out),
                })
            })
        }
    }
}

fn each(
    open: char,
    close: char,
    count: usize,
    out: &mut String,
    mut part: impl FnMut(usize, &mut String) -> bool,
) -> bool {
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push(',');
        }
        if !part(index, out) {
            return false;
        }
    }
    out.push(close);
    true
}

fn float(value: f64, out: &mut String) -> bool {
    match serde_json::Number::from_f64(value) {
        Some(number) => out.push_str(&number.to_string()),
        None => return string(&value.to_string(), out),
    }
    true
}

fn string(text: &str, out: &mut String) -> bool {
    out.push_str(&serde_json::Value::from(text).to_string());
    true
}

//! One value of an Arrow array as text.

use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes as ty;

use super::calendar::{self, Unit};
use crate::types::Kind;

/// Appends the text of `array[row]`, which is not null. False if the value has no text form that DuckDB is sure to
/// read back; `out` then holds something partial.
pub(crate) fn value(array: &dyn Array, row: usize, kind: &Kind, out: &mut String) -> bool {
    macro_rules! number {
        ($type:ty) => {{
            let _ = write!(out, "{}", array.as_primitive::<$type>().value(row));
            true
        }};
    }
    match kind {
        Kind::Boolean => {
            out.push_str(if array.as_boolean().value(row) { "true" } else { "false" });
            true
        }
        Kind::Int8 => number!(ty::Int8Type),
        Kind::Int16 => number!(ty::Int16Type),
        Kind::Int32 => number!(ty::Int32Type),
        Kind::Int64 => number!(ty::Int64Type),
        Kind::UInt8 => number!(ty::UInt8Type),
        Kind::UInt16 => number!(ty::UInt16Type),
        Kind::UInt32 => number!(ty::UInt32Type),
        Kind::UInt64 => number!(ty::UInt64Type),
        // With the digits of the 64-bit float that it is: the text stays right when the column is widened.
        Kind::Float32 => float(f64::from(array.as_primitive::<ty::Float32Type>().value(row)), out),
        Kind::Float64 => float(array.as_primitive::<ty::Float64Type>().value(row), out),
        Kind::Decimal(_, scale) => {
            decimal(array.as_primitive::<ty::Decimal128Type>().value(row), *scale, out);
            true
        }
        Kind::Date => calendar::write_date(array.as_primitive::<ty::Date32Type>().value(row), out),
        Kind::Time => calendar::write_time(array.as_primitive::<ty::Time64MicrosecondType>().value(row), out),
        Kind::TimestampMs => {
            let value = array.as_primitive::<ty::TimestampMillisecondType>().value(row);
            calendar::write_timestamp(value, Unit::Milli, false, out)
        }
        Kind::Timestamp | Kind::TimestampTz => {
            let value = array.as_primitive::<ty::TimestampMicrosecondType>().value(row);
            calendar::write_timestamp(value, Unit::Micro, *kind == Kind::TimestampTz, out)
        }
        Kind::TimestampNs => {
            let value = array.as_primitive::<ty::TimestampNanosecondType>().value(row);
            calendar::write_timestamp(value, Unit::Nano, false, out)
        }
        Kind::Varchar | Kind::Json => {
            out.push_str(array.as_string::<i32>().value(row));
            true
        }
        Kind::Uuid => {
            let Ok(id) = uuid::Uuid::from_slice(array.as_fixed_size_binary().value(row)) else { return false };
            out.push_str(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
            true
        }
        // The text form of a blob inside a nested value escapes what the nested form escapes again.
        Kind::Blob => false,
        Kind::List(element) => {
            let items = array.as_list::<i32>().value(row);
            out.push('[');
            for index in 0..items.len() {
                if index > 0 {
                    out.push_str(", ");
                }
                if !part(&items, index, &element.kind, out) {
                    return false;
                }
            }
            out.push(']');
            true
        }
        Kind::Struct(fields) => {
            let parts = array.as_struct();
            out.push('{');
            for (index, (field, values)) in fields.iter().zip(parts.columns()).enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                quoted(&field.name, out);
                out.push_str(": ");
                if !part(values, row, &field.kind, out) {
                    return false;
                }
            }
            out.push('}');
            true
        }
        Kind::Map(key, value) => {
            let entries = array.as_map().value(row);
            out.push('{');
            for index in 0..entries.len() {
                if index > 0 {
                    out.push_str(", ");
                }
                if !part(entries.column(0), index, &key.kind, out) {
                    return false;
                }
                out.push('=');
                if !part(entries.column(1), index, &value.kind, out) {
                    return false;
                }
            }
            out.push('}');
            true
        }
    }
}

fn part(array: &dyn Array, row: usize, kind: &Kind, out: &mut String) -> bool {
    if array.is_null(row) {
        out.push_str("NULL");
        return true;
    }
    // DuckDB reads the text of a list of JSON as JSON itself, and fails on the whole table: such rows are for a file.
    if *kind == Kind::Json {
        return false;
    }
    let bare = kind.is_nested()
        || matches!(
            kind,
            Kind::Boolean
                | Kind::Int8
                | Kind::Int16
                | Kind::Int32
                | Kind::Int64
                | Kind::UInt8
                | Kind::UInt16
                | Kind::UInt32
                | Kind::UInt64
                | Kind::Float32
                | Kind::Float64
                | Kind::Decimal(..)
        );
    if bare {
        return value(array, row, kind, out);
    }
    let mut text = String::new();
    if !value(array, row, kind, &mut text) {
        return false;
    }
    quoted(&text, out);
    true
}

/// A string inside a nested value. DuckDB itself doubles the quote inside a struct and then reads it back without:
/// the backslash is what its reader understands everywhere.
fn quoted(text: &str, out: &mut String) {
    out.push('\'');
    for character in text.chars() {
        if matches!(character, '\'' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('\'');
}

fn float(value: f64, out: &mut String) -> bool {
    if value.is_nan() {
        out.push_str("nan");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "inf" } else { "-inf" });
    } else {
        let start = out.len();
        let _ = write!(out, "{value:?}");
        if let Some(position) = out[start..].find('e') {
            let exponent: i32 = out[start + position + 1..].parse().unwrap_or(0);
            out.truncate(start + position + 1);
            let sign = if exponent < 0 { '-' } else { '+' };
            let _ = write!(out, "{sign}{:02}", exponent.abs());
        }
    }
    true
}

/// A decimal with all digits of its scale.
pub(crate) fn decimal(unscaled: i128, scale: u8, out: &mut String) {
    let digits = unscaled.unsigned_abs().to_string();
    let scale = usize::from(scale);
    if unscaled < 0 {
        out.push('-');
    }
    if scale == 0 {
        out.push_str(&digits);
        return;
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let _ = write!(out, "{whole}.{fraction}");
}

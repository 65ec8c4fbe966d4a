//! Values of ours in the form that the testkit gives DuckDB's.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod canonical;
pub(crate) mod collector;
pub(crate) mod questions;
pub(crate) mod story;
pub(crate) mod values;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::*;
use serde_json::{Map, Value, json};

/// The rows as JSON objects: integers beyond 2^53, decimals, dates and times as text, as Python's `str` writes them.
pub(crate) fn plain_rows(batches: &[RecordBatch]) -> Vec<Value> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let columns = batch.columns().iter().zip(batch.schema_ref().fields());
            rows.push(Value::Object(
                columns.map(|(column, field)| (field.name().clone(), plain(column, field, row))).collect::<Map<_, _>>(),
            ));
        }
    }
    rows
}

/// The rows in an order of their own, since neither engine promises one, and with floats cut to 15 digits: serde_json
/// reads DuckDB's with an error in the last place.
pub(crate) fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.iter_mut().for_each(cut_floats);
    rows.sort_by_cached_key(Value::to_string);
    rows
}

fn cut_floats(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            *value = json!(format!("{float:.14e}"));
        }
        Value::Array(items) => items.iter_mut().for_each(cut_floats),
        Value::Object(fields) => fields.values_mut().for_each(cut_floats),
        _ => {}
    }
}

fn integer(value: i128) -> Value {
    match i64::try_from(value) {
        Ok(small) if small.unsigned_abs() <= 1 << 53 => json!(small),
        _ => json!(value.to_string()),
    }
}

fn float(value: f64) -> Value {
    match value {
        value if value.is_nan() => json!("nan"),
        value if value.is_infinite() => json!(if value > 0.0 { "inf" } else { "-inf" }),
        // Python prints what is whole as a float too; compared as numbers.
        value => json!(value),
    }
}

fn plain(array: &dyn Array, field: &Field, row: usize) -> Value {
    macro_rules! int {
        ($type:ty) => {
            integer(i128::from(array.as_primitive::<$type>().value(row)))
        };
    }
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => int!(UInt64Type),
        DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        // The scale of an integer: `sum` of integers gives one.
        DataType::Decimal128(_, 0) => integer(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Date32 | DataType::Time64(_) => json!(seconds_trimmed(&text(array, row))),
        DataType::Timestamp(_, zone) => {
            let shown = text(array, row).replace('T', " ");
            let shown = seconds_trimmed(shown.trim_end_matches('Z'));
            json!(if zone.is_some() { format!("{shown}+00:00") } else { shown })
        }
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Utf8View => json!(array.as_string_view().value(row)),
        DataType::Binary => json!(hex(array.as_binary::<i32>().value(row))),
        DataType::FixedSizeBinary(16) => {
            let hex = hex(array.as_fixed_size_binary().value(row));
            json!(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
        }
        DataType::List(item) => {
            let values = array.as_list::<i32>().value(row);
            Value::Array((0..values.len()).map(|row| plain(&values, item, row)).collect())
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct().columns().iter().zip(fields);
            Value::Object(parts.map(|(part, field)| (field.name().clone(), plain(part, field, row))).collect())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let field = entries.fields()[1].clone();
            let pairs =
                (0..keys.len()).map(|row| (keys.as_string::<i32>().value(row).to_owned(), plain(values, &field, row)));
            Value::Object(pairs.collect())
        }
        other => panic!("column {} has type {other}", field.name()),
    }
}

fn text(array: &dyn Array, row: usize) -> String {
    arrow::util::display::array_value_to_string(array, row).unwrap()
}

/// Six digits of a second or none, as Python writes them.
fn seconds_trimmed(text: &str) -> String {
    match text.split_once('.') {
        Some((head, digits)) => format!("{head}.{:0<6}", &digits[..digits.len().min(6)]),
        None => text.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! One text for each value, whichever engine shows it: ours from Arrow, DuckDB's by an expression in its own SQL. Numbers
//! of time are counted, floats are written with the shortest digits that read back the same, bytes are hex.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::*;
use portolan_lake::types::Kind;
use serde_json::{Map, Value, json};

/// DuckDB's expression for `value`, which has the stored type `kind`: text, or lists and structs of texts.
pub(crate) fn sql(value: &str, kind: &Kind) -> String {
    // Infinite dates and times have no number.
    let counted =
        |number: &str| format!("case when isfinite({value}) then ({number})::varchar else {value}::varchar end");
    match kind {
        Kind::Float32 | Kind::Float64 => format!("({value})::double::varchar"),
        Kind::Date => counted(&format!("{value} - date '1970-01-01'")),
        Kind::Time => format!("epoch_us({value})::varchar"),
        Kind::TimestampMs => counted(&format!("epoch_ms({value})")),
        Kind::TimestampNs => counted(&format!("epoch_ns({value})")),
        Kind::Timestamp | Kind::TimestampTz => counted(&format!("epoch_us({value})")),
        Kind::Blob => format!("hex({value})"),
        Kind::List(element) => {
            let item = item(value);
            format!("list_transform({value}, lambda {item}: {})", sql(&item, &element.kind))
        }
        Kind::Struct(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .enumerate()
                .map(|(place, field)| {
                    let name = field.name.replace('\'', "''");
                    format!("f{place} := {}", sql(&format!("struct_extract({value}, '{name}')"), &field.kind))
                })
                .collect();
            format!("case when {value} is null then null else struct_pack({}) end", parts.join(", "))
        }
        Kind::Map(key, element) => {
            let item = item(value);
            let key = sql(&format!("{item}.key"), &key.kind);
            let element = sql(&format!("{item}.value"), &element.kind);
            format!("list_transform(map_entries({value}), lambda {item}: struct_pack(k := {key}, v := {element}))")
        }
        _ => format!("({value})::varchar"),
    }
}

/// A name for an item of a list that no list around it uses.
fn item(value: &str) -> String {
    format!("x{}", value.len())
}

/// DuckDB's answer to [`sql`] in the form that [`ours`] has: it leaves out a zero before the point, and writes floats in
/// a way of its own.
pub(crate) fn theirs(value: Value, kind: &Kind) -> Value {
    match (value, kind) {
        (Value::String(text), Kind::Float32 | Kind::Float64) => json!(float(text.parse().unwrap())),
        (Value::String(text), Kind::Decimal(..)) => json!(match text.strip_prefix('-') {
            Some(rest) if rest.starts_with('.') => format!("-0{rest}"),
            None if text.starts_with('.') => format!("0{text}"),
            _ => text,
        }),
        (Value::Array(items), Kind::List(element)) => {
            items.into_iter().map(|item| theirs(item, &element.kind)).collect()
        }
        (Value::Object(mut parts), Kind::Struct(fields)) => {
            let mut take = |place| parts.remove(&format!("f{place}")).unwrap();
            let parts = fields.iter().enumerate();
            parts.map(|(place, field)| (format!("f{place}"), theirs(take(place), &field.kind))).collect()
        }
        (Value::Array(entries), Kind::Map(key, element)) => entries
            .into_iter()
            .map(|mut entry| json!({"k": theirs(entry["k"].take(), &key.kind), "v": theirs(entry["v"].take(), &element.kind)}))
            .collect(),
        (other, _) => other,
    }
}

/// DuckDB's name of a stored type, without the quotes around names inside.
pub(crate) fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Int8 => "TINYINT".into(),
        Kind::Int16 => "SMALLINT".into(),
        Kind::Int32 => "INTEGER".into(),
        Kind::Int64 => "BIGINT".into(),
        Kind::UInt8 => "UTINYINT".into(),
        Kind::UInt16 => "USMALLINT".into(),
        Kind::UInt32 => "UINTEGER".into(),
        Kind::UInt64 => "UBIGINT".into(),
        Kind::Float32 => "FLOAT".into(),
        Kind::Float64 => "DOUBLE".into(),
        Kind::TimestampMs => "TIMESTAMP_MS".into(),
        Kind::TimestampNs => "TIMESTAMP_NS".into(),
        Kind::TimestampTz => "TIMESTAMP WITH TIME ZONE".into(),
        Kind::List(element) => format!("{}[]", type_name(&element.kind)),
        Kind::Struct(fields) => {
            let parts: Vec<String> =
                fields.iter().map(|field| format!("{} {}", field.name, type_name(&field.kind))).collect();
            format!("STRUCT({})", parts.join(", "))
        }
        Kind::Map(key, value) => format!("MAP({}, {})", type_name(&key.kind), type_name(&value.kind)),
        other => other.to_string().to_uppercase(),
    }
}

/// A float by the shortest digits that read back the same.
fn float(value: f64) -> String {
    format!("{value:?}")
}

/// The rows of a result, each a list of its values.
pub(crate) fn ours(batches: &[RecordBatch]) -> Vec<Value> {
    let rows = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(move |row| batch.columns().iter().map(|column| value(column, row)).collect::<Value>())
    });
    rows.collect()
}

fn value(array: &dyn Array, row: usize) -> Value {
    macro_rules! number {
        ($type:ty) => {
            json!(array.as_primitive::<$type>().value(row).to_string())
        };
    }
    let endless = |value: i64, end: i64| match value {
        value if value == end => json!("infinity"),
        value if value == -end => json!("-infinity"),
        value => json!(value.to_string()),
    };
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row).to_string()),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => json!(float(f64::from(array.as_primitive::<Float32Type>().value(row)))),
        DataType::Float64 => json!(float(array.as_primitive::<Float64Type>().value(row))),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Date32 => endless(i64::from(array.as_primitive::<Date32Type>().value(row)), i64::from(i32::MAX)),
        DataType::Time64(TimeUnit::Microsecond) => number!(Time64MicrosecondType),
        DataType::Timestamp(TimeUnit::Millisecond, None) => number!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => number!(TimestampNanosecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            endless(array.as_primitive::<TimestampMicrosecondType>().value(row), i64::MAX)
        }
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Binary => json!(hex(array.as_binary::<i32>().value(row))),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|row| value(&items, row)).collect()
        }
        DataType::Struct(_) => {
            let parts = array.as_struct().columns().iter().enumerate();
            Value::Object(parts.map(|(place, part)| (format!("f{place}"), value(part, row))).collect::<Map<_, _>>())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            (0..entries.len()).map(|row| json!({"k": value(keys, row), "v": value(values, row)})).collect()
        }
        other => panic!("a column of type {other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

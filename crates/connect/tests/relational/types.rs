//! What columns may be called and rows may weigh; and what the tests of an engine's own types share.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use jiff::civil::DateTime;
use serde_json::{Value, json};

use super::Dialect;
use crate::engine::Engine;
use crate::harness::{Recorder, fresh, open, read, server};

/// SQL type, the server's text of the value as an expression over `c`, Arrow type, values as SQL literals.
pub(crate) type Case = (&'static str, &'static str, DataType, &'static [&'static str]);

/// The column of a case.
pub(crate) fn column(index: usize) -> String {
    format!("c{index}")
}

/// The statements that make `table`, with a row of each case's first values, one of its second ones and so on, and a
/// last one of NULL; and how many rows these are.
pub(crate) fn table_of(cases: &[Case], table: &str) -> (String, usize) {
    let rows = 1 + cases.iter().map(|case| case.3.len()).max().unwrap();
    let definitions: Vec<String> =
        cases.iter().enumerate().map(|(index, case)| format!("{} {}", column(index), case.0)).collect();
    let mut sql = format!("CREATE TABLE {table} (id int primary key, {});", definitions.join(", "));
    for row in 0..rows {
        let values: Vec<&str> = cases.iter().map(|case| case.3.get(row).copied().unwrap_or("NULL")).collect();
        sql.push_str(&format!("INSERT INTO {table} VALUES ({row}, {});", values.join(", ")));
    }
    (sql, rows)
}

/// A moment so many microseconds after 1970.
pub(crate) fn civil(microseconds: i64) -> DateTime {
    jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0) + jiff::SignedDuration::from_micros(microseconds)
}

/// A number as every engine writes it; `None` where the column holds none.
pub(crate) fn number_text(array: &ArrayRef, row: usize) -> Option<String> {
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)).to_string(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        _ => return None,
    })
}

/// What went to the quarantine, ordered by its rows: row, column, reason, content.
pub(crate) fn quarantined(recorder: &Recorder) -> Vec<(Value, String, &'static str, String)> {
    let items = recorder.quarantined.iter();
    let mut found: Vec<_> =
        items.map(|item| (item.row.clone(), item.column.clone().unwrap(), item.reason, item.content.clone())).collect();
    found.sort_by_key(|item| item.0.to_string());
    found
}

/// The same as a test expects it: the `id` of the row, column, reason, content.
pub(crate) fn expected_quarantine(
    items: &[(i64, &str, &'static str, &str)],
) -> Vec<(Value, String, &'static str, String)> {
    let item = |(id, column, reason, content): &(i64, &str, &'static str, &str)| {
        (json!({ "id": id.to_string() }), (*column).to_owned(), *reason, (*content).to_owned())
    };
    items.iter().map(item).collect()
}

#[tokio::test]
async fn names_may_hold_anything() {
    let (table, column) = (format!("{}\"'`; drop -- ü\\", fresh("t")), "a\"b'c`d $1 ?\\");
    let (t, c) = (Engine::quoted(&table), Engine::quoted(column));
    server()
        .sql(&format!("CREATE TABLE {t} ({c} bigint primary key, v text); INSERT INTO {t} VALUES (1, 'x'), (2, 'y')"))
        .unwrap();
    let options = format!("table = '''{table}'''\ncursor = '''{column}'''");
    let mut source = open(&options);
    let (recorder, end) = read(&mut source, None).await.unwrap();
    assert_eq!(recorder.integers(column), [1, 2]);
    server().sql(&format!("INSERT INTO {t} VALUES (3, 'z')")).unwrap();
    let (recorder, _) = read(&mut source, end.position.as_ref()).await.unwrap();
    assert_eq!(recorder.integers(column), [3]);
}

#[tokio::test]
async fn rows_of_many_megabytes_pass() {
    let mut source = open("query = \"select 1 as id, repeat('x', 40000000) as big union all select 2, 'small'\"");
    let (recorder, _) = read(&mut source, None).await.unwrap();
    let lengths: Vec<_> = recorder.texts("big").into_iter().map(|text| text.unwrap().len()).collect();
    assert_eq!(lengths, [40_000_000, 5]);
    let (recorder, _) = read(&mut open("query = \"select null as nothing, 1 as one\""), None).await.unwrap();
    assert_eq!(recorder.texts("nothing"), [None]);
}

//! Types that change: nothing is lost, nothing is rounded, nothing becomes NULL silently.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int64Type};
use common::*;
use portolan_lake::{At, LakeReader, LakeSettings, VerifyScope};
use portolan_model::ErrorKind;
use serde_json::{Value, json};

fn one(name: &str, array: impl Array + 'static) -> RecordBatch {
    let array: ArrayRef = Arc::new(array);
    RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap()
}

/// Writes the batches one round each, inlined or as files, and gives DuckDB's rows; checks digests after a flush.
async fn story(batches: &[RecordBatch], inline_rows: u32) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let flush_after = std::time::Duration::ZERO;
    let lake = open(folder.path(), LakeSettings { inline_rows, flush_after, ..settings() }).await;
    let mut staged_rows = 0;
    for batch in batches {
        staged_rows += round(&lake, spec("t"), std::slice::from_ref(batch)).await.unwrap().1.rows;
    }
    let answer = || duck(folder.path(), &["select * exclude (_round, _time) from t order by rowid"]).remove(0);
    let before = answer();
    for pass in ["stored", "flushed", "merged"] {
        // Each round's digest, computed anew from what is stored.
        let scope = VerifyScope { full: true, ..VerifyScope::default() };
        let report = LakeReader::open(folder.path()).unwrap().verify(&scope, &mut |_| {}).unwrap();
        assert!(report.is_sound() && report.unproved.is_empty(), "{pass}: {report:#?}");
        assert_eq!((report.tables[0].rounds, report.tables[0].rows), (batches.len() as u64, staged_rows), "{pass}");
        lake.maintain().await.unwrap();
        assert_eq!(answer(), before, "after {pass}");
    }
    before
}

async fn both(batches: &[RecordBatch]) -> Vec<Value> {
    let inlined = story(batches, 1_000).await;
    let filed = story(batches, 0).await;
    assert_eq!(inlined, filed);
    inlined
}

#[tokio::test]
async fn integers_widen() {
    let rows = both(&[
        one("x", Int8Array::from(vec![-1])),
        one("x", UInt8Array::from(vec![255])),
        one("x", Int32Array::from(vec![i32::MIN])),
        one("x", UInt32Array::from(vec![u32::MAX])),
        one("x", Int64Array::from(vec![7])),
        one("x", Int8Array::from(vec![5])),
        one("x", UInt64Array::from(vec![u64::MAX, 9])),
    ])
    .await;
    let x: Vec<Value> = rows.iter().map(|row| row["x"].clone()).collect();
    assert_eq!(x, [json!(-1), json!(255), json!(i32::MIN), json!(u32::MAX), json!(7), json!(5), Value::Null, json!(9)]);
    assert_eq!(rows[6]["x__uint64"], json!("18446744073709551615"));
}

#[tokio::test]
async fn what_does_not_fit_goes_to_a_column_of_its_own() {
    let rows = both(&[
        one("x", Int64Array::from(vec![1, i64::MAX])),
        one("x", Float64Array::from(vec![2.0, 2.5, -0.0, 1e300])),
        one("x", StringArray::from(vec!["three"])),
        one("x", Int32Array::from(vec![4])),
        one("x", BooleanArray::from(vec![true])),
    ])
    .await;
    let pick = |row: usize, name: &str| rows[row][name].clone();
    assert_eq!((pick(0, "x"), pick(1, "x")), (json!(1), json!("9223372036854775807")));
    assert_eq!((pick(2, "x"), pick(2, "x__float64")), (json!(2), Value::Null));
    assert_eq!((pick(3, "x"), pick(3, "x__float64")), (Value::Null, json!(2.5)));
    assert_eq!((pick(4, "x"), pick(4, "x__float64")), (Value::Null, json!(-0.0)));
    assert_eq!((pick(5, "x"), pick(5, "x__float64")), (Value::Null, json!(1e300)));
    assert_eq!((pick(6, "x"), pick(6, "x__varchar")), (Value::Null, json!("three")));
    assert_eq!(pick(7, "x"), json!(4));
    assert_eq!((pick(8, "x"), pick(8, "x__boolean")), (Value::Null, json!(true)));
}

#[tokio::test]
async fn floats_take_whole_numbers_only_where_they_are_exact() {
    let rows = both(&[
        one("x", Float32Array::from(vec![1.1])),
        one("x", Float64Array::from(vec![0.1])),
        one("x", Int64Array::from(vec![1 << 53, (1 << 53) + 1])),
    ])
    .await;
    assert_eq!(rows[0]["x"], json!(f64::from(1.1f32)));
    assert_eq!(rows[1]["x"], json!(0.1));
    assert_eq!((rows[2]["x"].clone(), rows[2]["x__int64"].clone()), (json!((1i64 << 53) as f64), Value::Null));
    assert_eq!(
        (rows[3]["x"].clone(), rows[3]["x__int64"].clone()),
        (Value::Null, json!(((1i64 << 53) + 1).to_string()))
    );
}

#[tokio::test]
async fn names_that_are_taken_get_a_number() {
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let names = [
        "row_id",
        "begin_snapshot",
        "_round",
        "_TIME",
        "Name",
        "name",
        "NAME",
        "select",
        "a b\"c",
        "rowid",
        "snapshot_id",
        "filename",
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(names.map(|name| (name, id.clone(), true))).unwrap();
    let rows = both(&[batch.clone(), batch.slice(0, 1), one("name", Int64Array::from(vec![2]))]).await;
    let columns: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    for expected in [
        "row_id_2",
        "begin_snapshot_2",
        "_round_2",
        "_TIME_2",
        "Name",
        "name_2",
        "NAME_3",
        "select",
        "a b\"c",
        "rowid_2",
    ] {
        assert!(columns.iter().any(|name| *name == expected), "{expected} in {columns:?}");
    }
    assert_eq!(rows[1], rows[0]);
    assert_eq!((rows[2]["name_2"].clone(), rows[2]["Name"].clone()), (json!(2), Value::Null));
}

#[tokio::test]
async fn columns_come_and_go() {
    let rows = both(&[
        one("a", Int64Array::from(vec![1])),
        one("b", StringArray::from(vec!["x"])),
        one("nothing", NullArray::new(1)),
        one("a", NullArray::new(1)),
    ])
    .await;
    assert_eq!(
        rows,
        [
            json!({"a": 1, "b": null}),
            json!({"a": null, "b": "x"}),
            json!({"a": null, "b": null}),
            json!({"a": null, "b": null}),
        ]
    );
}

/// SQLite has 2,000 columns: values that would need more go to JSON beside their column, and a source that yields more
/// is told so; nothing is staged that cannot be committed.
#[tokio::test]
async fn many_columns_end_in_json_and_then_in_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, settings()).await;
    let wide = |array: ArrayRef, columns: std::ops::Range<usize>| {
        RecordBatch::try_from_iter_with_nullable(columns.map(|i| (format!("c{i}"), array.clone(), true))).unwrap()
    };
    let number = wide(Arc::new(Int64Array::from(vec![1])), 0..1_000);
    let text = wide(Arc::new(StringArray::from(vec!["a\"b"])), 0..950);
    let float = wide(Arc::new(Float64Array::from(vec![0.5])), 0..2);
    let nan = wide(Arc::new(Float64Array::from(vec![f64::NAN])), 949..950);
    for batch in [&number, &text, &float, &nan, &number] {
        round(&lake, spec("t"), std::slice::from_ref(batch)).await.unwrap();
    }
    let beyond = wide(Arc::new(BooleanArray::from(vec![true])), 0..100);
    let error = round(&lake, spec("t"), &[beyond]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let more = wide(Arc::new(Int64Array::from(vec![1])), 1_000..1_001);
    assert_eq!(round(&lake, spec("t"), &[more]).await.unwrap_err().kind(), ErrorKind::Limit);
    let answers = || {
        let sql = "select c0, c0__varchar as t, c0__json as j, c949, c949__json as k from t order by rowid";
        duck(path, &[sql]).remove(0)
    };
    let expected = [
        json!({"c0": 1, "t": null, "j": null, "c949": 1, "k": null}),
        json!({"c0": null, "t": "a\"b", "j": null, "c949": null, "k": "\"a\\\"b\""}),
        json!({"c0": null, "t": null, "j": "0.5", "c949": null, "k": null}),
        json!({"c0": null, "t": null, "j": null, "c949": null, "k": "\"NaN\""}),
        json!({"c0": 1, "t": null, "j": null, "c949": 1, "k": null}),
    ];
    assert_eq!(answers(), expected);
    drop(lake);
    let lake = open(path, LakeSettings { flush_after: std::time::Duration::ZERO, ..settings() }).await;
    lake.maintain().await.unwrap();
    assert_eq!(answers(), expected);
    let error = round(&lake, spec("u"), &[wide(Arc::new(Int64Array::from(vec![1])), 0..1_899)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    round(&lake, spec("u"), &[wide(Arc::new(Int64Array::from(vec![1])), 0..1_898)]).await.unwrap();
}

/// DuckDB gives a column a type that we do not read: nothing is committed beside the table, and only reading it fails.
#[tokio::test]
async fn a_type_we_do_not_read_stops_its_own_table_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let eager = || LakeSettings { flush_after: std::time::Duration::ZERO, ..settings() };
    let lake = open(path, eager()).await;
    for name in ["t", "other"] {
        round(&lake, spec(name), &[one("x", Int32Array::from(vec![1]))]).await.unwrap();
    }
    drop(lake);
    duck_write(path, &["alter table t add column huge hugeint", "insert into t(_round, x, huge) values (0, 2, 3)"]);
    let lake = open(path, eager()).await;
    let error = round(&lake, spec("t"), &[one("x", Int32Array::from(vec![4]))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("`t`: column `huge` has type int128"), "{error}");
    assert!(error.hint().is_some());
    round(&lake, spec("other"), &[one("x", Int32Array::from(vec![5]))]).await.unwrap();
    let live = "select count(*) as n from __ducklake_metadata_lake.ducklake_table \
                where table_name = 't' and end_snapshot is null";
    assert_eq!(duck(path, &[live])[0][0]["n"], json!(1));
    for _ in 0..2 {
        lake.maintain().await.unwrap();
        let head = at(path, At::Head);
        let other = head.table("main", "other").unwrap().unwrap();
        assert_eq!(rows(&head, &other).iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        let table = head.table("main", "t").unwrap().unwrap();
        let error = head.inlined(&table, Some(&[])).unwrap_err();
        assert!(table.inlined_rows > 0 && error.to_string().contains("column `huge`"), "{error}");
    }
    assert_eq!(duck(path, &["select sum(x) as s from t"])[0][0]["s"], json!(3));
    // What DuckDB takes back is read again.
    drop(lake);
    duck_write(path, &["alter table t drop column huge"]);
    let lake = open(path, eager()).await;
    round(&lake, spec("t"), &[one("x", Int32Array::from(vec![4]))]).await.unwrap();
    let head = at(path, At::Head);
    let table = head.table("main", "t").unwrap().unwrap();
    assert_eq!(rows(&head, &table).iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[tokio::test]
async fn duckdb_changes_our_tables_and_we_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, settings()).await;
    round(&lake, spec("t"), &[one("x", Int32Array::from(vec![1, 2, 3]))]).await.unwrap();
    drop(lake);
    duck_write(
        path,
        &[
            "insert into t(_round, x) values (0, 100)",
            "insert into t(_round, x) select 0, 1000 + i from range(50) r(i)",
            "alter table t add column y varchar",
            "update t set y = 'changed' where x = 2",
            "delete from t where x = 3 or x = 1007",
            "alter table t rename column x to z",
        ],
    );
    let lake = open(path, LakeSettings { flush_after: std::time::Duration::ZERO, ..settings() }).await;
    round(&lake, spec("t"), &[one("z", Int32Array::from(vec![7]))]).await.unwrap();
    let answer =
        || duck(path, &["select count(*) as n, sum(z) as s, count(y) as y, min(z) as a, max(z) as b from t"]).remove(0);
    let own = || {
        let head = at(path, At::Head);
        let table = head.table("main", "t").unwrap().unwrap();
        rows(&head, &table).iter().map(RecordBatch::num_rows).sum::<usize>()
    };
    let expected = 1 + 2 + 100 + (1000..1050).sum::<i64>() - 1007 + 7;
    assert_eq!(answer(), [json!({"n": 53, "s": expected, "y": 1, "a": 1, "b": 1049})]);
    assert_eq!(own(), 53);
    for _ in 0..3 {
        lake.maintain().await.unwrap();
        assert_eq!(answer(), [json!({"n": 53, "s": expected, "y": 1, "a": 1, "b": 1049})]);
        assert_eq!(own(), 53);
    }
}

/// A struct of whole numbers, floats and lists; an empty list has no type.
fn structure(parts: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields = parts.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    one("s", StructArray::new(fields, parts.into_iter().map(|(_, array)| array).collect(), None))
}

fn whole(value: i64) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value]))
}

fn list(values: &[i64]) -> ArrayRef {
    if values.is_empty() {
        let item = Arc::new(Field::new("item", DataType::Null, true));
        return Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([0]), Arc::new(NullArray::new(0)), None));
    }
    let values: Vec<Option<i64>> = values.iter().copied().map(Some).collect();
    Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(values)]))
}

#[tokio::test]
async fn an_empty_list_leads_no_other_part_astray() {
    let rows = both(&[
        structure(vec![("x", whole(1)), ("y", list(&[1]))]),
        structure(vec![("x", whole(2)), ("y", list(&[]))]),
        structure(vec![("y", list(&[])), ("x", whole(3))]),
        structure(vec![("a", whole(4)), ("b", list(&[]))]),
        structure(vec![("x", whole(5)), ("y", list(&[])), ("z", whole(6))]),
        structure(vec![("x", Arc::new(Float64Array::from(vec![7.5]))), ("y", list(&[]))]),
    ])
    .await;
    assert_eq!(rows[1]["s"], json!({"x": 2, "y": []}));
    assert_eq!(rows[2]["s"], json!({"x": 3, "y": []}));
    for (row, expected) in
        [(3, json!({"a": 4, "b": []})), (4, json!({"x": 5, "y": [], "z": 6})), (5, json!({"x": 7.5, "y": []}))]
    {
        let columns = rows[row].as_object().unwrap();
        let values: Vec<&Value> = columns.values().filter(|value| !value.is_null()).collect();
        assert_eq!(values, [&expected], "{columns:?}");
        assert_eq!(columns["s"], Value::Null);
    }
}

#[tokio::test]
async fn names_of_parts_keep_the_lake_readable() {
    let parts = || {
        vec![("a", whole(1)), ("A", whole(2)), ("a_2", whole(3)), ("", whole(4)), ("\0b", whole(5)), ("l", list(&[6]))]
    };
    let mut untyped = parts();
    untyped[5].1 = list(&[]);
    let rows = both(&[structure(parts()), structure(parts()), structure(untyped)]).await;
    let stored = json!({"a": 1, "A_3": 2, "a_2": 3, "part": 4, "_b": 5, "l": [6]});
    assert_eq!((&rows[0]["s"], &rows[1]["s"]), (&stored, &stored));
    assert_eq!(rows[2]["s"]["A_3"], 2);
    assert_eq!(rows[2]["s"]["l"], json!([]));
    assert_eq!(rows[0].as_object().unwrap().len(), 1, "{:?}", rows[0]);
}

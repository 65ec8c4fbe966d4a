//! DuckDB leaves files out by the statistics in the catalog: it must find every row all the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use arrow::array::*;
use common::*;
use portolan_lake::LakeSettings;
use serde_json::{Value, json};

fn batch(values: Vec<Option<f64>>, texts: Vec<Option<String>>) -> RecordBatch {
    let float: ArrayRef = Arc::new(Float64Array::from(values.clone()));
    let narrow: ArrayRef = Arc::new(values.iter().map(|v| v.map(|v| v as f32)).collect::<Float32Array>());
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    let mut blobs = BinaryBuilder::new();
    let mut lists = ListBuilder::new(Int64Builder::new());
    for value in &values {
        blobs.append_option(value.map(|value| [0xff, value as u8]));
        lists.append_option(value.map(|value| [Some(value as i64)]));
    }
    let columns: [(&str, ArrayRef, bool); 5] = [
        ("f", float, true),
        ("n", narrow, true),
        ("t", texts, true),
        ("b", Arc::new(blobs.finish()), true),
        ("l", Arc::new(lists.finish()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test]
async fn every_row_is_found() {
    let text = |text: &str| Some(text.to_owned());
    let long = |end: &str| Some(format!("{}{end}", "m".repeat(300)));
    let batches = [
        batch(vec![Some(1.1), Some(2.0)], vec![text("a"), text("b")]),
        batch(vec![Some(f64::NAN), Some(3.0)], vec![long("x"), text("c")]),
        batch(vec![None, None], vec![None, None]),
        batch(vec![Some(-0.0), Some(f64::INFINITY)], vec![text(""), text("é\u{0}z")]),
        batch(vec![Some(f64::NEG_INFINITY), Some(7.0)], vec![text("zz"), long("a")]),
    ];
    let predicates = [
        "f > 2.5",
        "f = 'nan'::double",
        "f >= 'inf'::double",
        "f = 0",
        "f < 0",
        "f is null",
        "f is not null",
        "n > 1.1::float",
        "n > 1.1::double",
        "n = 1.1::float",
        "t = 'a'",
        "t > 'y'",
        "t like 'mmm%'",
        "t is null",
        "t >= 'é'",
        "t = ''",
        "b = '\\xFF\\x07'::blob",
        "b >= '\\xFF\\x03'::blob",
        "l[1] = 7",
        "l = [2]",
        "late is null",
        "late = 5",
        "_round = 3",
        "_round > 3",
    ];
    let mut answers: Vec<Vec<Vec<Value>>> = Vec::new();
    for inline_rows in [1_000, 0] {
        let folder = tempfile::tempdir().unwrap();
        let lake = open(folder.path(), LakeSettings { inline_rows, ..settings() }).await;
        for batch in &batches {
            round(&lake, spec("t"), std::slice::from_ref(batch)).await.unwrap();
        }
        let late: ArrayRef = Arc::new(Int64Array::from(vec![5]));
        let late = RecordBatch::try_from_iter_with_nullable([("late", late, true)]).unwrap();
        round(&lake, spec("t"), &[late]).await.unwrap();
        // The same rows without any statistics in the way.
        let sql: Vec<String> = predicates
            .iter()
            .flat_map(|predicate| {
                let whole = "create or replace temp table copied as select *, rowid as place from t";
                [
                    whole.to_owned(),
                    format!("select count(*) as n, sum(rowid) as s from t where {predicate}"),
                    format!("select count(*) as n, sum(place) as s from copied where {predicate}"),
                ]
            })
            .collect();
        let statements: Vec<&str> = sql.iter().map(String::as_str).collect();
        let found = duck(folder.path(), &statements);
        for (predicate, of) in predicates.iter().zip(found.chunks(3)) {
            assert_eq!(of[1], of[2], "{predicate} with inline_rows {inline_rows}");
        }
        let counts: Vec<Value> = found.chunks(3).map(|of| of[1][0]["n"].clone()).collect();
        assert!(counts.iter().filter(|count| **count == json!(0)).count() < 6, "{counts:?}");
        answers.push(found);
    }
    assert_eq!(answers[0], answers[1]);
}

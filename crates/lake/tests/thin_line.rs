//! One round through the lake, read back by DuckDB.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use common::*;
use portolan_lake::{At, LakeReader};
use serde_json::json;

fn batch(start: i64, rows: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new((start..start + rows).collect::<Int64Array>());
    let name: ArrayRef = Arc::new((0..rows).map(|i| (i % 3 > 0).then(|| format!("it's {i}"))).collect::<StringArray>());
    let price: ArrayRef = Arc::new((0..rows).map(|i| Some(i as f64 * 0.1)).collect::<Float64Array>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("name", name, true), ("price", price, true)]).unwrap()
}

#[tokio::test]
async fn rounds_are_read_by_duckdb() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), settings()).await;
    let (first, staged) = round(&lake, spec("orders"), &[batch(0, 10)]).await.unwrap();
    assert_eq!(staged.rows, 10);
    let (second, _) = round(&lake, spec("orders"), &[batch(10, 5_000), batch(5_010, 90)]).await.unwrap();
    assert!(second.snapshot > first.snapshot);
    let answers = duck(
        folder.path(),
        &[
            "select count(*) as n, sum(id) as s, count(name) as names from orders",
            &format!("select count(*) as n from orders at (version => {})", first.snapshot),
            "select round, verdict, snapshot_id, sources from portolan.rounds order by round",
            "select source, rows, length(rows_sha256) as digits from portolan.receipts order by round",
            "select distinct _round, _time::varchar as t from orders order by all",
            "select count(*) as n from orders where id >= 5000 and price < 1",
            "select name, price from orders where id = 1",
        ],
    );
    assert_eq!(answers[0], [json!({"n": 5100, "s": 5100 * 5099 / 2, "names": 6 + 3333 + 60})]);
    assert_eq!(answers[1], [json!({"n": 10})]);
    assert_eq!(
        answers[2],
        [
            json!({"round": 1, "verdict": "complete", "snapshot_id": first.snapshot, "sources": 1}),
            json!({"round": 2, "verdict": "complete", "snapshot_id": second.snapshot, "sources": 1}),
        ]
    );
    assert_eq!(answers[3].len(), 2);
    assert_eq!(answers[3][0], json!({"source": "orders", "rows": 10, "digits": 64}));
    assert_eq!(answers[4][0], json!({"_round": 1, "t": "2026-01-02 03:04:05.000006+00"}));
    assert_eq!(answers[5], [json!({"n": 10})]);
    assert_eq!(answers[6], [json!({"name": "it's 1", "price": 0.1})]);

    let reader = LakeReader::open(folder.path()).unwrap();
    assert_eq!(reader.collector().unwrap(), Some(std::process::id()));
    let head = reader.snapshot(At::Head).unwrap();
    let table = head.table("main", "orders").unwrap().unwrap();
    assert_eq!(rows(&head, &table).iter().map(RecordBatch::num_rows).sum::<usize>(), 5_100);
    let older = reader.snapshot(At::Round(1)).unwrap();
    let table = older.table("main", "orders").unwrap().unwrap();
    assert_eq!(table.rows(), 10);
    drop(lake);
}

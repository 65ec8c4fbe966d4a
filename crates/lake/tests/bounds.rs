//! What one round may take: of memory, of the catalog, of the transaction that publishes it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use common::*;
use portolan_lake::{At, LakeSettings};
use portolan_model::ErrorKind;
use portolan_model::catalog::{Catalog, TableSpec};
use portolan_model::source::QuarantineItem;

fn one(name: &str, array: impl Array + 'static) -> RecordBatch {
    let array: ArrayRef = Arc::new(array);
    RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap()
}

fn item(bytes: usize) -> QuarantineItem {
    QuarantineItem {
        reason: "value_out_of_range",
        column: None,
        row: serde_json::json!(null),
        content: "z".repeat(bytes),
        detail: String::new(),
    }
}

/// What cannot be stored is bounded in bytes too.
#[tokio::test]
async fn the_quarantine_of_a_round_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, settings()).await;
    let mut staging = lake.begin().await.unwrap();
    let mut table = staging.table(spec("t")).unwrap();
    for _ in 0..31 {
        table.quarantine(item(1 << 20)).await.unwrap();
    }
    assert_eq!(table.quarantine(item(2 << 20)).await.unwrap_err().kind(), ErrorKind::Limit);
    table.finish().await.unwrap();
    staging.commit(record(vec![receipt("t")]), &[]).await.unwrap();
    let table = at(path, At::Head).table("portolan", "quarantine").unwrap().unwrap();
    assert_eq!((table.inlined_rows, table.files.iter().map(|file| file.rows).sum::<u64>()), (0, 31));
}

/// A round's own row names its snapshot, which is known only inside the transaction.
#[tokio::test]
async fn rounds_name_their_snapshot_whatever_is_inlined() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), LakeSettings { inline_rows: 0, ..settings() }).await;
    let (commit, _) = round(&lake, spec("t"), &[one("n", Int64Array::from(vec![1]))]).await.unwrap();
    let answer = duck(folder.path(), &["select snapshot_id as id from lake.portolan.rounds"]);
    assert_eq!(answer[0][0]["id"], serde_json::json!(commit.snapshot));
}

/// A number out of the catalog.
fn number(folder: &Path, sql: &str) -> i64 {
    rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A first read may bring millions of keys: the latest are kept, as if they had come round by round.
#[tokio::test]
async fn a_round_stores_no_more_keys_than_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), settings()).await;
    let keyed = || TableSpec { key: vec!["n".to_owned()], key_memory: 100, ..spec("t") };
    let values = |range: std::ops::Range<i64>| one("n", range.collect::<Int64Array>());
    let (_, first) = round(&lake, keyed(), &[values(0..5_000), values(4_950..6_000)]).await.unwrap();
    assert_eq!((first.rows, first.duplicates), (6_000, 50));
    let keys = "select count(*) from portolan_item_key";
    assert_eq!(number(folder.path(), keys), 100);
    let (_, second) = round(&lake, keyed(), &[values(5_900..6_010)]).await.unwrap();
    assert_eq!((second.rows, second.duplicates), (10, 100));
    assert_eq!(number(folder.path(), keys), 100);
}

/// Rows that are new stay in their order, whatever keys stand between them: stored before, doubled, or none.
#[tokio::test]
async fn rows_are_left_out_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), settings()).await;
    let keyed = || TableSpec { key: vec!["n".to_owned()], ..spec("t") };
    let values = |values: &[Option<i64>]| one("n", values.iter().copied().collect::<Int64Array>());
    round(&lake, keyed(), &[values(&[Some(9), Some(3), Some(5)])]).await.unwrap();
    let mixed = [Some(7), Some(3), None, Some(3), Some(9), Some(7), Some(1), None, Some(5)];
    let (_, second) = round(&lake, keyed(), &[values(&mixed), values(&[Some(1), Some(8)])]).await.unwrap();
    assert_eq!((second.rows, second.duplicates), (5, 6));
    let answer = duck(folder.path(), &["select list(coalesce(n, 0) order by rowid) as n from t"]);
    assert_eq!(answer[0][0]["n"], serde_json::json!([9, 3, 5, 7, 0, 1, 0, 8]));
}

/// Short texts before one of many bytes.
fn concat_texts(short: &[&str], bytes: usize) -> RecordBatch {
    let long = "y".repeat(bytes);
    one("n", StringArray::from_iter_values(short.iter().copied().chain([long.as_str()])))
}

/// Few rows of many bytes go to a file, not into the catalog; a round's own row never does.
#[tokio::test]
async fn bytes_count_as_rows_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, settings()).await;
    let texts = |rows: usize, bytes: usize| one("n", StringArray::from(vec!["x".repeat(bytes); rows]));
    let stored = |name: &str| {
        let table = at(path, At::Head).table("main", name).unwrap().unwrap();
        (table.inlined_rows, table.files.iter().map(|file| file.rows).sum::<u64>())
    };
    round(&lake, spec("large"), &[texts(3, 1 << 20)]).await.unwrap();
    round(&lake, spec("steps"), &vec![texts(1, 300 << 10); 4]).await.unwrap();
    // Of a slice only its own part counts.
    let small = concat_texts(&["x"; 9], 1 << 20).slice(0, 9);
    round(&lake, spec("small"), &[texts(900, 100), small]).await.unwrap();
    assert_eq!((stored("large"), stored("steps"), stored("small")), ((0, 3), (0, 4), (909, 0)));
    assert_eq!(duck(path, &["select sum(length(n)) as l from steps"])[0][0]["l"], serde_json::json!(4 * (300 << 10)));
}

/// Rows inside the catalog are read a piece at a time, by count and by bytes, and flushed so.
#[tokio::test]
async fn rows_inside_the_catalog_come_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, LakeSettings { flush_rows: 1, ..settings() }).await;
    for start in 0..10 {
        let values = (start * 1_000..(start + 1) * 1_000).collect::<Int64Array>();
        round(&lake, spec("many"), &[one("n", values)]).await.unwrap();
        let text = StringArray::from(vec!["x".repeat(1_000_000)]);
        round(&lake, spec("large"), &[one("n", text)]).await.unwrap();
    }
    let pieces = |name: &str| {
        let head = at(path, At::Head);
        let table = head.table("main", name).unwrap().unwrap();
        head.inlined(&table, None).unwrap().iter().map(RecordBatch::num_rows).collect::<Vec<_>>()
    };
    assert_eq!((pieces("many"), pieces("large")), (vec![4_096, 4_096, 1_808], vec![5, 5]));
    lake.maintain().await.unwrap();
    assert_eq!((pieces("many"), pieces("large")), (vec![], vec![]));
    let sql = "select count(*) as n, sum(n) as s, (select sum(length(n)) from large) as l from many";
    let expected = serde_json::json!({"n": 10_000, "s": 49_995_000, "l": 10_000_000});
    assert_eq!(duck(path, &[sql])[0][0], expected);
}

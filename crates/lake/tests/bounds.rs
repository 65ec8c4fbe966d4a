//! What one round may take: of memory, of the catalog, of the transaction that publishes it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use common::*;
use portolan_model::catalog::TableSpec;

fn one(name: &str, array: impl Array + 'static) -> RecordBatch {
    let array: ArrayRef = Arc::new(array);
    RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap()
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

//! What is not a catalog of this format is refused, and left as it was to the last byte; what others change in a lake is
//! heeded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use common::*;
use portolan_lake::Lake;
use portolan_model::catalog::{Catalog, Grounded};
use portolan_model::check::Ground;
use portolan_model::clock::SystemClock;
use portolan_model::{Error, ErrorKind};

fn refused(folder: &Path, kind: ErrorKind) -> Error {
    let catalog = folder.join("catalog.sqlite");
    let before = std::fs::read(&catalog).unwrap();
    let error = Lake::open_with(folder, settings(), Arc::new(SystemClock::new())).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(std::fs::read(&catalog).unwrap() == before, "the file was changed");
    error
}

fn change(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    // A lake's thread closes its connection a moment after the lake is dropped.
    for _ in 0..500 {
        match connection.execute_batch(sql) {
            Ok(()) => return,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the catalog stays busy");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    change(folder.path(), "CREATE TABLE accounts(id INTEGER PRIMARY KEY, name TEXT)");
    let error = refused(folder.path(), ErrorKind::Conflict);
    assert!(error.to_string().contains("not made by Portolan") && error.hint().is_some(), "{error}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("catalog.sqlite"), vec![b'x'; 8_192]).unwrap();
    refused(folder.path(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_newer_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), settings()).await);
    // As a newer Portolan may leave it: another journal, another version.
    change(folder.path(), "PRAGMA journal_mode = DELETE; UPDATE portolan_meta SET value = '99'");
    refused(folder.path(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn an_empty_file_becomes_a_lake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("catalog.sqlite"), b"").unwrap();
    drop(open(folder.path(), settings()).await);
    drop(open(folder.path(), settings()).await);
}

fn one() -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

/// A table is known by more than its name: what checks have read is not what another statement has put in its place.
#[tokio::test(flavor = "multi_thread")]
async fn what_duckdb_changes_moves_the_ground_of_checks() {
    let statements: [(&[&str], bool); 6] = [
        (&["update lake.orders set n = n + 1"], true),
        (&["alter table lake.orders rename to others"], true),
        (&["drop table lake.orders"], true),
        (&["drop table lake.orders", "create table lake.orders (n bigint)"], true),
        (&["drop table lake.customers"], false),
        (&["alter table lake.customers rename to others"], false),
    ];
    for (statements, is_moved) in statements {
        let folder = tempfile::tempdir().unwrap();
        let lake = open(folder.path(), settings()).await;
        round(&lake, spec("customers"), &[one()]).await.unwrap();
        let (read, _) = round(&lake, spec("orders"), &[one()]).await.unwrap();
        let staging = lake.begin().await.unwrap();
        duck_write(folder.path(), statements);
        let ground = Ground { snapshot: read.snapshot, tables: vec![source("orders")] };
        let outcome = staging.commit_on(Some(ground), record(Vec::new()), &[]).await.unwrap();
        assert_eq!(matches!(outcome, Grounded::Moved(_)), is_moved, "{statements:?}");
    }
}

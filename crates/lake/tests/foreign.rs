//! What is not a catalog of this format is refused, and left as it was to the last byte.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use portolan_lake::Lake;
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

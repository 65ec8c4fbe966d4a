//! What `verify` says of rounds whose rows are gone: replaced, deleted or dropped by the book, or taken away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use common::*;
use portolan_lake::{Job, Lake, LakeReader, LakeSettings, VerifyReport, VerifyScope};
use portolan_model::catalog::{TableSpec, WriteMode};

fn hasty() -> LakeSettings {
    LakeSettings { keep_snapshots: Duration::ZERO, grace: Duration::ZERO, inline_rows: 50, ..settings() }
}

fn replace(name: &str) -> TableSpec {
    TableSpec { mode: WriteMode::Replace, ..spec(name) }
}

/// A round of rows with the ids from `start` on.
async fn store(lake: &Lake, spec: TableSpec, start: i64, rows: i64) {
    let id: ArrayRef = Arc::new((start..start + rows).collect::<Int64Array>());
    round(lake, spec, &[RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()]).await.unwrap();
}

/// Lets all snapshots but the latest expire, and leaves the rows where they are.
async fn expire(lake: &Lake) {
    let done = lake.run_job(&Job::Expire(Duration::ZERO), &mut |_| {}).await.unwrap();
    assert!(done.expired_snapshots > 0);
}

fn verify(folder: &Path) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(&VerifyScope::default(), &mut |_| {}).unwrap()
}

/// The rounds of `table` that are told as not proved, with the reason: their number, the first and the last.
fn unproved(report: &VerifyReport, table: &str, reason: &str) -> Vec<(u64, i64, i64)> {
    let of = report.unproved.iter().filter(|one| one.table == table && one.reason.contains(reason));
    of.map(|one| (one.rounds, one.first_round, one.last_round)).collect()
}

fn mismatches(report: &VerifyReport) -> Vec<i64> {
    report.mismatches.iter().map(|one| one.round).collect()
}

fn proved(report: &VerifyReport, table: &str) -> u64 {
    report.tables.iter().find(|found| found.table == table).unwrap().rounds
}

/// Takes rows of a table out of the catalog, behind the lake's back.
fn take_away(folder: &Path, table: &str, condition: &str) {
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    let sql = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
               where t.table_name = ?1";
    let mut statement = catalog.prepare(sql).unwrap();
    let names: Vec<String> = statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let delete = |name: &String| catalog.execute(&format!("delete from {name} where {condition}"), []).unwrap();
    assert!(names.iter().map(delete).sum::<usize>() > 0);
}

#[tokio::test]
async fn appended_rounds_that_were_taken_away_are_found_after_their_snapshots_have_expired() {
    for rows in [10, 80] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let lake = open(path, hasty()).await;
        for step in 1..=3 {
            store(&lake, spec("orders"), step * 100, rows).await;
        }
        expire(&lake).await;
        lake.close().await.unwrap();
        drop(lake);
        assert!(verify(path).is_sound());
        match rows {
            10 => take_away(path, "orders", "_round < 3"),
            _ => {
                let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
                let sql = "delete from ducklake_data_file where data_file_id < (select max(data_file_id) from \
                           ducklake_data_file) and table_id in (select table_id from ducklake_table where \
                           table_name = 'orders')";
                assert_eq!(catalog.execute(sql, []).unwrap(), 2);
                let sql = "delete from portolan_row_group where data_file_id not in \
                           (select data_file_id from ducklake_data_file)";
                assert!(catalog.execute(sql, []).unwrap() > 0);
            }
        }
        let report = verify(path);
        assert_eq!(mismatches(&report), [1, 2], "{report:#?}");
        assert!(report.unproved.is_empty(), "{report:#?}");
    }
}

#[tokio::test]
async fn a_source_that_changes_how_it_writes_raises_no_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, hasty()).await;
    for step in 1..=6 {
        let spec = if step <= 3 { replace("state") } else { spec("state") };
        store(&lake, spec, step * 100, 5).await;
    }
    expire(&lake).await;
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!((proved(&report, "state"), unproved(&report, "state", "replaced")), (4, vec![(2, 1, 2)]));
    let one = VerifyScope { first_round: Some(2), last_round: Some(2), ..VerifyScope::default() };
    let one = LakeReader::open(path).unwrap().verify(&one, &mut |_| {}).unwrap();
    assert!(one.is_sound() && one.unproved.len() == 1, "{one:#?}");
    // And back.
    for step in 7..=8 {
        store(&lake, replace("state"), step * 100, 0).await;
    }
    expire(&lake).await;
    lake.close().await.unwrap();
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(unproved(&report, "state", "replaced"), [(6, 1, 6)]);
    drop(lake);
    let lake = open(path, hasty()).await;
    store(&lake, spec("state"), 900, 5).await;
    store(&lake, spec("state"), 1_000, 5).await;
    expire(&lake).await;
    lake.close().await.unwrap();
    take_away(path, "state", "_round = 9");
    assert_eq!(mismatches(&verify(path)), [9]);
}

/// Receipts of an earlier version do not say how they were written.
#[tokio::test]
async fn a_lake_of_format_1_raises_no_alarm_after_its_snapshots_have_expired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format_1"), path);
    let lake = open(path, hasty()).await;
    expire(&lake).await;
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    let before = unproved(&report, "state", "replaced");
    assert_eq!(before.len(), 1, "{report:#?}");
    for step in 0..3 {
        store(&lake, spec("state"), step * 100, 5).await;
        expire(&lake).await;
        let report = verify(path);
        assert!(report.is_sound(), "{report:#?}");
        assert_eq!(unproved(&report, "state", "replaced"), before);
    }
    lake.close().await.unwrap();
    take_away(path, "state", "_round = 8");
    assert_eq!(mismatches(&verify(path)), [8]);
}

#[tokio::test]
async fn rows_that_another_program_has_deleted_are_no_damage_when_they_expire() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, hasty()).await;
    for (step, rows) in [(1, 10), (2, 10), (3, 80), (4, 10), (5, 10)] {
        store(&lake, spec("orders"), step * 100, rows).await;
    }
    lake.close().await.unwrap();
    drop(lake);
    duck_write(
        path,
        &[
            "delete from lake.orders where id = 101",
            "update lake.orders set id = 9999 where id = 205",
            "delete from lake.orders where id >= 300 and id < 400",
            "delete from lake.orders where id >= 500 and id < 600",
        ],
    );
    let report = verify(path);
    assert!(report.is_sound() && report.unproved.is_empty(), "{report:#?}");
    let lake = open(path, hasty()).await;
    store(&lake, spec("orders"), 600, 10).await;
    expire(&lake).await;
    lake.close().await.unwrap();
    drop(lake);
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(unproved(&report, "orders", "deleted"), [(4, 1, 5)], "{report:#?}");
    assert_eq!(proved(&report, "orders"), 2);
    // What is left is counted.
    take_away(path, "orders", "id = 102");
    take_away(path, "orders", "id = 401");
    assert_eq!(mismatches(&verify(path)), [1, 4]);
}

/// A file of several rounds, all of whose rows are deleted, ends as a whole.
#[tokio::test]
async fn files_that_another_program_has_emptied_are_no_damage_when_they_expire() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let eager = LakeSettings { flush_rows: 1, flush_after: Duration::ZERO, ..hasty() };
    let lake = open(path, eager.clone()).await;
    store(&lake, spec("orders"), 100, 10).await;
    store(&lake, spec("orders"), 200, 12).await;
    for _ in 0..3 {
        lake.maintain().await.unwrap();
    }
    store(&lake, spec("orders"), 300, 5).await;
    lake.close().await.unwrap();
    drop(lake);
    duck_write(path, &["delete from lake.orders where id < 300"]);
    let lake = open(path, eager).await;
    store(&lake, spec("orders"), 400, 5).await;
    for _ in 0..3 {
        lake.maintain().await.unwrap();
    }
    lake.close().await.unwrap();
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(unproved(&report, "orders", "deleted"), [(2, 1, 2)], "{report:#?}");
    assert_eq!(proved(&report, "orders"), 2);
}

#[tokio::test]
async fn rounds_of_a_table_that_was_dropped_and_made_anew_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, hasty()).await;
    store(&lake, spec("orders"), 100, 10).await;
    store(&lake, spec("orders"), 200, 80).await;
    lake.close().await.unwrap();
    drop(lake);
    duck_write(path, &["drop table lake.orders"]);
    assert_eq!(unproved(&verify(path), "orders", "dropped"), [(2, 1, 2)]);
    let lake = open(path, hasty()).await;
    store(&lake, spec("orders"), 300, 10).await;
    store(&lake, spec("orders"), 400, 10).await;
    for _ in 0..2 {
        let report = verify(path);
        assert!(report.is_sound(), "{report:#?}");
        assert_eq!((proved(&report, "orders"), unproved(&report, "orders", "dropped")), (2, vec![(2, 1, 2)]));
        expire(&lake).await;
        // Something to expire the next time.
        store(&lake, spec("other"), 1, 1).await;
        store(&lake, spec("other"), 2, 1).await;
    }
    lake.close().await.unwrap();
    take_away(path, "orders", "_round = 3");
    assert_eq!(mismatches(&verify(path)), [3]);
}

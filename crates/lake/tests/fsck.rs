//! `fsck` finds what is wrong with a lake's structure and names the place; a sound lake has no findings, and neither is changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use common::*;
use portolan_lake::{FsckReport, Job, LakeReader, LakeSettings, Severity};
use portolan_model::catalog::{TableSpec, WriteMode};
use portolan_model::clock::SystemClock;

fn batch(start: i32, rows: i32) -> RecordBatch {
    let id: ArrayRef = Arc::new((start..start + rows).collect::<Int32Array>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()
}

fn wide(start: i64, rows: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new((start..start + rows).map(|i| i << 33).collect::<Int64Array>());
    let more: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("more", more, true)]).unwrap()
}

fn eager() -> LakeSettings {
    LakeSettings {
        flush_rows: 1,
        flush_after: Duration::ZERO,
        inline_rows: 20,
        keep_snapshots: Duration::from_secs(3_600),
        grace: Duration::ZERO,
        ..settings()
    }
}

async fn fill(folder: &Path) {
    let lake = open(folder, eager()).await;
    for step in 0..12 {
        let keyed = TableSpec { key: vec!["id".into()], ..spec("orders") };
        let rows = if step == 5 { 30 } else { 5 };
        let rows = if step < 7 { batch(step * 100, rows) } else { wide(i64::from(step) * 100, 5) };
        round(&lake, keyed, &[rows]).await.unwrap();
        round(&lake, TableSpec { mode: WriteMode::Replace, ..spec("state") }, &[batch(step, 3)]).await.unwrap();
        if step % 3 == 2 {
            lake.maintain().await.unwrap();
            assert_eq!(findings(folder), Vec::<&str>::new(), "after a flush");
            lake.maintain().await.unwrap();
            assert_eq!(findings(folder), Vec::<&str>::new(), "after it was settled");
        }
    }
    round(&lake, spec("state"), &[batch(0, 3)]).await.unwrap();
    lake.close().await.unwrap();
}

fn fsck(folder: &Path) -> FsckReport {
    portolan_lake::fsck(folder, &SystemClock::new(), &mut |_| {}).unwrap()
}

fn findings(folder: &Path) -> Vec<&'static str> {
    fsck(folder).findings.iter().map(|finding| finding.code).collect()
}

fn first_file(folder: &Path) -> PathBuf {
    let head = at(folder, portolan_lake::At::Head);
    head.table("main", "orders").unwrap().unwrap().files[0].path.clone()
}

fn sql(folder: &Path, statement: &str) {
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    assert!(catalog.execute(statement, []).unwrap() > 0, "{statement} changed nothing");
}

/// What was done to a copy of the lake, and the finding that names it.
type Damage<'a> = (&'a str, &'static str, &'a dyn Fn(&Path));

#[tokio::test]
async fn each_damage_is_named_with_its_place_and_a_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    fill(&whole).await;
    let sound = fsck(&whole);
    assert_eq!(sound.findings, []);
    assert!(sound.files > 3 && sound.tables == 6 && sound.snapshots > 20 && sound.inlined_rows > 0, "{sound:#?}");

    let changes: Vec<(&str, &'static str)> = vec![
        ("delete from ducklake_snapshot_changes where snapshot_id = 3", "snapshot_without_changes"),
        ("update ducklake_snapshot set snapshot_time = 'noon' where snapshot_id = 3", "snapshot_time"),
        (
            "update ducklake_snapshot set next_file_id = 0 where snapshot_id = (select max(snapshot_id) from ducklake_snapshot)",
            "next_file_id",
        ),
        (
            "update ducklake_snapshot set next_catalog_id = 1 where snapshot_id = (select max(snapshot_id) from ducklake_snapshot)",
            "next_catalog_id",
        ),
        (
            "update ducklake_data_file set end_snapshot = 999999 where data_file_id = (select min(data_file_id) from ducklake_data_file)",
            "interval",
        ),
        ("update ducklake_table set table_name = 'orders' where table_name = 'state'", "table_twice"),
        ("update ducklake_table set schema_id = 77 where table_name = 'state'", "schema_missing"),
        ("update ducklake_column set end_snapshot = null where end_snapshot is not null", "column_twice"),
        ("update ducklake_column set column_type = 'list' where column_name = 'more'", "columns_unreadable"),
        ("update ducklake_column set column_type = 'variant' where column_name = 'more'", "foreign_type"),
        ("update ducklake_column set column_type = 'int&4' where column_name = 'more'", "columns_unreadable"),
        ("update ducklake_column set column_name = 'ID' where column_name = 'id'", "inlined_columns"),
        ("update ducklake_column set column_id = 99 where column_name = 'more'", "field_id_unknown"),
        ("update ducklake_data_file set record_count = record_count + 1", "file_rows"),
        ("update ducklake_data_file set file_size_bytes = file_size_bytes + 1", "file_size"),
        ("update ducklake_data_file set footer_size = footer_size + 1", "file_footer"),
        ("update ducklake_file_column_stats set null_count = 3 where value_count > 0", "statistics_counts"),
        (
            "update ducklake_file_column_stats set min_value = max_value, max_value = min_value where min_value <> max_value",
            "statistics_bounds",
        ),
        ("update ducklake_table_stats set next_row_id = 1", "next_row_id_used"),
        ("update ducklake_metadata set value = '/elsewhere/' where key = 'data_path'", "data_path_moved"),
        ("update portolan_position set position = '{'", "position_unreadable"),
        ("update portolan_item_key set digest = substr(digest, 1, 15)", "key_unreadable"),
        ("update portolan_round set snapshot_id = 999999 where round = 3", "round_without_snapshot"),
        (
            "insert into ducklake_inlined_data_tables select table_id, 'ducklake_inlined_data_9_9', 9 from ducklake_table",
            "inlined_table_missing",
        ),
        ("delete from ducklake_schema_versions", "schema_version_missing"),
        ("update ducklake_metadata set value = '2.0' where key = 'version'", "catalog_unreadable"),
    ];
    // A position, for the one that is damaged.
    let catalog = rusqlite::Connection::open(whole.join("catalog.sqlite")).unwrap();
    let position = portolan_model::Position::new(1, serde_json::json!(7)).to_text();
    catalog.execute("insert into portolan_position values ('orders', ?1, 1)", [&position]).unwrap();
    drop(catalog);
    assert_eq!(findings(&whole), Vec::<&str>::new());
    for (number, (statement, code)) in changes.iter().enumerate() {
        let path = folder.path().join(format!("change{number}"));
        copy(&whole, &path);
        sql(&path, statement);
        named(&path, statement, code);
    }

    let damages: Vec<Damage<'_>> = vec![
        ("a deleted file", "file_missing", &|path| std::fs::remove_file(first_file(path)).unwrap()),
        ("a cut file", "file_unreadable", &|path| {
            std::fs::File::options().write(true).open(first_file(path)).unwrap().set_len(50).unwrap();
        }),
        ("a file nobody names", "file_unnamed", &|path| {
            std::fs::copy(first_file(path), path.join("data/main/orders/portolan-left.parquet")).unwrap();
        }),
        ("an old file nobody names", "orphan_file", &|path| {
            let orphan = path.join("data/main/orders/portolan-left.parquet");
            std::fs::copy(first_file(path), &orphan).unwrap();
            let old = std::time::SystemTime::now() - Duration::from_secs(3_600);
            std::fs::File::options().write(true).open(&orphan).unwrap().set_modified(old).unwrap();
        }),
        ("a row that is no row", "inlined_row_unreadable", &|path| {
            let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
            let name = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
                        where t.table_name = 'state' order by i.schema_version desc";
            let name: String = catalog.query_row(name, [], |row| row.get(0)).unwrap();
            assert!(catalog.execute(&format!("update {name} set id = 'seven'"), []).unwrap() > 0);
        }),
        ("a damaged database", "database_damaged", &|path| {
            let catalog = path.join("catalog.sqlite");
            // A page of a table that is not needed to open the database.
            let sql = "select rootpage from sqlite_master where name = 'portolan_item_key'";
            let open = rusqlite::Connection::open(&catalog).unwrap();
            let page: usize = open.query_row(sql, [], |row| row.get(0)).unwrap();
            drop(open);
            let mut bytes = std::fs::read(&catalog).unwrap();
            let start = 4_096 * (page - 1);
            bytes[start..start + 64].fill(0xff);
            std::fs::write(&catalog, bytes).unwrap();
        }),
    ];
    for (number, (what, code, damage)) in damages.iter().enumerate() {
        let path = folder.path().join(format!("damage{number}"));
        copy(&whole, &path);
        damage(&path);
        named(&path, what, code);
    }
}

fn named(path: &Path, what: &str, code: &str) {
    let before = std::fs::read(path.join("catalog.sqlite")).unwrap();
    let report = fsck(path);
    assert_eq!(before, std::fs::read(path.join("catalog.sqlite")).unwrap(), "{what}: fsck changed the catalog");
    // Counters that fall are found twice: against the snapshot before, and against what is in use.
    let code = if code.starts_with("next_") && code != "next_row_id_used" { "next_id_used" } else { code };
    let found = report.findings.iter().find(|finding| finding.code == code);
    let found = found.unwrap_or_else(|| panic!("{what}: no {code} in {:#?}", report.findings));
    assert!(!found.place.is_empty() && !found.message.is_empty() && !found.next.is_empty(), "{found:?}");
    let harmless = ["snapshot_without_changes", "data_path_moved", "file_unnamed", "orphan_file", "foreign_type"];
    assert_eq!(found.severity == Severity::Error, !harmless.contains(&code), "{found:?}");
    assert_eq!(report.is_sound(), report.findings.iter().all(|finding| finding.severity != Severity::Error));
}

#[tokio::test]
async fn what_another_program_does_by_the_book_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fill(path).await;
    duck_write(
        path,
        &[
            "delete from lake.orders where id = 1",
            "update lake.orders set id = 4 where id = 3",
            "insert into lake.orders (id) values (7)",
            "alter table lake.orders add column other varchar",
            "create table lake.mine as select range as i from range(50000)",
            "delete from lake.mine where i % 2 = 0",
        ],
    );
    let report = fsck(path);
    assert!(report.is_sound(), "{:#?}", report.findings);
}

#[tokio::test]
async fn a_job_on_demand_is_done_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, LakeSettings { grace: Duration::ZERO, ..settings() }).await;
    for step in 0..9 {
        round(&lake, spec("orders"), &[batch(step * 10, 4)]).await.unwrap();
        let job = Job::Flush(Some(("main".into(), "orders".into())));
        let done = lake.run_job(&job, &mut |_| {}).await.unwrap();
        assert_eq!((done.flushed_rows, done.settled_rows), (4, 4));
    }
    let stats = |name: &str| {
        let stats = LakeReader::open(path).unwrap().stats(&SystemClock::new()).unwrap();
        stats.tables.into_iter().find(|table| table.table == name).unwrap()
    };
    assert_eq!((stats("orders").rows, stats("orders").files, stats("orders").inlined_rows), (36, 9, 0));
    assert_eq!((stats("rounds").rows, stats("rounds").inlined_rows), (9, 9), "another table was flushed");
    let done = lake.run_job(&Job::Merge(None), &mut |_| {}).await.unwrap();
    assert!(done.merged_files >= 9 && done.removed_files >= 9, "{done}");
    assert_eq!((stats("orders").rows, stats("orders").files), (36, 1));
    assert_eq!((stats("orders").oldest_round, stats("orders").newest_round), (Some(1), Some(9)));
    lake.run_job(&Job::Flush(None), &mut |_| {}).await.unwrap();
    assert_eq!((stats("rounds").inlined_rows, stats("receipts").inlined_rows), (0, 0));
    let done = lake.run_job(&Job::Expire(Duration::ZERO), &mut |_| {}).await.unwrap();
    assert!(done.expired_snapshots > 20, "{done}");
    let stats = LakeReader::open(path).unwrap().stats(&SystemClock::new()).unwrap();
    assert_eq!((stats.snapshots, stats.oldest_round, stats.newest_round), (1, Some(1), Some(9)));
    assert_eq!(stats.wal_bytes, 0);
    let missing = Job::Merge(Some(("main".into(), "nosuch".into())));
    let error = lake.run_job(&missing, &mut |_| {}).await.unwrap_err();
    assert!(error.hint().unwrap().contains("main.orders"), "{error}");
    assert_eq!(findings(path), Vec::<&str>::new());
}

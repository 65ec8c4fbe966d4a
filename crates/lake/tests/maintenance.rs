//! No maintenance job changes what any surviving snapshot shows: to DuckDB or to the lake's own reader.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use common::*;
use portolan_lake::{At, LakeReader, LakeSettings};
use portolan_model::catalog::WriteMode;

fn narrow(start: i32, rows: i32) -> RecordBatch {
    let id: ArrayRef = Arc::new((start..start + rows).collect::<Int32Array>());
    let text: ArrayRef = Arc::new((0..rows).map(|i| Some(format!("t{i}"))).collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("text", text, true)]).unwrap()
}

fn wide(start: i64, rows: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new((start..start + rows).map(|i| i * 5_000_000_000).collect::<Int64Array>());
    let price: ArrayRef = Arc::new((0..rows).map(|i| Some(i as f64 / 3.0)).collect::<Float64Array>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("price", price, true)]).unwrap()
}

const TABLES: [&str; 5] = ["orders", "state", "portolan.rounds", "portolan.receipts", "portolan.quarantine"];

fn eager() -> LakeSettings {
    LakeSettings {
        flush_rows: 1,
        flush_after: Duration::ZERO,
        inline_rows: 50,
        keep_snapshots: Duration::from_secs(3_600),
        grace: Duration::ZERO,
        ..settings()
    }
}

#[tokio::test]
async fn jobs_change_nothing_that_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    let replace = || portolan_model::catalog::TableSpec { mode: WriteMode::Replace, ..spec("state") };
    let mut flushes = 0;
    let mut compared = 0;
    let mut merges = 0;
    let mut removed = 0;
    for step in 0..14 {
        let batch = if step < 6 { narrow(step * 100, 10 + step) } else { wide(i64::from(step) * 100, 12) };
        round(&lake, spec("orders"), &[batch]).await.unwrap();
        round(&lake, replace(), &[narrow(step, 5)]).await.unwrap();
        if step % 5 == 4 {
            // Above the inline limit: a file at once.
            round(&lake, spec("orders"), &[narrow(step * 1_000, 80)]).await.unwrap();
        }
        if step % 4 == 3 || step == 13 {
            let before = duck_fingerprint(path, &TABLES);
            let ids: Vec<i64> = before.keys().filter_map(|k| k.split_once('@')?.1.parse().ok()).collect();
            let own_before = own_fingerprint(path, &TABLES, &ids);
            // The second call settles what the first has flushed, and merges it.
            let mut report = lake.maintain().await.unwrap();
            let flushed = duck_fingerprint(path, &TABLES);
            for (name, value) in before.iter().filter(|(name, _)| flushed.contains_key(*name)) {
                assert_eq!(&flushed[name], value, "{name} after {report} in step {step}");
            }
            flushes += report.flushed_rows;
            report = lake.maintain().await.unwrap();
            merges += report.merged_files;
            removed += report.removed_files;
            let after = duck_fingerprint(path, &TABLES);
            for (name, value) in &before {
                if let Some(now) = after.get(name) {
                    assert_eq!(now, value, "{name} after {report} in step {step}");
                    compared += 1;
                }
            }
            assert_eq!(own_before, own_fingerprint(path, &TABLES, &ids), "own reader after {report}");
        }
    }
    assert!(
        flushes > 50 && merges >= 4 && compared > 40,
        "{flushes} rows flushed, {merges} files merged, {compared} states compared"
    );
    lake.close().await.unwrap();
    drop(lake);

    // Everything but the last snapshots expires; what is left still shows the same.
    let before = duck_fingerprint(path, &TABLES);
    let lake = open(path, LakeSettings { keep_snapshots: Duration::ZERO, ..eager() }).await;
    let mut total = portolan_lake::MaintenanceReport::default();
    for _ in 0..4 {
        let report = lake.maintain().await.unwrap();
        total.expired_snapshots += report.expired_snapshots;
        total.removed_files += report.removed_files;
    }
    assert!(total.expired_snapshots > 20 && removed + total.removed_files > 4, "{total}");
    let after = duck_fingerprint(path, &TABLES);
    let last = |map: &std::collections::BTreeMap<String, String>, table: &str| {
        let id = |key: &str| key.rsplit('@').next().unwrap().parse::<i64>().unwrap();
        let of = map.iter().filter(|(key, _)| key.starts_with(&format!("{table}@")));
        of.max_by_key(|(key, _)| id(key)).unwrap().1.clone()
    };
    for table in TABLES {
        assert_eq!(last(&before, table), last(&after, table), "{table}");
    }
    let error = LakeReader::open(path).unwrap().snapshot(At::Round(1)).unwrap_err();
    assert_eq!(error.kind(), portolan_model::ErrorKind::NotFound);
    // The latest round's own snapshot has expired, too: the head shows its state.
    let reader = LakeReader::open(path).unwrap();
    let latest = reader.last_round().unwrap().unwrap().0.0;
    assert_eq!(reader.snapshot(At::Round(latest)).unwrap().id(), reader.snapshot(At::Head).unwrap().id());
    let hint = format!("the oldest round whose state can be read is {latest}, the latest is {latest}");
    assert_eq!(error.hint(), Some(hint.as_str()));
    // What is on disk is what the catalog names, and nothing else.
    let head = at(path, At::Head);
    let named: usize = head.tables().unwrap().iter().map(|table| table.files.len()).sum();
    let on_disk = walk(&path.join("data"));
    assert_eq!(on_disk, named);
}

/// One table's rows and files that cannot be read stop nothing but its own flushing and merging.
#[tokio::test]
async fn a_job_that_fails_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, LakeSettings { inline_rows: 2, ..eager() }).await;
    for step in 0..4 {
        round(&lake, spec("broken"), &[narrow(step, 3)]).await.unwrap();
        round(&lake, spec("sound"), &[narrow(step, 3)]).await.unwrap();
    }
    drop(lake);
    let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
    let sql = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
               where t.table_name = 'receipts'";
    let receipts: String = catalog.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(catalog.execute(&format!("update {receipts} set source = x'ff'"), []).unwrap() > 0);
    drop(catalog);
    for file in std::fs::read_dir(path.join("data/main/broken")).unwrap() {
        std::fs::write(file.unwrap().path(), b"no parquet").unwrap();
    }
    let orphan = path.join("data/main/broken/portolan-orphan.parquet");
    std::fs::write(&orphan, b"left over").unwrap();
    let before = at(path, At::Head).id();
    let lake = open(path, LakeSettings { keep_snapshots: Duration::ZERO, ..eager() }).await;
    round(&lake, spec("orders"), &[narrow(0, 3)]).await.unwrap();
    let error = lake.maintain().await.unwrap_err();
    assert_eq!(error.kind(), portolan_model::ErrorKind::Corrupt, "{error}");
    let table = |name: &str| at(path, At::Head).table("main", name).unwrap().unwrap();
    assert_eq!(
        (table("orders").inlined_rows, table("orders").files.len()),
        (0, 1),
        "rows of `orders` were not flushed"
    );
    assert_eq!(table("sound").files.len(), 1, "files of `sound` were not merged");
    let reader = LakeReader::open(path).unwrap();
    assert_eq!(reader.snapshot(At::Snapshot(before)).unwrap_err().kind(), portolan_model::ErrorKind::NotFound);
    assert!(!orphan.exists(), "orphans were not swept");
}

/// However many files the catalog names, the orphans behind them are found.
#[tokio::test]
async fn orphans_are_found_behind_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, LakeSettings { inline_rows: 1, ..settings() }).await;
    round(&lake, spec("orders"), &[narrow(0, 3)]).await.unwrap();
    drop(lake);
    // As many files as a collector makes in a day, in the catalog and on the disk.
    let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) \
               insert into ducklake_data_file select 10000 + i, table_id, begin_snapshot, end_snapshot, file_order, \
               'portolan-' || i || '.parquet', path_is_relative, file_format, record_count, file_size_bytes, \
               footer_size, row_id_start, partition_id, encryption_key, mapping_id, partial_max \
               from ducklake_data_file, n";
    assert_eq!(catalog.execute(sql, []).unwrap(), 3_000);
    drop(catalog);
    let data = path.join("data/main/orders");
    for number in 1..=3_000 {
        std::fs::write(data.join(format!("portolan-{number}.parquet")), b"known").unwrap();
    }
    let orphans: Vec<_> = (0..40).map(|number| data.join(format!("portolan-orphan-{number}.parquet"))).collect();
    for orphan in &orphans {
        std::fs::write(orphan, b"left over").unwrap();
    }
    let lake = open(path, LakeSettings { merge_below_bytes: 0, ..settings() }).await;
    let report = lake.maintain().await.unwrap();
    assert_eq!(report.orphan_files, 40);
    assert!(orphans.iter().all(|orphan| !orphan.exists()));
    assert_eq!(walk(&data), 3_001);
}

fn walk(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
}

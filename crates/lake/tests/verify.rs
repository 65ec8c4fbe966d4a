//! `verify` finds whatever was changed behind the lake's back, names the place, and raises no false alarm.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use common::*;
use portolan_lake::{At, Lake, LakeReader, LakeSettings, VerifyReport, VerifyScope};
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::clock::SystemClock;
use portolan_model::round::{Receipt, ReceiptVerdict};
use rand::{Rng, SeedableRng};

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

/// One round of several tables, with receipts as a collector has them.
async fn commit(lake: &Lake, tables: Vec<(TableSpec, Vec<RecordBatch>)>) {
    let mut staging = lake.begin().await.unwrap();
    let mut receipts = Vec::new();
    for (spec, batches) in tables {
        let mut receipt = Receipt::new(spec.source.clone(), ReceiptVerdict::Ok);
        let mut table = staging.table(spec).unwrap();
        for batch in batches {
            table.write(batch).await.unwrap();
        }
        receipt.rows = table.finish().await.unwrap().rows;
        receipts.push(receipt);
    }
    staging.commit(record(receipts), &[]).await.unwrap();
}

fn replace(name: &str) -> TableSpec {
    TableSpec { mode: WriteMode::Replace, ..spec(name) }
}

fn verify(folder: &Path) -> VerifyReport {
    verify_scope(folder, &VerifyScope::default())
}

fn verify_scope(folder: &Path, scope: &VerifyScope) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(scope, &mut |_| {}).unwrap()
}

fn proved(report: &VerifyReport, table: &str) -> (u64, u64) {
    let found = report.tables.iter().find(|found| found.table == table).unwrap();
    (found.rounds, found.rows)
}

/// Rows of both kinds of table in files of every kind and inside the catalog.
async fn fill(lake: &Lake, steps: std::ops::Range<i32>) -> u64 {
    let mut rows = 0;
    for step in steps {
        let batch = if step % 10 < 6 { narrow(step * 100, 10 + step % 7) } else { wide(i64::from(step) * 100, 12) };
        let mut batches = vec![batch];
        if step % 5 == 4 {
            // Above the inline limit: a file at once, and another one, because the columns change under way.
            batches.push(narrow(step * 1_000, 80));
        }
        rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        commit(lake, vec![(spec("orders"), batches), (replace("state"), vec![narrow(step, 5)])]).await;
    }
    rows
}

#[tokio::test]
async fn a_sound_lake_raises_no_alarm_whatever_maintenance_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    assert!(verify(path).is_sound());
    let mut rows = 0;
    let (mut flushed, mut merged) = (0, 0);
    for part in 0..6 {
        rows += fill(&lake, part * 4..part * 4 + 4).await;
        for _ in 0..3 {
            let report = verify(path);
            assert!(report.is_sound() && report.unproved.is_empty(), "{report:#?}");
            assert_eq!(proved(&report, "orders"), (part as u64 * 4 + 4, rows));
            assert_eq!(proved(&report, "state"), (part as u64 * 4 + 4, (part as u64 * 4 + 4) * 5));
            let done = lake.maintain().await.unwrap();
            flushed += done.flushed_rows;
            merged += done.merged_files;
        }
    }
    assert!(flushed > 100 && merged > 3, "{flushed} rows flushed, {merged} files merged");
    lake.close().await.unwrap();
    drop(lake);

    let lake = open(path, LakeSettings { keep_snapshots: Duration::ZERO, ..eager() }).await;
    let mut expired = 0;
    for _ in 0..4 {
        expired += lake.maintain().await.unwrap().expired_snapshots;
    }
    assert!(expired > 20);
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(proved(&report, "orders"), (24, rows));
    // What has been replaced is gone with its snapshots, and that is said.
    assert_eq!(proved(&report, "state"), (1, 5));
    let unproved: Vec<_> = report.unproved.iter().map(|one| (one.table.as_str(), one.rounds)).collect();
    assert_eq!(unproved, [("state", 23)]);
    assert_eq!((report.unproved[0].first_round, report.unproved[0].last_round), (1, 23));
    let one = verify_scope(path, &VerifyScope { first_round: Some(3), last_round: Some(3), ..VerifyScope::default() });
    assert!(one.is_sound(), "{one:#?}");
    assert_eq!((proved(&one, "orders").0, one.unproved[0].rounds), (1, 1));
}

/// Snapshots that expire before a flush is settled take its rows in the catalog along: the file begins later than its rows,
/// and a merge of such files must not take that over.
#[tokio::test]
async fn files_whose_flush_was_never_settled_are_merged_by_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let hasty = LakeSettings { keep_snapshots: Duration::ZERO, grace: Duration::from_secs(3_600), ..eager() };
    let path = folder.path();
    let lake = open(path, hasty).await;
    for step in 0..40 {
        commit(&lake, vec![(spec("orders"), vec![narrow(step * 10, 10)])]).await;
        lake.maintain().await.unwrap();
    }
    lake.close().await.unwrap();
    let report = verify(path);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(proved(&report, "orders").1, 400);
    let count = LakeReader::open(path)
        .unwrap()
        .snapshot(At::Head)
        .unwrap()
        .table("main", "orders")
        .unwrap()
        .unwrap()
        .files
        .len();
    assert!(count < 40, "{count} files: nothing was merged");
}

#[tokio::test]
async fn part_of_a_lake_is_verified_alone() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    fill(&lake, 0..8).await;
    lake.maintain().await.unwrap();
    let scope = VerifyScope { table: Some("state".into()), first_round: Some(3), ..VerifyScope::default() };
    let report = verify_scope(folder.path(), &scope);
    assert_eq!(report.tables.len(), 1);
    assert_eq!(proved(&report, "state"), (6, 30));
    let since = |text: &str| VerifyScope { since: Some(text.parse().unwrap()), ..VerifyScope::default() };
    // The rounds of these tests begin at 03:04:05.
    assert_eq!(proved(&verify_scope(folder.path(), &since("2026-01-02T03:04:05Z")), "state").0, 8);
    let reader = LakeReader::open(folder.path()).unwrap();
    let error = reader.verify(&since("2026-01-02T03:04:06Z"), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), portolan_model::ErrorKind::NotFound);
    let scope = VerifyScope { table: Some("stat".into()), ..VerifyScope::default() };
    let error = reader.verify(&scope, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), portolan_model::ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("state"), "{:?}", error.hint());
}

#[tokio::test]
async fn what_another_program_does_by_the_book_is_told_and_no_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    fill(&lake, 0..6).await;
    lake.maintain().await.unwrap();
    lake.maintain().await.unwrap();
    fill(&lake, 6..8).await;
    lake.close().await.unwrap();
    drop(lake);
    duck_write(
        path,
        &[
            "delete from lake.orders where id = 1 or id = 601",
            "update lake.orders set text = 'x' where id in (2, 602)",
            "insert into lake.orders (id, text) values (7, 'seven')",
            "alter table lake.orders drop column price",
        ],
    );
    let report = verify(path);
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(proved(&report, "orders").0, 8);
    let orders = report.tables.iter().find(|table| table.table == "orders").unwrap();
    assert!(orders.foreign_rows >= 2, "{orders:?}");
}

#[tokio::test]
async fn a_hundred_rounds_apart_are_as_good_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), LakeSettings { inline_rows: 4, ..eager() }).await;
    // Every third round goes to a file at once, between rows that are flushed later: files overlap in row ids.
    for step in 0..120 {
        commit(&lake, vec![(spec("orders"), vec![narrow(step * 10, if step % 3 == 0 { 9 } else { 2 })])]).await;
        if step % 25 == 24 {
            lake.maintain().await.unwrap();
        }
    }
    for _ in 0..3 {
        lake.maintain().await.unwrap();
    }
    let report = verify(folder.path());
    assert!(report.is_sound() && report.unproved.is_empty(), "{report:#?}");
    assert_eq!(proved(&report, "orders"), (120, 40 * 9 + 80 * 2));
}

#[tokio::test]
async fn files_that_maintenance_removes_under_way_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Arc::new(open(folder.path(), LakeSettings { inline_rows: 2, ..eager() }).await);
    for step in 0..6 {
        commit(&lake, vec![(spec("orders"), vec![narrow(step * 10, 5)])]).await;
    }
    let reader = LakeReader::open(folder.path()).unwrap();
    let mut merged = 0;
    let report = reader.verify(&VerifyScope::default(), &mut |_| {
        // Everything is merged and its parts are removed when the first file is about to be read.
        if merged == 0 {
            let lake = lake.clone();
            let maintain = move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async { lake.maintain().await.unwrap().merged_files })
            };
            merged = 1 + std::thread::spawn(maintain).join().unwrap();
        }
    });
    let report = report.unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!((proved(&report, "orders"), files(folder.path(), "orders").len()), ((6, 30), 1));
}

fn files(folder: &Path, table: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("data/main").join(table)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A closed lake with several files and rows inside the catalog.
async fn sample(folder: &Path) {
    let lake = open(folder, eager()).await;
    fill(&lake, 0..6).await;
    lake.maintain().await.unwrap();
    lake.maintain().await.unwrap();
    fill(&lake, 6..9).await;
    lake.maintain().await.unwrap();
    lake.maintain().await.unwrap();
    fill(&lake, 9..12).await;
    lake.close().await.unwrap();
}

fn inlined(folder: &Path, table: &str) -> (rusqlite::Connection, Vec<String>) {
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    let sql = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
               where t.table_name = ?1 order by 1";
    let mut statement = catalog.prepare(sql).unwrap();
    let names = statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    (catalog, names)
}

/// Changes inlined rows; how many.
fn change(folder: &Path, table: &str, assignment: &str) -> usize {
    let (catalog, names) = inlined(folder, table);
    names.iter().map(|name| catalog.execute(&format!("update {name} set {assignment}"), []).unwrap_or(0)).sum()
}

#[tokio::test]
async fn every_corruption_is_found_and_its_place_named() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    sample(&whole).await;
    assert!(verify(&whole).is_sound());
    let broken = |name: &str, corrupt: &dyn Fn(&Path)| {
        let path = folder.path().join(name);
        copy(&whole, &path);
        corrupt(&path);
        let report = verify(&path);
        assert!(!report.is_sound(), "{name} was not found");
        (path, report)
    };

    let (_, report) = broken("changed row inside the catalog", &|path| {
        let (catalog, names) = inlined(path, "orders");
        let name = names.last().unwrap();
        let sql = format!("update {name} set id = id + 1 where row_id = (select max(row_id) from {name})");
        assert_eq!(catalog.execute(&sql, []).unwrap(), 1);
    });
    assert_eq!((report.mismatches.len(), report.damaged_files.len()), (1, 0), "{report:#?}");
    let mismatch = &report.mismatches[0];
    assert_eq!((mismatch.round, mismatch.table.as_str()), (12, "orders"));
    assert_eq!(mismatch.places, ["inside the catalog"]);
    assert!(mismatch.expected_sha256.is_some() && mismatch.expected_sha256 != mismatch.found_sha256);

    let (_, report) = broken("rows lost inside the catalog", &|path| {
        let (catalog, names) = inlined(path, "orders");
        let deleted: usize = names
            .iter()
            .map(|name| catalog.execute(&format!("delete from {name} where _round = 11"), []).unwrap())
            .sum();
        assert!(deleted > 0);
    });
    assert_eq!(report.mismatches[0].round, 11);

    let (path, report) = broken("deleted file", &|path| std::fs::remove_file(&files(path, "orders")[0]).unwrap());
    let lost = files(&whole, "orders")[0].file_name().unwrap().to_owned();
    assert_eq!(
        report.damaged_files[0].path,
        path.canonicalize().unwrap().join("data/main/orders").join(&lost).display().to_string()
    );
    // The finding is that of the file; the rounds that it held are named with it.
    assert_eq!((report.damaged_files.len(), report.mismatches.len()), (1, 0), "{report:#?}");
    assert!(report.damaged_files[0].table == "orders" && report.damaged_files[0].rounds > 0, "{report:#?}");

    let (_, report) = broken("edited digest", &|path| {
        let digest = "'".to_owned() + &"0".repeat(64) + "'";
        assert_eq!(
            change(path, "receipts", &format!("rows_sha256 = {digest} where round = 12 and source = 'orders'")),
            1
        );
    });
    // The rows say so, and the manifest of the round.
    let named: Vec<_> = report.mismatches.iter().map(|one| (one.round, one.table.as_str())).collect();
    assert_eq!(named, [(12, "portolan.receipts"), (12, "orders")], "{report:#?}");
    let (_, report) = broken("edited count", &|path| {
        assert_eq!(change(path, "receipts", "rows = rows - 1 where round = 11 and source = 'state'"), 1);
    });
    assert!(report.mismatches.iter().any(|one| (one.round, one.table.as_str()) == (11, "state")), "{report:#?}");
    broken("digest taken away", &|path| {
        assert_eq!(change(path, "receipts", "rows_sha256 = null where round = 12 and source = 'orders'"), 1);
    });
    let (_, report) = broken("receipt taken away", &|path| {
        let (catalog, names) = inlined(path, "receipts");
        let deleted: usize = names
            .iter()
            .map(|name| catalog.execute(&format!("delete from {name} where round = 12"), []).unwrap())
            .sum();
        assert_eq!(deleted, 2);
    });
    assert!(report.mismatches.iter().all(|one| one.round == 12), "{report:#?}");
    assert!(report.mismatches.iter().any(|one| one.detail.contains("no receipt")), "{report:#?}");

    let swap = |left: &Path, right: &Path| {
        let aside = left.with_extension("aside");
        std::fs::rename(left, &aside).unwrap();
        std::fs::rename(right, left).unwrap();
        std::fs::rename(&aside, right).unwrap();
    };
    let count = files(&whole, "orders").len();
    assert!(count >= 3, "{count} files");
    for other in 1..count {
        broken(&format!("swapped with {other}"), &|path| {
            let files = files(path, "orders");
            swap(&files[0], &files[other]);
        });
    }
    broken("swapped between tables", &|path| swap(&files(path, "orders")[0], &files(path, "state")[0]));
    broken("truncated", &|path| {
        let file = std::fs::File::options().write(true).open(&files(path, "orders")[1]).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
}

/// Every row as a reader gets it, or that there is an error.
fn content(folder: &Path) -> Option<Vec<String>> {
    let head = at(folder, At::Head);
    let mut lines = Vec::new();
    for table in head.tables().unwrap().into_iter().filter(|table| table.schema == "main") {
        for file in &table.files {
            let read = || -> portolan_model::Result<Vec<RecordBatch>> { head.read_file(&table, file, None)?.collect() };
            let batches = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).ok()?.ok()?;
            lines.extend(batches.iter().map(|batch| format!("{} {batch:?}", table.name)));
        }
    }
    Some(lines)
}

#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_changes_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    sample(path).await;
    let before = content(path).unwrap();
    let all: Vec<PathBuf> = ["orders", "state"].iter().flat_map(|table| files(path, table)).collect();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut harmful, mut harmless) = (0, 0);
    for _ in 0..400 {
        let file = &all[random.random_range(0..all.len())];
        let sound = std::fs::read(file).unwrap();
        let mut bytes = sound.clone();
        let place = random.random_range(0..bytes.len());
        bytes[place] ^= 1 << random.random_range(0..8);
        std::fs::write(file, &bytes).unwrap();
        let after = content(path);
        let report = verify(path);
        if after.as_ref() == Some(&before) {
            harmless += 1;
        } else {
            harmful += 1;
            assert!(!report.is_sound(), "byte {place} of {} changes what is read and was not found", file.display());
            let named = |text: &String| text.contains(file.file_name().unwrap().to_str().unwrap());
            let places = report.mismatches.iter().flat_map(|one| &one.places);
            assert!(places.chain(report.damaged_files.iter().map(|file| &file.path)).any(named), "{report:#?}");
        }
        std::fs::write(file, &sound).unwrap();
    }
    assert!(harmful > 100 && harmless > 10, "{harmful} harmful, {harmless} harmless");
    assert!(verify(path).is_sound());
}

/// Rows of every source's table as a reader gets them, or that there is an error. Another program may rename a column: names
/// are left out, and so is the order in which columns are shown.
fn everything(folder: &Path) -> Option<Vec<String>> {
    let read = || -> portolan_model::Result<Vec<String>> {
        let head = LakeReader::open(folder)?.snapshot(At::Head)?;
        let mut lines = Vec::new();
        for table in head.tables()?.into_iter().filter(|table| table.schema == "main") {
            let mut places: Vec<usize> = (0..table.columns.len()).collect();
            places.sort_by_key(|place| table.columns[*place].id);
            lines.extend(
                head.inlined(&table, Some(&places))?
                    .iter()
                    .map(|batch| format!("{} {:?}", table.name, batch.columns())),
            );
            for file in &table.files {
                for batch in head.read_file(&table, file, Some(&places))? {
                    lines.push(format!("{} {:?}", table.name, batch?.columns()));
                }
            }
        }
        Ok(lines)
    };
    read().ok()
}

#[tokio::test]
async fn a_flipped_bit_in_the_catalog_is_found_wherever_it_changes_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    sample(path).await;
    let catalog = path.join("catalog.sqlite");
    let sound = std::fs::read(&catalog).unwrap();
    let before = everything(path).unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    let (mut harmful, mut found) = (0, 0);
    for _ in 0..400 {
        let mut bytes = sound.clone();
        let place = random.random_range(0..bytes.len());
        bytes[place] ^= 1 << random.random_range(0..8);
        std::fs::write(&catalog, &bytes).unwrap();
        let report = LakeReader::open(path).and_then(|reader| reader.verify(&VerifyScope::default(), &mut |_| {}));
        let structure = portolan_lake::fsck(path, &SystemClock::new(), &mut |_| {});
        let is_found =
            !report.is_ok_and(|report| report.is_sound()) || !structure.is_ok_and(|report| report.is_sound());
        found += usize::from(is_found);
        if everything(path).as_ref() != Some(&before) {
            harmful += 1;
            assert!(is_found, "byte {place} of the catalog changes what is read and was not found");
        }
        for beside in ["catalog.sqlite-wal", "catalog.sqlite-shm"] {
            let _ = std::fs::remove_file(path.join(beside));
        }
    }
    assert!(harmful > 5 && found >= harmful, "{harmful} harmful, {found} found");
    std::fs::write(&catalog, &sound).unwrap();
    assert!(verify(path).is_sound());
}

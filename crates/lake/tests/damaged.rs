//! What `verify` says where files cannot be read: each round once, with the file that held it; what can be read is proved, and
//! a damaged file covers for nothing that it did not hold.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use common::*;
use portolan_lake::{DamagedFile, HeadFiles, Job, Lake, LakeReader, LakeSettings, VerifyReport, VerifyScope};
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::position::Position;

fn lazy() -> LakeSettings {
    LakeSettings { inline_rows: 100, grace: Duration::ZERO, ..settings() }
}

/// A round of so many rows of `orders`.
async fn commit_as(lake: &Lake, spec: TableSpec, step: i32, rows: i32) {
    let mut staging = lake.begin().await.unwrap();
    let mut table = staging.table(spec).unwrap();
    let id: ArrayRef = Arc::new((step * 1_000..step * 1_000 + rows).collect::<Int32Array>());
    table.write(RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()).await.unwrap();
    let mut receipt = receipt("orders");
    receipt.position_after = Some(Position::new(1, step.to_string().into_bytes().into()));
    receipt.rows = table.finish().await.unwrap().rows;
    staging.commit(record(vec![receipt]), &[]).await.unwrap();
}

async fn commit(lake: &Lake, step: i32, rows: i32) {
    commit_as(lake, spec("orders"), step, rows).await;
}

async fn flush(lake: &Lake) {
    lake.run_job(&Job::Flush(None), &mut |_| {}).await.unwrap();
}

/// A closed lake: rounds 1 to 10 in one file of each table, 11 to 20 in another, `tail` more inside the catalog.
async fn sample(folder: &Path, tail: i32) {
    let lake = open(folder, lazy()).await;
    for step in 1..=20 + tail {
        commit(&lake, step, 4).await;
        if step == 10 || step == 20 {
            flush(&lake).await;
        }
    }
    lake.close().await.unwrap();
}

fn verify(folder: &Path, scope: VerifyScope) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(&scope, &mut |_| {}).unwrap()
}

fn of_round(round: i64) -> VerifyScope {
    VerifyScope { first_round: Some(round), last_round: Some(round), ..VerifyScope::default() }
}

/// The files of a table, in the order in which they were written.
fn files(folder: &Path, table: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("data").join(table)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Takes a file away for as long as `look` looks.
fn without<T>(file: &Path, look: impl FnOnce() -> T) -> T {
    let aside = file.with_extension("aside");
    std::fs::rename(file, &aside).unwrap();
    let seen = look();
    std::fs::rename(&aside, file).unwrap();
    seen
}

fn rounds(file: &DamagedFile) -> (u64, Option<i64>, Option<i64>) {
    (file.rounds, file.first_round, file.last_round)
}

fn catalog(folder: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap()
}

/// Takes the links of rounds inside the catalog away.
fn unlink(folder: &Path, condition: &str) {
    let catalog = catalog(folder);
    let sql = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
               where t.table_name = 'rounds'";
    let name: String = catalog.query_row(sql, [], |row| row.get(0)).unwrap();
    let sql =
        format!("update {name} set previous_round = null, manifest = null, chain_sha256 = null where {condition}");
    assert_eq!(catalog.execute(&sql, []).unwrap(), 1);
}

fn proved(report: &VerifyReport) -> u64 {
    report.tables.iter().find(|one| one.table == "orders").map_or(0, |one| one.rounds)
}

#[tokio::test]
async fn rounds_whose_own_rows_cannot_be_read_are_named_once_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().canonicalize().unwrap();
    sample(path, 2).await;
    let own = files(path, "portolan/rounds");
    assert_eq!(own.len(), 2);
    // The second file: the round after it cannot be linked to it, and the one after that can.
    let report = without(&own[1], || verify(path, VerifyScope::default()));
    let [damaged] = &report.damaged_files[..] else { panic!("{report:#?}") };
    assert_eq!(damaged.path, own[1].display().to_string());
    assert_eq!((rounds(damaged), &report.mismatches[..]), ((11, Some(11), Some(21)), &[][..]), "{report:#?}");
    let chain = report.chain.as_ref().unwrap();
    assert_eq!((chain.rounds, chain.before, proved(&report)), (11, 0, 22));
    // The first: nobody but the receipts know of its rounds once their snapshots have expired.
    catalog(path).execute("delete from portolan_round where round < 20", []).unwrap();
    let report = without(&own[0], || verify(path, VerifyScope::default()));
    assert_eq!(rounds(&report.damaged_files[0]), (11, Some(1), Some(11)), "{report:#?}");
    assert_eq!((report.mismatches_total, report.chain.as_ref().unwrap().rounds), (0, 11));
    // Both, and one round alone.
    let report = without(&own[0], || without(&own[1], || verify(path, VerifyScope::default())));
    let found: Vec<_> = report.damaged_files.iter().map(rounds).collect();
    assert_eq!(found, [(10, Some(1), Some(10)), (11, Some(11), Some(21))], "{report:#?}");
    assert_eq!(report.chain.as_ref().unwrap().rounds, 1);
    let report = without(&own[1], || verify(path, of_round(15)));
    assert_eq!((rounds(&report.damaged_files[0]), report.mismatches_total), ((1, Some(15), Some(15)), 0));
    let report = without(&own[1], || verify(path, of_round(4)));
    assert_eq!((rounds(&report.damaged_files[0]), report.mismatches_total), ((0, None, None), 0), "{report:#?}");
    assert_eq!(report.chain.as_ref().unwrap().rounds, 1);
}

#[tokio::test]
async fn rounds_that_are_not_asked_for_are_not_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    sample(path, 0).await;
    let receipts = files(path, "portolan/receipts");
    // The last round is looked at whatever is asked for.
    let report = without(&receipts[1], || verify(path, of_round(4)));
    assert!(report.damaged_files.iter().all(|file| rounds(file) == (0, None, None)), "{report:#?}");
    assert_eq!((report.chain.as_ref().unwrap().rounds, report.mismatches_total), (1, 0));
}

#[tokio::test]
async fn a_round_whose_link_was_taken_away_is_none_of_before_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, lazy()).await;
    for step in 1..=10 {
        commit(&lake, step, 4).await;
    }
    flush(&lake).await;
    commit(&lake, 11, 4).await;
    commit(&lake, 12, 4).await;
    lake.close().await.unwrap();
    drop(lake);
    unlink(path, "round = 11");
    let own = files(path, "portolan/rounds");
    let report = without(&own[0], || verify(path, VerifyScope::default()));
    assert_eq!(report.chain.as_ref().unwrap().before, 0, "{report:#?}");
    assert_eq!(rounds(&report.damaged_files[0]), (11, Some(1), Some(11)));
    assert_eq!(report.mismatches.iter().map(|one| one.round).collect::<Vec<_>>(), [12]);
    // The last one: the catalog knows that the chain ends with it.
    unlink(path, "round = 12");
    let report = without(&own[0], || verify(path, VerifyScope::default()));
    let [one] = &report.mismatches[..] else { panic!("{report:#?}") };
    assert!(one.round == 12 && one.detail.contains("the catalog says that the chain ends with it"), "{one:#?}");
    assert_eq!(report.chain.as_ref().unwrap().before, 0);

    // One round is a chain.
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), lazy()).await;
    commit(&lake, 1, 4).await;
    lake.close().await.unwrap();
    drop(lake);
    unlink(folder.path(), "round = 1");
    assert_eq!(verify(folder.path(), VerifyScope::default()).mismatches_total, 1);
}

#[tokio::test]
async fn what_was_not_verified_for_want_of_a_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    sample(path, 1).await;
    let (own, receipts) = (files(path, "portolan/rounds"), files(path, "portolan/receipts"));
    let tells = |report: &VerifyReport, words: &str| {
        assert!(report.left_out.iter().any(|text| text.contains(words)), "{words:?}: {report:#?}");
        assert!(report.damaged_files.iter().any(|file| file.table.starts_with("portolan.")), "{report:#?}");
    };
    let since = |text: &str| VerifyScope { since: Some(text.parse().unwrap()), ..VerifyScope::default() };
    let of_table = |table: &str, scope: VerifyScope| VerifyScope { table: Some(table.to_owned()), ..scope };
    // All rounds of these tests begin at one instant.
    let report = without(&own[1], || verify(path, since("2026-01-02T03:04:05Z")));
    tells(&report, "when the rounds in");
    assert_eq!((proved(&report), report.mismatches_total), (21, 0), "{report:#?}");
    assert_eq!(rounds(&report.damaged_files[0]), (11, Some(11), Some(21)));
    let report = without(&own[1], || verify(path, of_table("orders", since("2026-01-02T03:04:05Z"))));
    tells(&report, "when the rounds in");
    assert_eq!((proved(&report), report.chain.is_none()), (21, true));
    // No round of the file began then.
    let report = without(&own[1], || verify(path, since("2031-01-02T03:04:05Z")));
    assert_eq!((proved(&report), rounds(&report.damaged_files[0])), (0, (0, None, None)), "{report:#?}");

    for scope in [VerifyScope::default(), of_table("orders", VerifyScope::default())] {
        let report = without(&receipts[1], || verify(path, scope));
        tells(&report, "the rows of sources were not held against their receipts");
        assert_eq!(report.mismatches_total, 0);
    }
    let report = without(&receipts[1], || verify(path, of_table("nothing", VerifyScope::default())));
    tells(&report, "there is no table `nothing`, and receipts that may name it cannot be read");
    let position = "the positions from which sources go on were not held against their receipts";
    catalog(path).execute("update portolan_position set round = 20", []).unwrap();
    tells(&without(&receipts[1], || verify(path, VerifyScope::default())), position);
    // A file that is not needed for that is no reason.
    let report = without(&own[0], || verify(path, VerifyScope::default()));
    assert!(report.left_out.is_empty() && report.mismatches_total == 1, "{report:#?}");
    assert!(report.mismatches[0].table == "portolan_position", "{report:#?}");
}

#[tokio::test]
async fn a_damaged_file_that_is_read_to_its_end_covers_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, lazy()).await;
    for step in 1..=9 {
        // The fifth goes to a file of its own.
        commit(&lake, step, if step == 5 { 150 } else { 4 }).await;
    }
    flush(&lake).await;
    lake.close().await.unwrap();
    drop(lake);
    let catalog = catalog(path);
    let of_orders = "table_id = (select table_id from ducklake_table where table_name = 'orders')";
    let pick = |order: &str| -> i64 {
        let sql =
            format!("select data_file_id from ducklake_data_file where {of_orders} order by record_count {order}");
        catalog.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let (fifth, others) = (pick("desc"), pick("asc"));
    // All of it is there, and nothing says that its bytes are those that were written.
    let sql = "update portolan_row_group set sha256 = randomblob(32) where data_file_id = ?1 and part = 0";
    assert_eq!(catalog.execute(sql, [others]).unwrap(), 1);
    for table in ["ducklake_data_file", "ducklake_file_column_stats", "portolan_row_group"] {
        let sql = format!("delete from {table} where data_file_id = ?1");
        assert!(catalog.execute(&sql, [fifth]).unwrap() > 0);
    }
    let report = verify(path, VerifyScope::default());
    assert_eq!(report.damaged_files.iter().map(rounds).collect::<Vec<_>>(), [(0, None, None)], "{report:#?}");
    let lost: Vec<_> = report.mismatches.iter().map(|one| (one.round, one.found_rows)).collect();
    assert_eq!((lost, proved(&report)), (vec![(5, Some(0))], 8), "{report:#?}");
}

/// Rows that come twice, once in a file without digests of its bytes: they lie in no order.
#[tokio::test]
async fn a_file_that_breaks_off_where_rows_are_put_in_order_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().canonicalize().unwrap();
    let lake = open(path, lazy()).await;
    for step in 1..=3 {
        commit(&lake, step, 40).await;
    }
    flush(&lake).await;
    lake.close().await.unwrap();
    drop(lake);
    let [own] = &files(path, "main/orders")[..] else { panic!("one file") };
    let added = own.with_file_name("added.parquet");
    let sound = std::fs::read(own).unwrap();
    let sql = "insert into ducklake_data_file select 900000, table_id, begin_snapshot, end_snapshot, file_order, \
               'added.parquet', path_is_relative, file_format, record_count, file_size_bytes, footer_size, row_id_start, \
               partition_id, encryption_key, mapping_id, partial_max from ducklake_data_file where table_id = \
               (select table_id from ducklake_table where table_name = 'orders')";
    assert_eq!(catalog(path).execute(sql, []).unwrap(), 1);
    let mut hidden = 0;
    for place in (4..sound.len()).step_by(7) {
        let mut bytes = sound.clone();
        bytes[place] ^= 0xff;
        std::fs::write(&added, &bytes).unwrap();
        let report = verify(path, VerifyScope::default());
        assert!(
            report.mismatches.iter().all(|one| !one.detail.contains("cannot be read")),
            "byte {place}: {report:#?}"
        );
        assert!(report.damaged_files.iter().all(|file| Path::new(&file.path) == added), "byte {place}: {report:#?}");
        hidden += report.damaged_files.iter().map(|file| file.rounds).sum::<u64>();
    }
    assert!(hidden > 0);
}

#[tokio::test]
async fn a_head_denies_files_that_were_changed_for_as_long_as_none_has_come_or_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (folder.path().join("whole"), folder.path().join("changed"));
    let lake = open(&whole, lazy()).await;
    let state = || TableSpec { mode: WriteMode::Replace, ..spec("orders") };
    commit_as(&lake, state(), 1, 150).await;
    flush(&lake).await;
    let head = LakeReader::open(&whole).unwrap().head().unwrap();
    let of_files = |folder: &Path| {
        let report = verify(folder, VerifyScope { heads: vec![head.clone()], ..VerifyScope::default() });
        let is_denied =
            report.mismatches.iter().any(|one| one.detail.contains("none of its files was merged or has expired"));
        (report.chain.as_ref().unwrap().files_by_head, is_denied, report.is_sound())
    };
    let changed = || {
        let _ = std::fs::remove_dir_all(&path);
        copy(&whole, &path);
        catalog(&path).execute("update portolan_row_group set sha256 = randomblob(32)", []).unwrap();
        let (files, is_denied, _) = of_files(&path);
        (files, is_denied)
    };
    // A round that replaces all rows of the file: it ends, and is there for the snapshots that see it.
    commit_as(&lake, state(), 2, 4).await;
    assert_eq!(of_files(&whole), (HeadFiles::Changed, false, true));
    lake.close().await.unwrap();
    drop(lake);
    assert_eq!(changed(), (HeadFiles::Mismatch, true));
    // Once the head's own snapshot has expired nobody can tell.
    let lake = open(&whole, lazy()).await;
    let done = lake.run_job(&Job::Expire(Duration::ZERO), &mut |_| {}).await.unwrap();
    assert!(done.expired_snapshots > 0);
    lake.close().await.unwrap();
    drop(lake);
    assert_eq!(of_files(&whole), (HeadFiles::Changed, false, true));
    assert_eq!(changed(), (HeadFiles::Changed, false));
}

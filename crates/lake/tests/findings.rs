//! What `verify` says of what it finds: of which file, which rounds, with which numbers; and nothing that it does not know.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use common::*;
use portolan_lake::{ChainHead, HeadFiles, Lake, LakeReader, LakeSettings, Mismatch, VerifyReport, VerifyScope};
use portolan_model::ErrorKind;
use portolan_model::catalog::Catalog;
use portolan_model::position::Position;

/// Rounds of the sample.
const ROUNDS: u64 = 9;

fn eager() -> LakeSettings {
    LakeSettings { flush_rows: 1, flush_after: Duration::ZERO, inline_rows: 100, grace: Duration::ZERO, ..settings() }
}

/// A round that stores rows of two sources, or of the first alone.
async fn commit(lake: &Lake, step: i32, is_both: bool) {
    let mut staging = lake.begin().await.unwrap();
    let mut receipts = Vec::new();
    for name in ["orders", "items"].into_iter().take(1 + usize::from(is_both)) {
        let mut table = staging.table(spec(name)).unwrap();
        let id: ArrayRef = Arc::new((step * 100..step * 100 + 4).collect::<Int32Array>());
        table.write(RecordBatch::try_from_iter_with_nullable([("id", id, true)]).unwrap()).await.unwrap();
        let mut receipt = receipt(name);
        receipt.position_after = Some(Position::new(1, step.into()));
        receipt.rows = table.finish().await.unwrap().rows;
        receipts.push(receipt);
    }
    staging.commit(record(receipts), &[]).await.unwrap();
}

/// A closed lake, inside the catalog or, flushed, in one file for each table.
async fn sample(folder: &Path, is_flushed: bool) {
    let lake = open(folder, eager()).await;
    for step in 0..ROUNDS as i32 {
        commit(&lake, step, true).await;
    }
    if is_flushed {
        lake.maintain().await.unwrap();
        lake.maintain().await.unwrap();
    }
    lake.close().await.unwrap();
}

fn verify(folder: &Path, scope: VerifyScope) -> VerifyReport {
    LakeReader::open(folder).unwrap().verify(&scope, &mut |_| {}).unwrap()
}

fn head(folder: &Path) -> ChainHead {
    LakeReader::open(folder).unwrap().head().unwrap()
}

/// The one file of a table.
fn file(folder: &Path, table: &str) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder.join("data").join(table)).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap().unwrap().path()
}

fn with_flipped_bytes(path: &Path, each: &mut dyn FnMut(usize)) {
    let sound = std::fs::read(path).unwrap();
    for place in (4..sound.len()).step_by(89) {
        let mut bytes = sound.clone();
        bytes[place] ^= 0xff;
        std::fs::write(path, &bytes).unwrap();
        each(place);
    }
    std::fs::write(path, &sound).unwrap();
}

/// The rounds of a table that are proved, and its sound files.
fn proved(report: &VerifyReport, table: &str) -> (u64, u64) {
    report.tables.iter().find(|one| one.table == table).map_or((0, 0), |one| (one.rounds, one.files))
}

#[tokio::test]
async fn a_damaged_file_of_the_lakes_own_tables_is_one_finding_and_the_rest_is_proved() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().canonicalize().unwrap();
    sample(path, true).await;
    let whole = verify(path, VerifyScope::default());
    let files = whole.chain.unwrap().files;
    let mut hidden = 0;
    for table in ["rounds", "receipts"] {
        let victim = file(path, &format!("portolan/{table}"));
        with_flipped_bytes(&victim, &mut |place| {
            let report = verify(path, VerifyScope { heads: vec![head(path)], ..VerifyScope::default() });
            let [damaged] = &report.damaged_files[..] else { panic!("byte {place} of {table}: {report:#?}") };
            assert_eq!(Path::new(&damaged.path), victim);
            assert_eq!(damaged.table, format!("portolan.{table}"));
            let chain = report.chain.as_ref().unwrap();
            assert_eq!((chain.before, chain.files), (0, files - 1), "byte {place} of {table}: {report:#?}");
            if report.mismatches.is_empty() {
                assert_eq!(chain.rounds + damaged.rounds, ROUNDS, "byte {place} of {table}: {report:#?}");
            }
            // What can be read after all, and is not what it was, is shown with both digests.
            assert!(report.mismatches.iter().all(|one| one.found_sha256.is_some()), "byte {place}: {report:#?}");
            if table == "rounds" && report.mismatches.is_empty() {
                let orders = proved(&report, "orders");
                assert_eq!(orders, (ROUNDS, 1), "byte {place}: {report:#?}");
                assert_eq!(report.unproved, []);
            }
            if damaged.rounds > 0 {
                hidden += 1;
                assert_eq!((damaged.first_round, damaged.last_round), (Some(1), Some(damaged.rounds as i64)));
            }
        });
    }
    assert!(hidden > 5, "only {hidden} bytes kept rounds from being proved");
}

#[tokio::test]
async fn rounds_in_a_damaged_file_are_named_with_it_and_its_bytes_are_no_proof() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().canonicalize().unwrap();
    sample(path, true).await;
    let victim = file(path, "main/items");
    let mut hidden = 0;
    with_flipped_bytes(&victim, &mut |place| {
        let report = verify(path, VerifyScope::default());
        let [damaged] = &report.damaged_files[..] else { panic!("byte {place}: {report:#?}") };
        assert!(damaged.is_file() && Path::new(&damaged.path) == victim);
        assert_eq!(proved(&report, "orders"), (ROUNDS, 1));
        let (rounds, files) = proved(&report, "items");
        assert_eq!(files, 0, "byte {place}: {report:#?}");
        assert_eq!(rounds + damaged.rounds + report.mismatches_total, ROUNDS, "byte {place}: {report:#?}");
        // Rows that are found to be none are none: nothing is said to be lost that cannot be read.
        assert!(report.mismatches.iter().all(|one| one.found_rows > Some(0)), "byte {place}: {report:#?}");
        hidden += damaged.rounds;
    });
    assert!(hidden > ROUNDS, "{hidden}");
    let aside = path.join("aside");
    std::fs::rename(&victim, &aside).unwrap();
    let report = verify(path, VerifyScope { first_round: Some(3), last_round: Some(5), ..VerifyScope::default() });
    let damaged = &report.damaged_files[0];
    assert_eq!((damaged.rounds, damaged.first_round, damaged.last_round), (3, Some(3), Some(5)));
    assert_eq!((report.mismatches_total, proved(&report, "orders").0), (0, 3));
}

#[tokio::test]
async fn a_head_says_of_the_files_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    commit(&lake, 0, true).await;
    let old = head(path);
    commit(&lake, 1, true).await;
    let of_files = |scope: VerifyScope| verify(path, scope).chain.unwrap().files_by_head;
    let by = |heads: &[&ChainHead]| VerifyScope {
        heads: heads.iter().map(|head| (*head).clone()).collect(),
        ..VerifyScope::default()
    };
    assert_eq!(of_files(VerifyScope::default()), HeadFiles::NoHead);
    // No file has come, then or since.
    assert_eq!(of_files(by(&[&old])), HeadFiles::NoFiles);
    assert_eq!(of_files(VerifyScope { verified: Some(old.clone()), ..VerifyScope::default() }), HeadFiles::NoFiles);
    lake.maintain().await.unwrap();
    lake.maintain().await.unwrap();
    let filed = head(path);
    assert_eq!(of_files(by(&[&old])), HeadFiles::Changed);
    assert_eq!(of_files(by(&[&filed, &old])), HeadFiles::Held);
    // A round inside the catalog changes no file.
    commit(&lake, 2, true).await;
    assert_eq!(of_files(by(&[&filed])), HeadFiles::Held);
    lake.close().await.unwrap();
    drop(lake);
    let catalog = rusqlite::Connection::open(path.join("catalog.sqlite")).unwrap();
    catalog.execute("update portolan_row_group set sha256 = randomblob(32)", []).unwrap();
    let report = verify(path, by(&[&old, &filed]));
    assert!(
        report.mismatches.iter().any(|one| one.detail.contains("none of its files was merged or has expired")),
        "{report:#?}"
    );
    assert_eq!(report.chain.unwrap().files_by_head, HeadFiles::Mismatch);
}

#[tokio::test]
async fn rounds_that_are_not_there_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let reader = |path: &Path| LakeReader::open(path).unwrap();
    let refused = |scope: VerifyScope| {
        let error = reader(path).verify(&scope, &mut |_| {}).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::NotFound, "verify lake"));
        (error.message().to_owned(), error.hint().unwrap().to_owned())
    };
    let one = |round| VerifyScope { first_round: Some(round), last_round: Some(round), ..VerifyScope::default() };
    let from = |round| VerifyScope { first_round: Some(round), ..VerifyScope::default() };
    let since = |text: &str| VerifyScope { since: Some(text.parse().unwrap()), ..VerifyScope::default() };
    let of_items = |scope| VerifyScope { table: Some("items".into()), ..scope };

    let lake = open(path, eager()).await;
    assert!(refused(one(1)).0.contains("no round yet"));
    commit(&lake, 0, true).await;
    commit(&lake, 1, false).await;
    lake.close().await.unwrap();
    let (message, hint) = refused(one(999));
    assert!(message == "the lake has no round 999" && hint.contains("rounds 1 to 2"), "{message}; {hint}");
    assert_eq!(refused(of_items(one(999))).0, message);
    let (message, _) = refused(from(999));
    assert_eq!(message, "the lake has no round 999 or later: its last is round 2, which began at 2026-01-02T03:04:05Z");
    assert_eq!(refused(of_items(from(3))).0, message.replace("999", "3"));
    let (message, _) = refused(since("2031-01-01T00:00:00Z"));
    assert!(message.contains("2031-01-01T00:00:00Z or later: the latest, round 2, began at 2026-01-02T03:04:05Z"));
    // A round that is there is another matter.
    assert_eq!(refused(of_items(one(2))).0, "round 2 stored no rows in `items`");
    assert_eq!(verify(path, one(2)).chain.unwrap().rounds, 1);
    assert!(verify(path, of_items(from(2))).is_sound());
    assert!(verify(path, VerifyScope { verified: Some(head(path)), ..VerifyScope::default() }).is_sound());
}

/// Changes the catalog of a copy; the findings.
fn changed(whole: &Path, folder: &Path, sql: &str) -> Vec<Mismatch> {
    let _ = std::fs::remove_dir_all(folder);
    copy(whole, folder);
    let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite")).unwrap();
    let mut changed = 0;
    let of = |table: &str| -> String {
        let sql = "select i.table_name from ducklake_inlined_data_tables i join ducklake_table t using (table_id) \
                   where t.table_name = ?1";
        catalog.query_row(sql, [table], |row| row.get(0)).unwrap()
    };
    let sql = sql.replace("RECEIPTS", &of("receipts")).replace("ROUNDS", &of("rounds"));
    changed += catalog.execute(&sql, []).unwrap();
    assert!(changed > 0, "{sql}");
    drop(catalog);
    verify(folder, VerifyScope::default()).mismatches
}

#[tokio::test]
async fn findings_show_what_was_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, path) = (folder.path().join("whole"), folder.path().join("changed"));
    sample(&whole, false).await;
    let both = |one: &Mismatch| one.expected_sha256.is_some() && one.found_sha256.is_some();
    let no_rows = |one: &Mismatch| (one.expected_rows, one.found_rows) == (None, None);

    // A wrong head: the digest that it has, and the one of the lake.
    let now = head(&whole);
    let wrong = ChainHead { chain_sha256: "0d".repeat(32), ..now.clone() };
    let report = verify(&whole, VerifyScope { heads: vec![wrong.clone()], ..VerifyScope::default() });
    let [one] = &report.mismatches[..] else { panic!("{report:#?}") };
    assert_eq!(
        (one.expected_sha256.as_ref(), one.found_sha256.as_ref()),
        (Some(&wrong.chain_sha256), Some(&now.chain_sha256))
    );
    assert!(no_rows(one));
    let later = ChainHead { snapshot: 99_999, ..now.clone() };
    let report = verify(&whole, VerifyScope { heads: vec![later], ..VerifyScope::default() });
    let [one] = &report.mismatches[..] else { panic!("{report:#?}") };
    assert!(no_rows(one) && one.expected_sha256.is_none() && one.detail.contains("older copy"), "{one:#?}");
    // It is in the chain, and says of the files what it knows.
    let chain = report.chain.as_ref().unwrap();
    assert_eq!((chain.heads, chain.files_by_head), (1, HeadFiles::NoFiles));

    let found = changed(&whole, &path, "update RECEIPTS set bytes = bytes + 1 where round = 4 and source = 'items'");
    let [one] = &found[..] else { panic!("{found:#?}") };
    assert!(one.table == "portolan.receipts" && both(one) && no_rows(one), "{one:#?}");

    let found = changed(&whole, &path, "update portolan_chain set chain_sha256 = replace(chain_sha256, 'a', 'b')");
    let [one] = &found[..] else { panic!("{found:#?}") };
    assert!(both(one) && no_rows(one) && one.found_sha256.as_ref() == Some(&now.chain_sha256), "{one:#?}");
    let found = changed(&whole, &path, "update portolan_chain set round = 3, snapshot_id = 4");
    let [one] = &found[..] else { panic!("{found:#?}") };
    assert!(both(one) && no_rows(one) && one.detail.contains(&format!("round {ROUNDS}")), "{one:#?}");
    let found = changed(&whole, &path, "delete from portolan_chain");
    assert!(found[0].found_sha256.as_ref() == Some(&now.chain_sha256) && no_rows(&found[0]), "{found:#?}");

    // A receipt that counts another number of rows: there rows are compared.
    let found = changed(&whole, &path, "update RECEIPTS set rows = 3 where round = 4 and source = 'items'");
    let one = found.iter().find(|one| one.table == "items").unwrap();
    assert_eq!((one.expected_rows, one.found_rows), (Some(3), Some(4)));
    let found = changed(&whole, &path, "delete from RECEIPTS where round = 4 and source = 'items'");
    let one = found.iter().find(|one| one.table == "items").unwrap();
    assert_eq!((one.expected_rows, one.found_rows), (None, Some(4)), "{one:#?}");
    let found = changed(&whole, &path, "update ROUNDS set duration_us = 1 where round = 4");
    assert!(found.iter().any(|one| one.table == "portolan.rounds" && both(one) && no_rows(one)), "{found:#?}");
}

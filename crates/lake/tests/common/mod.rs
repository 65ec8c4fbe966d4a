//! What the lake's tests share: a lake in a folder of its own, rounds in one call, DuckDB's answer as text.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its own part of it")]

use std::path::Path;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_lake::{At, Lake, LakeReader, LakeSettings, Snapshot, TableView};
use portolan_model::catalog::{Catalog, Commit, StagedTable, TableSpec, WriteMode};
use portolan_model::clock::SystemClock;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{Result, RoundName, SourceName};
use portolan_testkit::duckdb::Session;
use serde_json::Value;

pub fn settings() -> LakeSettings {
    LakeSettings::default()
}

pub async fn open(folder: &Path, settings: LakeSettings) -> Lake {
    Lake::open_with(folder, settings, Arc::new(SystemClock::new())).unwrap()
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

pub fn source(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

pub fn spec(name: &str) -> TableSpec {
    TableSpec {
        source: source(name),
        mode: WriteMode::Append,
        key: Vec::new(),
        key_memory: 1_000,
        time: "2026-01-02T03:04:05.000006Z".parse::<Timestamp>().unwrap(),
        event_time: None,
        watermark: None,
    }
}

pub fn record(receipts: Vec<Receipt>) -> RoundRecord {
    RoundRecord {
        name: RoundName::new("all").unwrap(),
        verdict: RoundVerdict::Complete,
        started_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        duration_us: 1_234,
        release_spread_us: Some(5),
        skew_bound_us: None,
        consistency: Default::default(),
        receipts,
        checks: Vec::new(),
    }
}

pub fn receipt(name: &str) -> Receipt {
    Receipt::new(source(name), ReceiptVerdict::Ok)
}

/// One round of one table.
pub async fn round(lake: &Lake, spec: TableSpec, batches: &[RecordBatch]) -> Result<(Commit, StagedTable)> {
    let mut staging = lake.begin().await?;
    let name = spec.source.clone();
    let mut table = staging.table(spec)?;
    for batch in batches {
        table.write(batch.clone()).await?;
    }
    let staged = table.finish().await?;
    let mut receipt = Receipt::new(name, ReceiptVerdict::Ok);
    receipt.rows = staged.rows;
    Ok((staging.commit(record(vec![receipt]), &[]).await?, staged))
}

/// DuckDB's answers.
pub fn duck(folder: &Path, sql: &[&str]) -> Vec<Vec<Value>> {
    Session { folder, snapshot: None, write: false }.run(sql).unwrap()
}

/// DuckDB's answers, with leave to change the lake.
pub fn duck_write(folder: &Path, sql: &[&str]) -> Vec<Vec<Value>> {
    Session { folder, snapshot: None, write: true }.run(sql).unwrap()
}

/// Every row of a table at a snapshot, by the lake's own reader.
pub fn rows(snapshot: &Snapshot, table: &TableView) -> Vec<RecordBatch> {
    let mut batches = snapshot.inlined(table, None).unwrap();
    for file in &table.files {
        batches.extend(snapshot.read_file(table, file, None).unwrap().map(Result::unwrap));
    }
    batches
}

pub fn at(folder: &Path, at: At) -> Snapshot {
    LakeReader::open(folder).unwrap().snapshot(at).unwrap()
}

/// What DuckDB sees of every table at every snapshot that exists: one line a table and snapshot, the same for the same
/// rows with the same ids.
pub fn duck_fingerprint(folder: &Path, tables: &[&str]) -> std::collections::BTreeMap<String, String> {
    let snapshots = duck(folder, &["select snapshot_id as id from lake.snapshots() order by 1"]);
    let mut ids: Vec<i64> = snapshots[0].iter().map(|row| row["id"].as_i64().unwrap()).collect();
    // The newest ones and a spread of the others: DuckDB takes its time for each.
    let newest = ids.len().saturating_sub(2);
    let step = (newest / 5).max(1);
    ids =
        ids.iter().enumerate().filter(|(place, _)| *place >= newest || place % step == 0).map(|(_, id)| *id).collect();
    let mut names = Vec::new();
    let mut statements = Vec::new();
    for id in ids {
        for table in tables {
            names.push(format!("{table}@{id}"));
            // A table that does not exist yet at a snapshot has no fingerprint.
            statements.push((id, *table));
        }
    }
    let reader = LakeReader::open(folder).unwrap();
    let mut sql = Vec::new();
    let mut kept = Vec::new();
    for (name, (id, table)) in names.into_iter().zip(statements) {
        let (schema, bare) = table.split_once('.').unwrap_or(("main", table));
        if reader.snapshot(At::Snapshot(id)).unwrap().table(schema, bare).unwrap().is_some() {
            kept.push(name);
            sql.push(format!(
                "select count(*) as n, coalesce(md5(string_agg(t, '|' order by t)), '') as h from \
                 (select q::varchar as t from (select rowid as row_number, * from {table} at (version => {id})) q)"
            ));
        }
    }
    let statements: Vec<&str> = sql.iter().map(String::as_str).collect();
    let answers = duck(folder, &statements);
    kept.into_iter().zip(answers).map(|(name, rows)| (name, rows[0].to_string())).collect()
}

/// What the lake's own reader sees, in the same sense.
pub fn own_fingerprint(folder: &Path, tables: &[&str], ids: &[i64]) -> std::collections::BTreeMap<String, String> {
    let reader = LakeReader::open(folder).unwrap();
    let mut fingerprints = std::collections::BTreeMap::new();
    for id in ids {
        let snapshot = reader.snapshot(At::Snapshot(*id)).unwrap();
        for name in tables {
            let (schema, bare) = name.split_once('.').unwrap_or(("main", name));
            let Some(table) = snapshot.table(schema, bare).unwrap() else { continue };
            let mut lines: Vec<String> = Vec::new();
            for batch in rows(&snapshot, &table) {
                let options = arrow::util::display::FormatOptions::default().with_null("∅");
                let arrays: Vec<arrow::array::ArrayRef> = batch.columns().iter().map(without_zone).collect();
                let columns: Vec<_> = arrays
                    .iter()
                    .map(|array| arrow::util::display::ArrayFormatter::try_new(array, &options).unwrap())
                    .collect();
                for row in 0..batch.num_rows() {
                    lines
                        .push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(","));
                }
            }
            lines.sort();
            fingerprints.insert(format!("{name}@{id}"), lines.join("\n"));
        }
    }
    fingerprints
}

/// A zoned timestamp as the number it is: Arrow's own formatter knows no zones by name.
pub fn without_zone(array: &arrow::array::ArrayRef) -> arrow::array::ArrayRef {
    use arrow::datatypes::DataType;
    match array.data_type() {
        DataType::Timestamp(_, Some(_)) => arrow::compute::cast(array, &DataType::Int64).unwrap(),
        _ => array.clone(),
    }
}

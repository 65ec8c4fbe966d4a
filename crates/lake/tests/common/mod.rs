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
        receipts,
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

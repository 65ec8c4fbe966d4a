//! A lake as a collector leaves it, from a seed: several tables, rows inside the catalog and in files, files of several row
//! groups, nested types, quarantine, rejected rounds, columns that widen; flushed, merged and expired in the middle.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use portolan_lake::{ChainHead, Lake, LakeReader, LakeSettings, VerifyReport, VerifyScope};
use portolan_model::Position;
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundVerdict};
use portolan_model::source::QuarantineItem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::{open, record, settings, source, spec};

/// Rounds that are all inside the catalog, at the end.
pub const TAIL: i32 = 6;

pub fn eager(keep: Duration) -> LakeSettings {
    LakeSettings {
        flush_rows: 1,
        flush_after: Duration::ZERO,
        inline_rows: 40,
        keep_snapshots: keep,
        grace: Duration::ZERO,
        ..settings()
    }
}

fn batch(random: &mut StdRng, step: i32, rows: usize, wide: bool) -> RecordBatch {
    let start = step * 1_000_000;
    let id: ArrayRef = match wide {
        false => Arc::new((start..start + rows as i32).collect::<Int32Array>()),
        true => Arc::new((0..rows as i64).map(|row| i64::from(start) * 10_000 + row).collect::<Int64Array>()),
    };
    let text: ArrayRef = Arc::new(
        (0..rows).map(|row| (row % 7 != 3).then(|| format!("text {row} {}", step % 13))).collect::<StringArray>(),
    );
    let price: ArrayRef =
        Arc::new((0..rows).map(|_| Some(random.random_range(0..9_999) as f64 / 100.0)).collect::<Float64Array>());
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..rows {
        for tag in 0..row % 3 {
            tags.values().append_value(format!("tag {tag}"));
        }
        tags.append(row % 5 != 4);
    }
    let tags: ArrayRef = Arc::new(tags.finish());
    RecordBatch::try_from_iter_with_nullable(
        [("id", id), ("text", text), ("price", price), ("tags", tags)].map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

/// One round; rejected if so asked.
pub async fn round(lake: &Lake, random: &mut StdRng, step: i32, large: bool) {
    let mut staging = lake.begin().await.unwrap();
    let rejected = step % 9 == 7;
    let mut receipts = Vec::new();
    for (name, mode) in [("orders", WriteMode::Append), ("state", WriteMode::Replace), ("events", WriteMode::Append)] {
        let rows: usize = match name {
            // One row group and a little.
            "events" if large => 125_000,
            "orders" if step % 5 == 4 => 90,
            "events" if step % 3 == 1 => 0,
            _ => random.random_range(1..12),
        };
        let mut table = staging.table(TableSpec { mode, ..spec(name) }).unwrap();
        for part in 0..rows.div_ceil(65_536) {
            let rows = 65_536.min(rows - part * 65_536);
            table.write(batch(random, step, rows, step % 10 > 5)).await.unwrap();
        }
        let mut receipt = Receipt::new(source(name), ReceiptVerdict::Ok);
        for item in 0..if name == "orders" { random.random_range(0..3) } else { 0 } {
            let item = QuarantineItem {
                reason: "row_not_json",
                column: None,
                row: serde_json::json!({ "line": item }),
                content: format!("{{ {step}"),
                detail: "it ends early".to_owned(),
            };
            table.quarantine(item).await.unwrap();
        }
        let staged = table.finish().await.unwrap();
        (receipt.rows, receipt.quarantined) = (staged.rows, staged.quarantined);
        receipt.bytes = 17 * staged.rows;
        receipt.payload_sha256 = Some(staged.rows_sha256);
        receipt.position_before = Some(Position::new(1, step.into()));
        receipt.position_after = Some(Position::new(1, (step + 1).into()));
        receipts.push(receipt);
    }
    let mut record = record(receipts);
    if rejected {
        record.verdict = RoundVerdict::Rejected;
        for receipt in &mut record.receipts {
            (receipt.rows, receipt.quarantined) = (0, 0);
        }
    }
    staging.commit(record, &[]).await.unwrap();
}

/// Verifies; asserts that nothing is wrong.
pub fn is_sound(folder: &Path, full: bool, what: &str) -> VerifyReport {
    is_sound_by(folder, &[], full, what)
}

/// Verifies by heads that were kept before; asserts that nothing is wrong.
fn is_sound_by(folder: &Path, heads: &[ChainHead], full: bool, what: &str) -> VerifyReport {
    let reader = LakeReader::open(folder).unwrap();
    let scope = VerifyScope { full, heads: heads.to_vec(), ..VerifyScope::default() };
    let report = reader.verify(&scope, &mut |_| {}).unwrap();
    assert!(report.is_sound(), "false alarm after {what}: {report:#?}");
    report
}

/// Builds a lake, verified after each step of maintenance; it is closed then.
pub async fn build(folder: &Path, seed: u64, large: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = random.random_range(12..30);
    let hour = Duration::from_secs(3_600);
    let mut lake = open(folder, eager(hour)).await;
    let mut step = 0;
    let mut heads = Vec::new();
    let keep = |heads: &mut Vec<ChainHead>| heads.push(LakeReader::open(folder).unwrap().head().unwrap());
    for part in 0..4 {
        for _ in 0..rounds / 3 {
            step += 1;
            round(&lake, &mut random, step, large && step == 3).await;
            keep(&mut heads);
        }
        for _ in 0..3 {
            let done = lake.maintain().await.unwrap();
            is_sound_by(folder, &heads, part == 2, &format!("seed {seed}, round {step}: {done}"));
            keep(&mut heads);
        }
        if part == 1 {
            lake.close().await.unwrap();
            drop(lake);
            lake = open(folder, eager(Duration::ZERO)).await;
            let done = lake.maintain().await.unwrap();
            is_sound_by(folder, &heads, true, &format!("seed {seed}, expired: {done}"));
            lake.close().await.unwrap();
            drop(lake);
            lake = open(folder, eager(hour)).await;
        }
    }
    for _ in 0..TAIL {
        step += 1;
        // None of more rows than the catalog keeps, none rejected.
        let step = if step % 5 == 4 || step % 9 == 7 { step * 45 } else { step };
        round(&lake, &mut random, step, false).await;
    }
    is_sound_by(folder, &heads, true, "the last rounds");
    lake.close().await.unwrap();
}

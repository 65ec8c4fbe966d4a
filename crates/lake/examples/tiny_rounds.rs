//! Durable tiny rounds a second: three tables of ten rows, with their receipts, each round one synced transaction.
//!
//! `cargo run --release -p portolan-lake --example tiny_rounds [FOLDER] [ROUNDS] [ROWS]`
#![allow(clippy::unwrap_used, reason = "an example fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use jiff::Timestamp;
use portolan_lake::{Lake, LakeSettings};
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::clock::SystemClock;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{Position, RoundName, SourceName};

const TABLES: [&str; 3] = ["metrics", "orders", "devices"];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "tiny-rounds-lake".into()));
    let rounds: usize = arguments.next().map_or(10_000, |text| text.parse().unwrap());
    let rows: i64 = arguments.next().map_or(10, |text| text.parse().unwrap());
    let maintain = arguments.next().is_some();
    let lake = Lake::open_with(&folder, LakeSettings::default(), Arc::new(SystemClock::new())).unwrap();
    let mut durations: Vec<Duration> = Vec::with_capacity(rounds);
    let start = Instant::now();
    let mut maintained = Instant::now();
    for number in 0..rounds as i64 {
        let begun = Instant::now();
        let mut staging = lake.begin().await.unwrap();
        let mut receipts = Vec::new();
        for name in TABLES {
            let source = SourceName::new(name).unwrap();
            let time = Timestamp::now();
            let key = Vec::new();
            let spec = TableSpec {
                source: source.clone(),
                mode: WriteMode::Append,
                key,
                key_memory: 0,
                time,
                event_time: None,
                watermark: None,
            };
            let mut table = staging.table(spec).unwrap();
            table.write(batch(number, rows)).await.unwrap();
            let staged = table.finish().await.unwrap();
            let mut receipt = Receipt::new(source, ReceiptVerdict::Ok);
            receipt.rows = staged.rows;
            receipt.position_after = Some(Position::new(1, serde_json::json!({ "id": number * rows })));
            receipts.push(receipt);
        }
        let record = RoundRecord {
            name: RoundName::new("tiny").unwrap(),
            verdict: RoundVerdict::Complete,
            started_at: Timestamp::now(),
            duration_us: 1_000,
            release_spread_us: Some(10),
            skew_bound_us: Some(900),
            consistency: Default::default(),
            receipts,
            checks: Vec::new(),
        };
        staging.commit(record, &[]).await.unwrap();
        durations.push(begun.elapsed());
        if maintain && maintained.elapsed() > Duration::from_secs(5) {
            println!("round {number}: {}", lake.maintain().await.unwrap());
            maintained = Instant::now();
        }
    }
    let total = start.elapsed();
    durations.sort();
    let percentile = |share: f64| durations[((durations.len() - 1) as f64 * share) as usize];
    println!(
        "{rounds} rounds of 3 tables x {rows} rows in {total:.2?}: {:.0}/s, p50 {:.0?}, p99 {:.0?}, max {:.1?}",
        rounds as f64 / total.as_secs_f64(),
        percentile(0.5),
        percentile(0.99),
        percentile(1.0)
    );
    lake.close().await.unwrap();
}

fn batch(number: i64, rows: i64) -> RecordBatch {
    let id: ArrayRef = Arc::new((0..rows).map(|row| number * rows + row).collect::<Int64Array>());
    let name: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("name {row}"))).collect::<StringArray>());
    let value: ArrayRef = Arc::new((0..rows).map(|row| Some(row as f64 * 0.5)).collect::<Float64Array>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("name", name, true), ("value", value, true)]).unwrap()
}

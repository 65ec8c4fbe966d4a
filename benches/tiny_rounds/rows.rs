//! The rows of a round: time, device, 32 characters and a sequence, for each of three tables.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;

/// The tables of a round.
pub(crate) const TABLES: [&str; 3] = ["alpha", "beta", "gamma"];

/// One row.
pub(crate) struct Row {
    pub(crate) time_us: i64,
    pub(crate) device: i64,
    pub(crate) text: String,
    pub(crate) sequence: i64,
}

/// The rows of one table in the round numbered `round`.
pub(crate) fn rows(round: u64, count: u64) -> impl Iterator<Item = Row> {
    (0..count).map(move |index| {
        let sequence = (round * count + index) as i64;
        Row {
            time_us: 1_750_000_000_000_000 + sequence * 1_000,
            device: sequence % 100,
            text: format!("{:032x}", (sequence as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            sequence,
        }
    })
}

/// The same rows as a record batch.
pub(crate) fn batch(round: u64, count: u64) -> Result<RecordBatch> {
    let rows: Vec<Row> = rows(round, count).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.time_us)).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("time", Arc::new(times.with_timezone("UTC"))),
        ("device", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.device)))),
        ("text", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.text)))),
        ("sequence", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.sequence)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

//! The tables of schema `portolan`: rounds, receipts, checks, quarantine. Ordinary DuckLake tables, so that any reader of the
//! lake has them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use portolan_model::catalog::WriteMode;
use portolan_model::check::CheckResult;
use portolan_model::round::{Receipt, RoundRecord};
use portolan_model::source::QuarantineItem;
use portolan_model::{Result, SourceName};

use crate::error::arrow as arrow_error;

/// The schema.
pub(crate) const SCHEMA: &str = "portolan";
/// One row a round.
pub(crate) const ROUNDS: &str = "rounds";
/// One row a source and round.
pub(crate) const RECEIPTS: &str = "receipts";
/// One row a check and round.
pub(crate) const CHECKS: &str = "checks";
/// Values and rows that could not be stored as configured.
pub(crate) const QUARANTINE: &str = "quarantine";
/// The column of `rounds` that names the snapshot which the round made.
pub(crate) const SNAPSHOT_COLUMN: &str = "snapshot_id";
/// The column of `rounds` that names the round before it in the [chain](crate::chain).
pub(crate) const PREVIOUS_COLUMN: &str = "previous_round";
/// The column of `rounds` with the round's manifest.
pub(crate) const MANIFEST_COLUMN: &str = "manifest";
/// The column of `rounds` with the digest of the chain up to the round.
pub(crate) const CHAIN_COLUMN: &str = "chain_sha256";
/// Columns of `rounds` that are filled inside the transaction: null until then, and left out of the digest of its row.
pub(crate) const SEALED_COLUMNS: [&str; 4] = [SNAPSHOT_COLUMN, PREVIOUS_COLUMN, MANIFEST_COLUMN, CHAIN_COLUMN];

/// The row of `portolan.rounds`.
pub(crate) fn rounds(round: i64, record: &RoundRecord) -> Result<RecordBatch> {
    batch(vec![
        ("round", integers([Some(round)])),
        ("name", texts([Some(record.name.as_str())])),
        ("verdict", texts([Some(record.verdict.as_str())])),
        ("started_at", times([record.started_at.as_microsecond()])),
        ("duration_us", integers([Some(record.duration_us)])),
        ("release_spread_us", integers([record.release_spread_us])),
        ("skew_bound_us", integers([record.skew_bound_us])),
        ("consistency", texts([Some(record.consistency.promised.as_str())])),
        ("reached", texts([Some(record.consistency.reached.as_str())])),
        ("attempts", integers([Some(i64::from(record.consistency.attempts))])),
        ("reason", texts([record.consistency.reason.as_deref()])),
        ("sources", integers([Some(record.receipts.len() as i64)])),
        (SNAPSHOT_COLUMN, integers([None])),
        (PREVIOUS_COLUMN, integers([None])),
        (MANIFEST_COLUMN, texts([None])),
        (CHAIN_COLUMN, texts([None])),
    ])
}

/// The rows of `portolan.receipts`.
pub(crate) fn receipts(round: i64, receipts: &[Receipt]) -> Result<RecordBatch> {
    let number = |value: fn(&Receipt) -> Option<i64>| integers(receipts.iter().map(value));
    let count = |value: fn(&Receipt) -> u64| integers(receipts.iter().map(|r| i64::try_from(value(r)).ok()));
    let text = |value: fn(&Receipt) -> Option<&str>| texts(receipts.iter().map(value));
    let position = |value: fn(&Receipt) -> Option<String>| {
        Arc::new(receipts.iter().map(value).collect::<StringArray>()) as ArrayRef
    };
    batch(vec![
        ("round", integers(receipts.iter().map(|_| Some(round)))),
        ("source", text(|receipt| Some(receipt.source.as_str()))),
        ("verdict", text(|receipt| Some(receipt.verdict.as_str()))),
        ("mode", text(|receipt| receipt.mode.map(WriteMode::as_str))),
        ("prepared_us", number(|receipt| receipt.prepared_us)),
        ("released_us", number(|receipt| receipt.released_us)),
        ("first_byte_us", number(|receipt| receipt.first_byte_us)),
        ("acted_us", number(|receipt| receipt.acted_us)),
        ("last_byte_us", number(|receipt| receipt.last_byte_us)),
        ("bytes", count(|receipt| receipt.bytes)),
        ("rows", count(|receipt| receipt.rows)),
        ("duplicates", count(|receipt| receipt.duplicates)),
        ("quarantined", count(|receipt| receipt.quarantined)),
        ("event_time_min", instants(receipts.iter().map(|r| r.event_times.map(|(min, _)| min)))),
        ("event_time_max", instants(receipts.iter().map(|r| r.event_times.map(|(_, max)| max)))),
        ("late", count(|receipt| receipt.late)),
        ("untimed", count(|receipt| receipt.untimed)),
        ("watermark", instants(receipts.iter().map(|receipt| receipt.watermark))),
        ("payload_sha256", text(|receipt| receipt.payload_sha256.as_deref())),
        ("rows_sha256", text(|receipt| receipt.rows_sha256.as_deref())),
        ("validator", text(|receipt| receipt.validator.as_deref())),
        ("snapshot", text(|receipt| receipt.snapshot.as_deref())),
        ("position_before", position(|receipt| receipt.position_before.as_ref().map(|position| position.to_text()))),
        ("position_after", position(|receipt| receipt.position_after.as_ref().map(|position| position.to_text()))),
        ("error_kind", text(|receipt| receipt.error_kind.map(|kind| kind.as_str()))),
        ("error", text(|receipt| receipt.error.as_deref())),
    ])
}

/// The rows of `portolan.checks`.
pub(crate) fn checks(round: i64, checks: &[CheckResult]) -> Result<RecordBatch> {
    let text = |value: fn(&CheckResult) -> Option<&str>| texts(checks.iter().map(value));
    let number = |value: fn(&CheckResult) -> Option<i64>| integers(checks.iter().map(value));
    batch(vec![
        ("round", integers(checks.iter().map(|_| Some(round)))),
        ("name", text(|check| Some(&check.name))),
        ("kind", text(|check| Some(check.kind))),
        ("outcome", text(|check| Some(check.outcome.as_str()))),
        ("on_failure", text(|check| Some(check.on_failure.as_str()))),
        ("failing_rows", number(|check| check.failing_rows.and_then(|rows| i64::try_from(rows).ok()))),
        ("detail", text(|check| check.detail.as_deref())),
        ("duration_us", number(|check| Some(check.duration_us))),
        (SNAPSHOT_COLUMN, number(|check| check.snapshot)),
    ])
}

/// Rows of `portolan.quarantine`.
pub(crate) fn quarantine(
    round: i64,
    time_us: i64,
    source: &SourceName,
    items: &[QuarantineItem],
) -> Result<RecordBatch> {
    let text = |value: fn(&QuarantineItem) -> Option<&str>| texts(items.iter().map(value));
    batch(vec![
        ("round", integers(items.iter().map(|_| Some(round)))),
        ("time", times(items.iter().map(|_| time_us))),
        ("source", texts(items.iter().map(|_| Some(source.as_str())))),
        ("reason", text(|item| Some(item.reason))),
        ("column_name", text(|item| item.column.as_deref())),
        ("row_key", Arc::new(items.iter().map(|item| Some(item.row.to_string())).collect::<StringArray>())),
        ("content", text(|item| Some(item.content.as_str()))),
        ("detail", text(|item| Some(item.detail.as_str()))),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|error| arrow_error("store round", error))
}

fn integers(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    let array: TimestampMicrosecondArray = values.into_iter().map(Some).collect();
    Arc::new(array.with_timezone("UTC"))
}

fn instants(values: impl IntoIterator<Item = Option<jiff::Timestamp>>) -> ArrayRef {
    let values = values.into_iter().map(|value| value.map(jiff::Timestamp::as_microsecond));
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// Each table without rows, for its columns.
pub(crate) fn empty() -> Result<[(&'static str, RecordBatch); 4]> {
    let source = SourceName::new("none").map_err(|problem| crate::error::internal("create lake", problem))?;
    let name = portolan_model::RoundName::new("none").map_err(|p| crate::error::internal("create lake", p))?;
    let record = RoundRecord {
        name,
        verdict: portolan_model::round::RoundVerdict::Complete,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        duration_us: 0,
        release_spread_us: None,
        skew_bound_us: None,
        consistency: Default::default(),
        receipts: Vec::new(),
        checks: Vec::new(),
    };
    Ok([
        (ROUNDS, rounds(0, &record)?.slice(0, 0)),
        (RECEIPTS, receipts(0, &[])?),
        (CHECKS, checks(0, &[])?),
        (QUARANTINE, quarantine(0, 0, &source, &[])?),
    ])
}

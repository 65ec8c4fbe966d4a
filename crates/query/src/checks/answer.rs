//! What the rows of an answer say of a check.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures_util::StreamExt;
use jiff::Timestamp;
use portolan_model::catalog::QUARANTINED_MAX;
use portolan_model::check::CheckOutcome;
use portolan_model::config::RowCountTable;
use portolan_model::{Error, ErrorKind, Result};

use super::question::Answer;
use crate::engine::QueryStream;
use crate::lake::ROW_NUMBER;

/// Rows that fail and are shown.
const SHOWN_ROWS: u64 = 3;
/// Characters of one value that is shown.
const SHOWN_CHARACTERS: usize = 60;

/// What became of a question.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) outcome: CheckOutcome,
    pub(super) failing_rows: Option<u64>,
    pub(super) detail: Option<String>,
    /// The staged rows that fail, one more than can be withheld at most.
    pub(super) rows: BTreeSet<u64>,
}

impl Found {
    pub(super) fn of(outcome: CheckOutcome, detail: impl Into<Option<String>>) -> Self {
        Self { outcome, failing_rows: None, detail: detail.into(), rows: BTreeSet::new() }
    }

    fn holds(holds: bool, detail: String) -> Self {
        match holds {
            true => Self::of(CheckOutcome::Passed, None),
            false => Self::of(CheckOutcome::Failed, detail),
        }
    }
}

/// Reads an answer. `rows` is how many are staged of the source that the check is about.
///
/// # Errors
/// What the engine says, and `Data` for an answer that is none.
pub(super) async fn read(stream: QueryStream, answer: &Answer, rows: u64, started_at: Timestamp) -> Result<Found> {
    fits(&stream.schema, answer)?;
    if *answer == Answer::Rows {
        return failing(stream, rows).await;
    }
    let batch = one_row(stream).await?;
    match answer {
        Answer::Boolean => {
            let column = batch.column(0);
            let detail = if column.is_null(0) { "the answer is NULL" } else { "the answer is false" };
            Ok(Found::holds(column.is_valid(0) && column.as_boolean().value(0), detail.to_owned()))
        }
        Answer::Counts(allowed) => counts(&batch, allowed),
        Answer::Sums(_) => {
            let holds = batch.column(2).as_boolean();
            let detail = format!("the sums are {} and {}", shown(&batch, 0, 0), shown(&batch, 1, 0));
            Ok(Found::holds(holds.is_valid(0) && holds.value(0), detail))
        }
        Answer::Newest(age) => newest(&batch, *age, started_at),
        Answer::Rows => Err(wrong("rows are read one by one".to_owned())),
    }
}

/// Whether columns of these types can be an answer.
///
/// # Errors
/// `Data`, with what they are.
pub(super) fn fits(schema: &Schema, answer: &Answer) -> Result<()> {
    let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
    match (answer, types.as_slice()) {
        (Answer::Boolean, [DataType::Boolean]) => Ok(()),
        (Answer::Boolean, _) => {
            let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
            Err(wrong(format!("the answer is no boolean: it has {}", shown.join(", ")))
                .with_hint("ask for one truth, such as sql = \"select count(*) > 0 from orders\""))
        }
        (Answer::Rows, _) => row_number(schema).map(drop),
        (Answer::Newest(_), [DataType::Timestamp(..) | DataType::Date32, ..]) => Ok(()),
        (Answer::Newest(_), _) => {
            let shown = types.first().map(ToString::to_string).unwrap_or_default();
            Err(wrong(format!("the column is {shown}, not of instants or dates")).with_hint(
                "where the source gives texts, say what they are, such as columns = { at = \"timestamptz\" }",
            ))
        }
        (Answer::Counts(_) | Answer::Sums(_), _) => Ok(()),
    }
}

/// The column that has the numbers of the rows that fail.
fn row_number(schema: &Schema) -> Result<usize> {
    let is_number = |field: &Arc<Field>| field.name() == ROW_NUMBER && *field.data_type() == DataType::Int64;
    schema.fields().iter().position(is_number).ok_or_else(|| {
        wrong(format!("the answer has no column `{ROW_NUMBER}` of the rows that fail"))
            .with_hint(format!("such as rows = \"select {ROW_NUMBER} from orders where …\""))
    })
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Data, "evaluate check", message)
}

async fn one_row(mut stream: QueryStream) -> Result<RecordBatch> {
    let mut found: Option<RecordBatch> = None;
    while let Some(batch) = stream.batches.next().await {
        let batch = batch?;
        if batch.num_rows() > 1 || (batch.num_rows() == 1 && found.is_some()) {
            return Err(wrong("the answer has more than one row".to_owned()));
        }
        if batch.num_rows() == 1 {
            found = Some(batch);
        }
    }
    found.filter(|row| row.num_columns() > 0).ok_or_else(|| wrong("the answer has no row".to_owned()))
}

async fn failing(mut stream: QueryStream, staged: u64) -> Result<Found> {
    let place = row_number(&stream.schema)?;
    let (mut rows, mut beyond, mut stored) = (BTreeSet::new(), 0_u64, 0_u64);
    let mut examples: Vec<String> = Vec::new();
    while let Some(batch) = stream.batches.next().await {
        let batch = batch?;
        let numbers = batch.column(place).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let is_new = if numbers.is_null(row) {
                stored += 1;
                true
            } else {
                let number = u64::try_from(numbers.value(row)).ok().filter(|number| *number < staged);
                let number = number.ok_or_else(|| wrong(format!("the answer has a `{ROW_NUMBER}` that no row has")))?;
                if rows.len() <= QUARANTINED_MAX {
                    rows.insert(number)
                } else {
                    beyond += u64::from(!rows.contains(&number));
                    false
                }
            };
            if is_new && (examples.len() as u64) < SHOWN_ROWS {
                examples.push(example(&batch, place, row));
            }
        }
    }
    let total = rows.len() as u64 + beyond + stored;
    if total == 0 {
        return Ok(Found { failing_rows: Some(0), ..Found::of(CheckOutcome::Passed, None) });
    }
    let stored = if stored > 0 { ", stored by an earlier round" } else { "" };
    let mut detail = format!("{total} of {staged} rows fail{stored}: {}", examples.join("; "));
    if stored.is_empty() && total > SHOWN_ROWS {
        detail.push_str("; …");
    }
    Ok(Found { outcome: CheckOutcome::Failed, failing_rows: Some(total), detail: Some(detail), rows })
}

/// A row that fails, by its number and the values beside it.
fn example(batch: &RecordBatch, number: usize, row: usize) -> String {
    let schema = batch.schema();
    let values = (0..batch.num_columns()).filter(|column| *column != number);
    let values: Vec<String> = values
        .take(8)
        .map(|column| format!("{} = {}", schema.field(column).name(), shown(batch, column, row)))
        .collect();
    let place =
        if batch.column(number).is_null(row) { String::new() } else { format!("row {}", shown(batch, number, row)) };
    if values.is_empty() { place } else { format!("{place} ({})", values.join(", ")) }
}

fn shown(batch: &RecordBatch, column: usize, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let Ok(formatter) = ArrayFormatter::try_new(batch.column(column), &options) else { return "?".to_owned() };
    let text = formatter.value(row).try_to_string().unwrap_or_else(|_| "?".to_owned());
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn counts(batch: &RecordBatch, allowed: &RowCountTable) -> Result<Found> {
    let number = |column: usize| {
        let values = batch.columns().get(column).and_then(|values| values.as_primitive_opt::<Int64Type>());
        values
            .and_then(|values| u64::try_from(values.value(0)).ok())
            .ok_or_else(|| wrong("a count is no number".into()))
    };
    let rows = number(0)?;
    if let Some(other) = &allowed.equals {
        let others = number(1)?;
        if rows.abs_diff(others) > allowed.tolerance.unwrap_or(0) {
            return Ok(Found::of(CheckOutcome::Failed, format!("{rows} rows, and `{other}` has {others}")));
        }
    }
    let is_allowed = allowed.min.is_none_or(|min| rows >= min) && allowed.max.is_none_or(|max| rows <= max);
    Ok(Found::holds(is_allowed, format!("{rows} rows")))
}

fn newest(batch: &RecordBatch, age: Duration, started_at: Timestamp) -> Result<Found> {
    let values = batch.column(0);
    if values.is_null(0) {
        return Ok(Found::of(CheckOutcome::Failed, "there is no value at all".to_owned()));
    }
    let instant = DataType::Timestamp(TimeUnit::Microsecond, None);
    // A zone is a way to show an instant: the number is the same.
    let instants = cast(values, &instant).map_err(|error| wrong(format!("the newest value is no instant: {error}")))?;
    let newest_us = instants.as_primitive::<TimestampMicrosecondType>().value(0);
    let old_us = started_at.as_microsecond().saturating_sub(newest_us);
    let is_fresh = old_us <= i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let shown = Timestamp::from_microsecond(newest_us).map_or_else(|_| shown(batch, 0, 0), |time| time.to_string());
    Ok(Found::holds(is_fresh, format!("the newest value is {shown}, {:.1} s before the round", old_us as f64 / 1e6)))
}

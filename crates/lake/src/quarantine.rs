//! What could not be stored as configured, as it is read again: listed, shown, retried.
//!
//! An item's number is its row's id, which no maintenance changes. Items that a retry has stored stay where they are; which
//! round stored them is in `portolan_retried`, written in the transaction that stored their rows.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use jiff::Timestamp;
use portolan_model::catalog::Staging;
use portolan_model::{Error, ErrorKind, Result, RoundId};
use rusqlite::{Connection, params};

use crate::error::sqlite;
use crate::lake::Lake;
use crate::reader::{At, LakeReader, Snapshot};
use crate::round::Round;
use crate::spec::has_table;
use crate::{system, verify};

const OPERATION: &str = "read quarantine";

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number.
    pub id: i64,
    /// The round that brought it.
    pub round: i64,
    /// When that round's read began.
    pub time: Option<Timestamp>,
    /// The source.
    pub source: String,
    /// The stable short reason.
    pub reason: String,
    /// The column of a single value; `None` for a whole row.
    pub column: Option<String>,
    /// What identifies the row, as JSON.
    pub row_key: String,
    /// The value or row as it came, cut at 64 KiB.
    pub content: String,
    /// What is wrong with it.
    pub detail: String,
    /// The round in which a retry stored it.
    pub retried_in: Option<i64>,
}

/// Which items to read; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantineFilter {
    /// Of one source.
    pub source: Option<String>,
    /// Of one reason.
    pub reason: Option<String>,
    /// Of this round and later.
    pub since_round: Option<i64>,
    /// Of rounds that began at this instant or later.
    pub since: Option<Timestamp>,
    /// This one alone.
    pub id: Option<i64>,
}

impl LakeReader {
    /// Hands the items of the latest state to `take` until it says no, about in the order in which they came.
    ///
    /// # Errors
    /// What `take` returns; `Corrupt` if the quarantine cannot be read.
    pub fn quarantine(
        &self,
        filter: &QuarantineFilter,
        take: &mut dyn FnMut(Quarantined) -> Result<bool>,
    ) -> Result<()> {
        let snapshot = self.snapshot(At::Head)?;
        let retried = retried(&snapshot)?;
        let table = verify::system_table(&snapshot, system::QUARANTINE)?;
        let names = ["round", "time", "source", "reason", "column_name", "row_key", "content", "detail"];
        let columns = verify::columns(&table, &names)?;
        snapshot.scan(&table, &columns, &mut |rows| {
            let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
            let times = rows.batch.column(1).as_primitive::<TimestampMicrosecondType>();
            let texts: Vec<&StringArray> = rows.batch.columns()[2..].iter().map(|array| array.as_string()).collect();
            let text = |column: usize, row: usize| texts[column].is_valid(row).then(|| texts[column].value(row));
            for row in 0..rows.batch.num_rows() {
                let (id, round) = (rows.row_ids.value(row), rounds.is_valid(row).then(|| rounds.value(row)));
                let time_us = times.is_valid(row).then(|| times.value(row));
                let skip = filter.id.is_some_and(|wanted| wanted != id)
                    || filter.source.as_deref().is_some_and(|wanted| text(0, row) != Some(wanted))
                    || filter.reason.as_deref().is_some_and(|wanted| text(1, row) != Some(wanted))
                    || filter.since_round.is_some_and(|first| round.is_none_or(|round| round < first))
                    || filter.since.is_some_and(|first| time_us.is_none_or(|time| time < first.as_microsecond()));
                if skip {
                    continue;
                }
                let owned = |column: usize| text(column, row).unwrap_or_default().to_owned();
                let item = Quarantined {
                    id,
                    round: round.unwrap_or_default(),
                    time: time_us.and_then(|time| Timestamp::from_microsecond(time).ok()),
                    source: owned(0),
                    reason: owned(1),
                    column: text(2, row).map(str::to_owned),
                    row_key: owned(3),
                    content: owned(4),
                    detail: owned(5),
                    retried_in: retried.get(&id).copied(),
                };
                if !take(item)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}

/// The round that stored each item that a retry has stored.
fn retried(snapshot: &Snapshot) -> Result<HashMap<i64, i64>> {
    snapshot.with(|connection| {
        if !has_table(connection, "portolan_retried")? {
            return Ok(HashMap::new());
        }
        let mut statement =
            connection.prepare("SELECT item, round FROM portolan_retried").map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
    })
}

impl Lake {
    /// Begins a round that stores items of the quarantine: its commit marks them as retried, in the same transaction, and
    /// fails if one of them has been before.
    pub fn begin_retry(&self, items: Vec<i64>) -> Box<dyn Staging> {
        let round = self.next_round();
        Box::new(Round::new(self.context.clone(), RoundId(round)).retrying(items))
    }
}

/// Marks items as retried in `round`.
///
/// # Errors
/// `Conflict` if one of them has been before.
pub(crate) fn mark_retried(connection: &Connection, round: i64, items: &[i64]) -> Result<()> {
    let error = |error| sqlite("retry quarantine", error);
    let sql = "INSERT OR IGNORE INTO portolan_retried VALUES (?1, ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    for item in items {
        if statement.execute(params![item, round]).map_err(error)? == 0 {
            let message = format!("item {item} has been retried already");
            return Err(Error::new(ErrorKind::Conflict, "retry quarantine", message)
                .with_hint("list what is left with `portolan quarantine list`, and retry again"));
        }
    }
    Ok(())
}

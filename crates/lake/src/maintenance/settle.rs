//! The second step of a flush: gives a flushed file the snapshots of its rows and takes the rows out of the catalog.
//!
//! A flush ends its rows inside the catalog at its own snapshot and begins the file there, so that a reader that asks the
//! catalog several times for one query, as DuckDB does, finds each row exactly once whichever snapshot it is at and
//! however the flush falls between its questions. Here, some seconds later, when no such reader is on the way any more,
//! the file takes over the history of its rows as DuckDB's own flush would have written it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portolan_model::Result;
use rusqlite::{Connection, params};

use super::flush::drop_if_empty;
use crate::error::sqlite;
use crate::failpoint;
use crate::lake::Context;
use crate::reader::{InlinedTable, parse_time, quoted};
use crate::writer::Writer;

const OPERATION: &str = "settle flushed rows";
/// How long after its flush a file is settled, at least: longer than a reader takes to plan a query.
const SETTLE_AFTER: Duration = Duration::from_secs(10);

/// A flush that has not been settled: a row of `portolan_flush`.
struct Flush {
    file: i64,
    table: i64,
    source: InlinedTable,
    snapshot: i64,
    first_snapshot: i64,
    last_snapshot: i64,
    last_row: i64,
    /// When the flush committed; `None` once its snapshot has expired.
    time: Option<String>,
}

/// Settles the flushes that are old enough; rows taken out of the catalog.
pub(crate) async fn run(context: &Arc<Context>) -> Result<u64> {
    let now = context.clock.wall();
    let pause = SETTLE_AFTER.min(context.settings.grace);
    context.writer.run(move |writer| settle(writer, now, pause)).await
}

fn settle(writer: &mut Writer, now: Timestamp, pause: Duration) -> Result<u64> {
    let mut due = Vec::new();
    for flush in unsettled(writer.connection())? {
        let old = match &flush.time {
            Some(time) => now.duration_since(parse_time(time)?).unsigned_abs() >= pause,
            None => true,
        };
        if old {
            due.push(flush);
        }
    }
    if due.is_empty() {
        return Ok(0);
    }
    let settled = writer.transaction(|connection, state| {
        let mut settled = 0;
        for flush in &due {
            let rows = hand_over(connection, flush)?;
            let current = state.tables.values().find(|entry| entry.shape.id == flush.table);
            // A version of the columns that is no more gets no more rows.
            if rows > 0 && current.is_none_or(|entry| entry.shape.schema_version != flush.source.schema_version) {
                drop_if_empty(connection, &flush.source)?;
            }
            settled += rows;
        }
        failpoint::pass("settle::before_commit");
        Ok(settled)
    })?;
    failpoint::pass("settle::after_commit");
    Ok(settled)
}

fn unsettled(connection: &Connection) -> Result<Vec<Flush>> {
    let sql = "SELECT f.data_file_id, f.table_id, f.inlined_table, f.schema_version, f.snapshot_id, f.first_snapshot, \
               f.last_snapshot, f.last_row, s.snapshot_time FROM portolan_flush f \
               LEFT JOIN ducklake_snapshot s ON s.snapshot_id = f.snapshot_id ORDER BY f.data_file_id";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| {
        Ok(Flush {
            file: row.get(0)?,
            table: row.get(1)?,
            source: InlinedTable { name: row.get(2)?, schema_version: row.get(3)? },
            snapshot: row.get(4)?,
            first_snapshot: row.get(5)?,
            last_snapshot: row.get(6)?,
            last_row: row.get(7)?,
            time: row.get(8)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// Settles one flush; rows taken out of the catalog. If another program has changed the file or the rows since, both
/// stay as they are: every snapshot sees each row once that way too.
fn hand_over(connection: &Connection, flush: &Flush) -> Result<u64> {
    let run = || -> rusqlite::Result<u64> {
        let sql = "DELETE FROM portolan_flush WHERE data_file_id = ?1";
        connection.prepare_cached(sql)?.execute([flush.file])?;
        let sql = "SELECT EXISTS(SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
        if !connection.prepare_cached(sql)?.query_row([&flush.source.name], |row| row.get(0))? {
            return Ok(0);
        }
        let from = quoted(&flush.source.name);
        let condition = "WHERE end_snapshot = ?1 AND rowid <= ?2";
        let ended = params![flush.snapshot, flush.last_row];
        let rows: u64 =
            connection.query_row(&format!("SELECT count(*) FROM {from} {condition}"), ended, |row| row.get(0))?;
        let sql = "UPDATE ducklake_data_file SET begin_snapshot = ?2, partial_max = ?3 WHERE data_file_id = ?1 \
                   AND begin_snapshot = ?4 AND partial_max IS NULL AND record_count = ?5";
        let taken = connection.prepare_cached(sql)?.execute(params![
            flush.file,
            flush.first_snapshot,
            flush.last_snapshot,
            flush.snapshot,
            rows
        ])?;
        if taken == 0 {
            return Ok(0);
        }
        connection.execute(&format!("DELETE FROM {from} {condition}"), ended)?;
        Ok(rows)
    };
    run().map_err(|error| sqlite(OPERATION, error))
}

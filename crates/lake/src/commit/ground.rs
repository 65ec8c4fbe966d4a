//! Whether what checks have read of the lake still stands.
//!
//! Promise: looked at inside `BEGIN IMMEDIATE`, so that nothing comes between the look and the commit. Other rounds commit
//! all the time: only what changed the rows of a table that was read counts, and maintenance changes none.

use portolan_model::check::Ground;
use portolan_model::{Result, SourceName};
use rusqlite::{Connection, OptionalExtension};

use crate::error::sqlite;

const OPERATION: &str = "look at what was checked";

/// What DuckLake calls changes that change no row that anybody sees.
const HARMLESS: [&str; 2] = ["inline_flush", "merge_adjacent"];

/// Whether no table of `ground` has other rows now than in its snapshot.
pub(crate) fn stands(connection: &Connection, ground: &Ground) -> Result<bool> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT 1 FROM ducklake_snapshot WHERE snapshot_id = ?1";
    let known: Option<i64> = connection
        .prepare_cached(sql)
        .and_then(|mut s| s.query_row([ground.snapshot], |row| row.get(0)).optional())
        .map_err(error)?;
    if known.is_none() {
        // It has expired, and with it what is known of the changes since.
        return Ok(false);
    }
    let mut tables = Vec::new();
    for source in &ground.tables {
        let read = table_id(connection, source, ground.snapshot)?;
        // Created, dropped or renamed since.
        if table_id(connection, source, i64::MAX)? != read {
            return Ok(false);
        }
        tables.extend(read.map(|id| id.to_string()));
    }
    let sql = "SELECT changes_made FROM ducklake_snapshot_changes WHERE snapshot_id > ?1";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([ground.snapshot]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let changes: Option<String> = row.get(0).map_err(error)?;
        let is_of_ground = |change: &str| match change.split_once(':') {
            Some((what, _)) if HARMLESS.contains(&what) => false,
            Some((_, about)) => tables.iter().any(|id| id == about),
            None => false,
        };
        if changes.as_deref().unwrap_or_default().split(',').any(is_of_ground) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The number of a source's table as it was in a snapshot, if there was one; with the greatest number, as it is.
fn table_id(connection: &Connection, source: &SourceName, snapshot: i64) -> Result<Option<i64>> {
    let sql = "SELECT t.table_id FROM ducklake_table t JOIN ducklake_schema s USING (schema_id) \
               WHERE s.schema_name = 'main' AND t.table_name = ?1 \
               AND t.begin_snapshot <= ?2 AND (t.end_snapshot IS NULL OR t.end_snapshot > ?2) \
               AND s.begin_snapshot <= ?2 AND (s.end_snapshot IS NULL OR s.end_snapshot > ?2)";
    connection
        .prepare_cached(sql)
        .and_then(|mut s| s.query_row((source.as_str(), snapshot), |row| row.get(0)).optional())
        .map_err(|error| sqlite(OPERATION, error))
}

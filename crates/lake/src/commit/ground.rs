//! Whether what checks have read of the lake still stands.
//!
//! Promise: looked at inside `BEGIN IMMEDIATE`, so that nothing comes between the look and the commit. Other rounds commit
//! all the time: only what changed the rows of a table that was read counts, and maintenance changes none.

use portolan_model::Result;
use portolan_model::check::Ground;
use rusqlite::{Connection, OptionalExtension};

use crate::error::sqlite;
use crate::reader::quoted;
use crate::state::State;

const OPERATION: &str = "look at what was checked";

/// What DuckLake calls changes that change no row that anybody sees.
const HARMLESS: [&str; 2] = ["inline_flush", "merge_adjacent"];

/// Whether no table of `ground` has other rows now than in its snapshot.
pub(crate) fn stands(connection: &Connection, state: &State, ground: &Ground) -> Result<bool> {
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
    let tables: Vec<(String, Option<String>)> = ground
        .tables
        .iter()
        .map(|source| {
            let name = source.as_str();
            let created = format!("created_table:{}.{}", quoted("main"), quoted(name));
            // One that cannot be read has not been.
            let id = state.tables.get(&("main".to_owned(), name.to_owned())).map(|table| table.shape.id.to_string());
            (created, id)
        })
        .collect();
    let sql = "SELECT changes_made FROM ducklake_snapshot_changes WHERE snapshot_id > ?1";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([ground.snapshot]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let changes: Option<String> = row.get(0).map_err(error)?;
        for change in changes.as_deref().unwrap_or_default().split(',') {
            let is_of_ground = |(created, id): &(String, Option<String>)| match change.split_once(':') {
                Some((what, _)) if HARMLESS.contains(&what) => false,
                // What is gone has no number any more to know it by.
                Some(("dropped_table", _)) => true,
                Some((_, about)) => id.as_deref() == Some(about) || change == created,
                None => false,
            };
            if tables.iter().any(is_of_ground) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

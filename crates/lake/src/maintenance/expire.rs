//! Lets snapshots expire that are older than they are to be kept, and what only they could see.
//!
//! The latest snapshot never expires. Files go to DuckLake's list of files scheduled for deletion and are removed when
//! the grace time has passed: somebody may be reading them.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use portolan_model::Result;
use rusqlite::Connection;

use super::flush::drop_if_empty;
use super::merge::{forget_file, schedule};
use crate::error::sqlite;
use crate::failpoint;
use crate::lake::Context;
use crate::reader::{inlined_tables, parse_time, quoted, tables_at};
use crate::spec::Layout;
use crate::writer::Writer;

const OPERATION: &str = "expire snapshots";
/// Snapshots that one call lets expire.
const SNAPSHOTS_MAX: usize = 20_000;

/// Lets snapshots older than `keep` expire; how many.
pub(crate) async fn run(context: &Arc<Context>, keep: std::time::Duration) -> Result<u64> {
    let now = context.clock.wall();
    let Ok(keep) = jiff::SignedDuration::try_from(keep) else { return Ok(0) };
    let Ok(cutoff) = now.checked_sub(keep) else { return Ok(0) };
    let layout = context.layout.clone();
    context.writer.run(move |writer| expire(writer, &layout, cutoff, now)).await
}

fn expire(writer: &mut Writer, layout: &Layout, cutoff: Timestamp, now: Timestamp) -> Result<u64> {
    let Some(last) = last_expired(writer.connection(), cutoff)? else { return Ok(0) };
    let expired = writer.transaction(|connection, _| {
        let error = |error| sqlite(OPERATION, error);
        let sql = "DELETE FROM ducklake_snapshot WHERE snapshot_id <= ?1";
        let expired = connection.execute(sql, [last]).map_err(error)?;
        connection.execute("DELETE FROM ducklake_snapshot_changes WHERE snapshot_id <= ?1", [last]).map_err(error)?;
        // The last round stays, so that numbers go on after it.
        let sql =
            "DELETE FROM portolan_round WHERE snapshot_id <= ?1 AND round < (SELECT max(round) FROM portolan_round)";
        connection.execute(sql, [last]).map_err(error)?;
        let sql = "SELECT min(snapshot_id), max(snapshot_id) FROM ducklake_snapshot";
        let (oldest, head): (i64, i64) =
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(error)?;
        for (id, path) in ended_files(connection, layout, "ducklake_data_file", "data_file_id", oldest)? {
            forget_file(connection, id, &path, &layout.data(), now)?;
        }
        for (id, path) in ended_files(connection, layout, "ducklake_delete_file", "delete_file_id", oldest)? {
            connection.execute("DELETE FROM ducklake_delete_file WHERE delete_file_id = ?1", [id]).map_err(error)?;
            schedule(connection, id, &path, &layout.data(), now).map_err(error)?;
        }
        // Another program may have taken files out of the catalog, which leaves the digests of their bytes.
        let sql =
            "DELETE FROM portolan_row_group WHERE data_file_id NOT IN (SELECT data_file_id FROM ducklake_data_file)";
        connection.execute(sql, []).map_err(error)?;
        for table in tables_at(connection, layout, head)? {
            let sources = inlined_tables(connection, table.id)?;
            let newest = sources.iter().map(|source| source.schema_version).max();
            for source in sources {
                let sql = format!("DELETE FROM {} WHERE end_snapshot <= ?1", quoted(&source.name));
                let removed = connection.execute(&sql, [oldest]).map_err(error)?;
                if removed > 0 && Some(source.schema_version) != newest {
                    drop_if_empty(connection, &source)?;
                }
            }
        }
        failpoint::pass("expire::before_commit");
        Ok(expired as u64)
    })?;
    failpoint::pass("expire::after_commit");
    Ok(expired)
}

/// The last snapshot that is to expire.
fn last_expired(connection: &Connection, cutoff: Timestamp) -> Result<Option<i64>> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT snapshot_id, snapshot_time FROM ducklake_snapshot \
               WHERE snapshot_id < (SELECT max(snapshot_id) FROM ducklake_snapshot) ORDER BY snapshot_id";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    let mut last = None;
    let mut count = 0;
    while let Some(row) = rows.next().map_err(error)? {
        let (id, time): (i64, String) = (row.get(0).map_err(error)?, row.get(1).map_err(error)?);
        if parse_time(&time)? > cutoff || count >= SNAPSHOTS_MAX {
            break;
        }
        last = Some(id);
        count += 1;
    }
    Ok(last)
}

/// Files that ended before `oldest`, with their paths.
fn ended_files(
    connection: &Connection,
    layout: &Layout,
    files: &str,
    key: &str,
    oldest: i64,
) -> Result<Vec<(i64, PathBuf)>> {
    let sql = format!(
        "SELECT DISTINCT f.{key}, f.path, f.path_is_relative, s.path, s.path_is_relative, t.path, t.path_is_relative \
         FROM {files} f JOIN ducklake_table t ON t.table_id = f.table_id \
         JOIN ducklake_schema s ON s.schema_id = t.schema_id WHERE f.end_snapshot <= ?1"
    );
    let mut statement = connection.prepare(&sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([oldest], |row| {
        let mut path = layout.data();
        for place in [3, 5, 1] {
            let part: String = row.get(place)?;
            path = if row.get::<_, bool>(place + 1)? { path.join(part) } else { part.into() };
        }
        Ok((row.get(0)?, path))
    });
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

//! Lets snapshots expire that are older than they are to be kept, and what only they could see.
//!
//! The latest snapshot never expires. Files go to DuckLake's list of files scheduled for deletion and are removed when
//! the grace time has passed: somebody may be reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use portolan_model::Result;
use rusqlite::{Connection, params};

use super::flush::drop_if_empty;
use super::merge::{forget_file, schedule};
use crate::error::sqlite;
use crate::failpoint;
use crate::lake::Context;
use crate::reader::{inlined_tables, parse_time, quoted, stored_files, tables_at};
use crate::scan::scan_file;
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
        let sql = "SELECT min(snapshot_id), max(snapshot_id) FROM ducklake_snapshot WHERE snapshot_id > ?1";
        let (oldest, head): (i64, i64) =
            connection.query_row(sql, [last], |row| Ok((row.get(0)?, row.get(1)?))).map_err(error)?;
        note_deleted(connection, layout, oldest, head)?;
        let sql = "DELETE FROM ducklake_snapshot WHERE snapshot_id <= ?1";
        let expired = connection.execute(sql, [last]).map_err(error)?;
        connection.execute("DELETE FROM ducklake_snapshot_changes WHERE snapshot_id <= ?1", [last]).map_err(error)?;
        // The last round stays, so that numbers go on after it.
        let sql =
            "DELETE FROM portolan_round WHERE snapshot_id <= ?1 AND round < (SELECT max(round) FROM portolan_round)";
        connection.execute(sql, [last]).map_err(error)?;
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

/// Notes the rows of sources' tables that go with the snapshots before `oldest` and that another program has deleted:
/// their rounds have fewer rows from now on than their receipts say.
fn note_deleted(connection: &Connection, layout: &Layout, oldest: i64, head: i64) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT snapshot_id FROM ducklake_snapshot_changes WHERE snapshot_id <= ?1 AND author IS NOT 'portolan'";
    let mut statement = connection.prepare(sql).map_err(error)?;
    let foreign = statement.query_map([oldest], |row| row.get(0)).map_err(error)?;
    let foreign: BTreeSet<i64> = foreign.collect::<rusqlite::Result<_>>().map_err(error)?;
    if foreign.is_empty() {
        return Ok(());
    }
    for table in tables_at(connection, layout, head)?.into_iter().filter(|table| table.schema == "main") {
        let mut rows: BTreeMap<i64, u64> = BTreeMap::new();
        for source in inlined_tables(connection, table.id)? {
            let sql = format!(
                "SELECT begin_snapshot, end_snapshot, count(*) FROM {} WHERE end_snapshot <= ?1 GROUP BY 1, 2",
                quoted(&source.name)
            );
            let mut statement = connection.prepare(&sql).map_err(error)?;
            let counts = statement.query_map([oldest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            for counted in counts.map_err(error)? {
                let (begin, end, count): (i64, i64, u64) = counted.map_err(error)?;
                if foreign.contains(&end) {
                    *rows.entry(begin).or_default() += count;
                }
            }
        }
        // Of a table with files that this build does not read no round is proved.
        let files = stored_files(connection, table.id, &table.folder, head).unwrap_or_default();
        for file in files.iter().filter(|file| file.end_snapshot.is_some_and(|end| foreign.contains(&end))) {
            let mut begins: BTreeMap<i64, u64> = BTreeMap::new();
            let outcome = scan_file(file, &[], i64::MAX, &mut |rows| {
                rows.begins.values().iter().for_each(|begin| *begins.entry(*begin).or_default() += 1);
                Ok(true)
            });
            // The rows of a file that cannot be read were damaged, not deleted.
            if outcome.is_ok() {
                begins.into_iter().for_each(|(begin, count)| *rows.entry(begin).or_default() += count);
            }
        }
        let sql = "INSERT INTO portolan_expired VALUES (?1, ?2, ?3) \
                   ON CONFLICT(table_id, snapshot_id) DO UPDATE SET rows = rows + excluded.rows";
        let mut statement = connection.prepare_cached(sql).map_err(error)?;
        for (begin, count) in rows {
            statement.execute(params![table.id, begin, count]).map_err(error)?;
        }
    }
    Ok(())
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

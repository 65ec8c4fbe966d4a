//! Merges adjacent small files of a table into one.
//!
//! The merged file keeps each row's id and the snapshot that added it, and takes the place of its parts in the catalog
//! at once: every snapshot sees in it exactly what it saw in them. Only files of one version of the table's columns are
//! merged, so that no reader of an old snapshot meets a type it does not expect. Sizes are tiered: a file is rewritten
//! only together with others of its own size, so the work per row grows with the logarithm of the table.

use std::path::Path;
use std::sync::Arc;

use arrow::array::Int64Array;
use jiff::Timestamp;
use portolan_model::{Error, Result};
use rusqlite::{Connection, params};

use super::flush::{append_ids, with_ids};
use crate::commit::{FileRow, Head, insert_file, write_table_statistics};
use crate::encode::{FileWriter, WrittenFile, file_name, sync_folder};
use crate::error::sqlite;
use crate::failpoint;
use crate::lake::Context;
use crate::reader::{DataFile, TableView, load_columns, load_tables, open_file, snapshot_time_text};
use crate::shape::StoredColumn;
use crate::stage::FileGuard;
use crate::types::Column;
use crate::writer::Writer;

const OPERATION: &str = "merge files";
/// Files of one size that are merged, at least.
const FAN_IN: usize = 4;
/// Files merged into one, at most.
const FILES_MAX: usize = 64;
/// Runs of files that one call merges in a table, at most: more than flushes can add between two calls, so that the
/// number of files stays bounded.
const PASSES_MAX: usize = 8;
/// Bytes of the smallest size class; each class above is [`FAN_IN`] times the one below.
const CLASS_BYTES: u64 = 64 << 10;

struct Merged {
    table: i64,
    columns: Vec<Column>,
    parts: Vec<DataFile>,
    file: WrittenFile,
    guard: FileGuard,
    first_snapshot: i64,
    last_snapshot: i64,
}

/// Merges runs of files, of one table or of all, until none is left that is worth it or the call has done its share; files
/// merged away.
///
/// # Errors
/// The first of a table whose files cannot be merged; those of the others have been.
pub(crate) async fn run(context: &Arc<Context>, table: Option<&(String, String)>) -> Result<u64> {
    let mut total = 0;
    let mut first_error = None;
    for _ in 0..PASSES_MAX {
        let (worker, table) = (context.clone(), table.cloned());
        let prepared = tokio::task::spawn_blocking(move || prepare(&worker, table.as_ref())).await;
        let (prepared, error) = prepared
            .map_err(|error| crate::error::internal(OPERATION, "the job was interrupted").with_cause(error))??;
        first_error = first_error.or(error);
        let mut merged = 0;
        for run in prepared {
            let now = context.clock.wall();
            let data = context.layout.data();
            merged += context.writer.run(move |writer| publish(writer, run, &data, now)).await?;
        }
        if merged == 0 {
            break;
        }
        total += merged;
    }
    first_error.map_or(Ok(total), Err)
}

/// One run of files for each table that has one, and the first error of a table whose files cannot be merged.
fn prepare(context: &Arc<Context>, only: Option<&(String, String)>) -> Result<(Vec<Merged>, Option<Error>)> {
    let error = |error| sqlite(OPERATION, error);
    let connection = crate::spec::open_reader(&context.layout)?;
    connection.execute_batch("BEGIN").map_err(error)?;
    let head: i64 =
        connection.query_row("SELECT max(snapshot_id) FROM ducklake_snapshot", [], |row| row.get(0)).map_err(error)?;
    let (mut prepared, mut first_error) = (Vec::new(), None);
    for table in load_tables(&connection, &context.layout, head)? {
        if only.is_some_and(|(schema, name)| table.schema != *schema || table.name != *name) {
            continue;
        }
        let versions = schema_begins(&connection, table.id)?;
        if let Some((begin, id, parts)) = choose(table, &versions, context.settings.merge_below_bytes) {
            match write_file(&connection, context, begin, id, parts) {
                Ok(merged) => prepared.push(merged),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
    }
    Ok((prepared, first_error))
}

fn schema_begins(connection: &Connection, table: i64) -> Result<Vec<i64>> {
    let sql = "SELECT begin_snapshot FROM ducklake_schema_versions WHERE table_id = ?1 ORDER BY begin_snapshot";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([table], |row| row.get(0));
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// The longest run of neighbours of one size class and one version of the columns, with that version's first snapshot.
fn choose(table: TableView, versions: &[i64], below: u64) -> Option<(i64, i64, Vec<DataFile>)> {
    let version = |snapshot: i64| versions.iter().copied().take_while(|begin| *begin <= snapshot).last();
    let class = |file: &DataFile| {
        let (mut class, mut limit) = (0u32, CLASS_BYTES);
        while file.size_bytes >= limit {
            class += 1;
            limit = limit.saturating_mul(FAN_IN as u64);
        }
        class
    };
    let eligible = |file: &DataFile| {
        let deletes = !file.delete_files.is_empty() || !file.deleted_positions.is_empty();
        let spans = version(file.begin_snapshot) != version(file.partial_max.unwrap_or(file.begin_snapshot));
        file.size_bytes < below && !deletes && !spans && !file.unsettled
    };
    let id = table.id;
    let mut best: Vec<DataFile> = Vec::new();
    let mut current: Vec<DataFile> = Vec::new();
    let mut bytes = 0;
    for file in table.files.into_iter().filter(eligible) {
        let joins = current.last().is_some_and(|last| {
            class(last) == class(&file) && version(last.begin_snapshot) == version(file.begin_snapshot)
        }) && current.len() < FILES_MAX
            && bytes + file.size_bytes <= below.saturating_mul(2);
        if !joins {
            if current.len() > best.len() {
                best = std::mem::take(&mut current);
            }
            current.clear();
            bytes = 0;
        }
        bytes += file.size_bytes;
        current.push(file);
    }
    if current.len() > best.len() {
        best = current;
    }
    let begin = version(best.first()?.begin_snapshot)?;
    (best.len() >= FAN_IN).then_some((begin, id, best))
}

fn write_file(
    connection: &Connection,
    context: &Arc<Context>,
    begin: i64,
    table: i64,
    parts: Vec<DataFile>,
) -> Result<Merged> {
    let stored = load_columns(connection, table, begin)?;
    let columns = with_ids(&stored);
    let folder = parts.first().and_then(|file| file.path.parent()).map(Path::to_path_buf).unwrap_or_default();
    let mut open: Option<(FileWriter, FileGuard)> = None;
    let (mut first_snapshot, mut last_snapshot) = (i64::MAX, 0);
    for part in &parts {
        let mut rows = open_file(part, &stored, i64::MAX)?;
        while let Some(next) = rows.next_with_ids() {
            let next = next?;
            let snapshots = match next.snapshots {
                Some(snapshots) => snapshots,
                None => Int64Array::from_value(part.begin_snapshot, next.batch.num_rows()),
            };
            // By the rows: a file whose flush was never settled, because its rows in the catalog expired first, begins
            // later than they do.
            first_snapshot = snapshots.values().iter().copied().min().unwrap_or(i64::MAX).min(first_snapshot);
            last_snapshot = snapshots.values().iter().copied().max().unwrap_or(0).max(last_snapshot);
            let batch = append_ids(&next.batch, next.row_ids, snapshots, &columns)?;
            if open.is_none() {
                let path = folder.join(file_name());
                let guard = context.staged.register(path.clone());
                open = Some((FileWriter::create(path, &columns, &batch)?, guard));
            }
            if let Some((writer, _)) = &mut open {
                writer.write(&batch)?;
            }
        }
    }
    let (writer, guard) = open.ok_or_else(|| crate::error::corrupt(OPERATION, "files to merge hold no rows"))?;
    let file = writer.finish()?;
    sync_folder(&folder)?;
    failpoint::pass("merge::file_written");
    Ok(Merged { table, columns: stored, parts, file, guard, first_snapshot, last_snapshot })
}

fn publish(writer: &mut Writer, mut merged: Merged, data: &Path, now: Timestamp) -> Result<u64> {
    let published = writer.transaction_of_files(|connection, state| {
        let error = |error| sqlite(OPERATION, error);
        let mut head = Head::next(connection)?;
        for part in &merged.parts {
            let sql = "SELECT count(*) FROM ducklake_data_file f WHERE data_file_id = ?1 AND end_snapshot IS NULL \
                       AND NOT EXISTS (SELECT 1 FROM ducklake_delete_file d WHERE d.data_file_id = f.data_file_id)";
            let current: i64 = connection.query_row(sql, [part.id], |row| row.get(0)).map_err(error)?;
            if current != 1 || deleted_inside(connection, merged.table, part.id)? {
                // Replaced or deleted from since the file was written: the next call looks again.
                return Ok(0);
            }
        }
        let id = head.next_file_id;
        head.next_file_id += 1;
        let columns: Vec<StoredColumn> = merged
            .columns
            .iter()
            .map(|column| StoredColumn { column: column.clone(), source: String::new(), variant: false })
            .collect();
        let row = FileRow {
            id,
            table: merged.table,
            begin: merged.first_snapshot,
            row_id_start: merged.parts.iter().map(|part| part.row_id_start).min().unwrap_or(0),
            partial_max: Some(merged.last_snapshot),
        };
        insert_file(connection, &row, &merged.file, &columns)?;
        let mut removed_bytes = 0;
        for part in &merged.parts {
            removed_bytes += part.size_bytes as i64;
            forget_file(connection, part.id, &part.path, data, now)?;
        }
        if let Some(entry) = state.tables.values_mut().find(|entry| entry.shape.id == merged.table) {
            entry.file_size_bytes += merged.file.size_bytes as i64 - removed_bytes;
            write_table_statistics(connection, entry)?;
        }
        head.changes.push(format!("merge_adjacent:{}", merged.table));
        head.write(connection, now, "merge files")?;
        merged.guard.keep();
        failpoint::pass("merge::before_commit");
        Ok(merged.parts.len() as u64)
    });
    let guards = std::iter::once(&mut merged.guard);
    let count = published.map_err(|failure| failure.give_up(guards))?;
    failpoint::pass("merge::after_commit");
    Ok(count)
}

/// Whether entries inside the catalog delete rows of a file.
fn deleted_inside(connection: &Connection, table: i64, file: i64) -> Result<bool> {
    let name = format!("ducklake_inlined_delete_{table}");
    let sql = "SELECT EXISTS(SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
    let error = |error| sqlite(OPERATION, error);
    let exists: bool = connection.query_row(sql, [&name], |row| row.get(0)).map_err(error)?;
    if !exists {
        return Ok(false);
    }
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {name} WHERE file_id = ?1)");
    connection.query_row(&sql, [file], |row| row.get(0)).map_err(error)
}

/// Takes a file out of the catalog and puts it on the list of files to be removed.
pub(crate) fn forget_file(connection: &Connection, id: i64, path: &Path, data: &Path, now: Timestamp) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        connection.prepare_cached("DELETE FROM ducklake_data_file WHERE data_file_id = ?1")?.execute([id])?;
        connection.prepare_cached("DELETE FROM ducklake_file_column_stats WHERE data_file_id = ?1")?.execute([id])?;
        connection.prepare_cached("DELETE FROM portolan_row_group WHERE data_file_id = ?1")?.execute([id])?;
        schedule(connection, id, path, data, now)
    };
    run().map_err(|error| sqlite(OPERATION, error))
}

/// Puts a file on the list of files to be removed.
pub(crate) fn schedule(
    connection: &Connection,
    id: i64,
    path: &Path,
    data: &Path,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (shown, relative) = match path.strip_prefix(data) {
        Ok(relative) => (relative.to_string_lossy().into_owned(), true),
        Err(_) => (path.to_string_lossy().into_owned(), false),
    };
    connection
        .prepare_cached("INSERT INTO ducklake_files_scheduled_for_deletion VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, shown, relative, snapshot_time_text(now)])?;
    Ok(())
}

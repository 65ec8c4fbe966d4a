//! Moves rows that are kept inside the catalog to Parquet files.
//!
//! Rows that are still current go into one file for each version of the table's columns, with their row ids and the
//! snapshots that added them, as DuckDB's own flush writes it. The flush is a snapshot at which the rows end inside the
//! catalog and the file begins; the second step, `settle`, lets the file take over the rows' history. Rows that have
//! been replaced stay where they are until the last snapshot that sees them has expired.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use portolan_model::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, params};

use crate::commit::{FileRow, Head, insert_file, write_table_statistics};
use crate::encode::{FileWriter, WrittenFile, file_name, sync_folder};
use crate::error::{arrow as arrow_error, file as file_error, sqlite};
use crate::failpoint;
use crate::lake::Context;
use crate::reader::{
    InlinedFilter, InlinedTable, columns_of, inlined_tables, parse_time, quoted, read_inlined, tables_at,
};
use crate::shape::StoredColumn;
use crate::stage::FileGuard;
use crate::types::{Column, Kind, schema_of};
use crate::writer::Writer;

const OPERATION: &str = "flush inlined rows";
/// The field id of row ids in a file, as DuckDB has it.
pub(crate) const ROW_ID_FIELD: i64 = 2_147_483_540;
/// The field id of snapshots in a file, as DuckDB has it.
pub(crate) const SNAPSHOT_ID_FIELD: i64 = 2_147_483_539;
/// Rows of one table that one call moves.
const ROWS_MAX: i64 = 500_000;

/// Rows of one inlined table, in a file that the catalog does not know yet.
struct Flushed {
    table: i64,
    source: InlinedTable,
    columns: Vec<Column>,
    file: WrittenFile,
    guard: FileGuard,
    first_row_id: i64,
    first_snapshot: i64,
    last_snapshot: i64,
    /// The last of SQLite's own row numbers that is in the file.
    last_row: i64,
}

/// What to flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// What is due by number or age.
    Scheduled,
    /// Whatever there is, of one table or of all.
    Now(Option<(String, String)>),
}

/// Flushes what is due; rows moved.
///
/// # Errors
/// The first of a table whose rows cannot be flushed; those of the others have been.
pub(crate) async fn run(context: &Arc<Context>, due: &Due) -> Result<u64> {
    let (worker, due) = (context.clone(), due.clone());
    let prepared = tokio::task::spawn_blocking(move || prepare(&worker, &due)).await;
    let (prepared, first_error) =
        prepared.map_err(|error| crate::error::internal(OPERATION, "the job was interrupted").with_cause(error))??;
    let mut moved = 0;
    if !prepared.is_empty() {
        let now = context.clock.wall();
        moved = context.writer.run(move |writer| publish(writer, prepared, now)).await?;
    }
    first_error.map_or(Ok(moved), Err)
}

/// What is due, in files, and the first error of a table whose rows cannot be flushed.
fn prepare(context: &Arc<Context>, due: &Due) -> Result<(Vec<Flushed>, Option<Error>)> {
    let error = |error| sqlite(OPERATION, error);
    let connection = crate::spec::open_reader(&context.layout)?;
    connection.execute_batch("BEGIN").map_err(error)?;
    let head: i64 =
        connection.query_row("SELECT max(snapshot_id) FROM ducklake_snapshot", [], |row| row.get(0)).map_err(error)?;
    let (mut prepared, mut first_error) = (Vec::new(), None);
    for table in tables_at(&connection, &context.layout, head)? {
        let sources = inlined_tables(&connection, table.id)?;
        let is_due = match due {
            Due::Scheduled => is_due(&connection, context, &sources)?,
            Due::Now(None) => true,
            Due::Now(Some((schema, name))) => table.schema == *schema && table.name == *name,
        };
        if !is_due {
            continue;
        }
        for source in sources {
            match write_file(&connection, context, table.id, &table.folder, source) {
                Ok(flushed) => prepared.extend(flushed),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
    }
    Ok((prepared, first_error))
}

fn is_due(connection: &Connection, context: &Context, sources: &[InlinedTable]) -> Result<bool> {
    let error = |error| sqlite(OPERATION, error);
    let (mut rows, mut oldest) = (0, None::<i64>);
    for source in sources {
        let sql =
            format!("SELECT count(*), min(begin_snapshot) FROM {} WHERE end_snapshot IS NULL", quoted(&source.name));
        let (count, begin): (i64, Option<i64>) =
            connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(error)?;
        rows += count;
        oldest = oldest.into_iter().chain(begin).min();
    }
    let Some(oldest) = oldest else { return Ok(false) };
    if rows >= i64::from(context.settings.flush_rows) {
        return Ok(true);
    }
    let sql = "SELECT snapshot_time FROM ducklake_snapshot WHERE snapshot_id = ?1";
    let begun: Option<String> = connection.query_row(sql, [oldest], |row| row.get(0)).optional().map_err(error)?;
    // A snapshot that has expired is older than anything that is kept waiting.
    let Some(begun) = begun else { return Ok(true) };
    let age = context.clock.wall().duration_since(parse_time(&begun)?);
    Ok(age.unsigned_abs() >= context.settings.flush_after)
}

fn write_file(
    connection: &Connection,
    context: &Arc<Context>,
    table: i64,
    folder: &std::path::Path,
    source: InlinedTable,
) -> Result<Option<Flushed>> {
    let stored = match columns_of(connection, table, &source) {
        Ok(stored) => stored,
        // Another program gave the table a type we do not know: its rows stay where they are, the others' do not wait.
        Err(error) if error.kind() == ErrorKind::Data => return Ok(None),
        Err(error) => return Err(error),
    };
    let columns = with_ids(&stored);
    let mut open: Option<(FileWriter, FileGuard)> = None;
    let (mut first_row_id, mut first_snapshot, mut last_snapshot) = (i64::MAX, i64::MAX, 0);
    let mut last_row = 0;
    let filter = InlinedFilter::Current { limit: ROWS_MAX };
    read_inlined(connection, table, &source, &stored, filter, |rows| {
        last_row = rows.last_row;
        let bounds = |values: &Int64Array| {
            let values = values.values();
            (values.iter().copied().min().unwrap_or(i64::MAX), values.iter().copied().max().unwrap_or(0))
        };
        first_row_id = first_row_id.min(bounds(&rows.row_ids).0);
        let (first, last) = bounds(&rows.begins);
        (first_snapshot, last_snapshot) = (first_snapshot.min(first), last_snapshot.max(last));
        let batch = append_ids(&rows.batch, rows.row_ids, rows.begins, &columns)?;
        if open.is_none() {
            std::fs::create_dir_all(folder).map_err(|error| file_error(OPERATION, folder, error))?;
            let path = folder.join(file_name());
            let guard = context.staged.register(path.clone());
            open = Some((FileWriter::create(path, &columns, &batch)?, guard));
        }
        if let Some((writer, _)) = &mut open {
            writer.write(&batch)?;
        }
        Ok(true)
    })?;
    let Some((writer, guard)) = open else { return Ok(None) };
    let file = writer.finish()?;
    sync_folder(folder)?;
    failpoint::pass("flush::file_written");
    let flushed =
        Flushed { table, source, columns: stored, file, guard, first_row_id, first_snapshot, last_snapshot, last_row };
    Ok(Some(flushed))
}

fn publish(writer: &mut Writer, mut prepared: Vec<Flushed>, now: jiff::Timestamp) -> Result<u64> {
    let published = writer.transaction_of_files(|connection, state| {
        let mut head = Head::next(connection)?;
        let mut moved = 0;
        for flushed in &mut prepared {
            let from = quoted(&flushed.source.name);
            let sql = format!("SELECT count(*) FROM {from} WHERE end_snapshot IS NULL AND rowid <= ?1");
            let current: Option<u64> =
                connection.query_row(&sql, [flushed.last_row], |row| row.get(0)).optional().unwrap_or(None);
            // Rows were replaced or deleted since the file was written: the next call looks again.
            if current != Some(flushed.file.rows) {
                continue;
            }
            let id = head.next_file_id;
            head.next_file_id += 1;
            let columns: Vec<StoredColumn> = flushed
                .columns
                .iter()
                .map(|column| StoredColumn { column: column.clone(), source: String::new(), variant: false })
                .collect();
            let row = FileRow {
                id,
                table: flushed.table,
                begin: head.snapshot,
                row_id_start: flushed.first_row_id,
                partial_max: None,
            };
            insert_file(connection, &row, &flushed.file, &columns)?;
            end_rows(connection, flushed, id, head.snapshot).map_err(|error| sqlite(OPERATION, error))?;
            if let Some(entry) = state.tables.values_mut().find(|entry| entry.shape.id == flushed.table) {
                entry.file_size_bytes += flushed.file.size_bytes as i64;
                write_table_statistics(connection, entry)?;
            }
            let change = format!("inline_flush:{}", flushed.table);
            if !head.changes.contains(&change) {
                head.changes.push(change);
            }
            flushed.guard.keep();
            moved += flushed.file.rows;
        }
        if moved > 0 {
            head.write(connection, now, "flush inlined rows")?;
        }
        failpoint::pass("flush::before_commit");
        Ok(moved)
    });
    let guards = prepared.iter_mut().map(|flushed| &mut flushed.guard);
    let moved = published.map_err(|failure| failure.give_up(guards))?;
    failpoint::pass("flush::after_commit");
    Ok(moved)
}

/// Ends the flushed rows inside the catalog at `snapshot`, for `settle` to take them out.
fn end_rows(connection: &Connection, flushed: &Flushed, file: i64, snapshot: i64) -> rusqlite::Result<()> {
    let from = quoted(&flushed.source.name);
    let sql = format!("UPDATE {from} SET end_snapshot = ?1 WHERE end_snapshot IS NULL AND rowid <= ?2");
    connection.execute(&sql, [snapshot, flushed.last_row])?;
    let sql = "INSERT INTO portolan_flush VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(params![
        file,
        flushed.table,
        flushed.source.name,
        flushed.source.schema_version,
        snapshot,
        flushed.first_snapshot,
        flushed.last_snapshot,
        flushed.last_row
    ])?;
    Ok(())
}

/// Drops a table of inlined rows that is empty.
pub(crate) fn drop_if_empty(connection: &Connection, source: &InlinedTable) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let name = quoted(&source.name);
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {name})");
    let holds: bool = connection.query_row(&sql, [], |row| row.get(0)).map_err(error)?;
    if !holds {
        connection.execute_batch(&format!("DROP TABLE {name}")).map_err(error)?;
        let sql = "DELETE FROM ducklake_inlined_data_tables WHERE table_name = ?1";
        connection.execute(sql, [&source.name]).map_err(error)?;
    }
    Ok(())
}

/// Columns with DuckLake's two internal ones behind them.
pub(crate) fn with_ids(columns: &[Column]) -> Vec<Column> {
    let internal = |id, name: &str| Column { id, name: name.to_owned(), kind: Kind::Int64 };
    let mut columns = columns.to_vec();
    columns.push(internal(ROW_ID_FIELD, crate::reader::ROW_ID_NAME));
    columns.push(internal(SNAPSHOT_ID_FIELD, crate::reader::SNAPSHOT_ID_NAME));
    columns
}

/// A batch with row ids and snapshots behind its columns.
pub(crate) fn append_ids(
    batch: &RecordBatch,
    row_ids: Int64Array,
    snapshots: Int64Array,
    columns: &[Column],
) -> Result<RecordBatch> {
    let mut arrays: Vec<ArrayRef> = batch.columns().to_vec();
    arrays.push(Arc::new(row_ids));
    arrays.push(Arc::new(snapshots));
    RecordBatch::try_new(schema_of(columns), arrays).map_err(|error| arrow_error(OPERATION, error))
}

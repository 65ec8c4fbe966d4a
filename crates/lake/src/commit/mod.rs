//! One round in one SQL transaction.
//!
//! Promise: after [`commit`] returns an error nothing of the round is visible; after it returns `Ok` everything is, and
//! survives a power cut. Head and next ids are read inside `BEGIN IMMEDIATE`, never before.

mod ground;
mod schema;
mod statistics;

use std::collections::BTreeSet;

use jiff::Timestamp;
use portolan_model::catalog::{SourceStatus, WriteMode};
use portolan_model::check::Ground;
use portolan_model::{Error, ErrorKind, Position, Result, SourceName};
use rusqlite::{Connection, params};

use crate::chain;
use crate::encode::sync_folder;
use crate::error::{internal, sqlite};
use crate::failpoint;
use crate::reader::{quoted, snapshot_time_text};
use crate::shape::StoredColumn;
use crate::stage::{SourceSettings, StagedRows};
use crate::state::{self, State, TableState};
use crate::statistics::leaves;
use crate::writer::Writer;

use self::schema::{change_columns, create_inlined, create_table};
use self::statistics::store_statistics;
pub(crate) use self::statistics::write_table_statistics;

const OPERATION: &str = "commit round";

/// Everything one transaction publishes.
pub(crate) struct Changes {
    /// The round, where there is one.
    pub(crate) round: Option<i64>,
    pub(crate) tables: Vec<StagedRows>,
    pub(crate) positions: Vec<(SourceName, Position)>,
    pub(crate) watermarks: Vec<(SourceName, Timestamp)>,
    pub(crate) statuses: Vec<SourceStatus>,
    /// Items of the quarantine that the round stores.
    pub(crate) retried: Vec<i64>,
    /// What its checks have read, which must still stand.
    pub(crate) ground: Option<Ground>,
    pub(crate) now: Timestamp,
    pub(crate) message: String,
}

/// The head of the catalog and the ids that come next.
pub(crate) struct Head {
    pub(crate) snapshot: i64,
    pub(crate) schema_version: i64,
    pub(crate) next_catalog_id: i64,
    pub(crate) next_file_id: i64,
    /// Entries of `changes_made`.
    pub(crate) changes: Vec<String>,
}

impl Head {
    /// Reads the head, and moves on to the snapshot after it.
    pub(crate) fn next(connection: &Connection) -> Result<Self> {
        let sql = "SELECT snapshot_id, schema_version, next_catalog_id, next_file_id FROM ducklake_snapshot \
                   ORDER BY snapshot_id DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                snapshot: row.get::<_, i64>(0)? + 1,
                schema_version: row.get(1)?,
                next_catalog_id: row.get(2)?,
                next_file_id: row.get(3)?,
                changes: Vec::new(),
            })
        };
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], read))
            .map_err(|error| sqlite(OPERATION, error))
    }

    /// Writes the snapshot.
    pub(crate) fn write(&self, connection: &Connection, now: Timestamp, message: &str) -> Result<()> {
        let run = || -> rusqlite::Result<()> {
            connection.prepare_cached("INSERT INTO ducklake_snapshot VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![
                    self.snapshot,
                    snapshot_time_text(now),
                    self.schema_version,
                    self.next_catalog_id,
                    self.next_file_id
                ],
            )?;
            connection
                .prepare_cached("INSERT INTO ducklake_snapshot_changes VALUES (?1, ?2, 'portolan', ?3, NULL)")?
                .execute(params![self.snapshot, self.changes.join(","), message])?;
            Ok(())
        };
        run().map_err(|error| sqlite(OPERATION, error))
    }
}

/// How a commit ended.
pub(crate) enum Outcome {
    /// The snapshot that it made.
    Committed(i64),
    /// Its ground has moved: nothing is changed, and this was to be published.
    Moved(Box<Changes>),
}

/// Commits `changes`.
pub(crate) fn commit(writer: &mut Writer, mut changes: Changes) -> Result<Outcome> {
    let folders: BTreeSet<_> = changes
        .tables
        .iter()
        .flat_map(|table| &table.files)
        .filter_map(|(file, _)| file.path.parent().map(std::path::Path::to_path_buf))
        .collect();
    for folder in &folders {
        sync_folder(folder)?;
    }
    if !folders.is_empty() {
        failpoint::pass("commit::after_folder_fsync");
    }
    let manifest = chain::manifest(&changes.tables);
    let committed = writer.transaction_of_files(|connection, state| {
        if let Some(ground) = &changes.ground
            && !ground::stands(connection, ground)?
        {
            return Ok(None);
        }
        failpoint::pass("commit::ground_stands");
        let mut head = Head::next(connection)?;
        if let Some(round) = changes.round {
            let link = chain::Link::next(state.chain.as_ref(), round, head.snapshot, &manifest);
            chain::seal(&mut changes.tables, &link, state.chain.as_ref(), &manifest)?;
            chain::store(connection, &link)?;
            state.chain = Some(link);
        }
        for table in &mut changes.tables {
            store_table(connection, state, &mut head, table)?;
        }
        failpoint::pass("commit::rows_inserted");
        store_round(connection, &head, &changes)?;
        head.write(connection, changes.now, &changes.message)?;
        failpoint::pass("commit::before_commit");
        // From here on the files may belong to the catalog, whatever COMMIT says.
        for (_, guard) in changes.tables.iter_mut().flat_map(|table| &mut table.files) {
            guard.keep();
        }
        Ok(Some(head.snapshot))
    });
    let guards = changes.tables.iter_mut().flat_map(|table| &mut table.files).map(|(_, guard)| guard);
    let Some(snapshot) = committed.map_err(|failure| failure.give_up(guards))? else {
        return Ok(Outcome::Moved(Box::new(changes)));
    };
    failpoint::pass("commit::after_commit");
    Ok(Outcome::Committed(snapshot))
}

fn store_round(connection: &Connection, head: &Head, changes: &Changes) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        let Some(round) = changes.round else { return Ok(()) };
        connection.prepare_cached("INSERT INTO portolan_round VALUES (?1, ?2)")?.execute([round, head.snapshot])?;
        let sql = "INSERT INTO portolan_position VALUES (?1, ?2, ?3) \
                   ON CONFLICT(source) DO UPDATE SET position = excluded.position, round = excluded.round";
        let mut statement = connection.prepare_cached(sql)?;
        for (source, position) in &changes.positions {
            statement.execute(params![source.as_str(), position.to_text(), round])?;
        }
        let sql = "INSERT INTO portolan_watermark VALUES (?1, ?2, ?3) ON CONFLICT(source) DO UPDATE \
                   SET watermark_us = excluded.watermark_us, round = excluded.round \
                   WHERE excluded.watermark_us > watermark_us";
        let mut statement = connection.prepare_cached(sql)?;
        for (source, watermark) in &changes.watermarks {
            statement.execute(params![source.as_str(), watermark.as_microsecond(), round])?;
        }
        // Written when something of it changes, which is seldom.
        let sql = "INSERT INTO portolan_source VALUES (?1, ?2, ?3, ?4) ON CONFLICT(source) DO UPDATE \
                   SET mode = excluded.mode, item_key = excluded.item_key, event_time = excluded.event_time \
                   WHERE mode IS NOT excluded.mode OR item_key IS NOT excluded.item_key \
                   OR event_time IS NOT excluded.event_time";
        let mut statement = connection.prepare_cached(sql)?;
        for settings in changes.tables.iter().filter_map(|table| table.settings.as_ref()) {
            let SourceSettings { source, mode, key, event_time } = settings;
            let key = serde_json::Value::from(key.clone()).to_string();
            statement.execute(params![source.as_str(), mode.as_str(), key, event_time])?;
        }
        Ok(())
    };
    run().map_err(|error| sqlite(OPERATION, error))?;
    store_statuses(connection, &changes.statuses)?;
    if let Some(round) = changes.round {
        crate::quarantine::mark_retried(connection, round, &changes.retried)?;
    }
    for (source, keys, memory) in changes.tables.iter().filter_map(|table| table.keys.as_ref()) {
        crate::keys::store(connection, source, keys, *memory)?;
    }
    Ok(())
}

/// Stores the live state of sources.
pub(crate) fn store_statuses(connection: &Connection, statuses: &[SourceStatus]) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO portolan_source_status \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let mut statement = connection.prepare_cached(sql)?;
        for status in statuses {
            statement.execute(params![
                status.source.as_str(),
                status.address,
                status.state.as_str(),
                status.since.to_string(),
                status.cause_kind,
                status.cause,
                status.hint,
                status.last_round.map(|round| round.0),
                status.last_success.map(|time| time.to_string()),
                status.rows_total,
                status.errors_total,
                status.failures,
            ])?;
        }
        Ok(())
    };
    run().map_err(|error| sqlite("store states", error))
}

fn store_table(connection: &Connection, state: &mut State, head: &mut Head, table: &mut StagedRows) -> Result<()> {
    let name = (table.target.schema.to_owned(), table.target.name.clone());
    if let Some(reason) = state.unreadable.get(&name) {
        return Err(reason.error(OPERATION, &name.1));
    }
    let current = state.tables.get(&name);
    let unchanged = match (&table.base, current) {
        (None, None) => true,
        (Some(base), Some(entry)) => base.id == entry.shape.id && base.schema_version == entry.shape.schema_version,
        _ => false,
    };
    if !unchanged {
        let message = format!("the columns of table `{}` were changed by another writer meanwhile", name.1);
        return Err(Error::new(ErrorKind::Conflict, OPERATION, message)
            .with_hint("the round is read again with the new columns"));
    }
    if current.is_none() {
        let entry = create_table(connection, state, head, table)?;
        state.tables.insert(name.clone(), entry);
    } else if table.changed {
        change_columns(connection, state, head, table, &name)?;
    }
    let Some(entry) = state.tables.get_mut(&name) else { return Err(internal(OPERATION, "a table is gone")) };
    if table.mode == WriteMode::Replace {
        end_rows(connection, head, entry)?;
    }
    if table.rows == 0 {
        return Ok(());
    }
    insert_cells(connection, head, entry, table)?;
    insert_files(connection, head, entry, table)?;
    store_statistics(connection, entry, table)
}

/// Ends every row and file of a table.
fn end_rows(connection: &Connection, head: &mut Head, entry: &TableState) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let id = entry.shape.id;
    for source in crate::reader::inlined_tables(connection, id)? {
        let sql = format!("UPDATE {} SET end_snapshot = ?1 WHERE end_snapshot IS NULL", quoted(&source.name));
        let ended = connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.execute([head.snapshot]))
            .map_err(error)?;
        if ended > 0 {
            push_once(&mut head.changes, format!("inlined_delete:{id}"));
        }
    }
    for (table, what) in [("ducklake_data_file", true), ("ducklake_delete_file", false)] {
        let sql = format!("UPDATE {table} SET end_snapshot = ?1 WHERE table_id = ?2 AND end_snapshot IS NULL");
        let ended = connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.execute([head.snapshot, id]))
            .map_err(error)?;
        if ended > 0 && what {
            push_once(&mut head.changes, format!("deleted_from_table:{id}"));
        }
    }
    Ok(())
}

fn push_once(changes: &mut Vec<String>, change: String) {
    if !changes.contains(&change) {
        changes.push(change);
    }
}

fn insert_cells(
    connection: &Connection,
    head: &mut Head,
    entry: &mut TableState,
    table: &mut StagedRows,
) -> Result<()> {
    let Some(cells) = &mut table.cells else { return Ok(()) };
    if !entry.inlined {
        create_inlined(connection, entry)?;
    }
    let mut sql = format!("INSERT INTO {} VALUES (?, ?, NULL", quoted(&entry.inlined_name()));
    for _ in &entry.shape.columns {
        sql.push_str(", ?");
    }
    sql.push(')');
    let run = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(&sql)?;
        for row in 0..cells.rows() {
            statement.raw_bind_parameter(1, entry.next_row_id + row as i64)?;
            statement.raw_bind_parameter(2, head.snapshot)?;
            for (place, value) in cells.row(row).enumerate() {
                statement.raw_bind_parameter(place + 3, value)?;
            }
            statement.raw_execute()?;
        }
        Ok(())
    };
    run().map_err(|error| sqlite(OPERATION, error))?;
    head.changes.push(format!("inlined_insert:{}", entry.shape.id));
    // DuckDB takes a file id for rows that it keeps inside the catalog; so do we.
    head.next_file_id += 1;
    entry.next_row_id += cells.rows() as i64;
    entry.record_count += cells.rows() as i64;
    Ok(())
}

fn insert_files(connection: &Connection, head: &mut Head, entry: &mut TableState, table: &StagedRows) -> Result<()> {
    for (file, _) in &table.files {
        let id = head.next_file_id;
        head.next_file_id += 1;
        let row = FileRow {
            id,
            table: entry.shape.id,
            begin: head.snapshot,
            row_id_start: entry.next_row_id,
            partial_max: None,
        };
        insert_file(connection, &row, file, &entry.shape.columns)?;
        entry.next_row_id += file.rows as i64;
        entry.record_count += file.rows as i64;
        entry.file_size_bytes += file.size_bytes as i64;
    }
    if !table.files.is_empty() {
        head.changes.push(format!("inserted_into_table:{}", entry.shape.id));
    }
    Ok(())
}

/// What the catalog says of a data file beside what is in it.
pub(crate) struct FileRow {
    pub(crate) id: i64,
    pub(crate) table: i64,
    pub(crate) begin: i64,
    pub(crate) row_id_start: i64,
    pub(crate) partial_max: Option<i64>,
}

/// Puts a data file, its statistics and the digests of its bytes into the catalog.
pub(crate) fn insert_file(
    connection: &Connection,
    row: &FileRow,
    file: &crate::encode::WrittenFile,
    columns: &[StoredColumn],
) -> Result<()> {
    let Some(name) = file.path.file_name().and_then(|name| name.to_str()) else {
        return Err(internal(OPERATION, "a file has no name"));
    };
    let run = || -> rusqlite::Result<()> {
        let sql = "INSERT INTO ducklake_data_file VALUES \
                   (?1, ?2, ?3, NULL, NULL, ?4, 1, 'parquet', ?5, ?6, ?7, ?8, NULL, NULL, NULL, ?9)";
        connection.prepare_cached(sql)?.execute(params![
            row.id,
            row.table,
            row.begin,
            name,
            file.rows,
            file.size_bytes,
            file.footer_size_bytes,
            row.row_id_start,
            row.partial_max
        ])?;
        let sql = "INSERT INTO ducklake_file_column_stats VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, NULL)";
        let mut statement = connection.prepare_cached(sql)?;
        // A file's columns are the first of the table's: those after were added later in the same round.
        for (stored, known) in columns.iter().zip(&file.statistics) {
            let nested = stored.column.kind.is_nested();
            for leaf in leaves(&stored.column) {
                let (min, max) = if nested { (None, None) } else { known.texts(&leaf.kind) };
                let (values, nulls) = match nested {
                    true => (None, None),
                    false => (Some(known.values - known.nulls), Some(known.nulls)),
                };
                let nan = if nested { None } else { known.nan_flag(&leaf.kind) };
                statement.execute(params![row.id, row.table, leaf.id, values, nulls, min, max, nan])?;
            }
        }
        let sql = "INSERT INTO portolan_row_group VALUES (?1, ?2, ?3, ?4)";
        let mut statement = connection.prepare_cached(sql)?;
        for (place, part) in file.parts.iter().enumerate() {
            statement.execute(params![row.id, place, part.bytes, part.sha256])?;
        }
        Ok(())
    };
    run().map_err(|error| sqlite(OPERATION, error))
}

/// Loads the state anew if somebody else has written since.
pub(crate) fn refresh(connection: &Connection, layout: &crate::spec::Layout, state: &mut State) -> Result<()> {
    if state::data_version(connection)? != state.data_version {
        *state = state::load(connection, layout)?;
    }
    Ok(())
}

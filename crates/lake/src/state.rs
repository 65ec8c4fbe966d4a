//! What the writer knows of the tables it commits to, so that a commit reads next to nothing.
//!
//! Promise: it is the catalog's content as of this connection's last look; the writer checks inside each transaction
//! that nobody else has written since, and loads it anew if somebody has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use portolan_model::Result;
use rusqlite::Connection;

use crate::error::sqlite;
use crate::reader::{Unreadable, look_at_columns, tables_at};
use crate::shape::{Shape, SharedShape, StoredColumn};
use crate::spec::Layout;
use crate::statistics::{Statistics, leaves, read_bound};

/// One table.
#[derive(Clone, Debug)]
pub(crate) struct TableState {
    pub(crate) shape: SharedShape,
    pub(crate) record_count: i64,
    pub(crate) next_row_id: i64,
    pub(crate) file_size_bytes: i64,
    /// Statistics of top-level columns, by id.
    pub(crate) statistics: BTreeMap<i64, Statistics>,
    /// Whether the table of inlined rows for the present columns exists.
    pub(crate) inlined: bool,
    /// Whether it has a row in `ducklake_table_stats`.
    pub(crate) counted: bool,
}

impl TableState {
    /// The name of the table of inlined rows for the present columns.
    pub(crate) fn inlined_name(&self) -> String {
        inlined_name(&self.shape)
    }
}

/// The name of the table of inlined rows.
pub(crate) fn inlined_name(shape: &Shape) -> String {
    format!("ducklake_inlined_data_{}_{}", shape.id, shape.schema_version)
}

/// Every table.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By schema and name.
    pub(crate) tables: HashMap<(String, String), TableState>,
    /// Tables to which another program gave a type we do not know: their names are taken, and nothing is committed to
    /// them.
    pub(crate) unreadable: HashMap<(String, String), Unreadable>,
    /// Schema ids by name.
    pub(crate) schemas: HashMap<String, i64>,
    /// SQLite's counter of what others have written.
    pub(crate) data_version: i64,
    /// The folder of the data files.
    pub(crate) data: std::path::PathBuf,
    /// The end of the chain over the rounds; `None` before its first.
    pub(crate) chain: Option<crate::chain::Link>,
}

/// SQLite's counter of what other connections have written.
pub(crate) fn data_version(connection: &Connection) -> Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(|error| sqlite("look at catalog", error))
}

/// Reads the state as of the head.
pub(crate) fn load(connection: &Connection, layout: &Layout) -> Result<State> {
    let error = |error| sqlite("load catalog", error);
    let head: i64 =
        connection.query_row("SELECT max(snapshot_id) FROM ducklake_snapshot", [], |row| row.get(0)).map_err(error)?;
    let mut state = State {
        data_version: data_version(connection)?,
        data: layout.data(),
        chain: crate::chain::last(connection)?,
        ..State::default()
    };
    let mut statement = connection
        .prepare_cached("SELECT schema_name, schema_id FROM ducklake_schema WHERE end_snapshot IS NULL")
        .map_err(error)?;
    let schemas = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    state.schemas = schemas.and_then(Iterator::collect).map_err(error)?;
    for table in tables_at(connection, layout, head)? {
        let (columns, unreadable) = look_at_columns(connection, table.id, head)?;
        if let Some(unreadable) = unreadable {
            state.unreadable.insert((table.schema, table.name), unreadable);
            continue;
        }
        let sql = "SELECT max(schema_version) FROM ducklake_schema_versions WHERE table_id = ?1";
        let schema_version: Option<i64> = connection.query_row(sql, [table.id], |row| row.get(0)).map_err(error)?;
        let sql = "SELECT coalesce(max(column_id), 0) + 1 FROM ducklake_column WHERE table_id = ?1";
        let next_column_id: i64 = connection.query_row(sql, [table.id], |row| row.get(0)).map_err(error)?;
        let names = load_names(connection, table.id)?;
        let columns = columns
            .into_iter()
            .map(|column| {
                let (source, variant) = names.get(&column.id).cloned().unwrap_or((column.name.clone(), false));
                StoredColumn { column, source, variant }
            })
            .collect();
        let shape = Shape {
            id: table.id,
            schema_version: schema_version.unwrap_or(0),
            columns,
            next_column_id,
            folder: table.folder,
        };
        let name = inlined_name(&shape);
        let sql = "SELECT count(*) FROM ducklake_inlined_data_tables WHERE table_name = ?1";
        let inlined: i64 = connection.query_row(sql, [&name], |row| row.get(0)).map_err(error)?;
        let mut entry = TableState {
            statistics: load_statistics(connection, &shape)?,
            shape: Arc::new(shape),
            record_count: 0,
            next_row_id: 0,
            file_size_bytes: 0,
            inlined: inlined > 0,
            counted: false,
        };
        let sql = "SELECT record_count, next_row_id, file_size_bytes FROM ducklake_table_stats WHERE table_id = ?1";
        let mut statement = connection.prepare_cached(sql).map_err(error)?;
        let mut rows = statement.query([table.id]).map_err(error)?;
        if let Some(row) = rows.next().map_err(error)? {
            entry.record_count = row.get(0).map_err(error)?;
            entry.next_row_id = row.get(1).map_err(error)?;
            entry.file_size_bytes = row.get(2).map_err(error)?;
            entry.counted = true;
        }
        state.tables.insert((table.schema, table.name), entry);
    }
    Ok(state)
}

/// What columns were made for, where their names do not tell. DuckDB refuses any column tag but a comment, so this is
/// kept in a table of our own.
pub(crate) fn load_names(connection: &Connection, table: i64) -> Result<HashMap<i64, (String, bool)>> {
    let sql = "SELECT column_id, source, variant FROM portolan_column WHERE table_id = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite("load catalog", error))?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
    rows.and_then(Iterator::collect).map_err(|error| sqlite("load catalog", error))
}

fn load_statistics(connection: &Connection, shape: &Shape) -> Result<BTreeMap<i64, Statistics>> {
    let error = |error| sqlite("load catalog", error);
    let sql = "SELECT column_id, contains_null, contains_nan, min_value, max_value FROM ducklake_table_column_stats \
               WHERE table_id = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([shape.id]).map_err(error)?;
    let kinds: HashMap<i64, &crate::types::Kind> = shape
        .columns
        .iter()
        .flat_map(|stored| leaves(&stored.column))
        .map(|column| (column.id, &column.kind))
        .collect();
    let mut statistics = BTreeMap::new();
    while let Some(row) = rows.next().map_err(error)? {
        let id: i64 = row.get(0).map_err(error)?;
        let Some(kind) = kinds.get(&id) else { continue };
        let flag = |place| row.get::<_, Option<i64>>(place).map(|flag| flag.is_some_and(|flag| flag != 0));
        let text = |place| row.get::<_, Option<String>>(place);
        let (min, max) = (text(3).map_err(error)?, text(4).map_err(error)?);
        let bounds = min.zip(max).and_then(|(min, max)| Some((read_bound(&min, kind)?, read_bound(&max, kind)?)));
        let nan = flag(2).map_err(error)?;
        statistics.insert(
            id,
            Statistics {
                values: 1,
                nulls: u64::from(flag(1).map_err(error)?),
                nan,
                unbounded: nan || bounds.is_none(),
                range: bounds.filter(|_| !nan),
            },
        );
    }
    Ok(statistics)
}

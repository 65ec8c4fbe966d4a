//! Rows that are kept inside the catalog, as Arrow.
//!
//! Promise: they are read a bounded piece at a time, in rows and in bytes.

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use portolan_model::Result;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::table::{load_columns, look_at_columns};
use crate::error::{arrow as arrow_error, corrupt, sqlite};
use crate::spec::has_table;
use crate::text::nested::Node;
use crate::text::read;
use crate::types::{Column, schema_of};

const OPERATION: &str = "read inlined rows";
/// Rows of a batch.
const BATCH_ROWS: usize = 4_096;
/// Bytes of values of a batch, about.
const BATCH_BYTES: usize = 4 << 20;

/// A table of inlined rows: each version of a table's columns has its own.
#[derive(Clone, Debug)]
pub(crate) struct InlinedTable {
    pub(crate) name: String,
    pub(crate) schema_version: i64,
}

/// Which of its rows to read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InlinedFilter {
    /// Those that a snapshot sees.
    VisibleAt(i64),
    /// All that are stored and began at or before a snapshot, those that only older snapshots see among them; without those
    /// that an unsettled flush has put into a file, which are there.
    StoredAt(i64),
    /// Those that began after a snapshot and that a later one sees.
    BeganIn { after: i64, to: i64 },
    /// Those that a snapshot sees and that had ended by a later one.
    EndedIn { at: i64, by: i64 },
    /// Those that have not ended, in the order of SQLite's own numbering, so many at most.
    Current { limit: i64 },
}

impl InlinedFilter {
    /// When rows begin and end, in SQL.
    pub(crate) fn condition(self) -> String {
        let visible = |at| format!("begin_snapshot <= {at} AND (end_snapshot IS NULL OR end_snapshot > {at})");
        match self {
            Self::VisibleAt(snapshot) => visible(snapshot),
            Self::StoredAt(snapshot) => format!("begin_snapshot <= {snapshot}"),
            Self::BeganIn { after, to } => format!("begin_snapshot > {after} AND {}", visible(to)),
            Self::EndedIn { at, by } => {
                format!("begin_snapshot <= {at} AND end_snapshot > {at} AND end_snapshot <= {by}")
            }
            Self::Current { .. } => "end_snapshot IS NULL".to_owned(),
        }
    }
}

/// Rows read, with what DuckLake keeps beside them.
pub(crate) struct InlinedRows {
    pub(crate) batch: RecordBatch,
    pub(crate) row_ids: Int64Array,
    pub(crate) begins: Int64Array,
    /// SQLite's own number of the last row.
    pub(crate) last_row: i64,
}

/// The inlined tables of `table`, oldest columns first.
pub(crate) fn inlined_tables(connection: &Connection, table: i64) -> Result<Vec<InlinedTable>> {
    let sql = "SELECT table_name, schema_version FROM ducklake_inlined_data_tables WHERE table_id = ?1 \
               ORDER BY schema_version";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([table], |row| Ok(InlinedTable { name: row.get(0)?, schema_version: row.get(1)? }));
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// How many inlined rows `snapshot` sees.
pub(crate) fn count_visible(connection: &Connection, table: i64, snapshot: i64) -> Result<u64> {
    let mut total = 0;
    for source in inlined_tables(connection, table)? {
        let sql = format!(
            "SELECT count(*) FROM {} WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
            quoted(&source.name)
        );
        let count: u64 = connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([snapshot], |row| row.get(0)))
            .map_err(|error| sqlite(OPERATION, error))?;
        total += count;
    }
    Ok(total)
}

/// The columns that `source` was made with.
pub(crate) fn columns_of(connection: &Connection, table: i64, source: &InlinedTable) -> Result<Vec<Column>> {
    load_columns(connection, table, schema_begin(connection, table, source)?)
}

/// The names of the columns that `source` was made with, by column id, whatever their types.
fn names_of(connection: &Connection, table: i64, source: &InlinedTable) -> Result<Vec<(i64, String)>> {
    let (columns, _) = look_at_columns(connection, table, schema_begin(connection, table, source)?)?;
    Ok(columns.into_iter().map(|column| (column.id, column.name)).collect())
}

fn schema_begin(connection: &Connection, table: i64, source: &InlinedTable) -> Result<i64> {
    let sql = "SELECT begin_snapshot FROM ducklake_schema_versions WHERE table_id = ?1 AND schema_version = ?2";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([table, source.schema_version], |row| row.get(0)))
        .map_err(|error| sqlite(OPERATION, error))
}

/// Reads rows of `source`, in row order, as `columns`, and hands them to `take` batch by batch until it says no.
pub(crate) fn read_inlined(
    connection: &Connection,
    table: i64,
    source: &InlinedTable,
    columns: &[Column],
    filter: InlinedFilter,
    mut take: impl FnMut(InlinedRows) -> Result<bool>,
) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let stored = names_of(connection, table, source)?;
    // A column is found by its id: it may have been renamed since. What this table does not have yet is null.
    let names: Vec<String> = columns
        .iter()
        .map(|column| match stored.iter().find(|(id, _)| *id == column.id) {
            Some((_, name)) => quoted(name),
            None => "NULL".to_owned(),
        })
        .collect();
    let mut list = String::from("row_id, begin_snapshot, rowid");
    for name in &names {
        list.push_str(", ");
        list.push_str(name);
    }
    let from = quoted(&source.name);
    let condition = match filter {
        InlinedFilter::VisibleAt(_) | InlinedFilter::BeganIn { .. } | InlinedFilter::EndedIn { .. } => {
            format!("WHERE {} ORDER BY row_id", filter.condition())
        }
        InlinedFilter::StoredAt(_) => {
            let mut condition = format!("WHERE {}", filter.condition());
            for (flush, last_row) in flushed(connection, source)? {
                condition.push_str(&format!(" AND NOT (end_snapshot IS {flush} AND rowid <= {last_row})"));
            }
            condition + " ORDER BY row_id"
        }
        InlinedFilter::Current { limit } => format!("WHERE {} ORDER BY rowid LIMIT {limit}", filter.condition()),
    };
    let sql = format!("SELECT {list} FROM {from} {condition}");
    let mut statement = connection.prepare(&sql).map_err(error)?;
    let mut rows = statement.query([]).map_err(error)?;
    let mut pending = Pending::new(columns);
    while let Some(row) = rows.next().map_err(error)? {
        pending.push(row, columns)?;
        if (pending.row_ids.len() >= BATCH_ROWS || pending.bytes >= BATCH_BYTES)
            && !take(std::mem::replace(&mut pending, Pending::new(columns)).batch(columns)?)?
        {
            return Ok(());
        }
    }
    if !pending.row_ids.is_empty() {
        take(pending.batch(columns)?)?;
    }
    Ok(())
}

/// The flushes of `source` that have not been settled: each one's snapshot and last row.
fn flushed(connection: &Connection, source: &InlinedTable) -> Result<Vec<(i64, i64)>> {
    if !has_table(connection, "portolan_flush")? {
        return Ok(Vec::new());
    }
    let sql = "SELECT snapshot_id, last_row FROM portolan_flush WHERE inlined_table = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([&source.name], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// Rows of a batch that is being read.
struct Pending {
    row_ids: Vec<i64>,
    begins: Vec<i64>,
    last_row: i64,
    values: Vec<Vec<Node>>,
    bytes: usize,
}

impl Pending {
    fn new(columns: &[Column]) -> Self {
        let values = columns.iter().map(|_| Vec::new()).collect();
        Self { row_ids: Vec::new(), begins: Vec::new(), last_row: 0, values, bytes: 0 }
    }

    fn push(&mut self, row: &Row<'_>, columns: &[Column]) -> Result<()> {
        let error = |error| sqlite(OPERATION, error);
        self.row_ids.push(row.get(0).map_err(error)?);
        self.begins.push(row.get(1).map_err(error)?);
        self.last_row = row.get(2).map_err(error)?;
        for (place, nodes) in self.values.iter_mut().enumerate() {
            let value = row.get_ref(place + 3).map_err(error)?;
            if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = value {
                self.bytes += bytes.len();
            }
            nodes.push(match value {
                ValueRef::Null => Node::Null,
                ValueRef::Integer(value) => Node::Integer(value),
                ValueRef::Real(value) => Node::Real(value),
                ValueRef::Blob(bytes) => Node::Bytes(bytes.to_vec()),
                ValueRef::Text(bytes) => Node::Text(
                    String::from_utf8(bytes.to_vec())
                        .map_err(|_| corrupt(OPERATION, format!("column `{}` is not UTF-8", columns[place].name)))?,
                ),
            });
        }
        self.bytes += self.values.len() * size_of::<Node>();
        Ok(())
    }

    fn batch(self, columns: &[Column]) -> Result<InlinedRows> {
        let arrays = columns.iter().zip(self.values).map(|(column, nodes)| read::column(column, nodes));
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.row_ids.len()));
        let batch = RecordBatch::try_new_with_options(schema_of(columns), arrays, &options)
            .map_err(|error| arrow_error(OPERATION, error))?;
        Ok(InlinedRows { batch, row_ids: self.row_ids.into(), begins: self.begins.into(), last_row: self.last_row })
    }
}

/// A name as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! What a snapshot says of its tables: columns, files, deletes, statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use portolan_model::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};

use crate::error::{corrupt, sqlite};
use crate::spec::{Layout, has_table};
use crate::types::{Column, Kind, schema_of};

const OPERATION: &str = "read catalog";

/// A table as one snapshot sees it.
#[derive(Clone, Debug)]
pub struct TableView {
    /// DuckLake's table id.
    pub id: i64,
    /// The name of the schema it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns in their order; one of a type that this build does not read stands as text.
    pub columns: Vec<Column>,
    /// The same as an Arrow schema, each field with its `PARQUET:field_id`.
    pub arrow: SchemaRef,
    /// Its Parquet files.
    pub files: Vec<DataFile>,
    /// Rows kept inside the catalog. A table that cannot be read counts as one, so that whoever scans it asks for its
    /// rows and is told why.
    pub inlined_rows: u64,
    /// Why its rows cannot be read: another program gave it what this build does not read.
    pub(crate) unreadable: Option<Unreadable>,
}

/// Why a table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    message: String,
    hint: Option<String>,
}

impl Unreadable {
    /// `error`, if it is about this table's content alone.
    fn of(error: Error) -> Result<Self> {
        match error.kind() {
            ErrorKind::Data => Ok(Self { message: error.message().to_owned(), hint: error.hint().map(str::to_owned) }),
            _ => Err(error),
        }
    }

    /// The error in `operation`, for table `name`.
    pub(crate) fn error(&self, operation: &'static str, name: &str) -> Error {
        let error = Error::new(ErrorKind::Data, operation, format!("table `{name}`: {}", self.message));
        match &self.hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        }
    }
}

impl TableView {
    /// Rows of the table: exact unless a file needs decoding for deleted or later rows.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows.saturating_sub(file.deleted_rows)).sum::<u64>() + self.inlined_rows
    }

    /// # Errors
    /// `Data` if another program gave the table what this build does not read.
    pub(crate) fn readable(&self) -> Result<()> {
        self.unreadable.as_ref().map_or(Ok(()), |reason| Err(reason.error("read table", &self.name)))
    }

    pub(crate) fn projected(&self, projection: Option<&[usize]>) -> Result<Vec<Column>> {
        self.readable()?;
        let Some(places) = projection else { return Ok(self.columns.clone()) };
        let pick = |place: &usize| {
            self.columns.get(*place).cloned().ok_or_else(|| {
                let message = format!("table `{}` has {} columns, none at {place}", self.name, self.columns.len());
                Error::new(ErrorKind::Internal, "read table", message)
            })
        };
        places.iter().map(pick).collect()
    }
}

/// A Parquet file of a table.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// DuckLake's file id.
    pub id: i64,
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Rows in the file, before deletes.
    pub rows: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The size of its footer in bytes, without the last eight.
    pub footer_size_bytes: u64,
    /// The snapshot from which on it is visible.
    pub begin_snapshot: i64,
    /// The snapshot from which on it is not, if it has ended.
    pub end_snapshot: Option<i64>,
    /// The id of its first row, for files that do not hold row ids themselves.
    pub row_id_start: i64,
    /// The latest snapshot that added rows to it, where it holds rows of several.
    pub partial_max: Option<i64>,
    /// Statistics by column id; a column without them may hold anything, or be missing from the file.
    pub statistics: BTreeMap<i64, ColumnStatistics>,
    /// Files that list deleted rows.
    pub delete_files: Vec<DeleteFile>,
    /// Places of rows deleted by entries inside the catalog.
    pub deleted_positions: Vec<i64>,
    /// Rows known to be deleted.
    pub deleted_rows: u64,
    /// Whether its flush has not been settled: its rows' own snapshots do not count yet.
    pub unsettled: bool,
}

impl DataFile {
    /// Whether what is known of the numbers in `column` leaves room for one from `low` to `high`.
    pub(crate) fn may_hold(&self, column: i64, low: i64, high: i64) -> bool {
        let Some(known) = self.statistics.get(&column) else { return true };
        let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
        number(&known.max).is_none_or(|max| max >= low) && number(&known.min).is_none_or(|min| min <= high)
    }
}

/// A file that lists deleted rows of a data file.
#[derive(Clone, Debug)]
pub struct DeleteFile {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// `parquet`; anything else is refused when read.
    pub format: String,
}

/// What is known of one column's values in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnStatistics {
    /// Values that are null.
    pub null_count: Option<u64>,
    /// The least value, in DuckDB's text form.
    pub min: Option<String>,
    /// The greatest value, in DuckDB's text form.
    pub max: Option<String>,
    /// Whether a float column holds NaN.
    pub contains_nan: Option<bool>,
}

/// Identity of a table in a snapshot.
pub(crate) struct TableName {
    pub(crate) id: i64,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

/// The tables that exist at `snapshot`.
pub(crate) fn tables_at(connection: &Connection, layout: &Layout, snapshot: i64) -> Result<Vec<TableName>> {
    let sql = "SELECT t.table_id, s.schema_name, t.table_name, s.path, s.path_is_relative, t.path, t.path_is_relative \
               FROM ducklake_table t JOIN ducklake_schema s ON s.schema_id = t.schema_id \
               AND s.begin_snapshot <= ?1 AND (s.end_snapshot IS NULL OR s.end_snapshot > ?1) \
               WHERE t.begin_snapshot <= ?1 AND (t.end_snapshot IS NULL OR t.end_snapshot > ?1) ORDER BY 2, 3";
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([snapshot], |row| {
        let join = |base: PathBuf, path: String, relative: bool| if relative { base.join(path) } else { path.into() };
        let schema_folder = join(layout.data(), row.get(3)?, row.get(4)?);
        let folder = join(schema_folder, row.get(5)?, row.get(6)?);
        Ok(TableName { id: row.get(0)?, schema: row.get(1)?, name: row.get(2)?, folder })
    });
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// Everything about the tables that exist at `snapshot`. A table that cannot be read is among them: the error is that of
/// reading it, not of reading the others.
pub(crate) fn load_tables(connection: &Connection, layout: &Layout, snapshot: i64) -> Result<Vec<TableView>> {
    let mut tables = Vec::new();
    let unsettled = unsettled_files(connection)?;
    for TableName { id, schema, name, folder } in tables_at(connection, layout, snapshot)? {
        let (columns, mut unreadable) = look_at_columns(connection, id, snapshot)?;
        let mut files = match load_files(connection, id, &folder, snapshot) {
            Ok(files) if unreadable.is_none() => files,
            Ok(_) => Vec::new(),
            Err(error) => {
                unreadable = Some(Unreadable::of(error)?);
                Vec::new()
            }
        };
        for file in files.iter_mut().filter(|file| unsettled.contains(&file.id)) {
            file.unsettled = true;
        }
        let inlined_rows = match unreadable {
            None => super::inlined::count_visible(connection, id, snapshot)?,
            Some(_) => 1,
        };
        let arrow = schema_of(&columns);
        tables.push(TableView { id, schema, name, arrow, columns, files, inlined_rows, unreadable });
    }
    Ok(tables)
}

/// Files whose flush has not been settled.
fn unsettled_files(connection: &Connection) -> Result<BTreeSet<i64>> {
    // Only the collector makes this table.
    if !has_table(connection, "portolan_flush")? {
        return Ok(BTreeSet::new());
    }
    let mut statement = connection
        .prepare_cached("SELECT data_file_id FROM portolan_flush")
        .map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| row.get(0));
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

struct ColumnRow {
    id: i64,
    name: String,
    kind: String,
    parent: Option<i64>,
}

/// The columns of `table` at `snapshot`, with their parts.
///
/// # Errors
/// `Data` for a column type this build does not read.
pub(crate) fn load_columns(connection: &Connection, table: i64, snapshot: i64) -> Result<Vec<Column>> {
    let mut unknown = None;
    let columns = load_parts(connection, table, snapshot, &mut unknown)?;
    unknown.map_or(Ok(columns), Err)
}

/// The columns of `table` at `snapshot`, and why it cannot be read if one has a type this build does not read: it
/// stands as text.
pub(crate) fn look_at_columns(
    connection: &Connection,
    table: i64,
    snapshot: i64,
) -> Result<(Vec<Column>, Option<Unreadable>)> {
    let mut unknown = None;
    let columns = load_parts(connection, table, snapshot, &mut unknown)?;
    Ok((columns, unknown.map(Unreadable::of).transpose()?))
}

/// The columns that `table` has or ever had at or before `snapshot`, each as it was last: what its rows were stored with.
///
/// # Errors
/// `Data` for a column type this build does not read.
pub(crate) fn columns_ever(connection: &Connection, table: i64, snapshot: i64) -> Result<Vec<Column>> {
    let sql = "SELECT c.column_id, c.column_name, c.column_type, c.parent_column FROM ducklake_column c \
               WHERE c.table_id = ?1 AND c.begin_snapshot = (SELECT max(o.begin_snapshot) FROM ducklake_column o \
               WHERE o.table_id = ?1 AND o.column_id = c.column_id AND o.begin_snapshot <= ?2) ORDER BY c.column_order, c.column_id";
    let mut unknown = None;
    let columns = query_parts(connection, sql, table, snapshot, &mut unknown)?;
    unknown.map_or(Ok(columns), Err)
}

fn load_parts(connection: &Connection, table: i64, snapshot: i64, unknown: &mut Option<Error>) -> Result<Vec<Column>> {
    let sql = "SELECT column_id, column_name, column_type, parent_column FROM ducklake_column WHERE table_id = ?1 \
               AND begin_snapshot <= ?2 AND (end_snapshot IS NULL OR end_snapshot > ?2) ORDER BY column_order, column_id";
    query_parts(connection, sql, table, snapshot, unknown)
}

fn query_parts(
    connection: &Connection,
    sql: &str,
    table: i64,
    snapshot: i64,
    unknown: &mut Option<Error>,
) -> Result<Vec<Column>> {
    let mut statement = connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([table, snapshot], |row| {
        Ok(ColumnRow { id: row.get(0)?, name: row.get(1)?, kind: row.get(2)?, parent: row.get(3)? })
    });
    let rows: Vec<ColumnRow> = rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?;
    let mut children: BTreeMap<Option<i64>, Vec<&ColumnRow>> = BTreeMap::new();
    for row in &rows {
        children.entry(row.parent).or_default().push(row);
    }
    parts(&children, None, 0, unknown)
}

fn parts(
    children: &BTreeMap<Option<i64>, Vec<&ColumnRow>>,
    parent: Option<i64>,
    depth: usize,
    unknown: &mut Option<Error>,
) -> Result<Vec<Column>> {
    if depth > 64 {
        return Err(corrupt(OPERATION, "columns are nested in a circle"));
    }
    let mut columns = Vec::new();
    for row in children.get(&parent).map_or(&[][..], Vec::as_slice) {
        let mut inner = || parts(children, Some(row.id), depth + 1, unknown);
        let wrong = || corrupt(OPERATION, format!("column `{}` of type {} lacks its parts", row.name, row.kind));
        let kind = match row.kind.as_str() {
            "list" => Kind::List(Box::new(inner()?.into_iter().next().ok_or_else(wrong)?)),
            "struct" => Kind::Struct(inner()?),
            "map" => {
                let mut parts = inner()?.into_iter();
                let key = parts.next().ok_or_else(wrong)?;
                Kind::Map(Box::new(key), Box::new(parts.next().ok_or_else(wrong)?))
            }
            name => Kind::from_name(name).unwrap_or_else(|| {
                let error = Error::new(ErrorKind::Data, OPERATION, format!("column `{}` has type {name}", row.name))
                    .with_hint("another program gave it a type that Portolan does not read: query it with DuckDB");
                unknown.get_or_insert(error);
                Kind::Varchar
            }),
        };
        columns.push(Column { id: row.id, name: row.name.clone(), kind });
    }
    Ok(columns)
}

fn load_files(connection: &Connection, table: i64, folder: &std::path::Path, snapshot: i64) -> Result<Vec<DataFile>> {
    let mut files =
        query_files(connection, table, folder, snapshot, "(f.end_snapshot IS NULL OR f.end_snapshot > ?2)")?;
    let places: BTreeMap<i64, usize> = files.iter().enumerate().map(|(place, file)| (file.id, place)).collect();
    load_deletes(connection, table, folder, snapshot, &places, &mut files)?;
    Ok(files)
}

/// Every file that the catalog names for a table and that began at or before `snapshot`, those that only older snapshots
/// see among them, with all rows: what is deleted from them is left out.
///
/// # Errors
/// `Data` for a file that this build does not read.
pub(crate) fn stored_files(
    connection: &Connection,
    table: i64,
    folder: &std::path::Path,
    snapshot: i64,
) -> Result<Vec<DataFile>> {
    let unsettled = unsettled_files(connection)?;
    let mut files = query_files(connection, table, folder, snapshot, "TRUE")?;
    for file in files.iter_mut().filter(|file| unsettled.contains(&file.id)) {
        file.unsettled = true;
    }
    Ok(files)
}

fn query_files(
    connection: &Connection,
    table: i64,
    folder: &std::path::Path,
    snapshot: i64,
    condition: &str,
) -> Result<Vec<DataFile>> {
    let error = |error| sqlite(OPERATION, error);
    let sql = format!(
        "SELECT data_file_id, path, path_is_relative, record_count, file_size_bytes, footer_size, begin_snapshot, \
         row_id_start, partial_max, file_format, encryption_key, mapping_id, end_snapshot FROM ducklake_data_file f \
         WHERE table_id = ?1 AND begin_snapshot <= ?2 AND {condition} ORDER BY row_id_start, data_file_id"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(error)?;
    let mut rows = statement.query([table, snapshot]).map_err(error)?;
    let mut files = Vec::new();
    while let Some(row) = rows.next().map_err(error)? {
        let read = || -> rusqlite::Result<_> {
            let path: String = row.get(1)?;
            let begin_snapshot = row.get(6)?;
            let partial_max: Option<i64> = row.get(8)?;
            let foreign = row.get::<_, String>(9)? != "parquet"
                || row.get::<_, Option<String>>(10)?.is_some()
                || row.get::<_, Option<i64>>(11)?.is_some();
            let file = DataFile {
                id: row.get(0)?,
                path: if row.get(2)? { folder.join(path) } else { path.into() },
                rows: row.get(3)?,
                size_bytes: row.get(4)?,
                footer_size_bytes: row.get::<_, Option<u64>>(5)?.unwrap_or(0),
                begin_snapshot,
                end_snapshot: row.get(12)?,
                row_id_start: row.get::<_, Option<i64>>(7)?.unwrap_or(0),
                partial_max,
                statistics: BTreeMap::new(),
                delete_files: Vec::new(),
                deleted_positions: Vec::new(),
                deleted_rows: 0,
                unsettled: false,
            };
            Ok((file, foreign))
        };
        let (file, foreign) = read().map_err(error)?;
        if foreign {
            let message = format!("{} is encrypted, mapped by name or not Parquet", file.path.display());
            return Err(Error::new(ErrorKind::Data, OPERATION, message)
                .with_hint("another program added it: query this table with DuckDB"));
        }
        files.push(file);
    }
    let places: BTreeMap<i64, usize> = files.iter().enumerate().map(|(place, file)| (file.id, place)).collect();
    load_statistics(connection, table, snapshot, condition, &places, &mut files)?;
    Ok(files)
}

fn load_statistics(
    connection: &Connection,
    table: i64,
    snapshot: i64,
    condition: &str,
    places: &BTreeMap<i64, usize>,
    files: &mut [DataFile],
) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let sql = format!(
        "SELECT s.data_file_id, s.column_id, s.null_count, s.min_value, s.max_value, s.contains_nan \
         FROM ducklake_data_file f JOIN ducklake_file_column_stats s ON s.data_file_id = f.data_file_id \
         WHERE f.table_id = ?1 AND f.begin_snapshot <= ?2 AND {condition}"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(error)?;
    let mut rows = statement.query([table, snapshot]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let Some(place) = places.get(&row.get::<_, i64>(0).map_err(error)?) else { continue };
        let read = || -> rusqlite::Result<_> {
            let contains_nan = row.get::<_, Option<i64>>(5)?.map(|flag| flag != 0);
            let (null_count, min, max) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((row.get::<_, i64>(1)?, ColumnStatistics { null_count, min, max, contains_nan }))
        };
        let (column, statistics) = read().map_err(error)?;
        files[*place].statistics.insert(column, statistics);
    }
    Ok(())
}

fn load_deletes(
    connection: &Connection,
    table: i64,
    folder: &std::path::Path,
    snapshot: i64,
    places: &BTreeMap<i64, usize>,
    files: &mut [DataFile],
) -> Result<()> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT data_file_id, path, path_is_relative, format, delete_count FROM ducklake_delete_file \
               WHERE table_id = ?1 AND begin_snapshot <= ?2 AND (end_snapshot IS NULL OR end_snapshot > ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([table, snapshot]).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let read = || -> rusqlite::Result<_> {
            let path: String = row.get(1)?;
            let path = if row.get(2)? { folder.join(path) } else { path.into() };
            Ok((row.get::<_, i64>(0)?, DeleteFile { path, format: row.get(3)? }, row.get::<_, u64>(4)?))
        };
        let (file, delete, count) = read().map_err(error)?;
        let Some(place) = places.get(&file) else { continue };
        files[*place].deleted_rows += count;
        files[*place].delete_files.push(delete);
    }
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let name = format!("ducklake_inlined_delete_{table}");
    let found: Option<String> = connection.query_row(sql, [&name], |row| row.get(0)).optional().map_err(error)?;
    if found.is_some() {
        let sql = format!("SELECT file_id, row_id FROM {name} WHERE begin_snapshot <= ?1");
        let mut statement = connection.prepare_cached(&sql).map_err(error)?;
        let mut rows = statement.query([snapshot]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let (file, position) = (row.get::<_, i64>(0).map_err(error)?, row.get::<_, i64>(1).map_err(error)?);
            let Some(place) = places.get(&file) else { continue };
            files[*place].deleted_rows += 1;
            files[*place].deleted_positions.push(position);
        }
    }
    Ok(())
}

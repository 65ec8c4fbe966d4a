//! What must be true of a lake after any cut, looked at without the product's own code: SQLite's integrity, whole
//! rounds, complete Parquet files, positions that agree with rows, and no reported round missing.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rusqlite::{Connection, OptionalExtension};

use super::{Files, write_files};
use crate::crash::world::{PositionKind, RISING, Rising};

/// The catalog and what belongs to it; its shared memory is made anew by SQLite.
const CATALOG_FILES: [&str; 3] = ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-journal"];
const RECEIPTS: &str = "receipts";

/// What a cut must hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    /// The highest round that had been reported as committed.
    pub(super) committed: Option<i64>,
}

/// What a cut held.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Rows of the rising tables.
    pub(super) rows: u64,
}

/// A row as far as the checks look: whole numbers and texts by column.
type Row = Vec<Cell>;

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Number(i64),
    Text(String),
}

impl Cell {
    fn number(&self) -> i64 {
        if let Self::Number(number) = self { *number } else { i64::MIN }
    }
}

/// Checks cuts one after the other; remembers Parquet files that it has read before.
pub(super) struct Checker {
    folder: PathBuf,
    /// Path and digest of the content → its rows.
    known: BTreeMap<(PathBuf, u64), i64>,
}

impl Checker {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("lake");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, known: BTreeMap::new() })
    }

    /// Checks one cut.
    pub(super) fn check(&mut self, files: &Files, expected: Expectation) -> Result<Found> {
        let catalog: Files = files
            .iter()
            .filter(|(path, _)| CATALOG_FILES.iter().any(|name| path.as_path() == Path::new(name)))
            .map(|(path, content)| (path.clone(), content.clone()))
            .collect();
        for name in CATALOG_FILES.into_iter().chain(["catalog.sqlite-shm"]) {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        write_files(&self.folder, &catalog)?;
        let connection = Connection::open(self.folder.join(CATALOG_FILES[0]))?;
        let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(integrity == "ok", "SQLite's integrity check says: {integrity}");
        if !has_table(&connection, "ducklake_snapshot")? || !has_table(&connection, "portolan_round")? {
            ensure!(expected.committed.is_none(), "the catalog is empty, round {:?} was reported", expected.committed);
            return Ok(Found::default());
        }
        self.check_catalog(&connection, files, expected)
    }

    fn check_catalog(&mut self, connection: &Connection, files: &Files, expected: Expectation) -> Result<Found> {
        let newest: Option<i64> =
            connection.query_row("SELECT max(round) FROM portolan_round", [], |row| row.get(0))?;
        ensure!(newest >= expected.committed, "the newest round is {newest:?}, {:?} was reported", expected.committed);
        // Every file that any snapshot refers to, not only those of the newest.
        self.files_of(connection, files, "")?;
        let Some(receipts) = self.rows(connection, files, RECEIPTS, ["round", "source", "rows"])? else {
            ensure!(newest.is_none(), "there are rounds and no table of receipts");
            return Ok(Found::default());
        };
        let mut found = Found::default();
        for rising in RISING {
            let table = rising.table;
            let rows = self.rows(connection, files, table, ["_round", "id", "id"])?.unwrap_or_default();
            found.rows += rows.len() as u64;
            check_rounds(rising, &rows, &receipts)?;
            match rising.position {
                PositionKind::Highest => check_position(connection, table, &rows)?,
                PositionKind::Intake => check_intake(connection, table, files)?,
                PositionKind::Other => {}
            }
        }
        Ok(found)
    }

    /// The rows of a table at the newest snapshot, in three columns; `None` if there is no such table.
    fn rows(
        &mut self,
        connection: &Connection,
        files: &Files,
        table: &str,
        columns: [&str; 3],
    ) -> Result<Option<Vec<Row>>> {
        let sql = "SELECT table_id FROM ducklake_table WHERE table_name = ?1 AND end_snapshot IS NULL";
        let mut statement = connection.prepare(sql)?;
        let ids = statement.query_map([table], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
        let [table_id] = ids.as_slice() else {
            ensure!(ids.is_empty(), "{} tables have the name `{table}`", ids.len());
            return Ok(None);
        };
        let deleted = "SELECT count(*) FROM ducklake_delete_file WHERE table_id = ?1 AND end_snapshot IS NULL";
        let deleted: i64 = connection.query_row(deleted, [table_id], |row| row.get(0))?;
        ensure!(deleted == 0, "`{table}` has {deleted} delete files, which the collector never writes");
        let mut rows = inlined_rows(connection, *table_id, columns)?;
        for (path, content) in
            self.files_of(connection, files, &format!("AND f.table_id = {table_id} AND f.end_snapshot IS NULL"))?
        {
            rows.extend(read_columns(&path, content, columns)?);
        }
        Ok(Some(rows))
    }

    /// The data files that the catalog names under `condition`, each complete.
    fn files_of(&mut self, connection: &Connection, files: &Files, condition: &str) -> Result<Vec<(PathBuf, Bytes)>> {
        let sql = format!(
            "SELECT f.path, f.path_is_relative, t.path, s.path, f.file_size_bytes, f.record_count \
             FROM ducklake_data_file f \
             JOIN (SELECT DISTINCT table_id, schema_id, path FROM ducklake_table) t ON t.table_id = f.table_id \
             JOIN (SELECT DISTINCT schema_id, path FROM ducklake_schema) s ON s.schema_id = t.schema_id \
             WHERE 1 {condition}"
        );
        let mut statement = connection.prepare(&sql)?;
        let mut answer = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = answer.next()? {
            let (name, is_relative): (String, i64) = (row.get(0)?, row.get(1)?);
            ensure!(is_relative == 1, "the path of data file {name} is not relative");
            let (table, schema): (String, String) = (row.get(2)?, row.get(3)?);
            let path = Path::new("data").join(schema).join(table).join(name);
            let (size, count): (u64, i64) = (row.get(4)?, row.get(5)?);
            let content =
                files.get(&path).with_context(|| format!("{} is referred to and not there", path.display()))?;
            ensure!(
                content.len() as u64 == size,
                "{} has {} bytes, the catalog says {size}",
                path.display(),
                content.len()
            );
            self.check_parquet(&path, content, count)?;
            found.push((path, Bytes::copy_from_slice(content)));
        }
        Ok(found)
    }

    fn check_parquet(&mut self, path: &Path, content: &[u8], count: i64) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let key = (path.to_owned(), hasher.finish());
        let rows = match self.known.get(&key) {
            Some(rows) => *rows,
            None => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(content))
                    .with_context(|| format!("{} is not a complete Parquet file", path.display()))?
                    .build()?;
                let mut rows = 0;
                for batch in reader {
                    rows += batch.with_context(|| format!("{} cannot be read", path.display()))?.num_rows() as i64;
                }
                self.known.insert(key, rows);
                rows
            }
        };
        ensure!(rows == count, "{} has {rows} rows, the catalog says {count}", path.display());
        Ok(())
    }
}

fn has_table(connection: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    Ok(connection.query_row(sql, [name], |row| row.get::<_, i64>(0))? > 0)
}

/// Rows kept inside the catalog that the newest snapshot shows.
fn inlined_rows(connection: &Connection, table_id: i64, columns: [&str; 3]) -> Result<Vec<Row>> {
    let sql = "SELECT table_name FROM ducklake_inlined_data_tables WHERE table_id = ?1";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([table_id], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut rows = Vec::new();
    for name in names {
        let list = columns.map(|column| format!("\"{column}\"")).join(", ");
        let mut statement = connection.prepare(&format!("SELECT {list} FROM \"{name}\" WHERE end_snapshot IS NULL"))?;
        let mut answer = statement.query([])?;
        while let Some(row) = answer.next()? {
            let cell = |index| -> Result<Cell> {
                Ok(match row.get_ref(index)? {
                    rusqlite::types::ValueRef::Integer(number) => Cell::Number(number),
                    rusqlite::types::ValueRef::Text(text) => {
                        let text = String::from_utf8_lossy(text).into_owned();
                        text.parse().map_or(Cell::Text(text), Cell::Number)
                    }
                    _ => Cell::Null,
                })
            };
            rows.push(vec![cell(0)?, cell(1)?, cell(2)?]);
        }
    }
    Ok(rows)
}

fn read_columns(path: &Path, content: Bytes, columns: [&str; 3]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(content)?.build()? {
        let batch = batch?;
        let column = |name: &str| -> Result<Vec<Cell>> {
            let array = batch.column_by_name(name).with_context(|| format!("{} lacks `{name}`", path.display()))?;
            let is_text = matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let array = cast(array, if is_text { &DataType::Utf8 } else { &DataType::Int64 })?;
            let cell = |index: usize| {
                if array.is_null(index) {
                    return Cell::Null;
                }
                if let Some(numbers) = array.as_any().downcast_ref::<Int64Array>() {
                    return Cell::Number(numbers.value(index));
                }
                let texts = array.as_any().downcast_ref::<StringArray>();
                texts.map_or(Cell::Null, |texts| Cell::Text(texts.value(index).to_owned()))
            };
            Ok((0..array.len()).map(cell).collect())
        };
        let [first, second, third] = [column(columns[0])?, column(columns[1])?, column(columns[2])?];
        rows.extend(first.into_iter().zip(second).zip(third).map(|((a, b), c)| vec![a, b, c]));
    }
    Ok(rows)
}

/// `rows` are (round, id, id), `receipts` (round, source, rows).
fn check_rounds(rising: Rising, rows: &[Row], receipts: &[Row]) -> Result<()> {
    let table = rising.table;
    let mut held: BTreeMap<i64, i64> = BTreeMap::new();
    for row in rows {
        *held.entry(row[0].number()).or_default() += 1;
    }
    for receipt in receipts.iter().filter(|receipt| receipt[1] == Cell::Text(table.to_owned())) {
        let (round, said) = (receipt[0].number(), receipt[2].number());
        let found = held.remove(&round).unwrap_or(0);
        ensure!(found == said, "round {round} of `{table}` has {found} rows, its receipt says {said}");
    }
    ensure!(held.is_empty(), "`{table}` has rows of rounds without a receipt: {held:?}");
    let ids: BTreeSet<i64> = rows.iter().map(|row| row[1].number()).collect();
    ensure!(ids.len() == rows.len(), "`{table}` holds {} rows of {} numbers: duplicated", rows.len(), ids.len());
    let Some(highest) = ids.last() else { return Ok(()) };
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for id in &ids {
        ends.insert((rising.part)(*id), *id);
    }
    for id in 1..=*highest {
        let is_due = ends.get(&(rising.part)(id)).is_some_and(|end| id <= *end);
        ensure!(!is_due || ids.contains(&id), "`{table}` does not hold {id}, and holds rows after it: lost");
    }
    Ok(())
}

/// The stored position names the highest number that is there.
fn check_position(connection: &Connection, table: &str, rows: &[Row]) -> Result<()> {
    let Some(highest) = rows.iter().map(|row| row[1].number()).max() else { return Ok(()) };
    let sql = "SELECT position FROM portolan_position WHERE source = ?1";
    let position: String =
        connection.query_row(sql, [table], |row| row.get(0)).with_context(|| format!("no position of `{table}`"))?;
    let highest = highest.to_string();
    let named = position.split(|c: char| !c.is_ascii_digit()).any(|number| number == highest);
    if !named {
        bail!("`{table}` holds rows up to {highest}, its position is {position}");
    }
    Ok(())
}

/// A committed position lies within what is safe of the intake log: a log that ends before it would give the next messages
/// places that are taken for committed.
fn check_intake(connection: &Connection, source: &str, files: &Files) -> Result<()> {
    let sql = "SELECT position FROM portolan_position WHERE source = ?1";
    let Some(position) = connection.query_row(sql, [source], |row| row.get::<_, String>(0)).optional()? else {
        return Ok(());
    };
    let value: serde_json::Value = serde_json::from_str(&position)?;
    let number = |key: &str| value["value"][key].as_u64().with_context(|| format!("no `{key}` in {position}"));
    let (segment, offset) = (number("segment")?, number("offset")?);
    let path = PathBuf::from(format!("intake/{source}/{segment:020}.log"));
    let length = files.get(&path).map(Vec::len);
    ensure!(
        length.is_some_and(|length| length as u64 >= offset),
        "the position of `{source}` is {position}, and {} has {length:?} bytes",
        path.display()
    );
    Ok(())
}

/// Makes a rebuilt catalog point to its own folder, as the product does when a lake was moved.
pub(super) fn point_to(lake: &Path) -> Result<()> {
    let connection = Connection::open(lake.join(CATALOG_FILES[0]))?;
    let data = format!("{}/", lake.join("data").display());
    connection.execute("UPDATE ducklake_metadata SET \"value\" = ?1 WHERE \"key\" = 'data_path'", [data])?;
    Ok(())
}

//! The files: those that the catalog names, and those that it does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use portolan_model::Result;
use rusqlite::OptionalExtension;

use super::{Check, OPERATION, RESTORE, Severity};
use crate::error::sqlite;
use crate::maintenance::{ROW_ID_FIELD, SNAPSHOT_ID_FIELD};
use crate::reader::ROW_ID_NAME;
use crate::spec::open_reader;
use crate::statistics::read_bound;
use crate::types::Kind;

/// The age from which a file that the catalog does not name is an orphan, in seconds: a collector commits its own sooner.
const ORPHAN_AGE_S: u64 = 600;

/// A file as the catalog names it.
struct Named {
    id: i64,
    table: i64,
    path: PathBuf,
    rows: i64,
    bytes: i64,
    footer: Option<i64>,
    row_id_start: Option<i64>,
    is_current: bool,
    /// What this build does not read of it.
    foreign: Option<String>,
    /// The file whose rows a delete file lists.
    deletes_from: Option<i64>,
}

impl Check<'_> {
    pub(super) fn files(&mut self) -> Result<()> {
        let data = self.named(
            "SELECT f.data_file_id, f.table_id, f.record_count, f.file_size_bytes, f.footer_size, f.row_id_start, \
             f.end_snapshot IS NULL, CASE WHEN f.file_format <> 'parquet' THEN 'it is not Parquet' \
             WHEN f.encryption_key IS NOT NULL THEN 'it is encrypted' WHEN f.mapping_id IS NOT NULL THEN \
             'it is mapped by name' END, NULL, f.path, f.path_is_relative, t.path, t.path_is_relative, s.path, \
             s.path_is_relative FROM ducklake_data_file f LEFT JOIN ducklake_table t ON t.table_id = f.table_id \
             LEFT JOIN ducklake_schema s ON s.schema_id = t.schema_id GROUP BY f.data_file_id",
        )?;
        let deletes = self.named(
            "SELECT f.delete_file_id, f.table_id, f.delete_count, f.file_size_bytes, f.footer_size, NULL, \
             f.end_snapshot IS NULL, CASE WHEN f.format <> 'parquet' THEN 'it is not Parquet' \
             WHEN f.encryption_key IS NOT NULL THEN 'it is encrypted' END, f.data_file_id, f.path, f.path_is_relative, \
             t.path, t.path_is_relative, s.path, s.path_is_relative FROM ducklake_delete_file f \
             LEFT JOIN ducklake_table t ON t.table_id = f.table_id \
             LEFT JOIN ducklake_schema s ON s.schema_id = t.schema_id GROUP BY f.delete_file_id",
        )?;
        let columns = self.column_ids()?;
        let known: BTreeSet<i64> = data.iter().map(|file| file.id).collect();
        let mut next_rows: BTreeMap<i64, i64> = BTreeMap::new();
        let mut ranges: BTreeMap<i64, Vec<(i64, i64, String)>> = BTreeMap::new();
        for file in &data {
            (self.progress)(&file.path.display().to_string());
            self.report.files += 1;
            let Some(metadata) = self.file(file)? else { continue };
            let schema = metadata.file_metadata().schema_descr().root_schema();
            let has_ids = schema.get_fields().iter().any(|field| field.name() == ROW_ID_NAME);
            let empty = BTreeSet::new();
            let ids = columns.get(&file.table).unwrap_or(&empty);
            for field in schema.get_fields() {
                let info = field.get_basic_info();
                let id = info.has_id().then(|| i64::from(info.id()));
                let internal = matches!(id, Some(ROW_ID_FIELD | SNAPSHOT_ID_FIELD));
                if !internal && id.is_none_or(|id| !ids.contains(&id)) {
                    let message =
                        format!("its column `{}` has field id {id:?}, which is no column's of the table", info.name());
                    self.error("field_id_unknown", file.path.display().to_string(), message);
                }
            }
            if let (Some(start), true, false) = (file.row_id_start, file.is_current, has_ids) {
                let end = start.saturating_add(file.rows);
                let last = next_rows.entry(file.table).or_default();
                *last = (*last).max(end);
                ranges.entry(file.table).or_default().push((start, end, file.path.display().to_string()));
            }
        }
        for (table, mut spans) in ranges {
            spans.sort();
            for pair in spans.windows(2).filter(|pair| pair[0].1 > pair[1].0) {
                let message = format!("its rows have ids that those of {} have, of table {table}", pair[1].2);
                self.error("row_twice", pair[0].2.clone(), message);
            }
        }
        for (table, used) in next_rows {
            let next =
                self.integer(&format!("SELECT max(next_row_id) FROM ducklake_table_stats WHERE table_id = {table}"))?;
            if next < Some(used) {
                let message = format!("next_row_id is {next:?}, and row {} is in a file", used - 1);
                self.error("next_row_id_used", format!("ducklake_table_stats of table {table}"), message);
            }
        }
        for file in &deletes {
            self.report.files += 1;
            self.file(file)?;
            if file.deletes_from.is_none_or(|data| !known.contains(&data)) {
                let message = "the file whose rows it lists is not in the catalog";
                self.report.add(
                    Severity::Warning,
                    "delete_without_file",
                    file.path.display().to_string(),
                    message,
                    RESTORE,
                );
            }
        }
        self.statistics()?;
        self.unnamed()
    }

    fn named(&self, sql: &str) -> Result<Vec<Named>> {
        let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([], |row| {
            let mut path = self.layout.data();
            for place in [13, 11, 9] {
                let part: Option<String> = row.get(place)?;
                let relative = row.get::<_, Option<bool>>(place + 1)?.unwrap_or(true);
                let part = part.unwrap_or_default();
                path = if relative { path.join(part) } else { part.into() };
            }
            Ok(Named {
                id: row.get(0)?,
                table: row.get(1)?,
                rows: row.get::<_, Option<i64>>(2)?.unwrap_or(-1),
                bytes: row.get::<_, Option<i64>>(3)?.unwrap_or(-1),
                footer: row.get(4)?,
                row_id_start: row.get(5)?,
                is_current: row.get(6)?,
                foreign: row.get(7)?,
                deletes_from: row.get(8)?,
                path,
            })
        });
        rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
    }

    /// The ids of every top-level column that a table ever had.
    fn column_ids(&self) -> Result<BTreeMap<i64, BTreeSet<i64>>> {
        let mut ids: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for row in
            self.integers::<2>("SELECT DISTINCT table_id, column_id FROM ducklake_column WHERE parent_column IS NULL")?
        {
            if let [Some(table), Some(column)] = row {
                ids.entry(table).or_default().insert(column);
            }
        }
        Ok(ids)
    }

    /// Looks at one file; its footer, if that can be read.
    fn file(&mut self, file: &Named) -> Result<Option<ParquetMetaData>> {
        let place = file.path.display().to_string();
        if let Some(foreign) = &file.foreign {
            let next = "another program added it: query its table with DuckDB";
            self.report.add(Severity::Note, "foreign_file", place, foreign.clone(), next);
            return Ok(None);
        }
        let length = match std::fs::metadata(&file.path) {
            Ok(metadata) => metadata.len(),
            Err(error) => {
                if self.is_named_now(file)? {
                    let next =
                        "its rows are lost unless a copy has it: put the file back; `portolan verify` names the rounds";
                    let message = format!("the catalog names it and it cannot be opened: {error}");
                    self.report.add(Severity::Error, "file_missing", place, message, next);
                }
                return Ok(None);
            }
        };
        if i64::try_from(length) != Ok(file.bytes) {
            self.error("file_size", place.clone(), format!("it has {length} bytes, the catalog says {}", file.bytes));
        }
        let metadata = match footer(&file.path) {
            Ok((footer, metadata)) => {
                if file.footer.is_some_and(|known| known != footer) {
                    let message =
                        format!("its footer has {footer} bytes, the catalog says {}", file.footer.unwrap_or(0));
                    self.error("file_footer", place.clone(), message);
                }
                metadata
            }
            Err(problem) => {
                self.error("file_unreadable", place, problem);
                return Ok(None);
            }
        };
        let rows = metadata.file_metadata().num_rows();
        if rows != file.rows {
            self.error("file_rows", place, format!("it has {rows} rows, the catalog says {}", file.rows));
        }
        Ok(Some(metadata))
    }

    /// Whether the catalog, as it is by now, still names a file: maintenance may have moved its rows meanwhile.
    fn is_named_now(&self, file: &Named) -> Result<bool> {
        let sql = match file.deletes_from {
            None => "SELECT 1 FROM ducklake_data_file WHERE data_file_id = ?1",
            Some(_) => "SELECT 1 FROM ducklake_delete_file WHERE delete_file_id = ?1",
        };
        let connection = open_reader(&self.layout)?;
        let found = connection.query_row(sql, [file.id], |_| Ok(())).optional();
        Ok(found.map_err(|error| sqlite(OPERATION, error))?.is_some())
    }

    /// The bounds by which files are left out of queries: a wrong one hides rows.
    fn statistics(&mut self) -> Result<()> {
        (self.progress)("statistics of files");
        let kinds = self.kinds()?;
        let mut wrong: Vec<(&'static str, String, String)> = Vec::new();
        let error = |error| sqlite(OPERATION, error);
        {
            let sql = "SELECT s.data_file_id, s.column_id, s.table_id, s.min_value, s.max_value, s.value_count, s.null_count, \
                       f.record_count FROM ducklake_file_column_stats s \
                       JOIN ducklake_data_file f ON f.data_file_id = s.data_file_id";
            let mut statement = self.connection.prepare(sql).map_err(error)?;
            let mut rows = statement.query([]).map_err(error)?;
            while let Some(row) = rows.next().map_err(error)? {
                let (file, column): (i64, i64) = (row.get(0).map_err(error)?, row.get(1).map_err(error)?);
                let place = || format!("ducklake_file_column_stats of file {file}, column {column}");
                let number = |place| row.get::<_, Option<i64>>(place).map_err(error);
                if let (Some(values), Some(nulls), Some(rows)) = (number(5)?, number(6)?, number(7)?)
                    && values.checked_add(nulls) != Some(rows)
                {
                    let message = format!("{values} values and {nulls} nulls are not {rows} rows");
                    wrong.push(("statistics_counts", place(), message));
                }
                let Some(kind) = kinds.get(&(row.get(2).map_err(error)?, column)) else { continue };
                let text = |place| row.get::<_, Option<String>>(place).map_err(error);
                let (min, max) = (text(3)?, text(4)?);
                let bound = |text: &Option<String>| text.as_ref().and_then(|text| read_bound(text, kind));
                if let (Some(least), Some(greatest)) = (bound(&min), bound(&max))
                    && least > greatest
                {
                    let message = format!("the least value {min:?} is above the greatest {max:?}");
                    wrong.push(("statistics_bounds", place(), message));
                }
            }
        }
        for (code, place, message) in wrong {
            self.error(code, place, message);
        }
        let sql = "SELECT count(*) FROM ducklake_file_column_stats s WHERE NOT EXISTS \
                   (SELECT 1 FROM ducklake_data_file f WHERE f.data_file_id = s.data_file_id)";
        if let Some(count) = self.integer(sql)?.filter(|count| *count > 0) {
            let message = format!("{count} statistics are of files that are not there");
            let next = "they take a little room and do no harm";
            self.report.add(Severity::Note, "statistics_without_file", "ducklake_file_column_stats", message, next);
        }
        Ok(())
    }

    /// The present types of top-level columns, by table and column.
    fn kinds(&self) -> Result<HashMap<(i64, i64), Kind>> {
        let sql = "SELECT table_id, column_id, column_type FROM ducklake_column \
                   WHERE end_snapshot IS NULL AND parent_column IS NULL";
        let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get::<_, String>(2)?)));
        let rows: Vec<((i64, i64), String)> =
            rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?;
        Ok(rows.into_iter().filter_map(|(key, kind)| Some((key, Kind::from_name(&kind)?))).collect())
    }

    fn unnamed(&mut self) -> Result<()> {
        // A look of its own: what has been committed since this check began is named.
        let connection = open_reader(&self.layout)?;
        for file in crate::stats::unnamed(&connection, &self.layout, self.clock)? {
            let (seconds, place) = (file.age.as_secs(), file.path.display().to_string());
            let message = format!("the catalog does not name it; {} bytes, {seconds} s old", file.bytes);
            if seconds < ORPHAN_AGE_S {
                let next = "a collector may be about to commit it: look again in ten minutes";
                self.report.add(Severity::Note, "file_unnamed", place, message, next);
            } else {
                let next = "a crash left it: the collector removes it within five minutes of its start (a day, if another \
                            program made it)";
                self.report.add(Severity::Warning, "orphan_file", place, message, next);
            }
        }
        Ok(())
    }
}

/// The bytes of a file's footer, and what it says.
fn footer(path: &Path) -> std::result::Result<(i64, ParquetMetaData), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut tail = [0; 8];
    file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut tail)).map_err(|_| "it has no footer".to_owned())?;
    if &tail[4..] != b"PAR1" {
        return Err("it does not end as a Parquet file".to_owned());
    }
    let bytes = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let read = std::panic::AssertUnwindSafe(|| ParquetMetaDataReader::new().parse_and_finish(&file));
    match std::panic::catch_unwind(read) {
        Ok(Ok(metadata)) => Ok((i64::from(bytes), metadata)),
        Ok(Err(error)) => Err(format!("its footer cannot be read: {error}")),
        Err(_) => Err("its footer cannot be read: the decoder gave up".to_owned()),
    }
}

//! DuckLake's own tables: snapshots, schemas, tables, columns, rows inside the catalog, next ids.

use portolan_model::{ErrorKind, Result};

use super::{Check, OPERATION, RESTORE, Severity};
use crate::error::sqlite;
use crate::reader::{InlinedFilter, inlined_tables, load_columns, parse_time, quoted, read_inlined};
use crate::spec::{DUCKLAKE_VERSION, has_table};
use crate::types::Kind;

/// Types whose parts are columns of their own.
const NESTED_TYPES: [&str; 3] = ["list", "struct", "map"];
/// Types of DuckLake that this build does not read.
const FOREIGN_TYPES: [&str; 17] = [
    "int128",
    "uint128",
    "timetz",
    "time_ns",
    "timestamp_s",
    "interval",
    "variant",
    "unknown",
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "linestring z",
    "geometrycollection",
];

/// A table as the catalog has it, over all its time.
struct Table {
    id: i64,
    name: String,
    begin: i64,
    end: Option<i64>,
}

impl Check<'_> {
    pub(super) fn catalog(&mut self) -> Result<()> {
        (self.progress)("snapshots and tables");
        self.metadata()?;
        let Some(head) = self.integer("SELECT max(snapshot_id) FROM ducklake_snapshot")? else {
            self.error("no_snapshot", "ducklake_snapshot", "the catalog has no snapshot");
            return Ok(());
        };
        self.snapshots(head)?;
        self.intervals(head)?;
        self.next_ids(head)?;
        for table in self.tables()? {
            self.report.tables += 1;
            (self.progress)(&table.name);
            self.columns(&table, head)?;
            self.inlined(&table, head)?;
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<()> {
        let value = |key: &str| format!("SELECT \"value\" FROM ducklake_metadata WHERE \"key\" = '{key}' LIMIT 1");
        self.report.ducklake_version = self.text(&value("version"))?;
        if self.report.ducklake_version.as_deref() != Some(DUCKLAKE_VERSION) {
            let message = format!("the catalog is of DuckLake {:?}", self.report.ducklake_version);
            self.error("version_unknown", "ducklake_metadata", message);
        }
        let (path, here) = (self.text(&value("data_path"))?, self.layout.data_path());
        if path.as_ref() != Some(&here) {
            let message = format!("data_path is {path:?}, the files are in {here}: other programs do not find them");
            let next = "start the collector once: it writes the new place into the catalog";
            self.report.add(Severity::Warning, "data_path_moved", "ducklake_metadata", message, next);
        }
        Ok(())
    }

    fn snapshots(&mut self, head: i64) -> Result<()> {
        let sql = "SELECT s.snapshot_id, s.schema_version, c.snapshot_id, s.next_catalog_id, s.next_file_id \
                   FROM ducklake_snapshot s LEFT JOIN ducklake_snapshot_changes c ON c.snapshot_id = s.snapshot_id \
                   ORDER BY s.snapshot_id";
        let rows = self.integers::<5>(sql)?;
        self.report.snapshots = rows.len() as u64;
        let mut before = [None; 5];
        for row in rows {
            let place = format!("snapshot {}", row[0].unwrap_or_default());
            if row[2].is_none() {
                let message = "the catalog does not say what it changed";
                self.report.add(Severity::Warning, "snapshot_without_changes", place.clone(), message, RESTORE);
            }
            let falls = |place: usize| before[place] > row[place] || row[place].is_none();
            if falls(1) || falls(3) || falls(4) {
                self.error("snapshot_counters", place, "its schema version or its next ids fall behind the one before");
            }
            before = row;
        }
        let times = {
            let sql = "SELECT snapshot_id, snapshot_time FROM ducklake_snapshot";
            let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
            rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>).map_err(|error| sqlite(OPERATION, error))?
        };
        for (id, time) in times {
            if parse_time(&time).is_err() {
                self.error("snapshot_time", format!("snapshot {id}"), format!("{time:?} is not a time"));
            }
        }
        let stray = "SELECT count(*) FROM ducklake_snapshot_changes c WHERE NOT EXISTS \
                     (SELECT 1 FROM ducklake_snapshot s WHERE s.snapshot_id = c.snapshot_id)";
        if let Some(count) = self.integer(stray)?.filter(|count| *count > 0) {
            let message = format!("{count} descriptions of snapshots that are not there (the head is {head})");
            self.report.add(
                Severity::Warning,
                "changes_without_snapshot",
                "ducklake_snapshot_changes",
                message,
                RESTORE,
            );
        }
        Ok(())
    }

    /// What begins has a snapshot that was, and ends after it began.
    fn intervals(&mut self, head: i64) -> Result<()> {
        let kinds = [
            ("ducklake_schema", "schema_id"),
            ("ducklake_table", "table_id"),
            ("ducklake_column", "column_id"),
            ("ducklake_data_file", "data_file_id"),
            ("ducklake_delete_file", "delete_file_id"),
        ];
        for (table, id) in kinds {
            let sql = format!(
                "SELECT {id}, begin_snapshot, end_snapshot FROM {table} WHERE begin_snapshot IS NULL \
                 OR begin_snapshot > {head} OR end_snapshot > {head} OR end_snapshot < begin_snapshot LIMIT 100"
            );
            for [id, begin, end] in self.integers::<3>(&sql)? {
                let place = format!("{table} {}", id.unwrap_or_default());
                self.error(
                    "interval",
                    place,
                    format!("it lives from snapshot {begin:?} to {end:?}; the head is {head}"),
                );
            }
        }
        let overlap = |table: &str, same: &str| {
            format!(
                "SELECT a.table_id, b.table_id FROM {table} a JOIN {table} b ON {same} AND a.rowid < b.rowid \
                 AND (a.end_snapshot IS NULL OR a.end_snapshot > b.begin_snapshot) \
                 AND (b.end_snapshot IS NULL OR b.end_snapshot > a.begin_snapshot) LIMIT 100"
            )
        };
        let sql = overlap("ducklake_table", "a.schema_id = b.schema_id AND a.table_name = b.table_name");
        for [left, right] in self.integers::<2>(&sql)? {
            let place = format!("ducklake_table {} and {}", left.unwrap_or_default(), right.unwrap_or_default());
            self.error("table_twice", place, "two tables have one name at one time");
        }
        let sql = overlap("ducklake_column", "a.table_id = b.table_id AND a.column_id = b.column_id");
        for [table, _] in self.integers::<2>(&sql)? {
            let place = format!("ducklake_column of table {}", table.unwrap_or_default());
            self.error("column_twice", place, "one column has two definitions at one time");
        }
        let sql = "SELECT t.table_id, t.schema_id FROM ducklake_table t WHERE NOT EXISTS (SELECT 1 FROM ducklake_schema s \
                   WHERE s.schema_id = t.schema_id AND s.begin_snapshot <= t.begin_snapshot \
                   AND (s.end_snapshot IS NULL OR s.end_snapshot >= t.end_snapshot))";
        for [table, schema] in self.integers::<2>(sql)? {
            let place = format!("ducklake_table {}", table.unwrap_or_default());
            self.error("schema_missing", place, format!("its schema {} is not there", schema.unwrap_or_default()));
        }
        Ok(())
    }

    fn next_ids(&mut self, head: i64) -> Result<()> {
        let sql = format!("SELECT next_catalog_id, next_file_id FROM ducklake_snapshot WHERE snapshot_id = {head}");
        let [next_catalog, next_file] = self.integers::<2>(&sql)?.first().copied().unwrap_or_default();
        let sql = "SELECT max(id) FROM (SELECT max(schema_id) AS id FROM ducklake_schema UNION ALL \
                   SELECT max(table_id) FROM ducklake_table UNION ALL SELECT max(view_id) FROM ducklake_view)";
        let sql_files = "SELECT max(id) FROM (SELECT max(data_file_id) AS id FROM ducklake_data_file UNION ALL \
                         SELECT max(delete_file_id) FROM ducklake_delete_file)";
        for (name, next, used) in [
            ("next_catalog_id", next_catalog, self.integer(sql)?),
            ("next_file_id", next_file, self.integer(sql_files)?),
        ] {
            if used.is_some() && next <= used {
                let message = format!("{name} is {next:?}, and {used:?} is in use");
                self.error("next_id_used", format!("snapshot {head}"), message);
            }
        }
        Ok(())
    }

    fn tables(&self) -> Result<Vec<Table>> {
        let sql = "SELECT t.table_id, coalesce(s.schema_name, '?') || '.' || t.table_name, t.begin_snapshot, t.end_snapshot \
                   FROM ducklake_table t LEFT JOIN ducklake_schema s ON s.schema_id = t.schema_id GROUP BY t.rowid";
        let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([], |row| {
            Ok(Table { id: row.get(0)?, name: row.get(1)?, begin: row.get(2)?, end: row.get(3)? })
        });
        rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
    }

    /// Every version of a table's columns can be read: with it every snapshot's table.
    fn columns(&mut self, table: &Table, head: i64) -> Result<()> {
        let last = table.end.map_or(head, |end| end - 1);
        let sql = format!(
            "SELECT DISTINCT begin_snapshot FROM ducklake_column WHERE table_id = {id} \
             AND begin_snapshot BETWEEN {begin} AND {last} UNION SELECT {begin} UNION SELECT {last}",
            id = table.id,
            begin = table.begin,
        );
        for [begin] in self.integers::<1>(&sql)? {
            let begin = begin.unwrap_or(table.begin);
            let place = format!("table {} at snapshot {begin}", table.name);
            match load_columns(&self.connection, table.id, begin) {
                Ok(columns) if columns.is_empty() => self.error("no_columns", place, "the table has no columns"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Data && !self.has_unknown_type(table.id, begin)? => {
                    let next = error.hint().unwrap_or_default().to_owned();
                    self.report.add(Severity::Note, "foreign_type", place, error.chain(), next);
                }
                Err(error) => self.error("columns_unreadable", place, error.chain()),
            }
        }
        Ok(())
    }

    /// Whether a column has a type that DuckLake does not have either.
    fn has_unknown_type(&self, table: i64, snapshot: i64) -> Result<bool> {
        let sql = "SELECT column_type FROM ducklake_column WHERE table_id = ?1 AND begin_snapshot <= ?2 \
                   AND (end_snapshot IS NULL OR end_snapshot > ?2)";
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([table, snapshot], |row| row.get::<_, String>(0));
        let types: Vec<String> = rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?;
        let is_known = |name: &String| {
            NESTED_TYPES.contains(&name.as_str())
                || FOREIGN_TYPES.contains(&name.as_str())
                || Kind::from_name(name).is_some()
        };
        Ok(!types.iter().all(is_known))
    }

    /// The rows of a table inside the catalog: their tables are there, their ids and snapshots are possible, their values
    /// can be read.
    fn inlined(&mut self, table: &Table, head: i64) -> Result<()> {
        let sql = format!("SELECT max(next_row_id) FROM ducklake_table_stats WHERE table_id = {}", table.id);
        let next_row_id = self.integer(&sql)?;
        for source in inlined_tables(&self.connection, table.id)? {
            let place = format!("{} (rows of {})", source.name, table.name);
            if !has_table(&self.connection, &source.name)? {
                self.error(
                    "inlined_table_missing",
                    place,
                    "the catalog names it and it is not there: its rows are lost",
                );
                continue;
            }
            let sql = format!(
                "SELECT begin_snapshot FROM ducklake_schema_versions WHERE table_id = {} AND schema_version = {}",
                table.id, source.schema_version
            );
            let Some(begin) = self.integer(&sql)? else {
                let message = format!("no snapshot made version {} of its columns", source.schema_version);
                self.error("schema_version_missing", place, message);
                continue;
            };
            let from = quoted(&source.name);
            let sql = format!(
                "SELECT count(*), max(row_id), sum(begin_snapshot IS NULL OR begin_snapshot > {head} \
                 OR end_snapshot > {head} OR end_snapshot < begin_snapshot OR row_id IS NULL), \
                 sum(end_snapshot IS NULL) - count(DISTINCT CASE WHEN end_snapshot IS NULL THEN row_id END) FROM {from}"
            );
            let [count, last, wrong, twice] = self.integers::<4>(&sql)?.first().copied().unwrap_or_default();
            self.report.inlined_rows += count.unwrap_or(0).unsigned_abs();
            if wrong.unwrap_or(0) > 0 {
                self.error(
                    "inlined_interval",
                    place.clone(),
                    format!("{} rows live at impossible snapshots", wrong.unwrap_or(0)),
                );
            }
            if twice.unwrap_or(0) > 0 {
                self.error(
                    "row_twice",
                    place.clone(),
                    format!("{} current rows have an id that another has", twice.unwrap_or(0)),
                );
            }
            if last.is_some() && next_row_id <= last {
                let message = format!("next_row_id is {next_row_id:?}, and row {last:?} is there");
                self.error("next_row_id_used", place.clone(), message);
            }
            let columns = match load_columns(&self.connection, table.id, begin) {
                Ok(columns) => columns,
                // Told above.
                Err(_) => continue,
            };
            let made: Vec<String> = {
                let sql = "SELECT name FROM pragma_table_info(?1) WHERE cid >= 3 ORDER BY cid";
                let mut statement = self.connection.prepare_cached(sql).map_err(|error| sqlite(OPERATION, error))?;
                let rows = statement.query_map([&source.name], |row| row.get(0));
                rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))?
            };
            if let Some(column) = columns.iter().find(|column| !made.contains(&column.name)) {
                let message = format!("it has no column `{}`, which the table had when it was made", column.name);
                self.error("inlined_columns", place.clone(), message);
                continue;
            }
            let read =
                read_inlined(&self.connection, table.id, &source, &columns, InlinedFilter::StoredAt(head), |_| {
                    Ok(true)
                });
            if let Err(error) = read {
                self.error("inlined_row_unreadable", place, error.chain());
            }
        }
        Ok(())
    }
}

//! The tables of a lake's catalog: DuckLake 1.0's own, and Portolan's beside them.
//!
//! Promise: a catalog made here is one that DuckDB's `ducklake` extension opens, reads and changes; a catalog of a
//! newer format than this build knows, or a database that is no catalog of ours, is refused before anything is written.

use std::path::{Path, PathBuf};

use portolan_model::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::error::{corrupt, sqlite};

/// The version of Portolan's own tables in the catalog.
pub const FORMAT_VERSION: i64 = 2;
/// The key in `portolan_meta` of the first file id whose file has digests of its row groups.
pub(crate) const ROW_GROUPS_FROM: &str = "row_groups_from";
/// How long a statement waits for another program's write.
pub(crate) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// The version of DuckLake that is written.
pub const DUCKLAKE_VERSION: &str = "1.0";

/// DuckLake's tables, as DuckDB 1.5 creates them in SQLite.
const DUCKLAKE_TABLES: &str = r#"
CREATE TABLE ducklake_metadata("key" VARCHAR NOT NULL, "value" VARCHAR NOT NULL, "scope" VARCHAR, scope_id BIGINT);
CREATE TABLE ducklake_snapshot(snapshot_id BIGINT PRIMARY KEY, snapshot_time VARCHAR, schema_version BIGINT, next_catalog_id BIGINT, next_file_id BIGINT);
CREATE TABLE ducklake_snapshot_changes(snapshot_id BIGINT PRIMARY KEY, changes_made VARCHAR, author VARCHAR, commit_message VARCHAR, commit_extra_info VARCHAR);
CREATE TABLE ducklake_schema(schema_id BIGINT PRIMARY KEY, schema_uuid VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT, schema_name VARCHAR, path VARCHAR, path_is_relative BIGINT);
CREATE TABLE ducklake_table(table_id BIGINT, table_uuid VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT, schema_id BIGINT, table_name VARCHAR, path VARCHAR, path_is_relative BIGINT);
CREATE TABLE ducklake_view(view_id BIGINT, view_uuid VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT, schema_id BIGINT, view_name VARCHAR, dialect VARCHAR, "sql" VARCHAR, column_aliases VARCHAR);
CREATE TABLE ducklake_tag(object_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, "key" VARCHAR, "value" VARCHAR);
CREATE TABLE ducklake_column_tag(table_id BIGINT, column_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, "key" VARCHAR, "value" VARCHAR);
CREATE TABLE ducklake_data_file(data_file_id BIGINT PRIMARY KEY, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, file_order BIGINT, path VARCHAR, path_is_relative BIGINT, file_format VARCHAR, record_count BIGINT, file_size_bytes BIGINT, footer_size BIGINT, row_id_start BIGINT, partition_id BIGINT, encryption_key VARCHAR, mapping_id BIGINT, partial_max BIGINT);
CREATE TABLE ducklake_file_column_stats(data_file_id BIGINT, table_id BIGINT, column_id BIGINT, column_size_bytes BIGINT, value_count BIGINT, null_count BIGINT, min_value VARCHAR, max_value VARCHAR, contains_nan BIGINT, extra_stats VARCHAR);
CREATE TABLE ducklake_file_variant_stats(data_file_id BIGINT, table_id BIGINT, column_id BIGINT, variant_path VARCHAR, shredded_type VARCHAR, column_size_bytes BIGINT, value_count BIGINT, null_count BIGINT, min_value VARCHAR, max_value VARCHAR, contains_nan BIGINT, extra_stats VARCHAR);
CREATE TABLE ducklake_delete_file(delete_file_id BIGINT PRIMARY KEY, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, data_file_id BIGINT, path VARCHAR, path_is_relative BIGINT, format VARCHAR, delete_count BIGINT, file_size_bytes BIGINT, footer_size BIGINT, encryption_key VARCHAR, partial_max BIGINT);
CREATE TABLE ducklake_column(column_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, table_id BIGINT, column_order BIGINT, column_name VARCHAR, column_type VARCHAR, initial_default VARCHAR, default_value VARCHAR, nulls_allowed BIGINT, parent_column BIGINT, default_value_type VARCHAR, default_value_dialect VARCHAR);
CREATE TABLE ducklake_table_stats(table_id BIGINT, record_count BIGINT, next_row_id BIGINT, file_size_bytes BIGINT);
CREATE TABLE ducklake_table_column_stats(table_id BIGINT, column_id BIGINT, contains_null BIGINT, contains_nan BIGINT, min_value VARCHAR, max_value VARCHAR, extra_stats VARCHAR);
CREATE TABLE ducklake_partition_info(partition_id BIGINT, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT);
CREATE TABLE ducklake_partition_column(partition_id BIGINT, table_id BIGINT, partition_key_index BIGINT, column_id BIGINT, "transform" VARCHAR);
CREATE TABLE ducklake_file_partition_value(data_file_id BIGINT, table_id BIGINT, partition_key_index BIGINT, partition_value VARCHAR);
CREATE TABLE ducklake_files_scheduled_for_deletion(data_file_id BIGINT, path VARCHAR, path_is_relative BIGINT, schedule_start VARCHAR);
CREATE TABLE ducklake_inlined_data_tables(table_id BIGINT, table_name VARCHAR, schema_version BIGINT);
CREATE TABLE ducklake_column_mapping(mapping_id BIGINT, table_id BIGINT, "type" VARCHAR);
CREATE TABLE ducklake_name_mapping(mapping_id BIGINT, column_id BIGINT, source_name VARCHAR, target_field_id BIGINT, parent_column BIGINT, is_partition BIGINT);
CREATE TABLE ducklake_schema_versions(begin_snapshot BIGINT, schema_version BIGINT, table_id BIGINT);
CREATE TABLE ducklake_macro(schema_id BIGINT, macro_id BIGINT, macro_name VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT);
CREATE TABLE ducklake_macro_impl(macro_id BIGINT, impl_id BIGINT, dialect VARCHAR, "sql" VARCHAR, "type" VARCHAR);
CREATE TABLE ducklake_macro_parameters(macro_id BIGINT, impl_id BIGINT, column_id BIGINT, parameter_name VARCHAR, parameter_type VARCHAR, default_value VARCHAR, default_value_type VARCHAR);
CREATE TABLE ducklake_sort_info(sort_id BIGINT, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT);
CREATE TABLE ducklake_sort_expression(sort_id BIGINT, table_id BIGINT, sort_key_index BIGINT, expression VARCHAR, dialect VARCHAR, sort_direction VARCHAR, null_order VARCHAR);
CREATE INDEX portolan_index_file_table ON ducklake_data_file(table_id, begin_snapshot);
CREATE INDEX portolan_index_file_stats ON ducklake_file_column_stats(data_file_id);
CREATE INDEX portolan_index_column ON ducklake_column(table_id);
CREATE INDEX portolan_index_table_stats ON ducklake_table_stats(table_id);
CREATE INDEX portolan_index_table_column_stats ON ducklake_table_column_stats(table_id, column_id);
"#;

/// Portolan's tables beside them; each is made where it is not there yet.
const PORTOLAN_TABLES: &str = r#"
CREATE TABLE IF NOT EXISTS portolan_meta("key" TEXT PRIMARY KEY, "value" TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_round(round INTEGER PRIMARY KEY, snapshot_id BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS portolan_column(table_id BIGINT NOT NULL, column_id BIGINT NOT NULL, source TEXT NOT NULL, variant BIGINT NOT NULL, PRIMARY KEY(table_id, column_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_position(source TEXT PRIMARY KEY, position TEXT NOT NULL, round BIGINT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_watermark(source TEXT PRIMARY KEY, watermark_us BIGINT NOT NULL, round BIGINT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_source(source TEXT PRIMARY KEY, mode TEXT NOT NULL, item_key TEXT NOT NULL, event_time TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_source_status(source TEXT PRIMARY KEY, address TEXT NOT NULL, state TEXT NOT NULL, since TEXT NOT NULL, cause_kind TEXT, cause TEXT, hint TEXT, last_round BIGINT, last_success TEXT, rows_total BIGINT NOT NULL, errors_total BIGINT NOT NULL, failures BIGINT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_item_key(source TEXT NOT NULL, digest BLOB NOT NULL, sequence BIGINT NOT NULL, PRIMARY KEY(source, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS portolan_index_item_key ON portolan_item_key(source, sequence);
CREATE TABLE IF NOT EXISTS portolan_flush(data_file_id INTEGER PRIMARY KEY, table_id BIGINT NOT NULL, inlined_table TEXT NOT NULL, schema_version BIGINT NOT NULL, snapshot_id BIGINT NOT NULL, first_snapshot BIGINT NOT NULL, last_snapshot BIGINT NOT NULL, last_row BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS portolan_expired(table_id BIGINT NOT NULL, snapshot_id BIGINT NOT NULL, rows BIGINT NOT NULL, PRIMARY KEY(table_id, snapshot_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS portolan_retried(item INTEGER PRIMARY KEY, round BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS portolan_chain(chain INTEGER PRIMARY KEY, round BIGINT NOT NULL, snapshot_id BIGINT NOT NULL, chain_sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS portolan_row_group(data_file_id BIGINT NOT NULL, part BIGINT NOT NULL, bytes BIGINT NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY(data_file_id, part)) WITHOUT ROWID;
"#;

/// Where things are inside a lake's folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The lake's folder, absolute.
    pub(crate) folder: PathBuf,
}

impl Layout {
    /// The lake in `folder`, which must exist.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = std::fs::canonicalize(folder).map_err(|error| crate::error::file("open lake", folder, error))?;
        Ok(Self { folder })
    }

    /// The catalog database.
    pub(crate) fn catalog(&self) -> PathBuf {
        self.folder.join("catalog.sqlite")
    }

    /// The folder of the Parquet files.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The file whose lock makes its holder the lake's one collector.
    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.join("collector.lock")
    }

    /// `ducklake_metadata.data_path`.
    pub(crate) fn data_path(&self) -> String {
        format!("{}/", self.data().display())
    }
}

/// Opens the catalog for the collector, making it if it is not there yet.
pub(crate) fn open_writer(layout: &Layout, now: &str) -> Result<Connection> {
    let operation = "open catalog";
    let connection = Connection::open(layout.catalog()).map_err(|error| sqlite(operation, error))?;
    configure(&connection)?;
    let new = !has_any_table(&connection)?;
    if !new {
        check(&connection)?;
    }
    // WAL with a sync of the log at each commit: a committed round survives a power cut.
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; \
                   PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY;";
    connection.execute_batch(pragmas).map_err(|error| sqlite(operation, error))?;
    if new {
        create(&connection, layout, now)?;
    } else {
        upgrade(&connection).map_err(|error| sqlite(operation, error))?;
    }
    // The lake may have been moved: outside readers follow this path.
    connection
        .execute(
            "UPDATE ducklake_metadata SET \"value\" = ?1 WHERE \"key\" = 'data_path' AND \"value\" <> ?1",
            [layout.data_path()],
        )
        .map_err(|error| sqlite(operation, error))?;
    Ok(connection)
}

/// Opens the catalog for reading.
pub(crate) fn open_reader(layout: &Layout) -> Result<Connection> {
    let path = layout.catalog();
    if !path.is_file() {
        return Err(Error::new(ErrorKind::NotFound, "open lake", format!("{} is not a lake", layout.folder.display()))
            .with_hint("it has no catalog.sqlite: check the path, or collect into it first with `portolan run`"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(|error| sqlite("open catalog", error))?;
    configure(&connection)?;
    check(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| sqlite("open catalog", error))?;
    connection.set_prepared_statement_cache_capacity(512);
    Ok(())
}

pub(crate) fn has_table(connection: &Connection, name: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let found = connection.query_row(sql, [name], |_| Ok(())).optional();
    Ok(found.map_err(|error| sqlite("open catalog", error))?.is_some())
}

fn has_any_table(connection: &Connection) -> Result<bool> {
    let found = connection.query_row("SELECT EXISTS(SELECT 1 FROM sqlite_master)", [], |row| row.get(0));
    found.map_err(|error| sqlite("open catalog", error))
}

fn create(connection: &Connection, layout: &Layout, now: &str) -> Result<()> {
    let schema_id = uuid::Uuid::now_v7();
    let run = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(DUCKLAKE_TABLES)?;
        connection.execute_batch(PORTOLAN_TABLES)?;
        let mut metadata = connection.prepare("INSERT INTO ducklake_metadata VALUES (?1, ?2, NULL, NULL)")?;
        metadata.execute(["version", DUCKLAKE_VERSION])?;
        metadata.execute(["created_by", concat!("Portolan ", env!("CARGO_PKG_VERSION"))])?;
        metadata.execute(["data_path", &layout.data_path()])?;
        metadata.execute(["encrypted", "false"])?;
        connection.execute("INSERT INTO ducklake_snapshot VALUES (0, ?1, 0, 1, 0)", [now])?;
        let changes = "INSERT INTO ducklake_snapshot_changes VALUES (0, 'created_schema:\"main\"', NULL, NULL, NULL)";
        connection.execute(changes, [])?;
        let schema = "INSERT INTO ducklake_schema VALUES (0, ?1, 0, NULL, 'main', 'main/', 1)";
        connection.execute(schema, [schema_id.to_string()])?;
        let meta = "INSERT INTO portolan_meta VALUES ('format_version', ?1)";
        connection.execute(meta, [FORMAT_VERSION.to_string()])?;
        connection.execute("INSERT INTO portolan_meta VALUES (?1, '0')", [ROW_GROUPS_FROM])?;
        connection.execute_batch("COMMIT")
    };
    run().map_err(|error| {
        let _ = connection.execute_batch("ROLLBACK");
        sqlite("create catalog", error)
    })
}

/// Gives a lake of an earlier build what came later.
///
/// Format 2 has the chain over the rounds and digests of row groups; what an earlier build wrote has none, and a build
/// that does not know them must not write beside them.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(PORTOLAN_TABLES)?;
    let sql = "INSERT OR IGNORE INTO portolan_meta SELECT ?1, next_file_id FROM ducklake_snapshot \
               ORDER BY snapshot_id DESC LIMIT 1";
    connection.execute(sql, [ROW_GROUPS_FROM])?;
    let sql = "UPDATE portolan_meta SET \"value\" = ?1 WHERE \"key\" = 'format_version' AND \"value\" <> ?1";
    connection.execute(sql, [FORMAT_VERSION.to_string()])?;
    Ok(())
}

fn check(connection: &Connection) -> Result<()> {
    let operation = "open catalog";
    if !has_table(connection, "portolan_meta")? {
        if !has_any_table(connection)? {
            // The file is there before the transaction that fills it ends.
            return Err(Error::new(ErrorKind::NotFound, operation, "the lake is empty: it is just being made")
                .with_hint("try again in a moment; the collector's log says if it could not make it"));
        }
        return Err(Error::new(ErrorKind::Conflict, operation, "catalog.sqlite was not made by Portolan")
            .with_retry(portolan_model::Retry::Permanent)
            .with_hint("choose an empty folder for the lake"));
    }
    let sql = "SELECT \"value\" FROM portolan_meta WHERE \"key\" = 'format_version'";
    let text: String = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| sqlite(operation, error))?;
    let version: i64 =
        text.parse().map_err(|_| corrupt(operation, format!("format version {text:?} is not a number")))?;
    if version > FORMAT_VERSION {
        return Err(newer(format!("the lake has format {version}, this Portolan knows up to {FORMAT_VERSION}")));
    }
    let sql = "SELECT \"value\" FROM ducklake_metadata WHERE \"key\" = 'version'";
    let text: String = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| sqlite(operation, error))?;
    if text != DUCKLAKE_VERSION {
        return Err(newer(format!("the lake is DuckLake {text}, this Portolan reads {DUCKLAKE_VERSION}")));
    }
    Ok(())
}

fn newer(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, "open catalog", message)
        .with_hint("open the lake with the Portolan that wrote it, or a newer one")
}

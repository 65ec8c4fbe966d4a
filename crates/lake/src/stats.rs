//! What a lake takes: rows, files and bytes of each table, and what could be had back.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use portolan_model::Result;
use portolan_model::clock::Clock;
use rusqlite::Connection;

use crate::error::sqlite;
use crate::reader::{At, LakeReader, Snapshot, TableView, inlined_tables, parse_time, quoted};
use crate::spec::Layout;
use crate::{system, verify};

const OPERATION: &str = "measure lake";
/// Folders below the data folder that are looked into.
const DEPTH_MAX: usize = 8;

/// What one table takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows that the latest snapshot sees.
    pub rows: u64,
    /// Files that the latest snapshot sees.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows of them inside the catalog.
    pub inlined_rows: u64,
    /// Rows of its files that another program has deleted.
    pub deleted_rows: u64,
    /// The oldest round that has rows in it.
    pub oldest_round: Option<i64>,
    /// The newest round that has rows in it.
    pub newest_round: Option<i64>,
    /// Why its rows cannot be read, where another program has changed it.
    pub unreadable: Option<String>,
}

/// Bytes that maintenance gives back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimable {
    /// Files that no snapshot needs: removed ten minutes after they were put on the list.
    pub scheduled_bytes: u64,
    /// Files that only older snapshots see: freed when those expire.
    pub expiring_bytes: u64,
    /// Files that the catalog does not name and that are older than ten minutes: removed by the next sweep.
    pub orphan_bytes: u64,
    /// Pages of the catalog that are free: used again by it.
    pub catalog_bytes: u64,
}

impl Reclaimable {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.scheduled_bytes + self.expiring_bytes + self.orphan_bytes + self.catalog_bytes
    }
}

/// What a lake takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeStats {
    /// The tables that the latest snapshot has, by schema and name.
    pub tables: Vec<TableStats>,
    /// Snapshots that can be read.
    pub snapshots: u64,
    /// The oldest of them and when it was made.
    pub oldest_snapshot: (i64, Timestamp),
    /// The newest of them and when it was made.
    pub newest_snapshot: (i64, Timestamp),
    /// Bytes of the catalog.
    pub catalog_bytes: u64,
    /// Bytes of its log.
    pub wal_bytes: u64,
    /// Items in the quarantine.
    pub quarantined: u64,
    /// The oldest committed round.
    pub oldest_round: Option<i64>,
    /// The newest committed round.
    pub newest_round: Option<i64>,
    /// What could be had back.
    pub reclaimable: Reclaimable,
}

impl LakeReader {
    /// Measures the lake. Reads the catalog and the names of files, no rows.
    ///
    /// # Errors
    /// `Storage` or `Corrupt` if the catalog cannot be read.
    pub fn stats(&self, clock: &dyn Clock) -> Result<LakeStats> {
        let snapshot = self.snapshot(At::Head)?;
        let views = snapshot.tables()?;
        let tables = views.iter().map(|view| table(&snapshot, view)).collect::<Result<Vec<_>>>()?;
        let of = |name: &str| tables.iter().find(|table| table.schema == system::SCHEMA && table.table == name);
        let quarantined = of(system::QUARANTINE).map_or(0, |table| table.rows);
        let (oldest_round, newest_round) = rounds(&snapshot)?;
        let layout = snapshot.layout();
        let mut wal = layout.catalog().into_os_string();
        wal.push("-wal");
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let error = |error| sqlite(OPERATION, error);
        let (snapshots, oldest, catalog_free) = snapshot.with(|connection| {
            let sql = "SELECT count(*), min(snapshot_id) FROM ducklake_snapshot";
            let (count, oldest): (u64, i64) =
                connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(error)?;
            let sql = "SELECT snapshot_time FROM ducklake_snapshot WHERE snapshot_id = ?1";
            let time: String = connection.query_row(sql, [oldest], |row| row.get(0)).map_err(error)?;
            let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
            let free = pragma("freelist_count").map_err(error)? * pragma("page_size").map_err(error)?;
            Ok((count, (oldest, parse_time(&time)?), free))
        })?;
        let reclaimable = Reclaimable { catalog_bytes: catalog_free, ..reclaimable(&snapshot, clock)? };
        Ok(LakeStats {
            snapshots,
            oldest_snapshot: oldest,
            newest_snapshot: (snapshot.id(), snapshot.time()),
            catalog_bytes: bytes(&layout.catalog()),
            wal_bytes: bytes(Path::new(&wal)),
            quarantined,
            oldest_round,
            newest_round,
            reclaimable,
            tables,
        })
    }
}

fn table(snapshot: &Snapshot, view: &TableView) -> Result<TableStats> {
    let unreadable = view.readable().err().map(|error| error.chain());
    let known = unreadable.is_none();
    let mut stats = TableStats {
        schema: view.schema.clone(),
        table: view.name.clone(),
        rows: if known { view.rows() } else { 0 },
        files: view.files.len() as u64,
        bytes: view.files.iter().map(|file| file.size_bytes).sum(),
        inlined_rows: if known { view.inlined_rows } else { 0 },
        deleted_rows: view.files.iter().map(|file| file.deleted_rows).sum(),
        unreadable,
        ..TableStats::default()
    };
    let name = if view.schema == system::SCHEMA { "round" } else { "_round" };
    let Some(mark) = view.columns.iter().find(|column| column.name == name) else { return Ok(stats) };
    let mut note = |round: Option<i64>| {
        stats.oldest_round = stats.oldest_round.into_iter().chain(round).min();
        stats.newest_round = stats.newest_round.into_iter().chain(round).max();
    };
    for known in view.files.iter().filter_map(|file| file.statistics.get(&mark.id)) {
        for bound in [&known.min, &known.max] {
            note(bound.as_ref().and_then(|text| text.parse().ok()));
        }
    }
    if known {
        snapshot.with(|connection| {
            for source in inlined_tables(connection, view.id)? {
                let sql = format!(
                    "SELECT min({mark}), max({mark}) FROM {} \
                     WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
                    quoted(&source.name),
                    mark = quoted(name)
                );
                let bounds = connection.query_row(&sql, [snapshot.id()], |row| Ok([row.get(0)?, row.get(1)?]));
                bounds.map_err(|error| sqlite(OPERATION, error))?.into_iter().for_each(&mut note);
            }
            Ok(())
        })?;
    }
    Ok(stats)
}

/// The oldest and the newest committed round.
fn rounds(snapshot: &Snapshot) -> Result<(Option<i64>, Option<i64>)> {
    let table = verify::system_table(snapshot, system::ROUNDS)?;
    let stats = self::table(snapshot, &table)?;
    Ok((stats.oldest_round, stats.newest_round))
}

/// A file in the data folder that the catalog does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unnamed {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

fn reclaimable(snapshot: &Snapshot, clock: &dyn Clock) -> Result<Reclaimable> {
    let layout = snapshot.layout();
    let error = |error| sqlite(OPERATION, error);
    let unnamed = snapshot.with(|connection| unnamed(connection, layout, clock))?;
    snapshot.with(|connection| {
        let mut bytes = Reclaimable::default();
        for path in scheduled(connection, layout)? {
            bytes.scheduled_bytes += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        }
        for files in ["ducklake_data_file", "ducklake_delete_file"] {
            let sql = format!("SELECT coalesce(sum(file_size_bytes), 0) FROM {files} WHERE end_snapshot IS NOT NULL");
            bytes.expiring_bytes += connection.query_row(&sql, [], |row| row.get::<_, u64>(0)).map_err(error)?;
        }
        let grace = crate::LakeSettings::default().grace;
        bytes.orphan_bytes = unnamed.iter().filter(|file| file.age >= grace).map(|file| file.bytes).sum();
        Ok(bytes)
    })
}

/// The files on the list of those to be removed.
pub(crate) fn scheduled(connection: &Connection, layout: &Layout) -> Result<Vec<PathBuf>> {
    let sql = "SELECT path, path_is_relative FROM ducklake_files_scheduled_for_deletion";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| {
        let path: String = row.get(0)?;
        Ok(if row.get(1)? { layout.data().join(path) } else { path.into() })
    });
    rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
}

/// The Parquet files in the data folder that the catalog does not name. One that a collector is about to commit may be
/// among them: its age tells.
pub(crate) fn unnamed(connection: &Connection, layout: &Layout, clock: &dyn Clock) -> Result<Vec<Unnamed>> {
    let mut on_disk = BTreeMap::new();
    list(&layout.data(), 0, clock.wall().into(), &mut on_disk);
    // Asked after the files were listed: what was committed meanwhile is named.
    let sql = "SELECT path FROM ducklake_data_file UNION ALL SELECT path FROM ducklake_delete_file \
               UNION ALL SELECT path FROM ducklake_files_scheduled_for_deletion";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0));
    let names: HashSet<std::ffi::OsString> = rows
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .map_err(|error| sqlite(OPERATION, error))?
        .into_iter()
        .filter_map(|path| Path::new(&path).file_name().map(std::ffi::OsStr::to_owned))
        .collect();
    let is_named = |path: &Path| path.file_name().is_some_and(|name| names.contains(name));
    Ok(on_disk.into_values().filter(|file: &Unnamed| !is_named(&file.path)).collect())
}

fn list(folder: &Path, depth: usize, now: SystemTime, found: &mut BTreeMap<PathBuf, Unnamed>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        if metadata.is_dir() {
            if depth < DEPTH_MAX {
                list(&path, depth + 1, now, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            let age = metadata.modified().ok().and_then(|time| now.duration_since(time).ok());
            let file = Unnamed { path: path.clone(), bytes: metadata.len(), age: age.unwrap_or_default() };
            found.insert(path, file);
        }
    }
}

//! Removes files that nothing needs: those on the list of files scheduled for deletion whose grace time has passed, and
//! orphans, which a crash left behind and the catalog never named.
//!
//! A file of ours (its name says so) that is older than this process's hold of the lake's lock, not staged and not in
//! the catalog, is an orphan for certain: nobody else makes such files. Any other file is given the grace time.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portolan_model::Result;
use rusqlite::Connection;

use crate::encode::FILE_PREFIX;
use crate::error::{file as file_error, sqlite};
use crate::failpoint;
use crate::lake::Context;
use crate::reader::parse_time;
use crate::spec::open_reader;

const OPERATION: &str = "remove files";
/// Files that one call removes.
const FILES_MAX: usize = 1_000;
/// The pause between two sweeps, in seconds of the monotonic clock.
const SWEEP_PAUSE_S: u64 = 300;
/// Grace of files that are not ours: another program may take its time to commit them.
const FOREIGN_GRACE: Duration = Duration::from_secs(86_400);

/// Removes scheduled files whose grace time has passed; how many.
pub(crate) async fn remove_scheduled(context: &Arc<Context>) -> Result<u64> {
    let context = context.clone();
    let listed = {
        let context = context.clone();
        context.clone().writer.run(move |writer| scheduled(writer.connection(), &context)).await?
    };
    if listed.is_empty() {
        return Ok(0);
    }
    let removed = tokio::task::spawn_blocking(move || {
        listed
            .into_iter()
            .filter(|(_, path)| match std::fs::remove_file(path) {
                Ok(()) => true,
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            })
            .map(|(row, _)| row)
            .collect::<Vec<i64>>()
    })
    .await
    .map_err(|error| crate::error::internal(OPERATION, "the job was interrupted").with_cause(error))?;
    let count = removed.len() as u64;
    let forget = move |connection: &Connection| -> rusqlite::Result<()> {
        let sql = "DELETE FROM ducklake_files_scheduled_for_deletion WHERE rowid = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        removed.iter().try_for_each(|row| statement.execute([row]).map(|_| ()))
    };
    let forget = move |writer: &mut crate::writer::Writer| {
        writer.transaction(|connection, _| forget(connection).map_err(|error| sqlite(OPERATION, error)))
    };
    context.writer.run(forget).await?;
    Ok(count)
}

fn scheduled(connection: &Connection, context: &Context) -> Result<Vec<(i64, PathBuf)>> {
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT rowid, path, path_is_relative, schedule_start FROM ducklake_files_scheduled_for_deletion \
               ORDER BY rowid LIMIT ?1";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let mut rows = statement.query([FILES_MAX as i64]).map_err(error)?;
    let now = context.clock.wall();
    let mut due = Vec::new();
    while let Some(row) = rows.next().map_err(error)? {
        let read = || -> rusqlite::Result<_> {
            let path: String = row.get(1)?;
            let path = if row.get(2)? { context.layout.data().join(path) } else { path.into() };
            Ok((row.get::<_, i64>(0)?, path, row.get::<_, String>(3)?))
        };
        let (id, path, start) = read().map_err(error)?;
        if now.duration_since(parse_time(&start)?).unsigned_abs() >= context.settings.grace {
            due.push((id, path));
        }
    }
    Ok(due)
}

/// Sweeps orphans, now and then; how many were removed.
pub(crate) async fn run(context: &Arc<Context>) -> Result<u64> {
    let now_s = context.clock.monotonic().as_secs();
    let next_s = context.next_sweep_s.load(Ordering::Relaxed);
    if now_s < next_s {
        return Ok(0);
    }
    context.next_sweep_s.store(now_s + SWEEP_PAUSE_S, Ordering::Relaxed);
    let context = context.clone();
    tokio::task::spawn_blocking(move || sweep(&context))
        .await
        .map_err(|error| crate::error::internal(OPERATION, "the job was interrupted").with_cause(error))?
}

fn sweep(context: &Context) -> Result<u64> {
    let connection = open_reader(&context.layout)?;
    // What the catalog names now is no orphan: the limit is for the others.
    let known = known_names(&connection)?;
    let mut candidates = Vec::new();
    list(&context.layout.data(), context, &known, &mut candidates, 0)?;
    if candidates.is_empty() {
        return Ok(0);
    }
    // And once more: a file may have been staged at the first look and committed when it was listed.
    let known = known_names(&connection)?;
    let mut removed = 0;
    for path in candidates.into_iter().filter(|path| !is_known(path, &known)) {
        std::fs::remove_file(&path).map_err(|error| file_error(OPERATION, &path, error))?;
        failpoint::pass("orphans::file_removed");
        removed += 1;
    }
    Ok(removed)
}

fn is_known(path: &Path, known: &HashSet<OsString>) -> bool {
    path.file_name().is_some_and(|name| known.contains(name))
}

/// Parquet files under `folder` that are old enough to be orphans, neither staged nor known.
fn list(
    folder: &Path,
    context: &Context,
    known: &HashSet<OsString>,
    found: &mut Vec<PathBuf>,
    depth: usize,
) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| file_error(OPERATION, folder, error))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if depth < 8 {
                list(&path, context, known, found, depth + 1)?;
            }
            continue;
        }
        let name = name.to_string_lossy();
        if !name.ends_with(".parquet") || found.len() >= FILES_MAX {
            continue;
        }
        // A file system that does not know when a file was written gives no ground to remove it.
        let Ok(modified) = metadata.modified() else { continue };
        let age = modified.elapsed().unwrap_or(Duration::ZERO);
        let old = match name.starts_with(FILE_PREFIX) {
            true => modified < context.opened || age >= context.settings.grace,
            false => age >= FOREIGN_GRACE,
        };
        if old && !known.contains(&entry.file_name()) && !context.staged.contains(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// The names of every file that the catalog knows; they are unique.
fn known_names(connection: &Connection) -> Result<HashSet<OsString>> {
    let sql = "SELECT path FROM ducklake_data_file UNION ALL SELECT path FROM ducklake_delete_file \
               UNION ALL SELECT path FROM ducklake_files_scheduled_for_deletion";
    let mut statement = connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0));
    let names = rows.map_err(|error| sqlite(OPERATION, error))?.map(|path| {
        let path = path.map_err(|error| sqlite(OPERATION, error))?;
        Ok(Path::new(&path).file_name().unwrap_or_default().to_owned())
    });
    names.collect()
}

//! Proves files byte by byte against the digests that were taken of them when they were written.
//!
//! Promise: every byte of a file is looked at, several files or row groups at once, with a fixed buffer for each thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use portolan_model::Result;
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::{DamagedFile, OPERATION, VerifyReport};
use crate::encode::{FILE_PREFIX, Part};
use crate::error::sqlite;
use crate::reader::DataFile;
use crate::spec::{ROW_GROUPS_FROM, has_table};

/// Bytes read at a time: they stay in the cache between the copy and the digest.
const BUFFER_BYTES: usize = 256 << 10;
/// Threads that read, at most.
const THREADS_MAX: usize = 16;

/// What the digests say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its bytes are those that were written.
    Proved,
    /// They are not, or it is not there.
    Damaged,
    /// It has none: an earlier version or another program has written it.
    Unknown,
}

/// The digests that the catalog has of the files of one table.
pub(super) struct Digests {
    by_file: HashMap<i64, Vec<Part>>,
    /// Files of ours with this id or a later one have digests.
    from: i64,
}

impl Digests {
    pub(super) fn of(connection: &Connection, table: i64) -> Result<Self> {
        let error = |error| sqlite(OPERATION, error);
        let mut digests = Self { by_file: HashMap::new(), from: i64::MAX };
        if !has_table(connection, "portolan_row_group")? {
            return Ok(digests);
        }
        let sql = "SELECT CAST(\"value\" AS INTEGER) FROM portolan_meta WHERE \"key\" = ?1";
        let from: Option<i64> =
            connection.query_row(sql, [ROW_GROUPS_FROM], |row| row.get(0)).optional().map_err(error)?;
        // Without the number every file of ours counts: it was taken away.
        digests.from = from.unwrap_or(0);
        let sql = "SELECT g.data_file_id, g.part, g.bytes, g.sha256 FROM ducklake_data_file f \
                   JOIN portolan_row_group g USING (data_file_id) WHERE f.table_id = ?1 ORDER BY 1, 2";
        let mut statement = connection.prepare(sql).map_err(error)?;
        let mut rows = statement.query([table]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let parts: &mut Vec<Part> = digests.by_file.entry(row.get(0).map_err(error)?).or_default();
            // What is no digest is one that nothing has.
            let sha256: Option<[u8; 32]> = row.get(3).ok();
            let bytes: Option<u64> = row.get(2).ok().filter(|_| row.get(1) == Ok(parts.len()));
            parts.push(Part { bytes: bytes.unwrap_or(0), sha256: sha256.unwrap_or_default() });
        }
        Ok(digests)
    }
}

/// One stretch of one file to be read.
struct Unit<'a> {
    file: usize,
    path: &'a Path,
    part: usize,
    start: u64,
    known: &'a Part,
}

/// Reads `files` of `table` and reports those that are not what was written. Returns what is known of each. `progress` is
/// told of bytes read.
pub(super) fn prove(
    table: &str,
    files: &[&DataFile],
    digests: &Digests,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(u64),
) -> Vec<Proof> {
    let mut proofs = vec![Proof::Unknown; files.len()];
    let mut wrong: HashMap<usize, Vec<(Option<usize>, String)>> = HashMap::new();
    let mut units = Vec::new();
    for (place, file) in files.iter().enumerate() {
        let ours = file.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FILE_PREFIX));
        let there = std::fs::metadata(&file.path);
        if let Err(error) = &there {
            wrong.entry(place).or_default().push((None, format!("it cannot be opened: {error}")));
        }
        let Some(parts) = digests.by_file.get(&file.id) else {
            if ours && file.id >= digests.from {
                wrong.entry(place).or_default().push((None, "the digests of its row groups are not there".to_owned()));
            }
            continue;
        };
        proofs[place] = Proof::Proved;
        let written = parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add);
        match there {
            Err(_) => {}
            Ok(metadata) if metadata.len() != written || file.size_bytes != written => {
                let (there, said) = (metadata.len(), file.size_bytes);
                let detail = format!("it has {there} bytes, the catalog says {said}, its digests are of {written}");
                wrong.entry(place).or_default().push((None, detail));
            }
            Ok(_) => {
                let mut start = 0;
                for (part, known) in parts.iter().enumerate() {
                    units.push(Unit { file: place, path: &file.path, part, start, known });
                    start += known.bytes;
                }
            }
        }
    }
    read(&units, &mut |unit, outcome| {
        let footer = digests.by_file.get(&files[unit.file].id).map_or(0, |parts| parts.len().saturating_sub(1));
        let what = match unit.part == footer {
            true => "its footer".to_owned(),
            false => format!("row group {}", unit.part),
        };
        let (start, end) = (unit.start, unit.start + unit.known.bytes);
        let row_group = (unit.part != footer).then_some(unit.part);
        match outcome {
            Ok(true) => {}
            Ok(false) => {
                let detail = format!("{what} (bytes {start} to {end}) is not as it was written");
                wrong.entry(unit.file).or_default().push((row_group, detail));
            }
            Err(error) => wrong.entry(unit.file).or_default().push((row_group, format!("{what}: {error}"))),
        }
        progress(unit.known.bytes);
    });
    let mut wrong: Vec<_> = wrong.into_iter().collect();
    wrong.sort_by_key(|(place, _)| *place);
    for (place, mut details) in wrong {
        let file = files[place];
        proofs[place] = Proof::Damaged;
        details.sort();
        let row_group = details.iter().find_map(|(row_group, _)| *row_group);
        let detail = details.into_iter().map(|(_, detail)| detail).collect::<Vec<_>>().join("; ");
        report.damaged(DamagedFile::new(table, file.path.display().to_string(), row_group, detail));
    }
    proofs
}

/// Reads stretches on as many threads as there are cores, and hands each one's outcome to `take`: whether its digest is
/// the one that is known.
fn read(units: &[Unit<'_>], take: &mut dyn FnMut(&Unit<'_>, std::io::Result<bool>)) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(units.len()).min(THREADS_MAX);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                let mut buffer = vec![0; BUFFER_BYTES];
                let mut open: Option<(usize, File)> = None;
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(place) else { return };
                    let outcome = digest(unit, &mut open, &mut buffer);
                    if sender.send((place, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (place, outcome) in receiver {
            take(&units[place], outcome);
        }
    });
}

fn digest(unit: &Unit<'_>, open: &mut Option<(usize, File)>, buffer: &mut [u8]) -> std::io::Result<bool> {
    if open.as_ref().is_none_or(|(file, _)| *file != unit.file) {
        *open = Some((unit.file, File::open(unit.path)?));
    }
    let Some((_, file)) = open else { return Ok(false) };
    file.seek(SeekFrom::Start(unit.start))?;
    let mut hash = Sha256::new();
    let mut left = unit.known.bytes;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..room])?;
        hash.update(&buffer[..room]);
        left -= room as u64;
    }
    Ok(hash.finalize().as_slice() == unit.known.sha256)
}

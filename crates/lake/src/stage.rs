//! Rows of one table on their way into a round.
//!
//! Promise: memory is bounded by the rows that may be inlined, in number and in bytes, or by one Parquet row group; nothing that is staged can
//! be seen; a staged file is registered for as long as it is staged, and removed if the round is given up.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use portolan_model::catalog::WriteMode;
use portolan_model::{Result, SourceName};

use crate::cells::Cells;
use crate::digest::RowDigest;
use crate::encode::{FileWriter, WrittenFile};
use crate::error::{arrow as arrow_error, file as file_error};
use crate::event_time::EventTimeReader;
use crate::keys::{KeyDigest, KeyFilter, NewKey};
use crate::lake::Context;
use crate::shape::{Columns, SharedShape, StoredColumn, fill};
use crate::statistics::Statistics;
use crate::system;
use crate::types::{Column, schema_of};

/// Bytes of a table and round up to which its rows are kept inside the catalog.
const INLINE_BYTES: u64 = 1 << 20;

/// Files that are staged now, which the orphan sweep leaves alone.
#[derive(Debug, Default)]
pub(crate) struct StagedFiles(Mutex<HashSet<PathBuf>>);

impl StagedFiles {
    /// Registers a file that is about to be written.
    pub(crate) fn register(self: &Arc<Self>, path: PathBuf) -> FileGuard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        FileGuard { path, files: self.clone(), kept: false }
    }

    /// Whether a file is staged.
    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }
}

/// A staged file: removed when dropped, unless kept.
#[derive(Debug)]
pub(crate) struct FileGuard {
    pub(crate) path: PathBuf,
    files: Arc<StagedFiles>,
    kept: bool,
}

impl FileGuard {
    /// The file belongs to the catalog now, or may: the sweep decides.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Takes [`keep`](Self::keep) back: the catalog does not name the file, for certain.
    pub(crate) fn release(&mut self) {
        self.kept = false;
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
        self.files.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// Which table rows are staged for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) schema: &'static str,
    pub(crate) name: String,
}

/// The rows of one table in one round, ready to be committed.
pub(crate) struct StagedRows {
    pub(crate) target: Target,
    pub(crate) base: Option<SharedShape>,
    /// The columns after the round, those of the base first.
    pub(crate) columns: Vec<StoredColumn>,
    pub(crate) next_column_id: i64,
    pub(crate) changed: bool,
    pub(crate) mode: WriteMode,
    pub(crate) rows: u64,
    pub(crate) duplicates: u64,
    pub(crate) cells: Option<Cells>,
    /// Statistics of the inlined rows, by column.
    pub(crate) statistics: Vec<Statistics>,
    pub(crate) files: Vec<(WrittenFile, FileGuard)>,
    pub(crate) rows_sha256: String,
    pub(crate) event_times: Option<EventTimeReader>,
    /// What the catalog remembers of the source.
    pub(crate) settings: Option<SourceSettings>,
    /// Source, new keys, and how many to remember.
    pub(crate) keys: Option<(SourceName, VecDeque<NewKey>, u64)>,
    /// The keys of which further rows came and were left out.
    pub(crate) repeated: HashSet<KeyDigest>,
    /// The inlined rows as they came, for those who read them before they are committed.
    pub(crate) batches: Vec<RecordBatch>,
}

/// What the catalog remembers of a source: how its rows are told apart and placed in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceSettings {
    pub(crate) source: SourceName,
    pub(crate) mode: WriteMode,
    pub(crate) key: Vec<String>,
    pub(crate) event_time: Option<String>,
}

/// What the rows of a source's table carry besides their own columns, and how they are handled.
pub(crate) struct SourceRows {
    pub(crate) source: SourceName,
    pub(crate) round: i64,
    pub(crate) time_us: i64,
    pub(crate) key: Vec<String>,
    pub(crate) key_memory: u64,
    pub(crate) event_time: Option<EventTimeReader>,
}

struct Buffered {
    batch: RecordBatch,
    version: u64,
}

/// Gathers the rows of one table.
pub(crate) struct Stager {
    context: Arc<Context>,
    target: Target,
    base: Option<SharedShape>,
    columns: Columns,
    plain: Arc<Vec<Column>>,
    plain_version: u64,
    mode: WriteMode,
    source: Option<SourceRows>,
    keys: Option<KeyFilter>,
    digest: RowDigest,
    buffered: Vec<Buffered>,
    /// Rows and bytes up to which all is kept inside the catalog.
    inline_rows: u64,
    inline_bytes: u64,
    rows: u64,
    bytes: u64,
    duplicates: u64,
    file: Option<(FileWriter, FileGuard, u64)>,
    files: Vec<(WrittenFile, FileGuard)>,
}

impl Stager {
    /// A stager for `target`; rows of a source get its leading columns and, where they are appended, are deduplicated
    /// by its key.
    ///
    /// # Errors
    /// `Data` if another program gave the table a type we do not know.
    pub(crate) fn new(
        context: Arc<Context>,
        target: Target,
        mode: WriteMode,
        source: Option<SourceRows>,
    ) -> Result<Self> {
        let base = context.shape(&target)?;
        let columns = Columns::new(base.as_deref(), source.is_some());
        // Each round of a table that is replaced brings all of it: there is nothing that came before.
        let keys = source
            .as_ref()
            .filter(|source| mode == WriteMode::Append && !source.key.is_empty())
            .map(|source| KeyFilter::new(source.source.clone(), source.key.clone(), source.key_memory));
        let plain = Arc::new(columns.plain());
        // A round's own row gets its snapshot inside the transaction: it is never in a file.
        let (inline_rows, inline_bytes) = match target.schema == system::SCHEMA && target.name == system::ROUNDS {
            true => (u64::MAX, u64::MAX),
            false => (u64::from(context.settings.inline_rows), INLINE_BYTES),
        };
        Ok(Self {
            context,
            target,
            base,
            columns,
            plain,
            plain_version: 0,
            mode,
            source,
            keys,
            digest: RowDigest::new(),
            buffered: Vec::new(),
            inline_rows,
            inline_bytes,
            rows: 0,
            bytes: 0,
            duplicates: 0,
            file: None,
            files: Vec::new(),
        })
    }

    /// Whether all rows stay in memory with those of `batches`: none goes to the disk.
    pub(crate) fn has_room(&self, batches: &[RecordBatch]) -> bool {
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        self.takes(rows, batches.iter().map(size_bytes).fold(0, u64::saturating_add))
    }

    fn takes(&self, rows: u64, bytes: u64) -> bool {
        self.file.is_none()
            && self.files.is_empty()
            && self.rows.saturating_add(rows) <= self.inline_rows
            && self.bytes.saturating_add(bytes) <= self.inline_bytes
    }

    /// Adds rows. Blocks on the disk where they go to a file.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let batch = match &mut self.keys {
            Some(keys) => {
                let (batch, duplicates) = keys.filter(batch, &self.context.lookup)?;
                self.duplicates += duplicates;
                batch
            }
            None => batch,
        };
        if let Some(times) = self.source.as_mut().and_then(|source| source.event_time.as_mut()) {
            times.update(&batch, self.context.clock.wall())?;
        }
        let rows = batch.num_rows();
        let bytes = size_bytes(&batch);
        let mut parts: Vec<(usize, ArrayRef)> = Vec::with_capacity(batch.num_columns() + 2);
        if let Some(source) = &self.source {
            parts.push((0, Arc::new(Int64Array::from_value(source.round, rows))));
            let times = TimestampMicrosecondArray::from_value(source.time_us, rows).with_timezone("UTC");
            parts.push((1, Arc::new(times)));
        }
        let schema = batch.schema();
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            self.columns.place(field, array, &mut parts)?;
        }
        if rows == 0 {
            return Ok(());
        }
        if self.plain_version != self.columns.version {
            self.plain = Arc::new(self.columns.plain());
            self.plain_version = self.columns.version;
        }
        let arrays = fill(&self.columns, parts, rows);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema_of(&self.plain), arrays, &options)
            .map_err(|error| arrow_error("store rows", error))?;
        self.digest.update(&batch, &self.plain);
        let version = self.plain_version;
        let has_room = self.takes(rows as u64, bytes);
        self.rows += rows as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        if has_room {
            self.buffered.push(Buffered { batch, version });
            return Ok(());
        }
        self.spill()?;
        self.encode(batch, version)
    }

    /// Moves what is buffered to a file.
    fn spill(&mut self) -> Result<()> {
        for Buffered { batch, version } in std::mem::take(&mut self.buffered) {
            let batch = if version == self.plain_version { batch } else { self.present(&batch)? };
            self.encode(batch, self.plain_version)?;
        }
        Ok(())
    }

    /// A batch with the columns as they are now.
    fn present(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        // Columns are only ever added at the end: the place is the same.
        let arrays = self.plain.iter().enumerate().map(|(place, column)| match batch.columns().get(place) {
            Some(array) => crate::reader::adapt(array, column),
            None => Ok(arrow::array::new_null_array(&column.kind.arrow(), rows)),
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(schema_of(&self.plain), arrays).map_err(|error| arrow_error("store rows", error))
    }

    fn encode(&mut self, batch: RecordBatch, version: u64) -> Result<()> {
        if self.file.as_ref().is_some_and(|(_, _, open)| *open != version) {
            self.end_file()?;
        }
        if self.file.is_none() {
            let folder = match &self.base {
                Some(shape) => shape.folder.clone(),
                None => self.context.layout.data().join(self.target.schema).join(&self.target.name),
            };
            std::fs::create_dir_all(&folder).map_err(|error| file_error("write data file", &folder, error))?;
            let path = folder.join(crate::encode::file_name());
            let guard = self.context.staged.register(path.clone());
            self.file = Some((FileWriter::create(path, &self.plain, &batch)?, guard, version));
        }
        if let Some((writer, ..)) = &mut self.file {
            writer.write(&batch)?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some((writer, guard, _)) = self.file.take() {
            self.files.push((writer.finish()?, guard));
        }
        Ok(())
    }

    /// Ends the table. Blocks on the disk where its rows are in a file.
    pub(crate) fn finish(mut self) -> Result<StagedRows> {
        let mut cells = None;
        let mut statistics = Vec::new();
        let mut kept = Vec::new();
        if !self.buffered.is_empty() {
            let current = |this: &Self, buffered: &Buffered| match buffered.version == this.plain_version {
                true => Ok(buffered.batch.clone()),
                false => this.present(&buffered.batch),
            };
            let batches: Vec<_> = self.buffered.iter().map(|b| current(&self, b)).collect::<Result<_>>()?;
            cells = Cells::from_batches(&batches, &self.plain);
            if cells.is_some() {
                statistics = vec![Statistics::default(); self.plain.len()];
                for batch in &batches {
                    for ((known, column), array) in statistics.iter_mut().zip(self.plain.iter()).zip(batch.columns()) {
                        known.update(array.as_ref(), &column.kind);
                    }
                }
                kept = batches;
            } else {
                self.spill()?;
            }
        }
        self.end_file()?;
        let event_times = self.source.as_mut().and_then(|source| source.event_time.take());
        Ok(StagedRows {
            settings: self.source.as_ref().map(|source| SourceSettings {
                source: source.source.clone(),
                mode: self.mode,
                key: source.key.clone(),
                event_time: event_times.as_ref().map(|times| times.column().to_owned()),
            }),
            event_times,
            target: self.target,
            changed: self.columns.version > 0,
            next_column_id: self.columns.next_id,
            columns: self.columns.list,
            base: self.base,
            mode: self.mode,
            rows: self.rows,
            duplicates: self.duplicates,
            cells,
            statistics,
            files: self.files,
            rows_sha256: self.digest.finish(),
            batches: kept,
            repeated: self.keys.as_mut().map(|keys| std::mem::take(&mut keys.repeated)).unwrap_or_default(),
            keys: match (self.keys, self.source) {
                (Some(keys), Some(source)) if !keys.new.is_empty() => {
                    Some((source.source, keys.new, source.key_memory))
                }
                _ => None,
            },
        })
    }
}

/// About the bytes of a batch's values, without those that a slice leaves out.
fn size_bytes(batch: &RecordBatch) -> u64 {
    fn span(offsets: &[i32]) -> usize {
        let ends = offsets.first().zip(offsets.last());
        ends.map_or(0, |(first, last)| usize::try_from(last - first).unwrap_or(0))
    }
    let bytes = |array: &ArrayRef| match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().value_offsets()),
        DataType::Binary => span(array.as_binary::<i32>().value_offsets()),
        kind => match kind.primitive_width() {
            Some(width) => width * array.len(),
            None => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
        },
    };
    batch.columns().iter().map(|array| bytes(array) as u64).fold(0, u64::saturating_add)
}

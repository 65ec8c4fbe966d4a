//! The rows that a round has staged for one table, before they are committed: read by checks, and withheld by them.
//!
//! Promise: they are read a bounded piece at a time, from memory or from the staged files; rows that are withheld go whole to
//! the quarantine or not at all, and what is left has its own digest, statistics, event times and keys, as if the others had never come.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{BooleanArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use portolan_model::check::{WITHHELD, WithheldRow};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Result, SourceName};

use crate::cells::Cells;
use crate::digest::RowDigest;
use crate::encode::{FileWriter, file_name};
use crate::error::{arrow as arrow_error, internal};
use crate::event_time::EventTimeReader;
use crate::lake::Context;
use crate::reader::{DataFile, TableView, adapt, open_file};
use crate::stage::{FileGuard, StagedRows};
use crate::statistics::Statistics;
use crate::text::json;
use crate::types::{Column, schema_of};

const OPERATION: &str = "withhold rows";
/// Bytes of one row's content in the quarantine; a longer one could not be kept whole.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// Items that become rows of the quarantine at once.
const ITEMS_AT_ONCE: usize = 1_000;

/// Rows staged for one table, not yet committed.
pub struct StagedTableRows {
    columns: Vec<Column>,
    schema: SchemaRef,
    rows: u64,
    batches: Vec<RecordBatch>,
    files: Vec<(PathBuf, u64)>,
}

impl StagedTableRows {
    pub(crate) fn of(staged: &StagedRows) -> Self {
        let columns: Vec<Column> = staged.columns.iter().map(|stored| stored.column.clone()).collect();
        Self {
            schema: schema_of(&columns),
            columns,
            rows: staged.rows,
            batches: staged.batches.clone(),
            files: staged.files.iter().map(|(file, _)| (file.path.clone(), file.rows)).collect(),
        }
    }

    /// The committed table, with the columns that it will have once these rows are committed, too.
    #[must_use]
    pub fn widened(&self, table: TableView) -> TableView {
        TableView { columns: self.columns.clone(), arrow: self.schema.clone(), ..table }
    }

    /// Whether columns of the source's own are known.
    pub fn has_columns(&self) -> bool {
        self.columns.iter().any(|column| !matches!(column.name.as_str(), "_round" | "_time"))
    }

    fn file(path: &std::path::Path, rows: u64, row_id_start: i64) -> DataFile {
        DataFile {
            id: 0,
            path: path.to_owned(),
            rows,
            size_bytes: 0,
            footer_size_bytes: 0,
            begin_snapshot: 0,
            end_snapshot: None,
            row_id_start,
            partial_max: None,
            statistics: Default::default(),
            delete_files: Vec::new(),
            deleted_positions: Vec::new(),
            deleted_rows: 0,
            unsettled: false,
        }
    }
}

impl portolan_model::check::StagedRows for StagedTableRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn read(&self, projection: Option<&[usize]>, take: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        let places: Vec<usize> = match projection {
            Some(places) => places.to_vec(),
            None => (0..self.columns.len()).collect(),
        };
        let columns = places.iter().map(|place| self.columns.get(*place).cloned());
        let columns: Vec<Column> = columns
            .collect::<Option<_>>()
            .ok_or_else(|| internal("read staged rows", "a column is asked for that is not there"))?;
        let schema = schema_of(&columns);
        for batch in &self.batches {
            // Columns that came later, with batches of no rows, are not in it.
            let arrays = places.iter().zip(&columns).map(|(place, column)| match batch.columns().get(*place) {
                Some(array) => adapt(array, column),
                None => Ok(new_null_array(&column.kind.arrow(), batch.num_rows())),
            });
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(schema.clone(), arrays.collect::<Result<_>>()?, &options)
                .map_err(|error| arrow_error("read staged rows", error))?;
            if !take(batch)? {
                return Ok(());
            }
        }
        let mut first = 0;
        for (path, rows) in &self.files {
            let mut reader = open_file(&Self::file(path, *rows, first), &columns, i64::MAX)?;
            first += *rows as i64;
            while let Some(next) = reader.next_with_ids().transpose()? {
                if !take(next.batch)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// What is left after rows were withheld.
pub(crate) struct Withheld {
    pub(crate) rows: StagedRows,
    pub(crate) items: Vec<RecordBatch>,
    pub(crate) bytes: u64,
}

/// Whose rows are withheld, and how much the quarantine still takes of them.
pub(crate) struct Terms<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) source: &'a SourceName,
    pub(crate) round: i64,
    pub(crate) time_us: i64,
    pub(crate) items_left: u64,
    pub(crate) bytes_left: u64,
}

/// Takes `rows`, in order of their numbers, out of `staged`, which stays as it is. Blocks on the disk.
///
/// # Errors
/// `Limit` if the quarantine cannot take them whole.
pub(crate) fn withhold(terms: &Terms<'_>, staged: &StagedRows, rows: &[WithheldRow]) -> Result<Withheld> {
    if rows.len() as u64 > terms.items_left {
        let message =
            format!("{} rows fail, and the quarantine takes {} more of this round", rows.len(), terms.items_left);
        return Err(limit(message));
    }
    // Of one key the first row counts, and the others were left out as its duplicates: without it, none would be anywhere.
    let is_withheld = |row: u64| rows.binary_search_by_key(&row, |withheld| withheld.row).is_ok();
    let keys = staged.keys.iter().flat_map(|(_, keys, _)| keys);
    if let Some((row, _)) = keys.into_iter().find(|(row, key)| is_withheld(*row) && staged.repeated.contains(key)) {
        return Err(Error::new(
            ErrorKind::Limit,
            OPERATION,
            format!(
                "row {row} fails, and other rows of its key came in the same round and were left out as its duplicates"
            ),
        )
        .with_hint("let the source give each key once a round, or choose a `key` that differs between its rows"));
    }
    let source = StagedTableRows::of(staged);
    let mut rewriter = Rewriter::new(terms.context, staged, &source.columns);
    let mut items = Items { terms, pending: Vec::new(), batches: Vec::new(), bytes: 0 };
    let (mut first, mut place) = (0, 0);
    portolan_model::check::StagedRows::read(&source, None, &mut |batch| {
        let end = first + batch.num_rows() as u64;
        let start = place;
        while rows.get(place).is_some_and(|row| row.row < end) {
            let row = &rows[place];
            items.add(&batch, &source.columns, (row.row - first) as usize, row)?;
            place += 1;
        }
        let kept = match place - start {
            0 => batch,
            _ => {
                let mut keep = vec![true; batch.num_rows()];
                rows[start..place].iter().for_each(|row| keep[(row.row - first) as usize] = false);
                filter_record_batch(&batch, &BooleanArray::from(keep)).map_err(|error| arrow_error(OPERATION, error))?
            }
        };
        first = end;
        rewriter.push(kept)?;
        Ok(true)
    })?;
    if place != rows.len() {
        return Err(internal(OPERATION, "a row is to be withheld that is not there"));
    }
    let (batches, bytes) = items.end()?;
    let keys = staged.keys.clone().map(|(source, mut keys, memory)| {
        keys.retain(|(row, _)| !is_withheld(*row));
        (source, keys, memory)
    });
    Ok(Withheld { rows: StagedRows { keys, ..rewriter.finish()? }, items: batches, bytes })
}

fn limit(message: String) -> Error {
    Error::new(ErrorKind::Limit, OPERATION, message)
        .with_hint("correct what the source gives, or use on_failure = \"warn\" or \"reject\"")
}

/// Rows on their way to the quarantine.
struct Items<'a> {
    terms: &'a Terms<'a>,
    pending: Vec<QuarantineItem>,
    batches: Vec<RecordBatch>,
    bytes: u64,
}

impl Items<'_> {
    fn add(&mut self, batch: &RecordBatch, columns: &[Column], row: usize, withheld: &WithheldRow) -> Result<()> {
        let mut content = String::from("{");
        for (column, array) in columns.iter().zip(batch.columns()) {
            if array.is_null(row) || matches!(column.name.as_str(), "_round" | "_time") {
                continue;
            }
            if content.len() > 1 {
                content.push(',');
            }
            content.push_str(&serde_json::Value::from(column.name.as_str()).to_string());
            content.push(':');
            if !json::value(array.as_ref(), row, &column.kind, &mut content) {
                return Err(limit(format!(
                    "row {} has a value in `{}` that JSON has no form for",
                    withheld.row, column.name
                )));
            }
        }
        content.push('}');
        if content.len() > CONTENT_BYTES_MAX {
            let message = format!(
                "row {} has {} bytes, and the quarantine keeps {CONTENT_BYTES_MAX} of a row",
                withheld.row,
                content.len()
            );
            return Err(limit(message));
        }
        self.bytes += (content.len() + withheld.detail.len()) as u64;
        if self.bytes > self.terms.bytes_left {
            return Err(limit("the rows that fail have more bytes than the quarantine takes of one round".to_owned()));
        }
        self.pending.push(QuarantineItem {
            reason: WITHHELD,
            column: None,
            row: serde_json::json!({ "row": withheld.row }),
            content,
            detail: withheld.detail.to_string(),
        });
        if self.pending.len() >= ITEMS_AT_ONCE { self.pack() } else { Ok(()) }
    }

    fn pack(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            let items = std::mem::take(&mut self.pending);
            let Terms { round, time_us, source, .. } = self.terms;
            self.batches.push(crate::system::quarantine(*round, *time_us, source, &items)?);
        }
        Ok(())
    }

    fn end(mut self) -> Result<(Vec<RecordBatch>, u64)> {
        self.pack()?;
        Ok((self.batches, self.bytes))
    }
}

/// Stages the rows that are left, where the others were: inside the catalog, or in a file.
struct Rewriter<'a> {
    context: &'a Arc<Context>,
    staged: &'a StagedRows,
    columns: &'a [Column],
    digest: RowDigest,
    rows: u64,
    batches: Vec<RecordBatch>,
    event_times: Option<EventTimeReader>,
    file: Option<(FileWriter, FileGuard)>,
}

impl<'a> Rewriter<'a> {
    fn new(context: &'a Arc<Context>, staged: &'a StagedRows, columns: &'a [Column]) -> Self {
        let event_times = staged.event_times.as_ref().map(EventTimeReader::anew);
        Self {
            context,
            staged,
            columns,
            digest: RowDigest::new(),
            rows: 0,
            batches: Vec::new(),
            event_times,
            file: None,
        }
    }

    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.digest.update(&batch, self.columns);
        if let Some(times) = &mut self.event_times {
            times.update_stored(&batch, &self.staged.columns, self.context.clock.wall())?;
        }
        self.rows += batch.num_rows() as u64;
        let Some((file, _)) = self.staged.files.first() else {
            self.batches.push(batch);
            return Ok(());
        };
        if self.file.is_none() {
            let path = file.path.with_file_name(file_name());
            let guard = self.context.staged.register(path.clone());
            self.file = Some((FileWriter::create(path, self.columns, &batch)?, guard));
        }
        if let Some((writer, _)) = &mut self.file {
            writer.write(&batch)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<StagedRows> {
        let mut cells = None;
        let mut statistics = Vec::new();
        if !self.batches.is_empty() {
            cells = Cells::from_batches(&self.batches, self.columns);
            if cells.is_none() {
                return Err(internal(OPERATION, "rows that were kept inside the catalog no longer are"));
            }
            statistics = vec![Statistics::default(); self.columns.len()];
            for batch in &self.batches {
                for ((known, column), array) in statistics.iter_mut().zip(self.columns).zip(batch.columns()) {
                    known.update(array.as_ref(), &column.kind);
                }
            }
        }
        let files = self.file.map(|(writer, guard)| Ok((writer.finish()?, guard))).transpose()?;
        let staged = self.staged;
        Ok(StagedRows {
            target: staged.target.clone(),
            base: staged.base.clone(),
            columns: staged.columns.clone(),
            next_column_id: staged.next_column_id,
            changed: staged.changed,
            mode: staged.mode,
            rows: self.rows,
            duplicates: staged.duplicates,
            cells,
            statistics,
            files: files.into_iter().collect(),
            rows_sha256: self.digest.finish(),
            event_times: self.event_times,
            settings: staged.settings.clone(),
            keys: None,
            repeated: HashSet::new(),
            batches: self.batches,
        })
    }
}

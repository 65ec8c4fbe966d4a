//! A catalog in memory: the contract without a disk, for tests of what writes to a catalog.
//!
//! Promise: it keeps every check of [`conformance::catalog`](crate::conformance::catalog), so that a test over it says
//! something about the lake. It has no event times, widens no columns and forgets no key.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{BooleanArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use jiff::Timestamp;
use portolan_model::catalog::{
    Catalog, Commit, EventTimes, Grounded, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::check::{Ground, StagedRows, WITHHELD, WithheldRow};
use portolan_model::round::{ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Position, Result, RoundId, SourceName};
use sha2::{Digest, Sha256};

/// Rows of one source and round that may be withheld.
pub const WITHHELD_ROWS_MAX: usize = 100;
/// Bytes of a row that is withheld.
const CONTENT_BYTES_MAX: usize = 64 << 10;

/// A committed round.
#[derive(Clone, Debug)]
pub struct StoredRound {
    /// Its number.
    pub id: RoundId,
    /// What was stored of it.
    pub record: RoundRecord,
}

#[derive(Default)]
struct Store {
    rounds: Vec<StoredRound>,
    tables: BTreeMap<SourceName, Vec<RecordBatch>>,
    quarantine: Vec<(SourceName, QuarantineItem)>,
    keys: BTreeMap<SourceName, HashSet<String>>,
    /// The snapshot that changed each table last.
    changed: BTreeMap<SourceName, i64>,
    positions: BTreeMap<SourceName, Position>,
    watermarks: BTreeMap<SourceName, Timestamp>,
    statuses: BTreeMap<SourceName, SourceStatus>,
    rounds_begun: i64,
    /// Commits so far, which number the snapshots.
    snapshot: i64,
}

/// The handle of a catalog in memory; its clones are the same catalog.
#[derive(Clone, Default)]
pub struct MemoryCatalog {
    store: Arc<Mutex<Store>>,
    /// The next commit finds no space left.
    pub fail_next_commit: Arc<AtomicBool>,
    /// No row is taken.
    pub is_full: Arc<AtomicBool>,
    /// How many of the next commits on a ground find it moved, whatever it is.
    pub moves: Arc<AtomicI64>,
}

impl MemoryCatalog {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every committed round, in order.
    pub fn rounds(&self) -> Vec<StoredRound> {
        self.store().rounds.clone()
    }

    /// The committed rows of every table, in order, in one look.
    pub fn tables(&self) -> BTreeMap<SourceName, Vec<RecordBatch>> {
        self.store().tables.clone()
    }

    /// How many rows of a source are committed.
    pub fn rows(&self, source: &str) -> u64 {
        let batches = SourceName::new(source).ok().and_then(|name| self.store().tables.get(&name).cloned());
        batches.unwrap_or_default().iter().map(|batch| batch.num_rows() as u64).sum()
    }

    /// Whether there is a table, which may have no row.
    pub fn has_table(&self, source: &str) -> bool {
        SourceName::new(source).is_ok_and(|name| self.store().tables.contains_key(&name))
    }

    /// The position of a source, where it is a number.
    pub fn position(&self, source: &str) -> Option<i64> {
        self.store().positions.get(&SourceName::new(source).ok()?)?.value.as_i64()
    }

    /// The last stored state of a source.
    pub fn status(&self, source: &str) -> Option<SourceStatus> {
        self.store().statuses.get(&SourceName::new(source).ok()?).cloned()
    }

    /// What is in the quarantine, in order.
    pub fn quarantine(&self) -> Vec<(SourceName, QuarantineItem)> {
        self.store().quarantine.clone()
    }
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        Ok(self.store().positions.clone())
    }

    async fn watermarks(&self) -> Result<BTreeMap<SourceName, Timestamp>> {
        Ok(self.store().watermarks.clone())
    }

    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        Ok(self.store().statuses.clone())
    }

    async fn begin(&self) -> Result<Box<dyn Staging>> {
        let mut store = self.store();
        store.rounds_begun += 1;
        let id = RoundId(store.rounds_begun);
        Ok(Box::new(MemoryStaging { catalog: self.clone(), id, tables: Arc::default(), opened: BTreeSet::new() }))
    }

    async fn record_states(&self, states: &[SourceStatus]) -> Result<()> {
        let mut store = self.store();
        store.statuses.extend(states.iter().map(|status| (status.source.clone(), status.clone())));
        Ok(())
    }
}

/// A row's values as text, without those that are NULL: equal for equal rows, whatever batch they came in.
fn row_texts(batch: &RecordBatch, names: Option<&[String]>) -> Result<Vec<String>> {
    let options = FormatOptions::default();
    let mut texts = vec![String::new(); batch.num_rows()];
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if names.is_some_and(|names| !names.contains(field.name())) {
            continue;
        }
        let formatter = ArrayFormatter::try_new(array.as_ref(), &options).map_err(unfit)?;
        for (row, text) in texts.iter_mut().enumerate().filter(|(row, _)| array.is_valid(*row)) {
            let value = formatter.value(row).to_string();
            text.push_str(&format!("{}:{}={}:{value};", field.name().len(), field.name(), value.len()));
        }
    }
    Ok(texts)
}

fn unfit(error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, "keep rows in memory", "they do not fit together").with_cause(error)
}

/// The rows of one source in one round.
#[derive(Clone)]
struct MemoryRows {
    mode: WriteMode,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    duplicates: u64,
    /// The key of each row, where the source has one that counts.
    keys: Option<Vec<String>>,
    /// Keys that came more than once.
    repeated: HashSet<String>,
    quarantine: Vec<QuarantineItem>,
    /// The rows as they were staged, where some have been withheld since.
    whole: Option<Box<MemoryRows>>,
}

impl MemoryRows {
    fn told(&self) -> Result<StagedTable> {
        let mut digest = Sha256::new();
        for batch in &self.batches {
            row_texts(batch, None)?.into_iter().for_each(|text| digest.update(format!("{}:{text}", text.len())));
        }
        Ok(StagedTable {
            rows: self.rows(),
            duplicates: self.duplicates,
            quarantined: self.quarantine.len() as u64,
            event_times: EventTimes::default(),
            rows_sha256: format!("{:x}", digest.finalize()),
        })
    }

    /// The rows without some of them, which are in the quarantine instead.
    fn without(&self, rows: Vec<WithheldRow>) -> Result<Self> {
        let limit = |message: String| Err(Error::new(ErrorKind::Limit, "withhold rows", message));
        if rows.len() > WITHHELD_ROWS_MAX {
            return limit(format!("too many: {} rows", rows.len()));
        }
        let is_withheld = |row: usize| rows.binary_search_by_key(&(row as u64), |withheld| withheld.row).is_ok();
        let mut left = Self { batches: Vec::new(), whole: Some(Box::new(self.clone())), ..self.clone() };
        let mut first = 0;
        for batch in &self.batches {
            let keep: Vec<bool> = (first..first + batch.num_rows()).map(|row| !is_withheld(row)).collect();
            for (row, content) in row_texts(batch, None)?.into_iter().enumerate() {
                let Ok(place) = rows.binary_search_by_key(&((first + row) as u64), |withheld| withheld.row) else {
                    continue;
                };
                if content.len() > CONTENT_BYTES_MAX {
                    return limit(format!("row {} has {} bytes", rows[place].row, content.len()));
                }
                left.quarantine.push(QuarantineItem {
                    reason: WITHHELD,
                    column: None,
                    row: serde_json::json!({ "row": rows[place].row }),
                    content,
                    detail: rows[place].detail.to_string(),
                });
            }
            first += batch.num_rows();
            left.batches.push(filter_record_batch(batch, &BooleanArray::from(keep)).map_err(unfit)?);
        }
        if let Some(keys) = &self.keys {
            let is_alone = |(row, key): (usize, &String)| !is_withheld(row) || !self.repeated.contains(key);
            if !keys.iter().enumerate().all(is_alone) {
                return limit("other rows of its key were left out as its duplicates".to_owned());
            }
            let kept = keys.iter().enumerate().filter(|(row, _)| !is_withheld(*row));
            left.keys = Some(kept.map(|(_, key)| key.clone()).collect());
        }
        Ok(left)
    }
}

impl StagedRows for MemoryRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }

    fn read(&self, projection: Option<&[usize]>, take: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let places = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(places).map_err(unfit)?);
        for batch in &self.batches {
            let rows = batch.num_rows();
            let array = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
                Some(array) => array.clone(),
                None => new_null_array(field.data_type(), rows),
            };
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let arrays = schema.fields().iter().map(array).collect();
            let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &options).map_err(unfit)?;
            if !take(batch)? {
                break;
            }
        }
        Ok(())
    }
}

type Tables = Arc<Mutex<BTreeMap<SourceName, MemoryRows>>>;

struct MemoryStaging {
    catalog: MemoryCatalog,
    id: RoundId,
    tables: Tables,
    opened: BTreeSet<SourceName>,
}

impl MemoryStaging {
    fn tables(&self) -> MutexGuard<'_, BTreeMap<SourceName, MemoryRows>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Staging for MemoryStaging {
    fn round(&self) -> RoundId {
        self.id
    }

    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        if !self.opened.insert(spec.source.clone()) {
            let message = "a source has one table in a round";
            return Err(Error::new(ErrorKind::Internal, "stage table", message).with_source(&spec.source));
        }
        let (catalog, tables) = (self.catalog.clone(), self.tables.clone());
        Ok(Box::new(MemoryTable { catalog, spec, batches: Vec::new(), quarantine: Vec::new(), tables }))
    }

    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn StagedRows>)> {
        let tables = self.tables();
        tables.iter().map(|(name, rows)| (name.clone(), rows.mode, Arc::new(rows.clone()) as _)).collect()
    }

    async fn withhold(&mut self, source: &SourceName, rows: Vec<WithheldRow>) -> Result<StagedTable> {
        let mut tables = self.tables();
        let Some(table) = tables.get_mut(source) else {
            let message = "the round has no table of the source";
            return Err(Error::new(ErrorKind::Internal, "withhold rows", message).with_source(source));
        };
        *table = table.without(rows).map_err(|error| error.with_source(source))?;
        table.told()
    }

    async fn commit_on(
        self: Box<Self>,
        ground: Option<Ground>,
        mut record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded> {
        let mut store = self.catalog.store();
        if let Some(ground) = &ground {
            let is_changed = |name| store.changed.get(name).is_some_and(|changed| *changed > ground.snapshot);
            let is_moved = ground.snapshot > store.snapshot || ground.tables.iter().any(is_changed);
            if is_moved || self.catalog.moves.fetch_sub(1, Ordering::SeqCst) > 0 {
                for table in self.tables().values_mut() {
                    if let Some(whole) = table.whole.take() {
                        *table = *whole;
                    }
                }
                drop(store);
                return Ok(Grounded::Moved(self));
            }
        }
        if self.catalog.fail_next_commit.swap(false, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "commit", "no space left"));
        }
        store.snapshot += 1;
        let (round, snapshot) = (self.id, store.snapshot);
        store.statuses.extend(states.iter().map(|status| (status.source.clone(), status.clone())));
        if record.verdict != RoundVerdict::Rejected {
            for (source, rows) in std::mem::take(&mut *self.tables()) {
                if let Some(receipt) = record.receipts.iter_mut().find(|receipt| receipt.source == source) {
                    (receipt.rows_sha256, receipt.mode) = (Some(rows.told()?.rows_sha256), Some(rows.mode));
                }
                let table = store.tables.entry(source.clone()).or_default();
                if rows.mode == WriteMode::Replace {
                    table.clear();
                }
                table.extend(rows.batches);
                store.keys.entry(source.clone()).or_default().extend(rows.keys.unwrap_or_default());
                store.quarantine.extend(rows.quarantine.into_iter().map(|item| (source.clone(), item)));
                store.changed.insert(source, snapshot);
            }
            for receipt in &record.receipts {
                if matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged) {
                    let name = || receipt.source.clone();
                    store.positions.extend(receipt.position_after.clone().map(|position| (name(), position)));
                    store.watermarks.extend(receipt.watermark.map(|watermark| (name(), watermark)));
                }
            }
        }
        store.rounds.push(StoredRound { id: round, record });
        Ok(Grounded::Committed(Commit { round, snapshot }))
    }

    async fn abort(self: Box<Self>) {}
}

struct MemoryTable {
    catalog: MemoryCatalog,
    spec: TableSpec,
    batches: Vec<RecordBatch>,
    quarantine: Vec<QuarantineItem>,
    tables: Tables,
}

#[async_trait]
impl TableStaging for MemoryTable {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if self.catalog.is_full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "write", "no space left"));
        }
        self.batches.push(batch);
        Ok(())
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantine.push(item);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<StagedTable> {
        let Self { catalog, spec, batches, quarantine, tables } = *self;
        let schemas = batches.iter().map(|batch| batch.schema().as_ref().clone());
        let mut rows = MemoryRows {
            mode: spec.mode,
            schema: Arc::new(Schema::try_merge(schemas).map_err(unfit)?),
            batches,
            duplicates: 0,
            keys: None,
            repeated: HashSet::new(),
            quarantine,
            whole: None,
        };
        // A round that replaces brings the whole table: no key counts.
        if !spec.key.is_empty() && spec.mode == WriteMode::Append {
            let known = catalog.store().keys.get(&spec.source).cloned().unwrap_or_default();
            let (mut seen, mut keys) = (HashSet::new(), Vec::new());
            for batch in &mut rows.batches {
                let mut keep = Vec::new();
                for key in row_texts(batch, Some(&spec.key))? {
                    let is_new = !known.contains(&key) && seen.insert(key.clone());
                    if is_new {
                        keys.push(key);
                    } else if seen.contains(&key) {
                        rows.repeated.insert(key);
                    }
                    keep.push(is_new);
                }
                rows.duplicates += keep.iter().filter(|is_kept| !**is_kept).count() as u64;
                *batch = filter_record_batch(batch, &BooleanArray::from(keep)).map_err(unfit)?;
            }
            rows.keys = Some(keys);
        }
        let told = rows.told()?;
        tables.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.source, rows);
        Ok(told)
    }
}

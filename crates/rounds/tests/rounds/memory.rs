//! The catalog in memory: the contract in a few lines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::catalog::{
    Catalog, Commit, EventTimes, Grounded, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::check::{Ground, StagedRows, WithheldRow};
use portolan_model::round::{ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Position, Result, RoundId, SourceName};

use crate::support::value;

/// A committed round.
#[derive(Clone)]
pub(crate) struct StoredRound {
    pub(crate) id: RoundId,
    pub(crate) record: RoundRecord,
}

#[derive(Default)]
struct Store {
    rounds: Vec<StoredRound>,
    rows: BTreeMap<SourceName, u64>,
    positions: BTreeMap<SourceName, Position>,
    watermarks: BTreeMap<SourceName, jiff::Timestamp>,
    statuses: BTreeMap<SourceName, SourceStatus>,
    next: i64,
}

/// The catalog in memory: the contract in a few lines.
#[derive(Clone, Default)]
pub(crate) struct MemoryCatalog {
    store: Arc<Mutex<Store>>,
    pub(crate) fail_next_commit: Arc<AtomicBool>,
    pub(crate) is_full: Arc<AtomicBool>,
    /// How many of the next commits on a ground find it moved.
    pub(crate) moves: Arc<AtomicI64>,
}

impl MemoryCatalog {
    pub(crate) fn rounds(&self) -> Vec<StoredRound> {
        self.store.lock().unwrap().rounds.clone()
    }
    pub(crate) fn rows(&self, source: &str) -> u64 {
        self.store.lock().unwrap().rows.get(&SourceName::new(source).unwrap()).copied().unwrap_or(0)
    }
    pub(crate) fn has_table(&self, source: &str) -> bool {
        self.store.lock().unwrap().rows.contains_key(&SourceName::new(source).unwrap())
    }
    pub(crate) fn position(&self, source: &str) -> Option<i64> {
        value(self.store.lock().unwrap().positions.get(&SourceName::new(source).unwrap()))
    }
    pub(crate) fn status(&self, source: &str) -> Option<SourceStatus> {
        self.store.lock().unwrap().statuses.get(&SourceName::new(source).unwrap()).cloned()
    }
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        Ok(self.store.lock().unwrap().positions.clone())
    }
    async fn watermarks(&self) -> Result<BTreeMap<SourceName, jiff::Timestamp>> {
        Ok(self.store.lock().unwrap().watermarks.clone())
    }
    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        Ok(self.store.lock().unwrap().statuses.clone())
    }
    async fn begin(&self) -> Result<Box<dyn Staging>> {
        let mut store = self.store.lock().unwrap();
        store.next += 1;
        Ok(Box::new(MemoryStaging {
            catalog: self.clone(),
            id: RoundId(store.next),
            staged: Arc::default(),
            whole: BTreeMap::new(),
        }))
    }
    async fn record_states(&self, states: &[SourceStatus]) -> Result<()> {
        let mut store = self.store.lock().unwrap();
        store.statuses.extend(states.iter().map(|status| (status.source.clone(), status.clone())));
        Ok(())
    }
}

fn told(rows: u64, quarantined: u64) -> StagedTable {
    let event_times = EventTimes::default();
    StagedTable { rows, duplicates: 0, quarantined, event_times, rows_sha256: String::new() }
}

/// So many rows, without a value.
struct Rows(u64);

impl StagedRows for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }
    fn rows(&self) -> u64 {
        self.0
    }
    fn read(&self, _: Option<&[usize]>, _: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        Ok(())
    }
}

struct MemoryStaging {
    catalog: MemoryCatalog,
    id: RoundId,
    staged: Arc<Mutex<BTreeMap<SourceName, u64>>>,
    whole: BTreeMap<SourceName, u64>,
}

#[async_trait]
impl Staging for MemoryStaging {
    fn round(&self) -> RoundId {
        self.id
    }
    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        Ok(Box::new(MemoryTable {
            source: spec.source,
            rows: 0,
            quarantined: 0,
            staged: self.staged.clone(),
            is_full: self.catalog.is_full.clone(),
        }))
    }
    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn StagedRows>)> {
        let staged = self.staged.lock().unwrap();
        let table = |(name, rows): (&SourceName, &u64)| (name.clone(), WriteMode::Append, Arc::new(Rows(*rows)) as _);
        staged.iter().map(table).collect()
    }
    async fn withhold(&mut self, source: &SourceName, rows: Vec<WithheldRow>) -> Result<StagedTable> {
        let mut staged = self.staged.lock().unwrap();
        let all = staged.get_mut(source).unwrap();
        if rows.len() > 100 {
            return Err(Error::new(ErrorKind::Limit, "withhold rows", "too many").with_source(source));
        }
        let withheld = rows.len() as u64;
        self.whole.entry(source.clone()).or_insert(*all);
        *all -= withheld;
        Ok(told(*all, withheld))
    }
    async fn commit_on(
        self: Box<Self>,
        ground: Option<Ground>,
        record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded> {
        if ground.is_some() && self.catalog.moves.fetch_sub(1, Ordering::SeqCst) > 0 {
            self.staged.lock().unwrap().extend(self.whole.clone());
            return Ok(Grounded::Moved(self));
        }
        self.commit(record, states).await.map(Grounded::Committed)
    }
    async fn commit(self: Box<Self>, record: RoundRecord, states: &[SourceStatus]) -> Result<Commit> {
        if self.catalog.fail_next_commit.swap(false, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "commit", "no space left"));
        }
        self.catalog.record_states(states).await?;
        let mut store = self.catalog.store.lock().unwrap();
        if record.verdict != RoundVerdict::Rejected {
            for (source, rows) in self.staged.lock().unwrap().iter() {
                *store.rows.entry(source.clone()).or_default() += rows;
            }
            for receipt in &record.receipts {
                if matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged)
                    && let Some(position) = &receipt.position_after
                {
                    store.positions.insert(receipt.source.clone(), position.clone());
                }
                store.watermarks.extend(receipt.watermark.map(|watermark| (receipt.source.clone(), watermark)));
            }
        }
        store.rounds.push(StoredRound { id: self.id, record });
        Ok(Commit { round: self.id, snapshot: store.rounds.len() as i64 })
    }
    async fn abort(self: Box<Self>) {}
}

struct MemoryTable {
    source: SourceName,
    rows: u64,
    quarantined: u64,
    staged: Arc<Mutex<BTreeMap<SourceName, u64>>>,
    is_full: Arc<AtomicBool>,
}

#[async_trait]
impl TableStaging for MemoryTable {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "write", "no space left"));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
    async fn quarantine(&mut self, _: QuarantineItem) -> Result<()> {
        self.quarantined += 1;
        Ok(())
    }
    async fn finish(self: Box<Self>) -> Result<StagedTable> {
        self.staged.lock().unwrap().insert(self.source.clone(), self.rows);
        let (rows, quarantined) = (self.rows, self.quarantined);
        Ok(told(rows, quarantined))
    }
}

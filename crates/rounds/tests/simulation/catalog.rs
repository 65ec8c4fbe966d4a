//! A model of the catalog: the contract in a few lines, with a disk that fails now and then. What it is given is checked
//! before it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::catalog::{
    Catalog, Commit, EventTimes, Grounded, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::check::{Ground, StagedRows, WithheldRow};
use portolan_model::round::{ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Position, Result, RoundId, SourceName};
use portolan_rounds::output::hex;
use sha2::{Digest, Sha256};

use crate::checks;
use crate::plan::Break;
use crate::world::World;

/// The longest that the catalog takes for a step, in milliseconds.
pub(crate) const STEP_MS: u64 = 30;

/// What is published.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) rows: BTreeMap<SourceName, Vec<i64>>,
    /// Rows that checks have withheld.
    pub(crate) withheld: BTreeMap<SourceName, Vec<i64>>,
    pub(crate) positions: BTreeMap<SourceName, Position>,
    pub(crate) watermarks: BTreeMap<SourceName, jiff::Timestamp>,
    pub(crate) statuses: BTreeMap<SourceName, SourceStatus>,
    pub(crate) last: BTreeMap<String, RoundRecord>,
    pub(crate) rounds: i64,
    next: i64,
}

/// The rows of one source in one round.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) mode: WriteMode,
    pub(crate) rows: Vec<i64>,
    pub(crate) quarantined: u64,
    pub(crate) duplicates: u64,
    /// Rows that were taken out, with their places, and whether the catalog was told so.
    pub(crate) withheld: Vec<(usize, i64)>,
}

impl Staged {
    /// The rows as they were staged.
    pub(crate) fn whole(&self) -> Vec<i64> {
        let mut rows = self.rows.clone();
        for (place, row) in &self.withheld {
            rows.insert(*place, *row);
        }
        rows
    }

    fn told(&self, is_blind: bool) -> StagedTable {
        let mut digest = Sha256::new();
        if !is_blind {
            self.rows.iter().for_each(|row| digest.update(row.to_le_bytes()));
        }
        StagedTable {
            rows: self.rows.len() as u64,
            duplicates: self.duplicates,
            quarantined: self.quarantined + self.withheld.len() as u64,
            event_times: EventTimes::default(),
            rows_sha256: hex(&digest.finalize()),
        }
    }
}

impl StagedRows for Staged {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn read(&self, _: Option<&[usize]>, _: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        Ok(())
    }
}

/// Its own handle, so that the traits can be implemented.
#[derive(Clone)]
pub(crate) struct ModelCatalog(pub(crate) Arc<World>);

impl ModelCatalog {
    async fn step(&self, operation: &'static str) -> Result<()> {
        self.0.pause(STEP_MS).await;
        if !self.0.fails(self.0.plan.catalog_faults) {
            return Ok(());
        }
        let kind = [ErrorKind::Storage, ErrorKind::StorageFull, ErrorKind::Conflict][self.0.below(3) as usize];
        Err(Error::new(kind, operation, "the disk says no"))
    }
}

#[async_trait]
impl Catalog for ModelCatalog {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        Ok(self.0.store.lock().unwrap().positions.clone())
    }

    async fn watermarks(&self) -> Result<BTreeMap<SourceName, jiff::Timestamp>> {
        Ok(self.0.store.lock().unwrap().watermarks.clone())
    }

    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        Ok(self.0.store.lock().unwrap().statuses.clone())
    }

    async fn begin(&self) -> Result<Box<dyn Staging>> {
        self.step("begin").await?;
        let mut store = self.0.store.lock().unwrap();
        store.next += 1;
        Ok(Box::new(ModelStaging { catalog: self.clone(), round: RoundId(store.next), staged: Arc::default() }))
    }

    async fn record_states(&self, states: &[SourceStatus]) -> Result<()> {
        self.step("store states").await?;
        let mut store = self.0.store.lock().unwrap();
        store.statuses.extend(states.iter().map(|status| (status.source.clone(), status.clone())));
        Ok(())
    }
}

struct ModelStaging {
    catalog: ModelCatalog,
    round: RoundId,
    staged: Arc<Mutex<BTreeMap<SourceName, Staged>>>,
}

#[async_trait]
impl Staging for ModelStaging {
    fn round(&self) -> RoundId {
        self.round
    }

    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        let staged = Staged { mode: spec.mode, rows: Vec::new(), quarantined: 0, duplicates: 0, withheld: Vec::new() };
        Ok(Box::new(ModelTable {
            catalog: self.catalog.clone(),
            is_keyed: !spec.key.is_empty(),
            source: spec.source,
            staged,
            all: self.staged.clone(),
        }))
    }

    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn StagedRows>)> {
        let staged = self.staged.lock().unwrap();
        staged.iter().map(|(name, table)| (name.clone(), table.mode, Arc::new(table.clone()) as _)).collect()
    }

    async fn withhold(&mut self, source: &SourceName, rows: Vec<WithheldRow>) -> Result<StagedTable> {
        self.catalog.step("withhold").await?;
        let mut staged = self.staged.lock().unwrap();
        let table = staged.get_mut(source).unwrap();
        for row in rows.iter().rev() {
            let place = row.row as usize;
            let taken = table.rows.remove(place);
            table.withheld.insert(0, (place, taken));
        }
        Ok(table.told(self.catalog.0.is_broken(Break::BlindDigest)))
    }

    async fn commit_on(
        self: Box<Self>,
        ground: Option<Ground>,
        record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded> {
        self.catalog.step("commit").await?;
        let world = self.catalog.0.clone();
        let head = world.store.lock().unwrap().rounds;
        if ground.is_some_and(|ground| ground.snapshot != head) && !world.is_broken(Break::IgnoresGround) {
            for table in self.staged.lock().unwrap().values_mut() {
                table.rows = table.whole();
                table.withheld.clear();
            }
            world.known.lock().unwrap().counts.moved += 1;
            return Ok(Grounded::Moved(self));
        }
        self.publish(record, states).await.map(Grounded::Committed)
    }

    async fn abort(self: Box<Self>) {
        self.catalog.0.pause(STEP_MS).await;
    }
}

impl ModelStaging {
    async fn publish(self: Box<Self>, record: RoundRecord, states: &[SourceStatus]) -> Result<Commit> {
        let world = self.catalog.0.clone();
        let mut staged = std::mem::take(&mut *self.staged.lock().unwrap());
        checks::commit(&world, &record, &staged);
        if world.is_broken(Break::LosesTable) {
            staged.pop_last();
        }
        let is_kept = record.verdict != RoundVerdict::Rejected || world.is_broken(Break::KeepsRejected);
        {
            let mut store = world.store.lock().unwrap();
            store.statuses.extend(states.iter().map(|status| (status.source.clone(), status.clone())));
            for (source, table) in staged.into_iter().filter(|_| is_kept) {
                let withheld = table.withheld.iter().map(|(_, row)| *row);
                if world.is_broken(Break::KeepsWithheld) {
                    store.rows.entry(source.clone()).or_default().extend(withheld.clone());
                }
                store.withheld.entry(source.clone()).or_default().extend(withheld);
                let rows = store.rows.entry(source).or_default();
                if table.mode == WriteMode::Replace {
                    rows.clear();
                }
                rows.extend(table.rows);
            }
            for receipt in record.receipts.iter().filter(|_| is_kept) {
                let is_read = matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged);
                if let (true, Some(position)) = (is_read, &receipt.position_after) {
                    store.positions.insert(receipt.source.clone(), position.clone());
                }
                store.watermarks.extend(receipt.watermark.map(|watermark| (receipt.source.clone(), watermark)));
                if let (false, true, Some(position)) =
                    (is_read, world.is_broken(Break::MovesFailed), &receipt.position_before)
                {
                    let moved = Position::new(1, (crate::source::number(Some(position)).unwrap() + 1).into());
                    store.positions.insert(receipt.source.clone(), moved);
                }
            }
            store.rounds += 1;
            store.last.insert(record.name.to_string(), record.clone());
        }
        checks::published(&world, &record);
        let snapshot = world.store.lock().unwrap().rounds;
        // A process may die here, too: the round is published, and nobody has been told.
        world.pause(STEP_MS).await;
        Ok(Commit { round: self.round, snapshot })
    }
}

struct ModelTable {
    catalog: ModelCatalog,
    source: SourceName,
    is_keyed: bool,
    staged: Staged,
    all: Arc<Mutex<BTreeMap<SourceName, Staged>>>,
}

#[async_trait]
impl TableStaging for ModelTable {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.catalog.step("write").await?;
        self.staged.rows.extend(batch.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    }

    async fn quarantine(&mut self, _: QuarantineItem) -> Result<()> {
        self.staged.quarantined += 1;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<StagedTable> {
        self.catalog.step("finish").await?;
        if self.is_keyed {
            let store = self.catalog.0.store.lock().unwrap();
            let known: BTreeSet<i64> = store.rows.get(&self.source).into_iter().flatten().copied().collect();
            let all = self.staged.rows.len();
            self.staged.rows.retain(|row| !known.contains(row));
            self.staged.duplicates = (all - self.staged.rows.len()) as u64;
        }
        let told = self.staged.told(self.catalog.0.is_broken(Break::BlindDigest));
        self.all.lock().unwrap().insert(self.source.clone(), self.staged);
        Ok(told)
    }
}

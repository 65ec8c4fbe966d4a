//! A catalog that breaks one promise at a time, so that each check of the suite is seen to fail.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_lake::Lake;
use portolan_model::catalog::{
    Catalog, EventTimes, Grounded, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::check::{Ground, StagedRows, WithheldRow};
use portolan_model::round::{ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Position, Result, RoundId, SourceName};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    LosesATable,
    CommitsEarly,
    KeepsDroppedTables,
    IgnoresRejection,
    TrustsEveryReceipt,
    ForgetsKeys,
    Appends,
    ReplacesByKey,
    NumbersAllTheSame,
    ForgetsStates,
    LosesBatches,
    SameDigest,
    ReadsOneBatch,
    WithholdsTooFew,
    ClaimsToWithhold,
    IgnoresGround,
    MovesByAnyChange,
    ForgetsToRestore,
}

/// The lake with a fault, or without one.
pub struct Broken {
    lake: Arc<Lake>,
    fault: Option<Fault>,
    tables: Arc<AtomicU64>,
    /// The last snapshot that was committed here.
    head: Arc<AtomicI64>,
}

impl Broken {
    pub fn new(lake: Lake, fault: Option<Fault>) -> Self {
        Self { lake: Arc::new(lake), fault, tables: Arc::default(), head: Arc::default() }
    }
}

/// Staged rows of which one batch alone can be read.
struct OneBatch(Arc<dyn StagedRows>);

impl StagedRows for OneBatch {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn rows(&self) -> u64 {
        self.0.rows()
    }

    fn read(&self, projection: Option<&[usize]>, take: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        self.0.read(projection, &mut |batch| take(batch).map(|_| false))
    }
}

#[async_trait]
impl Catalog for Broken {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        self.lake.positions().await
    }

    async fn watermarks(&self) -> Result<BTreeMap<SourceName, jiff::Timestamp>> {
        self.lake.watermarks().await
    }

    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        self.lake.statuses().await
    }

    async fn begin(&self) -> Result<Box<dyn Staging>> {
        let inner = self.lake.begin().await?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        Ok(Box::new(BrokenRound {
            inner,
            fault: self.fault,
            lake: self.lake.clone(),
            tables: self.tables.clone(),
            head: self.head.clone(),
            withheld: Vec::new(),
            kept,
        }))
    }

    async fn record_states(&self, states: &[SourceStatus]) -> Result<()> {
        if self.fault == Some(Fault::ForgetsStates) { Ok(()) } else { self.lake.record_states(states).await }
    }
}

type Kept = Arc<Mutex<Vec<(SourceName, Box<dyn TableStaging>)>>>;

struct BrokenRound {
    inner: Box<dyn Staging>,
    fault: Option<Fault>,
    lake: Arc<Lake>,
    tables: Arc<AtomicU64>,
    head: Arc<AtomicI64>,
    withheld: Vec<(SourceName, Vec<WithheldRow>)>,
    kept: Kept,
}

#[async_trait]
impl Staging for BrokenRound {
    fn round(&self) -> RoundId {
        if self.fault == Some(Fault::NumbersAllTheSame) { RoundId(1) } else { self.inner.round() }
    }

    fn table(&mut self, mut spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        match self.fault {
            Some(Fault::ReplacesByKey) if !spec.key.is_empty() => spec.mode = WriteMode::Append,
            Some(Fault::Appends) => spec.mode = WriteMode::Append,
            Some(Fault::ForgetsKeys) => spec.key.clear(),
            _ => {}
        }
        let number = self.tables.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.table(spec.clone())?;
        let (fault, lake, kept) = (self.fault, self.lake.clone(), self.kept.clone());
        Ok(Box::new(BrokenTable { inner: Some(inner), fault, number, batches: 0, spec, lake, kept }))
    }

    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn StagedRows>)> {
        let staged = self.inner.staged().into_iter();
        match self.fault {
            Some(Fault::ReadsOneBatch) => {
                staged.map(|(name, mode, rows)| (name, mode, Arc::new(OneBatch(rows)) as _)).collect()
            }
            _ => staged.collect(),
        }
    }

    async fn withhold(&mut self, source: &SourceName, mut rows: Vec<WithheldRow>) -> Result<StagedTable> {
        if self.fault == Some(Fault::WithholdsTooFew) {
            rows.pop();
        }
        let outcome = self.inner.withhold(source, rows.clone()).await;
        if outcome.is_ok() {
            self.withheld.push((source.clone(), rows));
        }
        match outcome {
            Err(_) if self.fault == Some(Fault::ClaimsToWithhold) => Ok(StagedTable {
                rows: 0,
                duplicates: 0,
                quarantined: 1,
                event_times: EventTimes::default(),
                rows_sha256: String::new(),
            }),
            outcome => outcome,
        }
    }

    async fn commit_on(
        mut self: Box<Self>,
        ground: Option<Ground>,
        mut record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded> {
        if self.fault == Some(Fault::IgnoresRejection) && record.verdict == RoundVerdict::Rejected {
            record.verdict = RoundVerdict::Complete;
        }
        if self.fault == Some(Fault::TrustsEveryReceipt) {
            for receipt in &mut record.receipts {
                receipt.verdict = ReceiptVerdict::Ok;
            }
        }
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        for (_, table) in kept {
            table.finish().await?;
        }
        let head = self.head.load(Ordering::Relaxed);
        if self.fault == Some(Fault::MovesByAnyChange) && ground.as_ref().is_some_and(|ground| ground.snapshot < head) {
            return Ok(Grounded::Moved(self));
        }
        let ground = ground.filter(|_| self.fault != Some(Fault::IgnoresGround));
        match self.inner.commit_on(ground, record, states).await? {
            Grounded::Committed(mut commit) => {
                self.head.store(commit.snapshot, Ordering::Relaxed);
                if self.fault == Some(Fault::NumbersAllTheSame) {
                    commit.round = RoundId(1);
                }
                Ok(Grounded::Committed(commit))
            }
            Grounded::Moved(mut inner) => {
                if self.fault == Some(Fault::ForgetsToRestore) {
                    for (source, rows) in self.withheld.drain(..) {
                        inner.withhold(&source, rows).await?;
                    }
                }
                self.inner = inner;
                Ok(Grounded::Moved(self))
            }
        }
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

struct BrokenTable {
    inner: Option<Box<dyn TableStaging>>,
    fault: Option<Fault>,
    number: u64,
    batches: u64,
    spec: TableSpec,
    lake: Arc<Lake>,
    kept: Kept,
}

#[async_trait]
impl TableStaging for BrokenTable {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches += 1;
        if self.fault == Some(Fault::LosesBatches) && self.batches.is_multiple_of(7) {
            return Ok(());
        }
        if self.fault == Some(Fault::LosesATable) && self.number % 2 == 1 {
            return Ok(());
        }
        if self.fault == Some(Fault::CommitsEarly) {
            // As a store does that has no transaction over its tables.
            let mut staging = self.lake.begin().await?;
            let mut table = staging.table(self.spec.clone())?;
            table.write(batch).await?;
            table.finish().await?;
            let record = super::common::record(Vec::new());
            staging.commit(record, &[]).await?;
            tokio::task::yield_now().await;
            return Ok(());
        }
        self.inner.as_mut().unwrap().write(batch).await
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.inner.as_mut().unwrap().quarantine(item).await
    }

    async fn finish(mut self: Box<Self>) -> Result<StagedTable> {
        let mut staged = self.inner.take().unwrap().finish().await?;
        if self.fault == Some(Fault::SameDigest) {
            staged.rows_sha256 = "0".repeat(64);
        }
        Ok(staged)
    }
}

impl Drop for BrokenTable {
    fn drop(&mut self) {
        if self.fault == Some(Fault::KeepsDroppedTables)
            && let Some(inner) = self.inner.take()
        {
            self.kept.lock().unwrap().push((self.spec.source.clone(), inner));
        }
    }
}

//! A catalog that breaks one promise at a time, so that each check of the suite is seen to fail.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_lake::Lake;
use portolan_model::catalog::{
    Catalog, Commit, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
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
}

/// The lake with a fault, or without one.
pub struct Broken {
    lake: Arc<Lake>,
    fault: Option<Fault>,
    tables: Arc<AtomicU64>,
}

impl Broken {
    pub fn new(lake: Lake, fault: Option<Fault>) -> Self {
        Self { lake: Arc::new(lake), fault, tables: Arc::default() }
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

    async fn commit(self: Box<Self>, mut record: RoundRecord, states: &[SourceStatus]) -> Result<Commit> {
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
        let fault = self.fault;
        let mut commit = self.inner.commit(record, states).await?;
        if fault == Some(Fault::NumbersAllTheSame) {
            commit.round = RoundId(1);
        }
        Ok(commit)
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

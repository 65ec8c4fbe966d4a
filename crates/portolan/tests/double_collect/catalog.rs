//! A catalog in memory, so that a hundred thousand rounds take minutes: the contract in a few lines, with what it has
//! published to look at.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::Timestamp;
use portolan_model::catalog::{
    Catalog, Commit, EventTimes, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::round::{RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Position, Result, RoundId, SourceName};

/// The column that every port shows the state's version in.
const VERSION: &str = "version";

type Versions = BTreeMap<SourceName, Vec<i64>>;

#[derive(Default)]
struct Store {
    rounds: i64,
    published: Versions,
}

/// Its handle.
#[derive(Clone, Default)]
pub(crate) struct LightCatalog(Arc<Mutex<Store>>);

impl LightCatalog {
    /// The versions that are published, of each source, in order.
    pub(crate) fn versions(&self) -> Versions {
        self.0.lock().unwrap().published.clone()
    }
}

/// The versions that rows show.
pub(crate) fn versions(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name(VERSION).expect("every row has a version");
    let numbers = cast(column, &DataType::Int64).expect("a version is a number");
    numbers.as_primitive::<Int64Type>().values().to_vec()
}

#[async_trait]
impl Catalog for LightCatalog {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        Ok(BTreeMap::new())
    }

    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        Ok(BTreeMap::new())
    }

    async fn watermarks(&self) -> Result<BTreeMap<SourceName, Timestamp>> {
        Ok(BTreeMap::new())
    }

    async fn begin(&self) -> Result<Box<dyn Staging>> {
        let mut store = self.0.lock().unwrap();
        store.rounds += 1;
        Ok(Box::new(LightStaging { catalog: self.clone(), round: RoundId(store.rounds), staged: Arc::default() }))
    }

    async fn record_states(&self, _: &[SourceStatus]) -> Result<()> {
        Ok(())
    }
}

struct LightStaging {
    catalog: LightCatalog,
    round: RoundId,
    staged: Arc<Mutex<Versions>>,
}

#[async_trait]
impl Staging for LightStaging {
    fn round(&self) -> RoundId {
        self.round
    }

    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        assert_eq!(spec.mode, WriteMode::Replace, "what is published is the state of the last round alone");
        let (source, all) = (spec.source, self.staged.clone());
        Ok(Box::new(LightTable { source, all, versions: Vec::new(), digest: DefaultHasher::new() }))
    }

    async fn commit(self: Box<Self>, record: RoundRecord, _: &[SourceStatus]) -> Result<Commit> {
        if record.verdict != RoundVerdict::Rejected {
            self.catalog.0.lock().unwrap().published.append(&mut self.staged.lock().unwrap());
        }
        Ok(Commit { round: self.round, snapshot: self.round.0 })
    }

    async fn abort(self: Box<Self>) {}
}

struct LightTable {
    source: SourceName,
    versions: Vec<i64>,
    digest: DefaultHasher,
    all: Arc<Mutex<Versions>>,
}

#[async_trait]
impl TableStaging for LightTable {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.versions.extend(versions(&batch));
        format!("{batch:?}").hash(&mut self.digest);
        Ok(())
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        panic!("nothing that the ports show is unfit: {item:?}")
    }

    async fn finish(self: Box<Self>) -> Result<StagedTable> {
        let Self { source, versions, digest, all } = *self;
        let staged = StagedTable {
            rows: versions.len() as u64,
            duplicates: 0,
            quarantined: 0,
            event_times: EventTimes::default(),
            rows_sha256: format!("{:016x}", digest.finish()),
        };
        all.lock().unwrap().insert(source, versions);
        Ok(staged)
    }
}

//! Checks over staged rows and over a lake: what each kind means, what is withheld, and on what ground a round is committed.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod kinds;
#[path = "../support/mod.rs"]
mod support;
mod withholding;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_lake::{At, Lake, LakeReader, LakeSettings, VerifyScope};
use portolan_model::catalog::{Catalog, Grounded, Staging, TableSpec, WriteMode};
use portolan_model::check::{CheckInput, CheckOutcome, Checked, CheckedRows, Checker, WithheldRow};
use portolan_model::clock::SystemClock;
use portolan_model::config::{
    Bound, CheckKind, CheckSpec, ColumnOf, ColumnsOf, DurationText, EventTimeSpec, EventTimeUnit, ForeignKeyTable,
    FreshnessTable, OnCheckFailure, Place, RangeTable, RowCountTable, SumTable, Within,
};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::{ErrorKind, RoundName, SourceName};
use portolan_query::{Engine, EngineOptions, LakeChecker};

use CheckOutcome::{Error, Failed, NotEvaluated, Passed};
use support::collector::TestClock;

fn source(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

fn integers(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, array.clone(), true))).unwrap()
}

/// Rows of `orders`: an id, the customer, an amount.
fn orders(rows: &[(Option<i64>, Option<i64>, f64)]) -> RecordBatch {
    let amounts: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let ids = integers(&rows.iter().map(|row| row.0).collect::<Vec<_>>());
    let customers = integers(&rows.iter().map(|row| row.1).collect::<Vec<_>>());
    batch(&[("id", ids), ("customer", customers), ("amount", amounts)])
}

fn customers(ids: &[i64]) -> RecordBatch {
    batch(&[("id", integers(&ids.iter().map(|id| Some(*id)).collect::<Vec<_>>()))])
}

struct Bed {
    _folder: tempfile::TempDir,
    lake: Lake,
    checker: LakeChecker,
    start: Timestamp,
}

impl Bed {
    fn new() -> Self {
        Self::with(LakeSettings::default())
    }

    fn with(settings: LakeSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open_with(folder.path(), settings, TestClock::new()).unwrap();
        let checker = LakeChecker::new(lake.folder(), Arc::new(SystemClock::new()));
        Self { _folder: folder, lake, checker, start: Timestamp::now() }
    }

    async fn stage(&self, tables: Vec<(&str, WriteMode, Vec<RecordBatch>)>) -> Box<dyn Staging> {
        let tables = tables.into_iter().map(|(name, mode, batches)| (name, mode, Vec::new(), batches)).collect();
        self.stage_keyed(tables).await
    }

    /// Tables whose key is their event time, too.
    async fn stage_keyed(&self, tables: Vec<(&str, WriteMode, Vec<String>, Vec<RecordBatch>)>) -> Box<dyn Staging> {
        let mut staging = self.lake.begin().await.unwrap();
        for (name, mode, key, batches) in tables {
            let time = key.first().cloned();
            self.fill(&mut *staging, (name, mode), key, time, batches).await;
        }
        staging
    }

    async fn stage_timed(&self, name: &str, column: &str, batches: Vec<RecordBatch>) -> Box<dyn Staging> {
        let mut staging = self.lake.begin().await.unwrap();
        self.fill(&mut *staging, (name, APPEND), Vec::new(), Some(column.to_owned()), batches).await;
        staging
    }

    async fn fill(
        &self,
        staging: &mut dyn Staging,
        (name, mode): (&str, WriteMode),
        key: Vec<String>,
        time: Option<String>,
        batches: Vec<RecordBatch>,
    ) {
        let timed = |column| EventTimeSpec { column, unit: Some(EventTimeUnit::Second), lateness: Duration::ZERO };
        let spec = TableSpec {
            source: source(name),
            mode,
            event_time: time.map(timed),
            watermark: Some(Timestamp::from_second(20).unwrap()),
            key,
            key_memory: 1_000_000,
            time: self.start,
        };
        let mut table = staging.table(spec).unwrap();
        for batch in batches {
            table.write(batch).await.unwrap();
        }
        table.finish().await.unwrap();
    }

    async fn ask(&self, staging: &mut dyn Staging, checks: &[CheckSpec]) -> Checked {
        self.ask_beside(staging, checks, &[]).await
    }

    async fn ask_beside(
        &self,
        staging: &mut dyn Staging,
        checks: &[CheckSpec],
        others: &[(&str, CheckedRows)],
    ) -> Checked {
        let staged = staging.staged().into_iter().map(|(name, mode, rows)| (name, CheckedRows::Staged { rows, mode }));
        let mut sources: BTreeMap<SourceName, CheckedRows> = staged.collect();
        sources.extend(others.iter().map(|(name, rows)| (source(name), rows.clone())));
        let (deadline, timeout) = (Duration::from_secs(120), Duration::from_secs(60));
        self.checker
            .check(CheckInput { checks, sources, started_at: Timestamp::now(), deadline, timeout })
            .await
            .unwrap()
    }

    async fn commit(&self, staging: Box<dyn Staging>, checked: &Checked) -> Grounded {
        let receipts = staging.staged().into_iter().map(|(name, _, rows)| {
            let mut receipt = Receipt::new(name, ReceiptVerdict::Ok);
            receipt.rows = rows.rows();
            receipt
        });
        let record = RoundRecord {
            name: RoundName::new("r").unwrap(),
            verdict: RoundVerdict::Complete,
            started_at: self.start,
            duration_us: 1,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            receipts: receipts.collect(),
            checks: checked.results.clone(),
        };
        staging.commit_on(checked.ground.clone(), record, &[]).await.unwrap()
    }

    async fn store(&self, tables: Vec<(&str, WriteMode, Vec<RecordBatch>)>) {
        let staging = self.stage(tables).await;
        assert!(matches!(self.commit(staging, &Checked::default()).await, Grounded::Committed(_)));
    }

    async fn query(&self, sql: &str) -> Vec<RecordBatch> {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let snapshot = LakeReader::open(&self.lake.folder()).unwrap().snapshot(At::Head).unwrap();
        engine.attach_lake(Arc::new(snapshot)).unwrap();
        engine.sql(sql).await.unwrap().collect().await.unwrap()
    }

    async fn number(&self, sql: &str) -> i64 {
        self.query(sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    fn is_verified(&self) {
        let reader = LakeReader::open(&self.lake.folder()).unwrap();
        let report = reader.verify(&VerifyScope::default(), &mut |_| {}).unwrap();
        assert!(report.mismatches.is_empty(), "{:?}", report.mismatches);
    }
}

fn check(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        name: "it holds".into(),
        kind,
        on_failure: OnCheckFailure::Quarantine,
        timeout: None,
        place: Place::default(),
    }
}

fn sql(text: &str) -> CheckSpec {
    check(CheckKind::Sql(text.into()))
}

fn rows_of(name: &str, text: &str) -> CheckSpec {
    check(CheckKind::Rows { source: source(name), sql: text.into() })
}

fn unique(within: Within) -> CheckSpec {
    check(CheckKind::Unique { source: source("orders"), columns: vec!["id".into()], within })
}

fn range(column: &str, min: Option<Bound>, max: Option<Bound>) -> CheckSpec {
    check(CheckKind::Range { source: source("orders"), range: RangeTable { column: column.into(), min, max } })
}

fn foreign_key(within: Within) -> CheckSpec {
    let references = ColumnsOf { source: "customers".into(), columns: vec!["id".into()] };
    let key = ForeignKeyTable { columns: vec!["customer".into()], references };
    check(CheckKind::ForeignKey { source: source("orders"), key, within })
}

fn fresh(column: &str, within: Within) -> CheckSpec {
    let freshness = FreshnessTable { column: column.into(), max_age: DurationText(Duration::from_secs(600)) };
    check(CheckKind::Freshness { source: source("ticks"), freshness, within })
}

fn count(min: Option<u64>, max: Option<u64>, equals: Option<&str>, tolerance: Option<u64>) -> CheckSpec {
    let count = RowCountTable { min, max, equals: equals.map(str::to_owned), tolerance };
    check(CheckKind::RowCount { source: source("orders"), count })
}

fn sum(column: &str, tolerance: Option<f64>) -> CheckSpec {
    let equals = ColumnOf { source: "ledger".into(), column: column.into() };
    check(CheckKind::Sum { source: source("orders"), sum: SumTable { column: "amount".into(), equals, tolerance } })
}

/// Each check's outcome and how many rows fail it.
fn outcomes(checked: &Checked) -> Vec<(CheckOutcome, Option<u64>)> {
    checked.results.iter().map(|result| (result.outcome, result.failing_rows)).collect()
}

fn numbers(checked: &Checked, name: &str) -> Vec<u64> {
    checked.withheld.get(&source(name)).map_or_else(Vec::new, |rows| rows.iter().map(|row| row.row).collect())
}

const APPEND: WriteMode = WriteMode::Append;
const REPLACE: WriteMode = WriteMode::Replace;

//! A lake of our own, written round by round on a clock that the test moves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_lake::{Lake, LakeSettings, MaintenanceReport};
use portolan_model::catalog::{Catalog, Commit, TableSpec, WriteMode};
use portolan_model::clock::Clock;
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Position, RoundName, SourceName};

/// Time that passes when the test says so.
pub(crate) struct TestClock {
    start: Timestamp,
    passed_s: AtomicI64,
}

impl TestClock {
    /// A clock that shows the present, so that files are as old as it says.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: Timestamp::now(), passed_s: AtomicI64::new(0) })
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.passed_s.fetch_add(time.as_secs() as i64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.passed_s.load(Ordering::SeqCst).unsigned_abs())
    }

    fn wall(&self) -> Timestamp {
        self.start + self.monotonic()
    }
}

/// What one source yields in a round.
pub(crate) struct Yield {
    pub(crate) spec: TableSpec,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) quarantine: Vec<QuarantineItem>,
}

/// Rows of the source `name`, added to those it has.
pub(crate) fn appended(name: &str, batches: Vec<RecordBatch>) -> Yield {
    let spec = TableSpec {
        source: SourceName::new(name).unwrap(),
        mode: WriteMode::Append,
        key: Vec::new(),
        key_memory: 1_000,
        time: Timestamp::UNIX_EPOCH,
        event_time: None,
        watermark: None,
    };
    Yield { spec, batches, quarantine: Vec::new() }
}

/// Rows of the source `name` instead of those it has.
pub(crate) fn replaced(name: &str, batches: Vec<RecordBatch>) -> Yield {
    let mut rows = appended(name, batches);
    rows.spec.mode = WriteMode::Replace;
    rows
}

/// The collector of a lake.
pub(crate) struct Collector {
    lake: Lake,
    clock: Arc<TestClock>,
}

impl Collector {
    pub(crate) fn open(folder: &Path, settings: LakeSettings, clock: &Arc<TestClock>) -> Self {
        let lake = Lake::open_with(folder, settings, Arc::clone(clock) as Arc<dyn Clock>).unwrap();
        Self { lake, clock: Arc::clone(clock) }
    }

    /// One round, a minute after the last. A rejected one stores nothing but its record.
    pub(crate) async fn round(&self, yields: Vec<Yield>, verdict: RoundVerdict) -> Commit {
        self.clock.pass(Duration::from_secs(60));
        let mut staging = self.lake.begin().await.unwrap();
        let round = staging.round();
        let mut receipts = Vec::new();
        for Yield { mut spec, batches, quarantine } in yields {
            let source = spec.source.clone();
            spec.time = self.clock.wall();
            let mut table = staging.table(spec).unwrap();
            for batch in batches {
                table.write(batch).await.unwrap();
            }
            for item in quarantine {
                table.quarantine(item).await.unwrap();
            }
            let staged = table.finish().await.unwrap();
            let mut receipt = Receipt::new(source, ReceiptVerdict::Ok);
            receipt.rows = staged.rows;
            receipt.duplicates = staged.duplicates;
            receipt.quarantined = staged.quarantined;
            receipt.released_us = Some(round.0 * 3);
            receipt.first_byte_us = Some(round.0 * 5);
            receipt.last_byte_us = Some(round.0 * 7);
            receipt.payload_sha256 = (round.0 % 2 == 0).then(|| format!("{:064x}", round.0));
            receipt.position_after = Some(Position::new(1, serde_json::json!({ "it's": round.0 })));
            receipts.push(receipt);
        }
        if verdict != RoundVerdict::Complete {
            let error = Error::new(ErrorKind::Timeout, "read rows", "the port's \"answer\" did not\nend — 终");
            let source = SourceName::new("absent").unwrap();
            receipts.push(Receipt::new(source, ReceiptVerdict::Failed).failed(&error));
        }
        let mut record = RoundRecord {
            name: RoundName::new("all").unwrap(),
            verdict,
            started_at: self.clock.wall(),
            duration_us: 1_234,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: Default::default(),
            receipts,
            checks: Vec::new(),
        };
        record.measure();
        staging.commit(record, &[]).await.unwrap()
    }

    /// Maintenance until nothing is due; everything that it did.
    pub(crate) async fn maintain(&self) -> MaintenanceReport {
        let mut total = MaintenanceReport::default();
        for _ in 0..100 {
            let report = self.lake.maintain().await.unwrap();
            if report.is_empty() {
                return total;
            }
            total.flushed_rows += report.flushed_rows;
            total.merged_files += report.merged_files;
            total.expired_snapshots += report.expired_snapshots;
            total.removed_files += report.removed_files;
            total.orphan_files += report.orphan_files;
            total.checkpointed_bytes += report.checkpointed_bytes;
        }
        panic!("maintenance finds no end: {total}");
    }

    pub(crate) async fn close(self) {
        self.lake.close().await.unwrap();
    }
}

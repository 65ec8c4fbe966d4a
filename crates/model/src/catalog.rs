//! What the lake promises to those who write rounds into it.
//!
//! A round is staged beside the catalog and becomes visible in one transaction: rows of every table, positions,
//! receipts, states. Until then nothing of it can be seen, and a crash leaves nothing but files that a sweep removes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::check::{Ground, StagedRows, WithheldRow};
use crate::config::EventTimeSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::name::SourceName;
use crate::position::Position;
use crate::round::{RoundId, RoundRecord};
use crate::source::QuarantineItem;
use crate::state::State;

/// Items of one source and round that the quarantine takes; a source that yields more is misconfigured.
pub const QUARANTINED_MAX: usize = 100_000;

/// The store that rounds are committed to.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The committed position of every source that has one.
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>>;

    /// The committed watermark of every source that has one.
    async fn watermarks(&self) -> Result<BTreeMap<SourceName, Timestamp>>;

    /// The last stored state of every source, so that counters go on after a restart.
    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>>;

    /// Begins a round: gives it a number and a place to stage rows. Touches no row that a reader can see.
    async fn begin(&self) -> Result<Box<dyn Staging>>;

    /// Stores the live state of sources, outside any round, for `status`.
    async fn record_states(&self, states: &[SourceStatus]) -> Result<()>;
}

/// One round being staged. Dropped without `commit`, it leaves nothing visible.
#[async_trait]
pub trait Staging: Send {
    /// The round's number.
    fn round(&self) -> RoundId;

    /// Opens a table for the rows of one source. Several may be open at once, used from different tasks.
    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>>;

    /// The rows staged for each source whose table is finished, with how they meet those already there; for checks.
    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn StagedRows>)>;

    /// Takes rows, in order of their numbers, out of a finished table, and puts each into the quarantine, whole, with the
    /// reason [`WITHHELD`](crate::check::WITHHELD). At most once a table.
    ///
    /// # Errors
    /// `Limit` if the quarantine takes no more of this source and round, a row is too large for it, or rows of the same key
    /// were left out as duplicates of one of them, which would be nowhere then. The table is as it was after an error.
    async fn withhold(&mut self, source: &SourceName, rows: Vec<WithheldRow>) -> Result<StagedTable>;

    /// Publishes every finished table, the record, its positions, watermarks and `states` in one transaction. Positions are the
    /// `position_after`, watermarks the `watermark`, of receipts that are [`Ok`](crate::round::ReceiptVerdict::Ok) or `Unchanged`, unless the
    /// record is `Rejected`: then tables, positions and watermarks are left out and only the record is stored.
    ///
    /// If a table of `ground` was changed since its snapshot, or that is not known any more, nothing is published, and the
    /// round is handed back as it was staged, with what was withheld. It is looked at in the same transaction.
    ///
    /// # Errors
    /// Nothing is visible after an error. `StorageFull`, `Storage` and `Conflict` are transient: reading the round
    /// again from the old positions loses nothing.
    async fn commit_on(
        self: Box<Self>,
        ground: Option<Ground>,
        record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded>;

    /// As [`commit_on`](Self::commit_on), on no ground, which cannot move.
    ///
    /// # Errors
    /// Those of [`commit_on`](Self::commit_on).
    async fn commit(self: Box<Self>, record: RoundRecord, states: &[SourceStatus]) -> Result<Commit> {
        match self.commit_on(None, record, states).await? {
            Grounded::Committed(commit) => Ok(commit),
            Grounded::Moved(_) => {
                Err(Error::new(ErrorKind::Internal, "commit round", "it was asked for on no ground, and that moved"))
            }
        }
    }

    /// Gives the round up and removes what it staged.
    async fn abort(self: Box<Self>);
}

/// The rows of one source in one round. Dropped without `finish`, its rows are not part of the round.
#[async_trait]
pub trait TableStaging: Send {
    /// Adds rows. Schemas may differ from batch to batch and from the table's: columns are added or widened where
    /// nothing is lost, and a value that does not fit its column goes to a column of its own type.
    async fn write(&mut self, batch: RecordBatch) -> Result<()>;

    /// Adds a row to `portolan.quarantine`.
    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()>;

    /// Ends the table and makes it part of the round.
    async fn finish(self: Box<Self>) -> Result<StagedTable>;
}

/// How rows of a round meet the rows already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Rows are added; each round's rows stay.
    #[default]
    Append,
    /// The table holds the rows of the last round alone; earlier ones are reached by time travel.
    Replace,
}

impl WriteMode {
    /// The stable name, as written and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Replace => "replace",
        }
    }

    /// The mode of a stable name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Append, Self::Replace].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// What a table is told before rows come.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSpec {
    /// The source, which names the table.
    pub source: SourceName,
    /// How rows meet those already there.
    pub mode: WriteMode,
    /// Columns that identify an item. Where not empty, an item whose key has been committed before (and is still
    /// remembered) is left out, and the keys are stored in the transaction that publishes the rows.
    pub key: Vec<String>,
    /// How many of the latest keys are remembered at least; older ones may be forgotten.
    pub key_memory: u64,
    /// The instant that becomes the rows' `_time`.
    pub time: Timestamp,
    /// Which instant of a row is its event's.
    pub event_time: Option<EventTimeSpec>,
    /// The source's committed watermark: rows of an earlier event time are late.
    pub watermark: Option<Timestamp>,
}

/// What a finished table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedTable {
    /// Rows, after deduplication.
    pub rows: u64,
    /// Rows left out because their key had been committed before.
    pub duplicates: u64,
    /// Rows for the quarantine.
    pub quarantined: u64,
    /// The event times of its rows, where the source has one.
    pub event_times: EventTimes,
    /// Canonical digest of the rows, lower-case hex.
    pub rows_sha256: String,
}

/// The event times of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTimes {
    /// The earliest and the latest.
    pub range: Option<(Timestamp, Timestamp)>,
    /// The latest of those that are not ahead of the clock, and so can be believed.
    pub believed_max: Option<Timestamp>,
    /// Rows before the watermark.
    pub late: u64,
    /// Rows whose event time is NULL or cannot be read.
    pub untimed: u64,
}

/// How a commit on a ground ended.
pub enum Grounded {
    /// It is visible.
    Committed(Commit),
    /// The ground has moved: nothing is visible.
    Moved(Box<dyn Staging>),
}

/// A round that is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The round's number.
    pub round: RoundId,
    /// The DuckLake snapshot that published it.
    pub snapshot: i64,
}

/// The live state of one source, as `status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceStatus {
    /// The source.
    pub source: SourceName,
    /// Protocol and address, for people.
    pub address: String,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The stable name of the kind of the last failure, while not healthy.
    pub cause_kind: Option<String>,
    /// The last failure in words, while not healthy.
    pub cause: Option<String>,
    /// What to do next, where known.
    pub hint: Option<String>,
    /// The last committed round that holds rows of it or proved them unchanged.
    pub last_round: Option<RoundId>,
    /// When that round began.
    pub last_success: Option<Timestamp>,
    /// Rows committed since the lake exists.
    pub rows_total: u64,
    /// Failed reads since the lake exists.
    pub errors_total: u64,
    /// Failed reads in a row.
    pub failures: u32,
}

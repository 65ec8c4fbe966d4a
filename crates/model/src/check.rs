//! What is asked of a round's rows before they are committed, and who answers.
//!
//! A check is evaluated over the rows that a round has staged, and over what the lake holds, outside of the catalog's write
//! lock. What it has read of the lake is its [`Ground`]: the commit looks, inside its transaction, whether that still stands,
//! and a round whose ground has moved is checked again.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use jiff::Timestamp;

use crate::catalog::WriteMode;
use crate::config::{CheckSpec, OnCheckFailure};
use crate::error::Result;
use crate::name::SourceName;

/// The reason under which withheld rows stand in the quarantine.
pub const WITHHELD: &str = "check";

/// The rows that a round has staged for one source, after deduplication, readable until the round ends. Those who know the
/// catalog may know more of it: [`Any`].
pub trait StagedRows: Any + Send + Sync {
    /// The columns, as the table will have them.
    fn schema(&self) -> SchemaRef;

    /// How many there are. A row's number is its place among them, from 0.
    fn rows(&self) -> u64;

    /// Hands the rows to `take`, in their order and a bounded piece at a time, until it says no. `projection` names columns by
    /// their place. Blocks on the disk where rows are in files.
    ///
    /// # Errors
    /// What `take` returns; `Storage` where a file cannot be read.
    fn read(&self, projection: Option<&[usize]>, take: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<()>;
}

/// What a round has of one of its sources.
#[derive(Clone)]
pub enum CheckedRows {
    /// Rows.
    Staged {
        /// The rows.
        rows: Arc<dyn StagedRows>,
        /// How they meet those already in the table.
        mode: WriteMode,
    },
    /// The server proved that nothing has changed since the last committed read: a table that each round replaces holds the
    /// rows, any other gets none.
    Unchanged {
        /// How rows meet those already in the table.
        mode: WriteMode,
    },
    /// It failed, or was not asked.
    Missing,
}

/// What is to be checked.
pub struct CheckInput<'r> {
    /// The checks, in the order of the configuration.
    pub checks: &'r [CheckSpec],
    /// Every source of the round.
    pub sources: BTreeMap<SourceName, CheckedRows>,
    /// When the round began.
    pub started_at: Timestamp,
    /// The longest that all checks together may take.
    pub deadline: Duration,
    /// The longest that one may take that has no time of its own.
    pub timeout: Duration,
}

/// Evaluates checks.
#[async_trait]
pub trait Checker: Send + Sync {
    /// Evaluates every check of `input`. A check that cannot be evaluated is a result, not an error.
    ///
    /// # Errors
    /// What the lake says where it cannot be read at all.
    async fn check(&self, input: CheckInput<'_>) -> Result<Checked>;
}

/// What came of a round's checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    /// One for each check, in their order.
    pub results: Vec<CheckResult>,
    /// What they have read of the lake.
    pub ground: Option<Ground>,
    /// The rows that failed checks withhold, by source, in order of their numbers, each once.
    pub withheld: BTreeMap<SourceName, Vec<WithheldRow>>,
}

/// A row that goes to the quarantine instead of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldRow {
    /// Its number among the staged rows.
    pub row: u64,
    /// Which checks it fails, for people.
    pub detail: Arc<str>,
}

/// What the answers of checks stand on beside the staged rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The snapshot that was read.
    pub snapshot: i64,
    /// The sources whose tables were read.
    pub tables: Vec<SourceName>,
}

/// What became of one check in one round; becomes one row of `portolan.checks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The check.
    pub name: String,
    /// The stable name of its kind.
    pub kind: &'static str,
    /// What became of it.
    pub outcome: CheckOutcome,
    /// What follows where it does not hold.
    pub on_failure: OnCheckFailure,
    /// How many rows fail it, where it is about rows.
    pub failing_rows: Option<u64>,
    /// What was found, with some of the rows, for people.
    pub detail: Option<String>,
    /// How long it took, in microseconds, monotonic.
    pub duration_us: i64,
    /// The snapshot of the lake that it holds for, where it has read the lake.
    pub snapshot: Option<i64>,
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be answered: wrong SQL, a column that is not there, no time or memory left. Never taken for passed.
    Error,
    /// There was nothing to ask about: a source that it names is missing from the round, or has no columns yet.
    NotEvaluated,
}

impl CheckOutcome {
    /// The stable name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::NotEvaluated => "not_evaluated",
        }
    }

    /// Whether `on_failure` applies.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Error)
    }
}

impl CheckResult {
    /// What is wrong, in one line, for people.
    pub fn words(&self) -> String {
        let verb = if self.outcome == CheckOutcome::Error { "could not be evaluated" } else { "does not hold" };
        match &self.detail {
            Some(detail) => format!("check `{}` {verb}: {detail}", self.name),
            None => format!("check `{}` {verb}", self.name),
        }
    }
}

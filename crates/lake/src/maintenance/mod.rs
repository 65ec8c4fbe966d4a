//! Keeping the lake in shape while it is collected into. Each job is one file, bounded per call.
//!
//! Promise: no job changes what any snapshot that still exists shows, to Portolan or to DuckDB; a job that is killed at
//! any moment leaves at most a file that the next sweep removes.

pub(crate) mod checkpoint;
mod demand;
mod expire;
mod flush;
mod merge;
mod orphans;
mod settle;

pub(crate) use self::flush::{ROW_ID_FIELD, SNAPSHOT_ID_FIELD};
pub use demand::{Job, JobProgress};

use std::fmt;

use portolan_model::Result;

use crate::lake::Lake;

/// What one call of [`Lake::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Rows moved from the catalog to Parquet files.
    pub flushed_rows: u64,
    /// Rows that left the catalog because their file has taken over their history.
    pub settled_rows: u64,
    /// Files that were merged away.
    pub merged_files: u64,
    /// Snapshots that can no longer be read.
    pub expired_snapshots: u64,
    /// Files removed that no snapshot needs any more.
    pub removed_files: u64,
    /// Files removed that the catalog never named.
    pub orphan_files: u64,
    /// Bytes of the catalog's log that were folded into it.
    pub checkpointed_bytes: u64,
}

impl MaintenanceReport {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for MaintenanceReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.flushed_rows, "rows flushed"),
            (self.settled_rows, "rows settled"),
            (self.merged_files, "files merged"),
            (self.expired_snapshots, "snapshots expired"),
            (self.removed_files, "files removed"),
            (self.orphan_files, "orphans removed"),
            (self.checkpointed_bytes, "bytes checkpointed"),
        ];
        let mut first = true;
        for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
            if !std::mem::take(&mut first) {
                formatter.write_str(", ")?;
            }
            write!(formatter, "{number} {what}")?;
        }
        if first { formatter.write_str("nothing to do") } else { Ok(()) }
    }
}

impl Lake {
    /// Does what is due: settle, flush, merge, expire, remove, sweep, checkpoint; a bounded piece of each. Call it every few
    /// seconds; calls at the same time run one after the other.
    ///
    /// # Errors
    /// The first that a job failed with; all others have been done nevertheless.
    pub async fn maintain(&self) -> Result<MaintenanceReport> {
        let context = &self.context;
        let _one_at_a_time = context.maintenance.lock().await;
        let mut first = None;
        let mut done = |outcome: Result<u64>| {
            outcome.unwrap_or_else(|error| {
                first.get_or_insert(error);
                0
            })
        };
        let report = MaintenanceReport {
            settled_rows: done(settle::run(context).await),
            flushed_rows: done(flush::run(context, &flush::Due::Scheduled).await),
            merged_files: done(merge::run(context, None).await),
            expired_snapshots: done(expire::run(context, context.settings.keep_snapshots).await),
            removed_files: done(orphans::remove_scheduled(context).await),
            orphan_files: done(orphans::run(context).await),
            checkpointed_bytes: done(checkpoint::run_if_due(context).await),
        };
        first.map_or(Ok(report), Err)
    }
}

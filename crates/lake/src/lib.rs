//! The unified store: a DuckLake 1.0 catalog in SQLite and Parquet files, written one round a transaction.
//!
//! - [`Lake`]: the collector's side, a [`Catalog`](portolan_model::catalog::Catalog)
//! - [`LakeReader`] and [`Snapshot`]: reading committed states, beside a collector or without one
//! - [`types`]: the types of stored columns; [`convert`]: arrays to them, and from one to another
//!
//! `docs/lake.md` describes the tables, the types, the row digest, maintenance and the failure model.

#![forbid(unsafe_code)]

mod cells;
mod chain;
mod commit;
pub mod convert;
mod diff;
mod digest;
mod encode;
mod error;
mod event_time;
mod failpoint;
mod fsck;
mod keys;
mod lake;
mod lock;
mod maintenance;
mod quarantine;
mod reader;
mod round;
mod rounds;
mod scan;
mod shape;
pub mod spec;
mod stage;
mod staged;
mod state;
mod statistics;
mod stats;
mod system;
mod text;
pub mod types;
mod verify;
mod writer;

pub use chain::ChainHead;
pub use diff::{Change, ColumnChange, Diff, DiffItem, DiffScope, Existence, Identity, TableDiff};
pub use failpoint::FAILPOINTS;
pub use fsck::{Finding, FsckReport, Severity, fsck};
pub use lake::{Lake, LakeSettings};
pub use maintenance::{Job, JobProgress, MaintenanceReport};
pub use quarantine::{QuarantineFilter, Quarantined};
pub use rounds::{RoundFilter, StoredCheck, StoredReceipt, StoredRound};
pub use staged::StagedTableRows;
pub use stats::{LakeStats, Reclaimable, TableStats};
pub use verify::{
    DamagedFile, HeadFiles, Mismatch, Unproved, VerifiedChain, VerifiedTable, VerifyProgress, VerifyReport, VerifyScope,
};

pub use reader::{At, ColumnStatistics, DataFile, DeleteFile, FileRows, LakeReader, Snapshot, TableView};

//! The unified store: a DuckLake 1.0 catalog in SQLite and Parquet files, written one round a transaction.
//!
//! - [`LakeReader`] and [`Snapshot`]: reading committed states, beside a collector or without one
//! - [`types`]: the types of stored columns
//!
//! `docs/lake.md` describes the tables, the types, the row digest, maintenance and the failure model.

#![forbid(unsafe_code)]

mod error;
mod lock;
mod reader;
pub mod spec;
mod text;
pub mod types;

pub use reader::{At, ColumnStatistics, DataFile, DeleteFile, FileRows, LakeReader, Snapshot, TableView};

//! Turns the errors of SQLite, files and Parquet into the cross-crate error, with the right kind and a hint.
//!
//! Promise: a full disk that SQLite, the operating system or the Parquet writer calls one is `StorageFull`. On a file
//! system that fails such a write in another way it is `Storage`.

use std::path::Path;

use portolan_model::{Error, ErrorKind};

/// The hint of every `StorageFull`.
const FULL_HINT: &str =
    "free space on the disk that holds the lake, or move the lake; nothing of this round was stored";

/// An error of SQLite in `operation`.
pub(crate) fn sqlite(operation: &'static str, error: rusqlite::Error) -> Error {
    use rusqlite::ffi::ErrorCode;
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map_or(0, |inner| inner.extended_code);
    let kind = match code {
        Some(ErrorCode::DiskFull) => ErrorKind::StorageFull,
        // Some file systems fail a write for lack of space as an I/O error: SQLite does not keep the system's reason.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Conflict,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        _ => ErrorKind::Storage,
    };
    let result = Error::new(kind, operation, format!("the catalog failed (SQLite code {extended})"));
    let result = match kind {
        ErrorKind::StorageFull => result.with_hint(FULL_HINT),
        ErrorKind::Conflict => result.with_hint(
            "another program is writing to catalog.sqlite; attach the lake READ_ONLY from elsewhere while it is collected",
        ),
        _ => result,
    };
    result.with_cause(error)
}

/// An error of the file system on `path` in `operation`.
pub(crate) fn file(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    let full = is_full(&error);
    let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Storage };
    let result = Error::new(kind, operation, format!("{} failed", path.display()));
    let result = if full { result.with_hint(FULL_HINT) } else { result };
    result.with_cause(error)
}

/// An error of the Parquet writer on `path`.
pub(crate) fn parquet(operation: &'static str, path: &Path, error: parquet::errors::ParquetError) -> Error {
    if let parquet::errors::ParquetError::External(inner) = &error
        && let Some(io) = inner.downcast_ref::<std::io::Error>()
        && is_full(io)
    {
        return Error::new(ErrorKind::StorageFull, operation, format!("{} failed: the disk is full", path.display()))
            .with_hint(FULL_HINT);
    }
    Error::new(ErrorKind::Storage, operation, format!("{} failed", path.display())).with_cause(error)
}

/// A failure of our own reading of an Arrow array.
pub(crate) fn arrow(operation: &'static str, error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Data, operation, "rows are not readable as columns").with_cause(error)
}

/// Content of the lake that is not what it should be.
pub(crate) fn corrupt(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, operation, message)
}

/// A defect of this crate.
pub(crate) fn internal(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, operation, message)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

//! Folds the catalog's log into the catalog, or constant readers would make it grow without end.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::Result;

use crate::error::sqlite;
use crate::failpoint;
use crate::lake::Context;
use crate::writer::Writer;

/// Bytes of log from which on it is folded in.
const DUE_BYTES: u64 = 8 << 20;

/// Folds the log in if it is long enough; bytes folded.
pub(crate) async fn run_if_due(context: &Arc<Context>) -> Result<u64> {
    let mut log = context.layout.catalog().into_os_string();
    log.push("-wal");
    let bytes = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    if bytes < DUE_BYTES {
        return Ok(0);
    }
    let folded = context.writer.run(run).await?;
    Ok(if folded { bytes } else { 0 })
}

/// Folds the log in; false if a reader is in the way: the next call tries again, and no commit waits for it.
pub(crate) fn run(writer: &mut Writer) -> Result<bool> {
    failpoint::pass("checkpoint::before");
    let error = |error| sqlite("checkpoint catalog", error);
    let connection = writer.connection();
    connection.busy_timeout(Duration::ZERO).map_err(error)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(crate::spec::BUSY_TIMEOUT).map_err(error)?;
    Ok(busy.map_err(error)? == 0)
}

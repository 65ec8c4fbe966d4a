//! One job at once and to its end, where somebody asks for it and no collector runs.

use std::time::Duration;

use portolan_model::{Error, ErrorKind, Result};
use rusqlite::Connection;

use super::{MaintenanceReport, checkpoint, expire, flush, merge, orphans, settle};
use crate::error::sqlite;
use crate::lake::Lake;
use crate::reader::tables_at;

const OPERATION: &str = "maintain lake";
/// The pause between two looks whether flushed rows can be settled.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// A job to be done at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Moves every row inside the catalog to files: of one table, by schema and name, or of all.
    Flush(Option<(String, String)>),
    /// Merges adjacent small files: of one table, by schema and name, or of all.
    Merge(Option<(String, String)>),
    /// Lets snapshots expire that are older than this; the latest never does.
    Expire(Duration),
}

/// How far a job is.
#[derive(Clone, Copy, Debug)]
pub struct JobProgress<'a> {
    /// What goes on.
    pub what: &'a str,
    /// What has been done.
    pub done: MaintenanceReport,
}

impl Lake {
    /// Does one job to its end, and removes what can be removed after it.
    ///
    /// # Errors
    /// `NotFound` for a table that is not there; what the job failed with. What was done until then stays done.
    pub async fn run_job(
        &self,
        job: &Job,
        progress: &mut (dyn FnMut(JobProgress<'_>) + Send),
    ) -> Result<MaintenanceReport> {
        let context = &self.context;
        let _one_at_a_time = context.maintenance.lock().await;
        let mut done = MaintenanceReport::default();
        if let Job::Flush(Some(table)) | Job::Merge(Some(table)) = job {
            self.require_table(table).await?;
        }
        match job {
            Job::Flush(table) => {
                let due = flush::Due::Now(table.clone());
                loop {
                    progress(JobProgress { what: "moving rows to files", done });
                    match flush::run(context, &due).await? {
                        0 => break,
                        rows => done.flushed_rows += rows,
                    }
                }
                // Readers that were planning a query when the rows moved are given the time that the collector gives them.
                while self.has_unsettled().await? {
                    progress(JobProgress {
                        what: "waiting ten seconds for readers, then the rows leave the catalog",
                        done,
                    });
                    match settle::run(context).await? {
                        0 => tokio::time::sleep(SETTLE_PAUSE).await,
                        rows => done.settled_rows += rows,
                    }
                }
            }
            Job::Merge(table) => loop {
                progress(JobProgress { what: "merging files", done });
                match merge::run(context, table.as_ref()).await? {
                    0 => break,
                    files => done.merged_files += files,
                }
            },
            Job::Expire(keep) => loop {
                progress(JobProgress { what: "letting snapshots expire", done });
                match expire::run(context, *keep).await? {
                    0 => break,
                    snapshots => done.expired_snapshots += snapshots,
                }
            },
        }
        loop {
            progress(JobProgress { what: "removing files", done });
            match orphans::remove_scheduled(context).await? {
                0 => break,
                files => done.removed_files += files,
            }
        }
        context.writer.run(checkpoint::run).await?;
        Ok(done)
    }

    async fn require_table(&self, table: &(String, String)) -> Result<()> {
        let (wanted, layout) = (table.clone(), self.context.layout.clone());
        self.context
            .writer
            .run(move |writer| {
                let connection: &Connection = writer.connection();
                let sql = "SELECT max(snapshot_id) FROM ducklake_snapshot";
                let head = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| sqlite(OPERATION, error))?;
                let tables = tables_at(connection, &layout, head)?;
                if tables.iter().any(|table| (&table.schema, &table.name) == (&wanted.0, &wanted.1)) {
                    return Ok(());
                }
                let known: Vec<String> =
                    tables.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect();
                let message = format!("there is no table {}.{}", wanted.0, wanted.1);
                Err(Error::new(ErrorKind::NotFound, OPERATION, message)
                    .with_hint(format!("the tables are {}", known.join(", "))))
            })
            .await
    }

    async fn has_unsettled(&self) -> Result<bool> {
        self.context
            .writer
            .run(|writer| {
                let sql = "SELECT EXISTS(SELECT 1 FROM portolan_flush)";
                writer.connection().query_row(sql, [], |row| row.get(0)).map_err(|error| sqlite(OPERATION, error))
            })
            .await
    }
}

//! The lake as the collector has it open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use portolan_model::catalog::{Catalog, SourceStatus, Staging, WriteMode};
use portolan_model::clock::Clock;
use portolan_model::config::LakeSpec;
use portolan_model::{Position, Result, RoundId, SourceName};
use rusqlite::Connection;

use crate::commit::{Changes, commit, store_statuses};
use crate::error::{file as file_error, sqlite};
use crate::reader::snapshot_time_text;
use crate::round::Round;
use crate::shape::SharedShape;
use crate::spec::{Layout, open_reader, open_writer};
use crate::stage::{StagedFiles, Stager, Target};
use crate::writer::{Shapes, Writer, WriterHandle, shape_of};
use crate::{lock, system};

/// How the lake stores and keeps itself in shape; from `[lake]` in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct LakeSettings {
    /// Rows of a table and round up to which they are kept inside the catalog.
    pub inline_rows: u32,
    /// Rows inside the catalog from which on a table is flushed to Parquet.
    pub flush_rows: u32,
    /// Age of the oldest row inside the catalog from which on a table is flushed.
    pub flush_after: Duration,
    /// Files smaller than this, in bytes, are merged with their neighbours.
    pub merge_below_bytes: u64,
    /// Age from which on a snapshot can no longer be read.
    pub keep_snapshots: Duration,
    /// How long a file that the catalog no longer names is kept for those still reading it, and how old a file that the
    /// catalog never named must be to be taken for an orphan.
    pub grace: Duration,
}

impl Default for LakeSettings {
    fn default() -> Self {
        Self::from(&LakeSpec::default())
    }
}

impl From<&LakeSpec> for LakeSettings {
    fn from(spec: &LakeSpec) -> Self {
        Self {
            inline_rows: spec.inline_rows,
            flush_rows: spec.flush_rows,
            flush_after: spec.flush_after.0,
            merge_below_bytes: spec.merge_below.0,
            keep_snapshots: spec.keep_snapshots.0,
            grace: Duration::from_secs(600),
        }
    }
}

/// What stagings and maintenance share.
pub(crate) struct Context {
    pub(crate) layout: Layout,
    pub(crate) settings: LakeSettings,
    pub(crate) clock: Arc<dyn Clock>,
    /// When this process took the lake: what it did not write itself and the catalog does not name is left over.
    pub(crate) opened: std::time::SystemTime,
    pub(crate) staged: Arc<StagedFiles>,
    pub(crate) writer: WriterHandle,
    /// For looking up item keys.
    pub(crate) lookup: Mutex<Connection>,
    /// One maintenance call at a time.
    pub(crate) maintenance: tokio::sync::Mutex<()>,
    /// When orphans are looked for next, in seconds of the monotonic clock.
    pub(crate) next_sweep_s: AtomicU64,
    /// Rows put inside the catalog since they were last looked at by [`Lake::flush_due`].
    inlined_rows: AtomicU64,
    flush_due: tokio::sync::Notify,
    shapes: Shapes,
    next_round: AtomicI64,
}

impl Context {
    /// Counts rows that a commit has put inside the catalog, of the table with the most, and calls maintenance once a flush is worth it.
    pub(crate) fn count_inlined(&self, rows: u64) {
        let before = self.inlined_rows.fetch_add(rows, Ordering::Relaxed);
        if before + rows >= u64::from(self.settings.flush_rows) {
            self.inlined_rows.store(0, Ordering::Relaxed);
            self.flush_due.notify_one();
        }
    }

    /// The committed columns of a table, if there is one of that name.
    ///
    /// # Errors
    /// `Data` if another program gave it a type we do not know.
    pub(crate) fn shape(&self, target: &Target) -> Result<Option<SharedShape>> {
        shape_of(&self.shapes, target)
    }
}

/// A lake, open for collecting. At most one process has a lake open so; readers need not care.
pub struct Lake {
    pub(crate) context: Arc<Context>,
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lake").field("folder", &self.context.layout.folder).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the lake of `[lake]` in the configuration, making it if it is not there, and takes the collector's lock.
    /// Blocks on the disk for a few milliseconds, and up to half a second for the lock.
    ///
    /// # Errors
    /// `Conflict` naming the process that collects into it already, `StorageFull`, `Storage`, or `Corrupt` for a lake
    /// of a newer format.
    pub fn open(spec: &LakeSpec, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with(&spec.path, LakeSettings::from(spec), clock)
    }

    /// Opens the lake in `folder`, as [`open`](Self::open) does, with settings that the configuration does not have.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(folder: &Path, settings: LakeSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        crate::failpoint::arm();
        std::fs::create_dir_all(folder.join("data")).map_err(|error| file_error("open lake", folder, error))?;
        let layout = Layout::new(folder)?;
        let collector = lock::take(&layout.lock())?;
        let connection = open_writer(&layout, &snapshot_time_text(clock.wall()))?;
        let last: i64 = connection
            .query_row("SELECT coalesce(max(round), 0) FROM portolan_round", [], |row| row.get(0))
            .map_err(|error| sqlite("open lake", error))?;
        let writer = Writer::new(connection, layout.clone(), collector)?;
        let shapes = writer.shapes();
        let context = Context {
            lookup: Mutex::new(open_reader(&layout)?),
            layout,
            settings,
            opened: clock.wall().into(),
            clock,
            staged: Arc::default(),
            writer: WriterHandle::start(writer)?,
            maintenance: tokio::sync::Mutex::default(),
            next_sweep_s: AtomicU64::new(0),
            inlined_rows: AtomicU64::new(0),
            flush_due: tokio::sync::Notify::new(),
            shapes,
            next_round: AtomicI64::new(last + 1),
        };
        let lake = Self { context: Arc::new(context) };
        lake.create_system_tables()?;
        Ok(lake)
    }

    /// Waits until everything handed over is done, and leaves the catalog in one file.
    ///
    /// # Errors
    /// `Storage` if the catalog's log cannot be folded in; nothing is lost then.
    pub async fn close(&self) -> Result<()> {
        self.context.writer.run(crate::maintenance::checkpoint::run).await.map(|_| ())
    }

    /// Ends when as many rows as a flush waits for have come since it last ended: maintenance is due before its time,
    /// or the catalog would grow with the speed of the rounds.
    pub async fn flush_due(&self) {
        self.context.flush_due.notified().await;
    }

    /// The lake's folder, absolute.
    pub fn folder(&self) -> PathBuf {
        self.context.layout.folder.clone()
    }

    /// The number of the round that begins now.
    pub(crate) fn next_round(&self) -> i64 {
        self.context.next_round.fetch_add(1, Ordering::Relaxed)
    }

    /// Schema `portolan` is there from the start, so that a query on it never fails for want of a round.
    fn create_system_tables(&self) -> Result<()> {
        let target = |name: &str| Target { schema: system::SCHEMA, name: name.to_owned() };
        let mut tables = Vec::new();
        for (name, rows) in system::empty()? {
            // One that cannot be read is there; a lake of an older version lacks some.
            if !matches!(self.context.shape(&target(name)), Ok(None)) {
                continue;
            }
            let mut stager = Stager::new(self.context.clone(), target(name), WriteMode::Append, None)?;
            stager.push(rows)?;
            tables.push(stager.finish()?);
        }
        if tables.is_empty() {
            return Ok(());
        }
        let changes = Changes {
            round: None,
            tables,
            positions: Vec::new(),
            watermarks: Vec::new(),
            statuses: Vec::new(),
            retried: Vec::new(),
            ground: None,
            now: self.context.clock.wall(),
            message: "create system tables".to_owned(),
        };
        self.context.writer.run_now(move |writer| commit(writer, changes))?;
        Ok(())
    }
}

#[async_trait]
impl Catalog for Lake {
    async fn positions(&self) -> Result<BTreeMap<SourceName, Position>> {
        self.context.writer.run(|writer| crate::reader::read_positions(writer.connection())).await
    }

    async fn watermarks(&self) -> Result<BTreeMap<SourceName, jiff::Timestamp>> {
        self.context.writer.run(|writer| crate::reader::read_watermarks(writer.connection())).await
    }

    async fn statuses(&self) -> Result<BTreeMap<SourceName, SourceStatus>> {
        let statuses = self.context.writer.run(|writer| crate::reader::read_statuses(writer.connection())).await?;
        Ok(statuses.into_iter().map(|status| (status.source.clone(), status)).collect())
    }

    async fn begin(&self) -> Result<Box<dyn Staging>> {
        Ok(Box::new(Round::new(self.context.clone(), RoundId(self.next_round()))))
    }

    async fn record_states(&self, states: &[SourceStatus]) -> Result<()> {
        let states = states.to_vec();
        let store = move |writer: &mut Writer| writer.transaction(|connection, _| store_statuses(connection, &states));
        self.context.writer.run(store).await
    }
}

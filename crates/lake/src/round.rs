//! One round being staged: the tables of its sources, its quarantine, what checks withhold, its commit.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_model::catalog::{
    Commit, Grounded, QUARANTINED_MAX, SourceStatus, StagedTable, Staging, TableSpec, TableStaging, WriteMode,
};
use portolan_model::check::{Ground, WithheldRow};
use portolan_model::round::{ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::QuarantineItem;
use portolan_model::{Error, ErrorKind, Result, RoundId, SourceName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::commit::{Changes, Outcome, commit};
use crate::error::internal;
use crate::event_time::EventTimeReader;
use crate::lake::Context;
use crate::stage::{SourceRows, StagedRows, Stager, Target};
use crate::staged::{StagedTableRows, Terms, withhold};
use crate::system;

/// Batches that may wait for the encoder: with the one in work, what a source is ahead of the disk.
const ENCODER_QUEUE: usize = 2;
/// Rows of a batch above which its work is left to a thread of its own.
const THREAD_ROWS: u64 = 1_024;
/// Quarantined items kept in memory before they become rows.
const QUARANTINE_ITEMS: usize = 1_000;
/// Their bytes.
const QUARANTINE_BYTES: u64 = 1 << 20;

/// What finished tables hand to their round.
#[derive(Default)]
struct Parts {
    tables: Vec<Finished>,
    quarantine: Vec<RecordBatch>,
}

/// A table that is part of the round.
struct Finished {
    source: SourceName,
    time_us: i64,
    rows: StagedRows,
    /// Items of the quarantine that came with them, and their bytes.
    quarantined: u64,
    quarantined_bytes: u64,
}

impl Finished {
    /// What is told of it.
    fn told(&self) -> StagedTable {
        StagedTable {
            rows: self.rows.rows,
            duplicates: self.rows.duplicates,
            quarantined: self.quarantined,
            event_times: self.rows.event_times.as_ref().map(EventTimeReader::finish).unwrap_or_default(),
            rows_sha256: self.rows.rows_sha256.clone(),
        }
    }
}

/// What is kept of tables while their rows are being published: source, time, items of the quarantine and their bytes.
#[derive(Default)]
struct Published(Vec<(SourceName, i64, u64, u64)>);

impl Published {
    /// The tables, with the rows that were not published, which come first among `rows`.
    fn again(self, rows: Vec<StagedRows>) -> impl Iterator<Item = Finished> {
        self.0.into_iter().zip(rows).map(|((source, time_us, quarantined, quarantined_bytes), rows)| Finished {
            source,
            time_us,
            rows,
            quarantined,
            quarantined_bytes,
        })
    }
}

type SharedParts = Arc<Mutex<Parts>>;

/// The lake's [`Staging`].
pub(crate) struct Round {
    context: Arc<Context>,
    round: RoundId,
    parts: SharedParts,
    opened: HashSet<SourceName>,
    /// Items of the quarantine that it stores.
    retried: Vec<i64>,
    /// Tables as they were before rows were withheld, until the round is committed.
    whole: Vec<Finished>,
    /// The rows withheld.
    withheld: Vec<RecordBatch>,
}

impl Round {
    pub(crate) fn new(context: Arc<Context>, round: RoundId) -> Self {
        Self {
            context,
            round,
            parts: SharedParts::default(),
            opened: HashSet::new(),
            retried: Vec::new(),
            whole: Vec::new(),
            withheld: Vec::new(),
        }
    }

    /// The round with items of the quarantine that its commit marks as retried.
    pub(crate) fn retrying(self, retried: Vec<i64>) -> Self {
        Self { retried, ..self }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages rows of the lake's own tables; on a thread of their own if they go to a file.
    async fn system_rows(&self, name: &str, batches: Vec<RecordBatch>) -> Result<StagedRows> {
        let target = Target { schema: system::SCHEMA, name: name.to_owned() };
        let mut stager = Stager::new(self.context.clone(), target, WriteMode::Append, None)?;
        let here = stager.has_room(&batches);
        let stage = move || {
            for batch in batches {
                stager.push(batch)?;
            }
            stager.finish()
        };
        if here {
            return stage();
        }
        let staged = tokio::task::spawn_blocking(stage).await;
        staged.map_err(|error| internal("store round", "the work was interrupted").with_cause(error))?
    }
}

#[async_trait]
impl Staging for Round {
    fn round(&self) -> RoundId {
        self.round
    }

    fn table(&mut self, spec: TableSpec) -> Result<Box<dyn TableStaging>> {
        if !self.opened.insert(spec.source.clone()) {
            return Err(internal("stage table", "a source has one table in a round").with_source(&spec.source));
        }
        let target = Target { schema: "main", name: spec.source.as_str().to_owned() };
        let source = SourceRows {
            source: spec.source.clone(),
            round: self.round.0,
            time_us: spec.time.as_microsecond(),
            key: spec.key,
            key_memory: spec.key_memory,
            event_time: spec.event_time.map(|event_time| EventTimeReader::new(event_time, spec.watermark)),
        };
        let stager = Stager::new(self.context.clone(), target, spec.mode, Some(source))
            .map_err(|error| error.with_source(&spec.source))?;
        Ok(Box::new(Table {
            round: self.round,
            time_us: spec.time.as_microsecond(),
            source: spec.source,
            place: Place::Here(Box::new(stager)),
            parts: self.parts.clone(),
            quarantine: Vec::new(),
            quarantined_batches: Vec::new(),
            pending_bytes: 0,
            quarantined: 0,
            quarantined_bytes: 0,
        }))
    }

    fn staged(&self) -> Vec<(SourceName, WriteMode, Arc<dyn portolan_model::check::StagedRows>)> {
        let parts = self.parts();
        let rows = |table: &Finished| Arc::new(StagedTableRows::of(&table.rows)) as _;
        parts.tables.iter().map(|table| (table.source.clone(), table.rows.mode, rows(table))).collect()
    }

    async fn withhold(&mut self, source: &SourceName, rows: Vec<WithheldRow>) -> Result<StagedTable> {
        let finished = {
            let mut parts = self.parts();
            let place = parts.tables.iter().position(|table| table.source == *source);
            place.map(|place| (place, parts.tables.remove(place)))
        };
        let Some((place, finished)) = finished else {
            return Err(internal("withhold rows", "the round has no table of the source").with_source(source));
        };
        let (context, round) = (self.context.clone(), self.round.0);
        let work = tokio::task::spawn_blocking(move || {
            let terms = Terms {
                context: &context,
                source: &finished.source,
                round,
                time_us: finished.time_us,
                items_left: (QUARANTINED_MAX as u64).saturating_sub(finished.quarantined),
                bytes_left: QUARANTINED_BYTES_MAX.saturating_sub(finished.quarantined_bytes),
            };
            match withhold(&terms, &finished.rows, &rows) {
                Ok(withheld) => {
                    let left = Finished {
                        source: finished.source.clone(),
                        time_us: finished.time_us,
                        rows: withheld.rows,
                        quarantined: finished.quarantined + rows.len() as u64,
                        quarantined_bytes: finished.quarantined_bytes + withheld.bytes,
                    };
                    (left, Ok((finished, withheld.items)))
                }
                Err(error) => (finished, Err(error)),
            }
        });
        let (finished, outcome) =
            work.await.map_err(|error| internal("withhold rows", "the work was interrupted").with_cause(error))?;
        let staged = finished.told();
        self.parts().tables.insert(place, finished);
        let (whole, items) = outcome.map_err(|error| error.with_source(source))?;
        self.whole.push(whole);
        self.withheld.extend(items);
        Ok(staged)
    }

    async fn commit_on(
        mut self: Box<Self>,
        ground: Option<Ground>,
        mut record: RoundRecord,
        states: &[SourceStatus],
    ) -> Result<Grounded> {
        let mut parts = std::mem::take(&mut *self.parts());
        let rejected = record.verdict == RoundVerdict::Rejected;
        let (mut positions, mut watermarks) = (Vec::new(), Vec::new());
        for receipt in &mut record.receipts {
            let staged = parts.tables.iter().find(|table| table.source == receipt.source).filter(|_| !rejected);
            receipt.rows_sha256 = staged.map(|table| table.rows.rows_sha256.clone());
            receipt.mode = staged.map(|table| table.rows.mode);
            if rejected {
                continue;
            }
            if matches!(receipt.verdict, ReceiptVerdict::Ok | ReceiptVerdict::Unchanged) {
                positions.extend(receipt.position_after.clone().map(|position| (receipt.source.clone(), position)));
                watermarks.extend(receipt.watermark.map(|watermark| (receipt.source.clone(), watermark)));
            }
        }
        let mut published = Published::default();
        let mut tables: Vec<StagedRows> = Vec::new();
        if !rejected {
            for Finished { source, time_us, rows, quarantined, quarantined_bytes } in parts.tables.drain(..) {
                tables.push(rows);
                published.0.push((source, time_us, quarantined, quarantined_bytes));
            }
            let items: Vec<RecordBatch> = parts.quarantine.iter().chain(&self.withheld).cloned().collect();
            if !items.is_empty() {
                tables.push(self.system_rows(system::QUARANTINE, items).await?);
            }
        }
        tables.push(self.system_rows(system::ROUNDS, vec![system::rounds(self.round.0, &record)?]).await?);
        if !record.receipts.is_empty() {
            let receipts = system::receipts(self.round.0, &record.receipts)?;
            tables.push(self.system_rows(system::RECEIPTS, vec![receipts]).await?);
        }
        if !record.checks.is_empty() {
            let checks = system::checks(self.round.0, &record.checks)?;
            tables.push(self.system_rows(system::CHECKS, vec![checks]).await?);
        }
        let inlined_rows =
            tables.iter().filter(|table| table.files.is_empty()).map(|table| table.rows).max().unwrap_or(0);
        let round = self.round;
        let changes = Changes {
            round: Some(round.0),
            tables,
            positions,
            watermarks,
            statuses: states.to_vec(),
            retried: self.retried.clone(),
            ground,
            now: self.context.clock.wall(),
            message: format!("round {round} of {}", record.name),
        };
        match self.context.writer.run(move |writer| commit(writer, changes)).await? {
            Outcome::Committed(snapshot) => {
                self.context.count_inlined(inlined_rows);
                Ok(Grounded::Committed(Commit { round, snapshot }))
            }
            Outcome::Moved(changes) => {
                parts.tables.extend(published.again(changes.tables));
                self.withheld.clear();
                for whole in self.whole.drain(..) {
                    if let Some(table) = parts.tables.iter_mut().find(|table| table.source == whole.source) {
                        *table = whole;
                    }
                }
                *self.parts() = parts;
                Ok(Grounded::Moved(self))
            }
        }
    }

    async fn abort(self: Box<Self>) {
        // Files go with what staged them; removing them is disk work.
        let parts = self.parts.clone();
        let _ = tokio::task::spawn_blocking(move || {
            drop(std::mem::take(&mut *parts.lock().unwrap_or_else(PoisonError::into_inner)));
        })
        .await;
    }
}

enum Message {
    Rows(RecordBatch),
    Finish,
}

/// Where the work on a table's rows is done.
enum Place {
    /// At the caller: few rows, which stay in memory.
    Here(Box<Stager>),
    /// On a thread of their own: many rows, which go to a file.
    Thread { sender: mpsc::Sender<Message>, done: JoinHandle<Result<Option<StagedRows>>> },
    /// It failed, or has ended.
    Ended,
}

struct Table {
    round: RoundId,
    time_us: i64,
    source: SourceName,
    place: Place,
    parts: SharedParts,
    quarantine: Vec<QuarantineItem>,
    quarantined_batches: Vec<RecordBatch>,
    /// Of the items that are not rows yet.
    pending_bytes: u64,
    quarantined: u64,
    quarantined_bytes: u64,
}

impl Table {
    fn to_thread(mut stager: Box<Stager>) -> Place {
        let (sender, mut receiver) = mpsc::channel(ENCODER_QUEUE);
        let run = move || {
            while let Some(message) = receiver.blocking_recv() {
                match message {
                    Message::Rows(batch) => stager.push(batch)?,
                    Message::Finish => return stager.finish().map(Some),
                }
            }
            Ok(None)
        };
        Place::Thread { sender, done: tokio::task::spawn_blocking(run) }
    }

    /// The error with which the thread ended.
    async fn failure(&mut self) -> Error {
        let Place::Thread { done, .. } = std::mem::replace(&mut self.place, Place::Ended) else {
            return self.ended();
        };
        match done.await {
            Ok(Err(error)) => error,
            _ => self.ended(),
        }
    }

    fn ended(&self) -> Error {
        internal("stage rows", "the table has ended").with_source(&self.source)
    }

    fn pack_quarantine(&mut self) -> Result<()> {
        if !self.quarantine.is_empty() {
            let items = std::mem::take(&mut self.quarantine);
            self.pending_bytes = 0;
            self.quarantined_batches.push(system::quarantine(self.round.0, self.time_us, &self.source, &items)?);
        }
        Ok(())
    }
}

/// Bytes of quarantined items of one source and round, which stay in memory until the round is committed.
const QUARANTINED_BYTES_MAX: u64 = 32 << 20;

#[async_trait]
impl TableStaging for Table {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if let Place::Here(stager) = &self.place
            && (batch.num_rows() as u64 > THREAD_ROWS || !stager.has_room(std::slice::from_ref(&batch)))
            && let Place::Here(stager) = std::mem::replace(&mut self.place, Place::Ended)
        {
            self.place = Self::to_thread(stager);
        }
        let result = match &mut self.place {
            Place::Here(stager) => stager.push(batch),
            Place::Thread { sender, .. } => match sender.send(Message::Rows(batch)).await {
                Ok(()) => Ok(()),
                Err(_) => Err(self.failure().await),
            },
            Place::Ended => Err(self.ended()),
        };
        result.map_err(|error| {
            self.place = Place::Ended;
            error.with_source(&self.source)
        })
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        let bytes = (item.row.to_string().len() + item.content.len() + item.detail.len()) as u64;
        let problem = if self.quarantined >= QUARANTINED_MAX as u64 {
            Some(format!("more than {QUARANTINED_MAX} items of one round cannot be stored as configured"))
        } else if self.quarantined_bytes.saturating_add(bytes) > QUARANTINED_BYTES_MAX {
            let mebibytes = QUARANTINED_BYTES_MAX >> 20;
            Some(format!("items of one round of more than {mebibytes} MiB cannot be stored as configured"))
        } else {
            None
        };
        if let Some(message) = problem {
            return Err(Error::new(ErrorKind::Limit, "quarantine", message)
                .with_source(&self.source)
                .with_hint("look at portolan.quarantine of an earlier round, and at the source's format and columns"));
        }
        self.quarantined += 1;
        self.quarantined_bytes += bytes;
        self.pending_bytes += bytes;
        self.quarantine.push(item);
        let full = self.quarantine.len() >= QUARANTINE_ITEMS || self.pending_bytes >= QUARANTINE_BYTES;
        if full { self.pack_quarantine() } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<StagedTable> {
        self.pack_quarantine()?;
        let rows = match std::mem::replace(&mut self.place, Place::Ended) {
            Place::Here(stager) => stager.finish().map_err(|error| error.with_source(&self.source))?,
            Place::Thread { sender, done } => {
                // A thread that has ended before tells why when it is joined.
                let _ = sender.send(Message::Finish).await;
                drop(sender);
                match done.await {
                    Ok(Ok(Some(rows))) => rows,
                    Ok(Err(error)) => return Err(error.with_source(&self.source)),
                    Ok(Ok(None)) | Err(_) => return Err(self.ended()),
                }
            }
            Place::Ended => return Err(self.ended()),
        };
        let finished = Finished {
            source: self.source.clone(),
            time_us: self.time_us,
            rows,
            quarantined: self.quarantined,
            quarantined_bytes: self.quarantined_bytes,
        };
        let staged = finished.told();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.tables.push(finished);
        parts.quarantine.append(&mut self.quarantined_batches);
        Ok(staged)
    }
}

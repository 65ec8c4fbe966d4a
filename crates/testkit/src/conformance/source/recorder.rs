//! The output that the checks read into: rows as JSON, phases in the order they came, bytes, and a gate that makes it a
//! slow consumer.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::json::LineDelimitedWriter;
use async_trait::async_trait;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Held, Output, Phase, QuarantineItem};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

/// Records what a source yields.
#[derive(Debug)]
pub struct Recorder {
    /// Rows as JSON objects, in order; nulls are left out.
    pub rows: Vec<Value>,
    /// The schema of each batch.
    pub schemas: Vec<SchemaRef>,
    /// Phases in order, repeated `LastByte`s as one.
    pub phases: Vec<Phase>,
    /// Raw bytes shown.
    pub payload_bytes: u64,
    /// Bytes counted without being shown.
    pub counted_bytes: u64,
    /// What went to quarantine.
    pub quarantined: Vec<QuarantineItem>,
    /// Batches taken while it is closed wait.
    gate: Arc<Semaphore>,
    /// The most rows one batch had.
    pub batch_rows_max: usize,
    enough_rows: usize,
    /// Where the read waits for its release.
    hold: Option<Arc<Hold>>,
}

/// Holds a read back until it is opened.
#[derive(Debug, Default)]
pub struct Hold {
    /// Told when the read is ready: whether it has handed over what it holds back.
    pub ready: Mutex<Option<bool>>,
    /// Permits releases.
    pub open: Notify,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::gated(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)))
    }
}

impl Recorder {
    /// A recorder that asks the read to end once so many rows have come.
    pub fn with_enough(rows: usize) -> Self {
        Self { enough_rows: rows, ..Self::default() }
    }

    /// A recorder that takes a permit for each batch.
    pub fn gated(gate: Arc<Semaphore>) -> Self {
        Self {
            rows: Vec::new(),
            schemas: Vec::new(),
            phases: Vec::new(),
            payload_bytes: 0,
            counted_bytes: 0,
            quarantined: Vec::new(),
            gate,
            batch_rows_max: 0,
            enough_rows: usize::MAX,
            hold: None,
        }
    }

    /// A recorder that holds the read back.
    pub fn held(hold: Arc<Hold>) -> Self {
        Self { hold: Some(hold), ..Self::default() }
    }

    /// The type of a column, from the first batch that has it.
    pub fn column_type(&self, name: &str) -> Option<DataType> {
        self.schemas.iter().find_map(|schema| Some(schema.field_with_name(name).ok()?.data_type().clone()))
    }

    /// The `id`s in order.
    pub fn ids(&self) -> Vec<i64> {
        self.rows.iter().filter_map(|row| row["id"].as_i64()).collect()
    }
}

#[async_trait]
impl Output for Recorder {
    fn mark(&mut self, phase: Phase) {
        if self.phases.last() != Some(&phase) {
            self.phases.push(phase);
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.payload_bytes += bytes.len() as u64;
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.counted_bytes += bytes;
    }

    fn is_enough(&self) -> bool {
        self.rows.len() >= self.enough_rows
    }

    fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    async fn released(&mut self, held: Option<Arc<dyn Held>>) {
        if let Some(hold) = &self.hold {
            *hold.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.is_some());
            hold.open.notified().await;
        }
        self.hold = None;
        self.mark(Phase::Released);
        if let Some(held) = held {
            held.release();
        }
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        let cancelled = |_| Error::new(ErrorKind::Cancelled, "record batch", "the check has ended");
        self.gate.acquire().await.map_err(cancelled)?.forget();
        self.batch_rows_max = self.batch_rows_max.max(batch.num_rows());
        self.rows.extend(to_json(&batch)?);
        self.schemas.push(batch.schema());
        Ok(())
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantined.push(item);
        Ok(())
    }
}

/// Rows of a batch as JSON objects.
///
/// # Errors
/// A column has a type that JSON cannot show.
pub fn to_json(batch: &RecordBatch) -> Result<Vec<Value>> {
    let unreadable = |error: String| Error::new(ErrorKind::Internal, "show batch as json", error);
    let mut text = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut text);
    // The writer knows no names of time zones: instants are shown without one.
    let instants = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>))
                as ArrayRef
        }
        _ => column.clone(),
    });
    let named = batch.schema().fields().iter().map(|field| field.name().clone()).zip(instants).collect::<Vec<_>>();
    let batch = match named.is_empty() {
        true => batch.clone(),
        false => RecordBatch::try_from_iter_with_nullable(named.into_iter().map(|(name, column)| (name, column, true)))
            .map_err(|error| unreadable(error.to_string()))?,
    };
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| unreadable(error.to_string()))?;
    let rows = serde_json::Deserializer::from_slice(&text).into_iter();
    rows.collect::<std::result::Result<_, _>>().map_err(|error| unreadable(error.to_string()))
}

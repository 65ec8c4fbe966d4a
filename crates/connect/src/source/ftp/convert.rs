//! The bytes of a file, or of a part of one, to rows that carry the file's path. No I/O.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use portolan_model::source::{KeptRow, Output, QuarantineItem, RetriedRow};
use portolan_model::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::options::{FileFormat, Plan};
use crate::format::{self, Item, Settings, Sink, kept};

/// The column of a raw file's bytes.
pub(super) const CONTENT_COLUMN: &str = "content";
/// Bodies above this many bytes are converted on a thread of their own, so that other sources stay on time.
const INLINE_BYTES: usize = 256 << 10;
/// Items that wait between the converting thread and the output.
const ITEMS_WAITING: usize = 2;

/// Bytes to be converted.
pub(super) struct Body {
    pub(super) path: String,
    pub(super) format: FileFormat,
    /// Where in the file the bytes begin.
    pub(super) offset: u64,
    /// For CSV: the header, where `bytes` do not begin with it.
    pub(super) header: Vec<u8>,
    pub(super) bytes: Arc<Vec<u8>>,
}

impl Body {
    /// Converts, gives the rows to `output`, and the bytes then as payload: what is not readable has given nothing.
    pub(super) async fn convert(self, plan: &Arc<Plan>, output: &mut dyn Output) -> Result<()> {
        let bytes = Arc::clone(&self.bytes);
        self.rows(plan, output).await?;
        output.payload(&bytes);
        Ok(())
    }

    async fn rows(self, plan: &Arc<Plan>, output: &mut dyn Output) -> Result<()> {
        if self.bytes.len() > INLINE_BYTES {
            return self.start(plan).rows(output).await;
        }
        let mut items = Vec::with_capacity(1);
        self.decode(plan, &mut |item| {
            items.push(item);
            Ok(())
        })?;
        for item in items {
            give(item, output).await?;
        }
        Ok(())
    }

    /// Begins to convert on a thread of its own.
    pub(super) fn start(self, plan: &Arc<Plan>) -> Conversion {
        let (sender, items) = tokio::sync::mpsc::channel(ITEMS_WAITING);
        let (plan, bytes) = (Arc::clone(plan), Arc::clone(&self.bytes));
        let task = tokio::task::spawn_blocking(move || {
            self.decode(&plan, &mut |item| {
                // The receiver is gone when the read was dropped: nobody waits for the rest.
                sender
                    .blocking_send(item)
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "decode file", "the read was given up"))
            })
        });
        Conversion { bytes, items, task }
    }

    fn decode(self, plan: &Plan, sink: &mut Sink<'_>) -> Result<()> {
        let Self { path, format, offset, header, bytes } = self;
        let (format, delimiter) = match format {
            FileFormat::Raw => return sink(Item::Batch(raw(&path, &plan.file_column, &bytes)?)),
            FileFormat::Rows(format, delimiter) => (format, delimiter),
            FileFormat::Parquet => {
                return Err(Error::new(ErrorKind::Internal, "decode file", "a Parquet file is read from disk"));
            }
        };
        let joined = (!header.is_empty()).then(|| [header.as_slice(), &bytes].concat());
        let body = joined.as_deref().unwrap_or(&bytes);
        let settings = Settings { csv_delimiter: delimiter, ..plan.settings.clone() };
        let result = format::decode(format, body, &settings, &mut |item| {
            sink(match item {
                Item::Batch(batch) => Item::Batch(with_path(&batch, &path, &plan.file_column)?),
                Item::Quarantine(item) => Item::Quarantine(placed(item, &path, offset)),
            })
        });
        let hint = "look at the file; set `format`, `delimiter` or `rows`, or narrow `path`";
        result.map(drop).map_err(|error| of_file(error, &path, hint))
    }
}

/// Bytes that are being converted. Dropped, it ends.
pub(super) struct Conversion {
    bytes: Arc<Vec<u8>>,
    items: tokio::sync::mpsc::Receiver<Item>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Conversion {
    /// Gives the rows to `output`, and then the bytes as payload, as [`Body::convert`] does.
    pub(super) async fn finish(self, output: &mut dyn Output) -> Result<()> {
        let bytes = Arc::clone(&self.bytes);
        self.rows(output).await?;
        output.payload(&bytes);
        Ok(())
    }

    async fn rows(mut self, output: &mut dyn Output) -> Result<()> {
        while let Some(item) = self.items.recv().await {
            give(item, output).await?;
        }
        self.task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "decode file", "the conversion ended early").with_cause(error)
        })?
    }
}

/// Names the file in an error of its content.
pub(super) fn of_file(error: Error, path: &str, hint: &str) -> Error {
    match error.kind() {
        ErrorKind::Cancelled | ErrorKind::Internal => error,
        kind => {
            let hint = error.hint().unwrap_or(hint).to_owned();
            let message = format!("{path}: {}", error.message());
            Error::new(kind, "decode file", message).with_hint(hint).with_cause(error)
        }
    }
}

pub(super) async fn give(item: Item, output: &mut dyn Output) -> Result<()> {
    match item {
        Item::Batch(batch) => output.batch(batch).await,
        Item::Quarantine(item) => output.quarantine(item).await,
    }
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, "build batch", error.to_string())
}

fn raw(path: &str, file_column: &str, bytes: &[u8]) -> Result<RecordBatch> {
    let fields =
        vec![Field::new(CONTENT_COLUMN, DataType::Binary, false), Field::new(file_column, DataType::Utf8, false)];
    let columns: Vec<ArrayRef> =
        vec![Arc::new(BinaryArray::from_vec(vec![bytes])), Arc::new(StringArray::from(vec![path]))];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal)
}

/// The rows with the path of their file in a column of its own, the last.
pub(super) fn with_path(batch: &RecordBatch, path: &str, file_column: &str) -> Result<RecordBatch> {
    let schema = batch.schema();
    if schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(file_column)) {
        let message = format!("the rows have a column `{file_column}` of their own");
        return Err(Error::new(ErrorKind::Data, "decode file", message));
    }
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(file_column, DataType::Utf8, false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(path, batch.num_rows()))));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(internal)
}

/// Says of which file an item is; a row's number counts from the part that begins at `offset`.
fn placed(mut item: QuarantineItem, path: &str, offset: u64) -> QuarantineItem {
    if item.column.is_none() || item.row.is_number() {
        let known = [("file".to_owned(), path.into()), ("offset".to_owned(), offset.into())];
        kept::add(&mut item.row, Map::from_iter(known));
    } else {
        item.row = json!({ "file": path, "key": item.row.take() });
    }
    item
}

/// Reads a row again that could not be read.
pub(super) fn retry(plan: &Plan, delimiter: Option<u8>, row: &KeptRow<'_>) -> Result<RetriedRow> {
    let Some(path) = row.row.get("file").and_then(Value::as_str) else { return Ok(RetriedRow::Unable) };
    let offset = row.row.get("offset").and_then(Value::as_u64).unwrap_or_default();
    Ok(match kept::retry(row, &plan.settings, delimiter)? {
        RetriedRow::Fits { batches, quarantined } => RetriedRow::Fits {
            batches: batches.iter().map(|batch| with_path(batch, path, &plan.file_column)).collect::<Result<_>>()?,
            quarantined: quarantined.into_iter().map(|item| placed(item, path, offset)).collect(),
        },
        other => other,
    })
}

//! Bytes to Arrow record batches: JSON, NDJSON, CSV, Parquet.
//!
//! Promise: what comes out follows from the bytes and [`Settings`] alone; no input panics; no value is rounded, cut or silently left
//! out: what cannot be stored as configured becomes an [`Item::Quarantine`].

pub mod column_type;
pub mod csv;
pub mod encoding;
pub(crate) mod inference;
pub mod json;
pub(crate) mod kept;
pub mod parquet;
pub mod path;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::QuarantineItem;
use serde_json::Value;

pub use column_type::ColumnType;
pub use path::{Cursor, RowPath};

/// Rows in one batch at most.
pub const BATCH_ROWS: usize = 16_384;
/// Bytes of text in one batch, roughly.
pub const BATCH_BYTES: usize = 8 << 20;
/// The most columns of one batch.
pub const COLUMNS_MAX: usize = 4_096;
/// A quarantined text is cut here, in bytes.
pub const CONTENT_BYTES_MAX: usize = 64 << 10;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
}

/// How rows are found in a body and what their columns become.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the rows are in a JSON body; `None`: the elements of an array, or the whole value.
    pub rows: Option<RowPath>,
    /// Types that columns are given instead of the inferred ones.
    pub columns: BTreeMap<String, ColumnType>,
    /// Columns that identify a row in the quarantine.
    pub identity: Vec<String>,
    /// The value whose maximum over the rows is reported in [`Summary::cursor`].
    pub cursor: Option<RowPath>,
    /// The byte between CSV fields.
    pub csv_delimiter: u8,
    /// Whether the types of CSV columns are inferred; otherwise they are text.
    pub csv_infer: bool,
    /// The schema of the last body.
    pub recent: RecentSchema,
}

/// The schema of the last JSON body that was decoded with these settings.
///
/// A body mostly has the fields of the one before it, and of a small body they cost more to build than its values: they
/// are taken again where they are equal. Nothing but time depends on it.
#[derive(Clone, Debug, Default)]
pub struct RecentSchema(Arc<Mutex<Option<SchemaRef>>>);

impl RecentSchema {
    fn get(&self) -> Option<SchemaRef> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, schema: SchemaRef) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(schema);
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rows: None,
            columns: BTreeMap::new(),
            identity: Vec::new(),
            cursor: None,
            csv_delimiter: b',',
            csv_infer: false,
            recent: RecentSchema::default(),
        }
    }
}

/// What a body gives.
#[derive(Debug)]
pub enum Item {
    /// Rows.
    Batch(RecordBatch),
    /// A value or row that cannot be stored as configured.
    Quarantine(QuarantineItem),
}

/// Takes what a body gives; an error ends the decoding.
pub type Sink<'s> = dyn FnMut(Item) -> Result<()> + 's;

/// What was seen of a body as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Rows given, without those in the quarantine.
    pub rows: u64,
    /// The highest cursor among them.
    pub cursor: Option<Cursor>,
}

/// Decodes a body of the given format.
///
/// # Errors
/// `Data` if the body as a whole is not of that format, `Limit` if a row has too many columns, and what `sink` returns.
pub fn decode(format: Format, body: &[u8], settings: &Settings, sink: &mut Sink<'_>) -> Result<Summary> {
    match format {
        Format::Json => json::decode(body, settings, sink),
        Format::Ndjson => json::decode_lines(body, settings, sink),
        Format::Csv => csv::decode(body, settings, sink),
    }
}

/// The body as text.
pub(crate) fn utf8(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|error| {
        data_error(format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
            .with_hint("only UTF-8 is read; look at the answer's charset with curl -i")
    })
}

pub(crate) fn data_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Data, "decode body", message)
}

/// Text for the quarantine: cut, with bytes that are not UTF-8 as `\xNN`.
pub(crate) fn quarantine_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes[..bytes.len().min(CONTENT_BYTES_MAX)].utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    let mut end = text.len().min(CONTENT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A row that cannot be read.
pub(crate) fn quarantined_row(reason: &'static str, number: u64, content: &[u8], detail: String) -> Item {
    let row = kept::place(Some(number), content, None);
    Item::Quarantine(QuarantineItem { reason, column: None, row, content: quarantine_text(content), detail })
}

/// A value that does not fit its column.
pub(crate) fn quarantined_value(row: Value, column: &str, content: &str, detail: String) -> Item {
    let content = quarantine_text(content.as_bytes());
    Item::Quarantine(QuarantineItem { reason: "value_not_exact", column: Some(column.into()), row, content, detail })
}

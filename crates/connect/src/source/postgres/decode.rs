//! Rows of a binary COPY, straight from the message into Arrow builders.
//!
//! Promise: every value is stored without loss or is NULL with a [`Problem`] that holds it as text; arbitrary bytes
//! give an error, never a panic.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::columns::{Facts, Kind, Selected};
use super::values::{CONTENT_BYTES_MAX, Values, escaped};
use super::wire::reader::Reader;
use super::wire::{Column, Malformed};

/// What a COPY begins with, before its flags and its header's extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xFF\r\n\0";

/// Rows of the first batch before its builders are asked for memory again.
const ROWS_EXPECTED: usize = 1_024;

/// A value that has no place in its column's type; NULL stands in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The row within the batch.
    pub row: usize,
    /// The column.
    pub column: usize,
    /// Stable short reason.
    pub reason: &'static str,
    /// The value as the server would write it.
    pub content: String,
    /// What is wrong, for people.
    pub detail: &'static str,
}

/// Collects rows into record batches.
pub struct RowDecoder {
    schema: SchemaRef,
    kinds: Vec<Kind>,
    columns: Vec<Values>,
    /// The columns whose arrays' other shapes follow after the columns, in their order.
    shapes: Vec<usize>,
    rows: usize,
    bytes: usize,
    problems: Vec<Problem>,
    cursor: Option<usize>,
    cursor_value: Vec<u8>,
    cursor_saw_null: bool,
    has_begun: bool,
    has_ended: bool,
    /// A row was only partly added.
    is_broken: bool,
}

impl RowDecoder {
    /// A decoder for rows of `columns` of which no catalog is asked: those of built-in types without parts in their binary form,
    /// all others as text.
    pub fn of_built_in(columns: &[Column], cursor: Option<usize>) -> Self {
        let facts = Facts { money_scale: 2, ..Facts::default() };
        let columns: Vec<Selected> = columns.iter().cloned().map(|column| facts.select(column)).collect();
        Self::new(&columns, cursor)
    }

    /// A decoder for rows of `columns`; the raw value of column `cursor` is kept for each last row.
    pub(super) fn new(columns: &[Selected], cursor: Option<usize>) -> Self {
        let fields: Vec<_> = columns.iter().map(Selected::field).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            kinds: columns.iter().map(|column| column.kind.clone()).collect(),
            columns: columns.iter().map(|column| Values::new(&column.kind, ROWS_EXPECTED, 0)).collect(),
            shapes: (0..columns.len()).filter(|index| columns[*index].shape().is_some()).collect(),
            rows: 0,
            bytes: 0,
            problems: Vec::new(),
            cursor,
            cursor_value: Vec::new(),
            cursor_saw_null: false,
            has_begun: false,
            has_ended: false,
            is_broken: false,
        }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows since the last batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of messages and of quarantined text since the last batch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the server has said that no more rows come.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The cursor's raw value in the last row; `None` if it was NULL in any row.
    pub fn cursor_value(&self) -> Option<&[u8]> {
        (!self.cursor_saw_null).then_some(&self.cursor_value)
    }

    /// Adds what one message brings: a row, which the head of the COPY may precede, or its end.
    ///
    /// # Errors
    /// The message is no row of these columns. The decoder is of no more use then.
    #[inline]
    pub fn push(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        if !self.has_begun {
            begin(&mut reader)?;
            self.has_begun = true;
            if reader.is_empty() {
                return Ok(());
            }
        }
        if self.has_ended {
            return Err(Malformed("a row after the last one"));
        }
        let count = reader.i16()?;
        if count == -1 {
            self.has_ended = true;
            return Ok(());
        }
        if usize::try_from(count) != Ok(self.columns.len() + self.shapes.len()) {
            return Err(Malformed("a row has another number of columns"));
        }
        self.is_broken = true;
        for (index, values) in self.columns.iter_mut().enumerate() {
            let value = reader.value()?;
            match value {
                None => values.push_null(),
                Some(bytes) => {
                    if let Err(misfit) = values.push(bytes, CONTENT_BYTES_MAX)? {
                        self.bytes += misfit.content.len();
                        self.problems.push(Problem {
                            row: self.rows,
                            column: index,
                            reason: misfit.reason,
                            content: misfit.content,
                            detail: misfit.detail,
                        });
                    }
                }
            }
            if self.cursor == Some(index) {
                self.cursor_saw_null |= value.is_none();
                self.cursor_value.clear();
                self.cursor_value.extend_from_slice(value.unwrap_or_default());
            }
        }
        for column in &self.shapes {
            if let Some(text) = reader.value()? {
                let content = escaped(text, CONTENT_BYTES_MAX);
                self.bytes += content.len();
                let detail =
                    "an array of several dimensions, or one that does not begin at 1, is no list; NULL is stored";
                self.problems.push(Problem { row: self.rows, column: *column, reason: "array_shape", content, detail });
            }
        }
        if !reader.is_empty() {
            return Err(Malformed("a row goes on after its last column"));
        }
        self.is_broken = false;
        self.rows += 1;
        self.bytes += message.len();
        Ok(())
    }

    /// The rows so far as a batch, and what could not be stored in it.
    ///
    /// # Errors
    /// Arrow's, if a row was only partly added.
    pub fn finish(&mut self) -> Result<(RecordBatch, Vec<Problem>), ArrowError> {
        if self.is_broken {
            return Err(ArrowError::InvalidArgumentError("a row was only partly added".into()));
        }
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (values, kind) in self.columns.iter_mut().zip(&self.kinds) {
            // The next batch is like this one, or a little larger.
            let (rows, bytes) = (self.rows, values.text_bytes());
            arrays.push(values.finish()?);
            *values = Values::new(kind, rows, bytes + bytes / 16);
        }
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)?;
        self.rows = 0;
        self.bytes = 0;
        Ok((batch, std::mem::take(&mut self.problems)))
    }
}

/// Reads the head of a COPY.
fn begin(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    if &reader.array::<11>()? != SIGNATURE {
        return Err(Malformed("a COPY without its signature"));
    }
    // The upper half of the flags changes the format; the only one known there were OIDs, up to version 11.
    if reader.u32()? >> 16 != 0 {
        return Err(Malformed("a COPY of another format"));
    }
    let extension = reader.u32()?;
    reader.take(usize::try_from(extension).map_err(|_| Malformed("an absurd extension"))?).map(drop)
}

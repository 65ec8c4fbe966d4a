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
use super::wire::Column;
use super::wire::reader::{Malformed, Reader};
use crate::relational::{PendingBatch, Problem};

/// What a COPY begins with, before its flags and its header's extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xFF\r\n\0";

/// Rows of the first batch before its builders are asked for memory again.
const ROWS_EXPECTED: usize = 1_024;

/// Collects rows into record batches.
pub struct RowDecoder {
    schema: SchemaRef,
    kinds: Vec<Kind>,
    columns: Vec<Values>,
    /// The columns whose arrays' other shapes follow after the columns, in their order.
    shapes: Vec<usize>,
    pending: PendingBatch,
    has_begun: bool,
    has_ended: bool,
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
            pending: PendingBatch::new(cursor),
            has_begun: false,
            has_ended: false,
        }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows since the last batch.
    pub fn rows(&self) -> usize {
        self.pending.rows()
    }

    /// Bytes of messages and of quarantined text since the last batch.
    pub fn bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Whether the server has said that no more rows come.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The cursor's raw value in the last row; `None` if it was NULL in any row.
    pub fn cursor_value(&self) -> Option<&[u8]> {
        self.pending.cursor_value()
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
        self.pending.begin_row();
        for (index, values) in self.columns.iter_mut().enumerate() {
            let value = reader.value()?;
            match value {
                None => values.push_null(),
                Some(bytes) => {
                    if let Err(misfit) = values.push(bytes, CONTENT_BYTES_MAX)? {
                        self.pending.add_problem(index, misfit.reason, misfit.content, misfit.detail);
                    }
                }
            }
            if self.pending.is_cursor(index) {
                self.pending.note_cursor(value);
            }
        }
        for column in &self.shapes {
            if let Some(text) = reader.value()? {
                let content = escaped(text, CONTENT_BYTES_MAX);
                let detail =
                    "an array of several dimensions, or one that does not begin at 1, is no list; NULL is stored";
                self.pending.add_problem(*column, "array_shape", content, detail);
            }
        }
        if !reader.is_empty() {
            return Err(Malformed("a row goes on after its last column"));
        }
        self.pending.end_row(message.len());
        Ok(())
    }

    /// The rows so far as a batch, and what could not be stored in it.
    ///
    /// # Errors
    /// Arrow's, if a row was only partly added.
    pub fn finish(&mut self) -> Result<(RecordBatch, Vec<Problem>), ArrowError> {
        self.pending.check()?;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (values, kind) in self.columns.iter_mut().zip(&self.kinds) {
            // The next batch is like this one, or a little larger.
            let (rows, bytes) = (self.pending.rows(), values.text_bytes());
            arrays.push(values.finish()?);
            *values = Values::new(kind, rows, bytes + bytes / 16);
        }
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)?;
        Ok((batch, self.pending.end_batch()))
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

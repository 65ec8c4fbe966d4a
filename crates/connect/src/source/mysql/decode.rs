//! Rows of the binary protocol, straight from the packet into Arrow builders.
//!
//! Promise: every value is stored without loss or is NULL with a [`Problem`] that holds it as text; arbitrary bytes
//! give an error, never a panic.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder,
    Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::columns::{TimeAs, field_of};
use super::decimal;
use super::temporal::{CivilTime, Span, TemporalProblem};
use super::wire::Column;
use super::wire::reader::{Malformed, Reader};
use crate::relational::{PendingBatch, Problem};
use arrow::datatypes::{DataType, TimeUnit};

/// Rows of a batch before its builders are asked for memory again.
const ROWS_EXPECTED: usize = 1_024;
/// What is kept of a value that cannot be stored, in bytes.
const CONTENT_BYTES_MAX: usize = 64 << 10;

/// Collects rows into record batches.
pub struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<(Values, u8)>,
    pending: PendingBatch,
}

enum Values {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal128(Decimal128Builder, u8, u8),
    Decimal256(Decimal256Builder, u8, u8),
    Bits(UInt64Builder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Time(Time64MicrosecondBuilder),
    Span(Int64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    /// A column that is NULL in every row, such as `SELECT NULL`.
    Nothing(StringBuilder),
}

/// What one value came to.
type Stored = Result<(), (&'static str, String, &'static str)>;

impl RowDecoder {
    /// A decoder for rows of `columns`; the raw value of column `cursor` is kept for each last row.
    pub fn new(columns: &[Column], time_as: TimeAs, cursor: Option<usize>) -> Self {
        let schema = Arc::new(Schema::new(columns.iter().map(|column| field_of(column, time_as)).collect::<Vec<_>>()));
        let columns = columns
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| (Values::new(column, field.data_type()), column.decimals))
            .collect();
        Self { schema, columns, pending: PendingBatch::new(cursor) }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows since the last batch.
    pub fn rows(&self) -> usize {
        self.pending.rows()
    }

    /// Bytes of packets and of quarantined text since the last batch.
    pub fn bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// The cursor's raw value in the last row; `None` if it was NULL in any row.
    pub fn cursor_value(&self) -> Option<&[u8]> {
        self.pending.cursor_value()
    }

    /// Adds the row of one packet.
    ///
    /// # Errors
    /// The packet is no row of these columns. The decoder is of no more use then.
    pub fn push(&mut self, packet: &[u8]) -> Result<(), Malformed> {
        self.pending.begin_row();
        let mut reader = Reader::new(packet);
        if reader.u8()? != 0 {
            return Err(Malformed("a row does not begin with zero"));
        }
        let nulls = reader.take((self.columns.len() + 9) / 8)?;
        for (index, (values, decimals)) in self.columns.iter_mut().enumerate() {
            let bit = index + 2;
            let is_null = nulls[bit / 8] & (1 << (bit % 8)) != 0;
            let before = reader.rest();
            if is_null {
                values.push_null();
            } else if let Err((reason, content, detail)) = values.push(&mut reader, *decimals)? {
                self.pending.add_problem(index, reason, content, detail);
            }
            if self.pending.is_cursor(index) {
                let raw = &before[..before.len() - reader.rest().len()];
                self.pending.note_cursor((!is_null).then_some(raw));
            }
        }
        if !reader.is_empty() {
            return Err(Malformed("a row goes on after its last column"));
        }
        self.pending.end_row(packet.len());
        Ok(())
    }

    /// The rows so far as a batch, and what could not be stored in it.
    ///
    /// # Errors
    /// Arrow's, if a row was only partly added.
    pub fn finish(&mut self) -> Result<(RecordBatch, Vec<Problem>), ArrowError> {
        self.pending.check()?;
        let arrays = self.columns.iter_mut().map(|(values, _)| values.finish()).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)?;
        Ok((batch, self.pending.end_batch()))
    }
}

impl Values {
    fn new(column: &Column, data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(ROWS_EXPECTED)),
            DataType::Int8 => Self::Int8(Int8Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Int16 => Self::Int16(Int16Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Int32 => Self::Int32(Int32Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Int64 if column.is_time() => Self::Span(Int64Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Int64 => Self::Int64(Int64Builder::with_capacity(ROWS_EXPECTED)),
            DataType::UInt8 => Self::UInt8(UInt8Builder::with_capacity(ROWS_EXPECTED)),
            DataType::UInt16 => Self::UInt16(UInt16Builder::with_capacity(ROWS_EXPECTED)),
            DataType::UInt32 => Self::UInt32(UInt32Builder::with_capacity(ROWS_EXPECTED)),
            DataType::UInt64 if column.is_bits() => Self::Bits(UInt64Builder::with_capacity(ROWS_EXPECTED)),
            DataType::UInt64 => Self::UInt64(UInt64Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Float32 => Self::Float32(Float32Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Float64 => Self::Float64(Float64Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Decimal128(precision, scale) => Self::Decimal128(
                Decimal128Builder::with_capacity(ROWS_EXPECTED).with_data_type(data_type.clone()),
                *precision,
                scale.unsigned_abs(),
            ),
            DataType::Decimal256(precision, scale) => Self::Decimal256(
                Decimal256Builder::with_capacity(ROWS_EXPECTED).with_data_type(data_type.clone()),
                *precision,
                scale.unsigned_abs(),
            ),
            DataType::Date32 => Self::Date(Date32Builder::with_capacity(ROWS_EXPECTED)),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Self::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(ROWS_EXPECTED).with_timezone_opt(zone.clone()),
            ),
            DataType::Time64(_) => Self::Time(Time64MicrosecondBuilder::with_capacity(ROWS_EXPECTED)),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            _ if column.is_null() => Self::Nothing(StringBuilder::new()),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    #[inline]
    fn push(&mut self, reader: &mut Reader<'_>, decimals: u8) -> Result<Stored, Malformed> {
        match self {
            Self::Int8(values) => values.append_value(i8::from_le_bytes(reader.array()?)),
            Self::Int16(values) => values.append_value(i16::from_le_bytes(reader.array()?)),
            Self::Int32(values) => values.append_value(i32::from_le_bytes(reader.array()?)),
            Self::Int64(values) => values.append_value(i64::from_le_bytes(reader.array()?)),
            Self::UInt8(values) => values.append_value(u8::from_le_bytes(reader.array()?)),
            Self::UInt16(values) => values.append_value(u16::from_le_bytes(reader.array()?)),
            Self::UInt32(values) => values.append_value(u32::from_le_bytes(reader.array()?)),
            Self::UInt64(values) => values.append_value(u64::from_le_bytes(reader.array()?)),
            Self::Float32(values) => values.append_value(f32::from_le_bytes(reader.array()?)),
            Self::Float64(values) => values.append_value(f64::from_le_bytes(reader.array()?)),
            Self::Boolean(values) => values.append_value(bits(reader.bytes()?)? != 0),
            Self::Bits(values) => values.append_value(bits(reader.bytes()?)?),
            Self::Bytes(values) => values.append_value(reader.bytes()?),
            Self::Text(values) => {
                let bytes = reader.bytes()?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => values.append_value(text),
                    Err(_) => {
                        values.append_null();
                        return Ok(Err((
                            "invalid_text",
                            escaped(bytes),
                            "not UTF-8 as the server sends it; NULL is stored",
                        )));
                    }
                }
            }
            Self::Decimal128(values, precision, scale) => {
                let text = reader.bytes()?;
                let value = decimal::parse_i128(text, *precision, *scale);
                values.append_option(value);
                if value.is_none() {
                    return Ok(Err(out_of_range(text)));
                }
            }
            Self::Decimal256(values, precision, scale) => {
                let text = reader.bytes()?;
                let value = decimal::parse_i256(text, *precision, *scale);
                values.append_option(value);
                if value.is_none() {
                    return Ok(Err(out_of_range(text)));
                }
            }
            Self::Date(values) => {
                let value = CivilTime::parse(reader)?;
                let days = value.days();
                values.append_option(days.ok());
                return Ok(days.map(drop).map_err(|problem| temporal(problem, value.date_text())));
            }
            Self::Timestamp(values) => {
                let value = CivilTime::parse(reader)?;
                let microseconds = value.microseconds();
                values.append_option(microseconds.ok());
                return Ok(microseconds.map(drop).map_err(|problem| temporal(problem, value.text(decimals))));
            }
            Self::Time(values) => {
                let value = Span::parse(reader)?;
                let microseconds = value.time_of_day();
                values.append_option(microseconds.ok());
                return Ok(microseconds.map(drop).map_err(|problem| temporal(problem, value.text(decimals))));
            }
            Self::Span(values) => values.append_value(Span::parse(reader)?.microseconds),
            Self::Nothing(_) => return Err(Malformed("a value in a column that has only NULL")),
        }
        Ok(Ok(()))
    }

    fn push_null(&mut self) {
        match self {
            Self::Boolean(values) => values.append_null(),
            Self::Int8(values) => values.append_null(),
            Self::Int16(values) => values.append_null(),
            Self::Int32(values) => values.append_null(),
            Self::Int64(values) | Self::Span(values) => values.append_null(),
            Self::UInt8(values) => values.append_null(),
            Self::UInt16(values) => values.append_null(),
            Self::UInt32(values) => values.append_null(),
            Self::UInt64(values) | Self::Bits(values) => values.append_null(),
            Self::Float32(values) => values.append_null(),
            Self::Float64(values) => values.append_null(),
            Self::Decimal128(values, ..) => values.append_null(),
            Self::Decimal256(values, ..) => values.append_null(),
            Self::Date(values) => values.append_null(),
            Self::Timestamp(values) => values.append_null(),
            Self::Time(values) => values.append_null(),
            Self::Text(values) | Self::Nothing(values) => values.append_null(),
            Self::Bytes(values) => values.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Int8(values) => Arc::new(values.finish()),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) | Self::Span(values) => Arc::new(values.finish()),
            Self::UInt8(values) => Arc::new(values.finish()),
            Self::UInt16(values) => Arc::new(values.finish()),
            Self::UInt32(values) => Arc::new(values.finish()),
            Self::UInt64(values) | Self::Bits(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Decimal128(values, ..) => Arc::new(values.finish()),
            Self::Decimal256(values, ..) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Timestamp(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
            Self::Text(values) | Self::Nothing(values) => Arc::new(values.finish()),
            Self::Bytes(values) => Arc::new(values.finish()),
        }
    }
}

fn temporal(problem: TemporalProblem, content: String) -> (&'static str, String, &'static str) {
    (problem.reason(), content, problem.detail())
}

fn out_of_range(text: &[u8]) -> (&'static str, String, &'static str) {
    ("decimal_out_of_range", escaped(text), "more digits than the column's type says; NULL is stored")
}

/// A BIT value: up to eight bytes, the highest first.
fn bits(bytes: &[u8]) -> Result<u64, Malformed> {
    if bytes.len() > 8 {
        return Err(Malformed("a bit field has more than 64 bits"));
    }
    Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Text as it is, other bytes as `\xNN`, cut.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        if text.len() >= CONTENT_BYTES_MAX {
            let end = (0..=CONTENT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::wire::column_type as t;
    use super::*;

    #[test]
    fn a_value_that_is_not_text_is_kept_as_bytes() {
        let column = Column {
            name: "c".into(),
            column_type: t::VAR_STRING,
            character_set: 45,
            length: 10,
            flags: 0,
            decimals: 0,
            extended_type: None,
        };
        let mut decoder = RowDecoder::new(&[column], TimeAs::Time, None);
        decoder.push(b"\0\0\x03a\xffb").unwrap();
        let (batch, problems) = decoder.finish().unwrap();
        assert_eq!(batch.column(0).null_count(), 1);
        assert_eq!((problems[0].reason, problems[0].content.as_str()), ("invalid_text", "a\\xFFb"));
    }
}

//! The canonical digest of the rows that a round stored in a table.
//!
//! Promise: it depends on the values alone: not on whether a row stands in the catalog or in a file, on the width of a
//! number's column, on columns that came later, on how files were merged. `docs/lake.md` specifies it byte by byte.

use arrow::array::{Array, AsArray};
use arrow::datatypes as ty;
use arrow::record_batch::RecordBatch;
use sha2::{Digest, Sha256};

use crate::types::{Column, Kind};

/// What the digest begins with.
const PREAMBLE: &[u8] = b"portolan-rows-1\n";
/// What ends a row: no column has this field id.
const ROW_END: [u8; 4] = [0xff; 4];
/// Whole numbers up to this magnitude are the same number as integer and as float.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;
/// Bytes gathered before they are hashed.
const CHUNK_BYTES: usize = 32 * 1024;

/// A digest being made, row by row.
#[derive(Clone)]
pub(crate) struct RowDigest {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl RowDigest {
    pub(crate) fn new() -> Self {
        Self { hash: Sha256::new_with_prefix(PREAMBLE), buffer: Vec::new() }
    }

    /// Takes in the rows of `batch`, whose columns are `columns`; `_round` and `_time` are left out.
    pub(crate) fn update(&mut self, batch: &RecordBatch, columns: &[Column]) {
        self.update_rows(batch, columns, 0..batch.num_rows());
    }

    /// Takes in some rows of `batch`, as [`update`](Self::update) does.
    pub(crate) fn update_rows(&mut self, batch: &RecordBatch, columns: &[Column], rows: std::ops::Range<usize>) {
        let mut parts: Vec<(&Column, &dyn Array)> = columns
            .iter()
            .zip(batch.columns())
            .filter(|(column, _)| column.name != "_round" && column.name != "_time")
            .map(|(column, array)| (column, array.as_ref()))
            .collect();
        parts.sort_by_key(|(column, _)| column.id);
        for row in rows {
            for (column, array) in &parts {
                if array.is_valid(row) {
                    self.buffer.extend_from_slice(&(column.id as u32).to_le_bytes());
                    value(*array, row, &column.kind, &mut self.buffer);
                }
            }
            self.buffer.extend_from_slice(&ROW_END);
            if self.buffer.len() >= CHUNK_BYTES {
                self.hash.update(&self.buffer);
                self.buffer.clear();
            }
        }
    }

    /// Hashes what is gathered and gives its memory back: many digests may be open at once.
    pub(crate) fn settle(&mut self) {
        self.hash.update(&self.buffer);
        self.buffer = Vec::new();
    }

    /// The digest, lower-case hex.
    pub(crate) fn finish(mut self) -> String {
        self.hash.update(&self.buffer);
        hex(&self.hash.finalize())
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Appends the canonical bytes of `array[row]`, which is not null: a letter for the class, then the value.
pub(crate) fn value(array: &dyn Array, row: usize, kind: &Kind, out: &mut Vec<u8>) {
    macro_rules! signed {
        ($type:ty) => {
            integer(i128::from(array.as_primitive::<$type>().value(row)), out)
        };
    }
    macro_rules! scalar {
        ($class:literal, $type:ty) => {{
            out.push($class);
            out.extend_from_slice(&i64::from(array.as_primitive::<$type>().value(row)).to_le_bytes());
        }};
    }
    match kind {
        Kind::Boolean => out.extend_from_slice(&[b'B', u8::from(array.as_boolean().value(row))]),
        Kind::Int8 => signed!(ty::Int8Type),
        Kind::Int16 => signed!(ty::Int16Type),
        Kind::Int32 => signed!(ty::Int32Type),
        Kind::Int64 => signed!(ty::Int64Type),
        Kind::UInt8 => signed!(ty::UInt8Type),
        Kind::UInt16 => signed!(ty::UInt16Type),
        Kind::UInt32 => signed!(ty::UInt32Type),
        Kind::UInt64 => signed!(ty::UInt64Type),
        Kind::Float32 => float(f64::from(array.as_primitive::<ty::Float32Type>().value(row)), out),
        Kind::Float64 => float(array.as_primitive::<ty::Float64Type>().value(row), out),
        Kind::Decimal(_, scale) => {
            let (mut unscaled, mut scale) = (array.as_primitive::<ty::Decimal128Type>().value(row), *scale);
            while scale > 0 && unscaled % 10 == 0 {
                unscaled /= 10;
                scale -= 1;
            }
            out.extend_from_slice(&[b'd', scale]);
            out.extend_from_slice(&unscaled.to_le_bytes());
        }
        Kind::Date => scalar!(b'D', ty::Date32Type),
        Kind::Time => scalar!(b'T', ty::Time64MicrosecondType),
        Kind::TimestampMs => instant(array.as_primitive::<ty::TimestampMillisecondType>().value(row), 1_000_000, out),
        Kind::Timestamp => instant(array.as_primitive::<ty::TimestampMicrosecondType>().value(row), 1_000, out),
        Kind::TimestampNs => instant(array.as_primitive::<ty::TimestampNanosecondType>().value(row), 1, out),
        Kind::TimestampTz => scalar!(b'Z', ty::TimestampMicrosecondType),
        Kind::Varchar | Kind::Json => {
            bytes(b't', array.as_string::<i32>().value(row).as_bytes(), out);
        }
        Kind::Blob => bytes(b'b', array.as_binary::<i32>().value(row), out),
        Kind::Uuid => {
            out.push(b'U');
            out.extend_from_slice(array.as_fixed_size_binary().value(row));
        }
        Kind::List(element) => {
            let items = array.as_list::<i32>().value(row);
            count(b'l', items.len(), out);
            for index in 0..items.len() {
                part(&items, index, &element.kind, out);
            }
        }
        Kind::Struct(fields) => {
            let parts = array.as_struct();
            out.push(b'r');
            for (field, values) in fields.iter().zip(parts.columns()) {
                if values.is_valid(row) {
                    out.extend_from_slice(&(field.id as u32).to_le_bytes());
                    value(values, row, &field.kind, out);
                }
            }
            out.extend_from_slice(&ROW_END);
        }
        Kind::Map(key, item) => {
            let entries = array.as_map().value(row);
            count(b'm', entries.len(), out);
            for index in 0..entries.len() {
                part(entries.column(0), index, &key.kind, out);
                part(entries.column(1), index, &item.kind, out);
            }
        }
    }
}

fn part(array: &dyn Array, row: usize, kind: &Kind, out: &mut Vec<u8>) {
    if array.is_null(row) { out.push(b'0') } else { value(array, row, kind, out) }
}

fn integer(value: i128, out: &mut Vec<u8>) {
    // Every integer type of the lake lies within i64 or u64.
    out.push(if value < 0 { b'i' } else { b'u' });
    out.extend_from_slice(&(value as u64).to_le_bytes());
}

fn float(value: f64, out: &mut Vec<u8>) {
    if value.fract() == 0.0 && value.abs() <= EXACT_FLOAT && !(value == 0.0 && value.is_sign_negative()) {
        integer(value as i128, out);
        return;
    }
    let bits = if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() };
    out.push(b'f');
    out.extend_from_slice(&bits.to_le_bytes());
}

fn instant(value: i64, nanoseconds: i128, out: &mut Vec<u8>) {
    out.push(b's');
    out.extend_from_slice(&(i128::from(value) * nanoseconds).to_le_bytes());
}

fn bytes(class: u8, value: &[u8], out: &mut Vec<u8>) {
    count(class, value.len(), out);
    out.extend_from_slice(value);
}

fn count(class: u8, length: usize, out: &mut Vec<u8>) {
    out.push(class);
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

//! Rows in the form in which they are kept inside the catalog.
//!
//! Promise: what stands in a cell is what DuckDB writes there itself, or a text that it reads as the same value.

use arrow::array::{Array, AsArray};
use arrow::datatypes as ty;
use arrow::record_batch::RecordBatch;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::text::write;
use crate::types::{Column, Kind};

/// One value; texts and bytes are ranges of the arenas of their [`Cells`].
#[derive(Clone, Copy, Debug)]
enum Cell {
    Null,
    Integer(i64),
    Text(u32, u32),
    Bytes(u32, u32),
}

/// Rows, row after row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    width: usize,
    cells: Vec<Cell>,
    text: String,
    bytes: Vec<u8>,
}

impl Cells {
    /// The cells of `batches`; `None` if a value has no form in which the catalog can hold it (or they are so many
    /// bytes that a file is the place for them).
    pub(crate) fn from_batches(batches: &[RecordBatch], columns: &[Column]) -> Option<Self> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let width = columns.len();
        let mut cells = Self { width, cells: vec![Cell::Null; rows * width], ..Self::default() };
        let mut base = 0;
        for batch in batches {
            for (place, (column, array)) in columns.iter().zip(batch.columns()).enumerate() {
                cells.fill(array.as_ref(), &column.kind, base * width + place)?;
            }
            base += batch.num_rows();
        }
        Some(cells)
    }

    fn fill(&mut self, array: &dyn Array, kind: &Kind, start: usize) -> Option<()> {
        let width = self.width;
        macro_rules! integers {
            ($type:ty) => {{
                let values = array.as_primitive::<$type>();
                for row in 0..values.len() {
                    if values.is_valid(row) {
                        self.cells[start + row * width] = Cell::Integer(i64::from(values.value(row)));
                    }
                }
            }};
        }
        match kind {
            Kind::Int8 => integers!(ty::Int8Type),
            Kind::Int16 => integers!(ty::Int16Type),
            Kind::Int32 => integers!(ty::Int32Type),
            Kind::Int64 => integers!(ty::Int64Type),
            Kind::UInt8 => integers!(ty::UInt8Type),
            Kind::UInt16 => integers!(ty::UInt16Type),
            Kind::UInt32 => integers!(ty::UInt32Type),
            Kind::Boolean => {
                let values = array.as_boolean();
                for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
                    self.cells[start + row * width] = Cell::Integer(i64::from(values.value(row)));
                }
            }
            Kind::Blob => {
                let values = array.as_binary::<i32>();
                for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
                    let from = u32::try_from(self.bytes.len()).ok()?;
                    self.bytes.extend_from_slice(values.value(row));
                    self.cells[start + row * width] = Cell::Bytes(from, u32::try_from(self.bytes.len()).ok()?);
                }
            }
            kind => {
                for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
                    let from = u32::try_from(self.text.len()).ok()?;
                    if !write::value(array, row, kind, &mut self.text) {
                        return None;
                    }
                    self.cells[start + row * width] = Cell::Text(from, u32::try_from(self.text.len()).ok()?);
                }
            }
        }
        Some(())
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.cells.len().checked_div(self.width).unwrap_or(0)
    }

    /// The cells of one row, to be bound to a statement.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = ToSqlOutput<'_>> {
        self.cells[row * self.width..(row + 1) * self.width].iter().map(|cell| match *cell {
            Cell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Cell::Integer(value) => ToSqlOutput::Borrowed(ValueRef::Integer(value)),
            Cell::Text(from, to) => {
                ToSqlOutput::Borrowed(ValueRef::Text(&self.text.as_bytes()[from as usize..to as usize]))
            }
            Cell::Bytes(from, to) => ToSqlOutput::Borrowed(ValueRef::Blob(&self.bytes[from as usize..to as usize])),
        })
    }

    /// Puts an integer into one column of every row.
    pub(crate) fn set_integer(&mut self, place: usize, value: i64) {
        let width = self.width;
        for cell in self.cells.iter_mut().skip(place).step_by(width.max(1)) {
            *cell = Cell::Integer(value);
        }
    }

    /// Puts a text into one column of every row.
    pub(crate) fn set_text(&mut self, place: usize, value: &str) -> Option<()> {
        let from = u32::try_from(self.text.len()).ok()?;
        self.text.push_str(value);
        let to = u32::try_from(self.text.len()).ok()?;
        let width = self.width;
        for cell in self.cells.iter_mut().skip(place).step_by(width.max(1)) {
            *cell = Cell::Text(from, to);
        }
        Some(())
    }
}

/// The SQLite type of a column of inlined rows, as DuckDB declares it.
pub(crate) fn sqlite_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Boolean
        | Kind::Int8
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::UInt8
        | Kind::UInt16
        | Kind::UInt32 => "BIGINT",
        Kind::Blob => "BLOB",
        _ => "VARCHAR",
    }
}

//! The merge of two sides in the order of keys and time.
//!
//! Promise: each side is read once; what is held is one batch of the left and those batches of the right that rows not yet
//! handed on refer to, [`HELD_MAX`] at most. NULL matches nothing, neither as a key nor as a time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, interleave, take};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::Result as EngineResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures_util::StreamExt;

/// Batches of the right that rows to be handed on may refer to.
const HELD_MAX: usize = 16;

/// One side, sorted.
pub(super) struct Side {
    stream: SendableRecordBatchStream,
    /// Keys and time.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    batch: Option<Arc<Batch>>,
    row: usize,
    is_over: bool,
}

/// A batch with what its rows are compared by.
struct Batch {
    rows: RecordBatch,
    /// Keys and time.
    order: Rows,
    /// Keys alone; `None` where there are none.
    keys: Option<Rows>,
    /// Whether a key or the time of a row is NULL.
    is_null: Vec<bool>,
}

struct Converters {
    order: RowConverter,
    keys: Option<RowConverter>,
}

impl Side {
    pub(super) fn new(stream: SendableRecordBatchStream, expressions: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        Self { stream, expressions, batch: None, row: 0, is_over: false }
    }

    /// The present row; `None` at the end.
    async fn row(&mut self, converters: &Converters) -> EngineResult<Option<(Arc<Batch>, usize)>> {
        loop {
            if let Some(batch) = &self.batch
                && self.row < batch.rows.num_rows()
            {
                return Ok(Some((Arc::clone(batch), self.row)));
            }
            if self.is_over {
                return Ok(None);
            }
            self.row = 0;
            self.batch = match self.stream.next().await.transpose()? {
                Some(rows) => Some(Arc::new(converters.batch(rows, &self.expressions)?)),
                None => {
                    self.is_over = true;
                    None
                }
            };
        }
    }
}

impl Converters {
    fn batch(&self, rows: RecordBatch, expressions: &[Arc<dyn PhysicalExpr>]) -> EngineResult<Batch> {
        let count = rows.num_rows();
        let value = |expression: &Arc<dyn PhysicalExpr>| {
            expression.evaluate(&rows).and_then(|value| value.into_array(count)).map(|array| one_zero(&array))
        };
        let values: Vec<ArrayRef> = expressions.iter().map(value).collect::<EngineResult<_>>()?;
        let order = self.order.convert_columns(&values)?;
        let keys = &values[..values.len() - 1];
        let keys = self.keys.as_ref().map(|converter| converter.convert_columns(keys)).transpose()?;
        let is_null = (0..count).map(|row| values.iter().any(|array| array.is_null(row))).collect();
        Ok(Batch { rows, order, keys, is_null })
    }
}

/// Negative zero as zero: they are equal.
fn one_zero(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| value + 0.0)),
        DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0)),
        _ => Arc::clone(array),
    }
}

/// A merge under way.
pub(super) struct Merge {
    schema: SchemaRef,
    left: Side,
    right: Side,
    converters: Converters,
    is_strict: bool,
    keeps_all: bool,
    /// The nearest row of the right so far.
    nearest: Option<(Arc<Batch>, usize)>,
    held: Vec<Arc<Batch>>,
}

impl Merge {
    /// The joined rows. `fields` are types and order of keys and time.
    pub(super) fn stream(
        schema: SchemaRef,
        (left, right): (Side, Side),
        fields: Vec<(DataType, SortOptions)>,
        is_strict: bool,
        keeps_all: bool,
    ) -> EngineResult<SendableRecordBatchStream> {
        let fields: Vec<SortField> =
            fields.into_iter().map(|(kind, options)| SortField::new_with_options(kind, options)).collect();
        let keys = fields[..fields.len() - 1].to_vec();
        let keys = if keys.is_empty() { None } else { Some(RowConverter::new(keys)?) };
        let converters = Converters { order: RowConverter::new(fields)?, keys };
        let columns = Arc::clone(&schema);
        let merge = Self { schema, left, right, converters, is_strict, keeps_all, nearest: None, held: Vec::new() };
        let batches = futures_util::stream::try_unfold(merge, |mut merge| async move {
            Ok(merge.next().await?.map(|batch| (batch, merge)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(columns, batches)))
    }

    /// The next rows; `None` at the end of the left.
    async fn next(&mut self) -> EngineResult<Option<RecordBatch>> {
        while let Some((batch, first)) = self.left.row(&self.converters).await? {
            let mut left_rows: Vec<u32> = Vec::new();
            // Batch 0 is a single row of NULLs.
            let mut right_rows: Vec<(usize, usize)> = Vec::new();
            let mut row = first;
            while row < batch.rows.num_rows() && self.held.len() < HELD_MAX {
                match self.nearest(&batch, row).await? {
                    Some(place) => right_rows.push(place),
                    None if self.keeps_all => right_rows.push((0, 0)),
                    None => {
                        row += 1;
                        continue;
                    }
                }
                left_rows.push(row as u32);
                row += 1;
            }
            self.left.row = row;
            let joined = self.joined(&batch, left_rows, &right_rows)?;
            self.held.clear();
            if joined.num_rows() > 0 {
                return Ok(Some(joined));
            }
        }
        Ok(None)
    }

    /// The row of the right nearest to a row of the left, as the number of its held batch (from 1) and its row there.
    async fn nearest(&mut self, batch: &Arc<Batch>, row: usize) -> EngineResult<Option<(usize, usize)>> {
        if batch.is_null[row] {
            return Ok(None);
        }
        let order = batch.order.row(row);
        while let Some((right, place)) = self.right.row(&self.converters).await? {
            let other = right.order.row(place);
            if other > order || (self.is_strict && other == order) {
                break;
            }
            if !right.is_null[place] {
                self.nearest = Some((right, place));
            }
            self.right.row += 1;
        }
        let Some((right, place)) = &self.nearest else { return Ok(None) };
        let is_same = match (&batch.keys, &right.keys) {
            (Some(keys), Some(others)) => keys.row(row) == others.row(*place),
            _ => true,
        };
        if !is_same {
            return Ok(None);
        }
        // They come in order: if it is held, it is the last one.
        if !self.held.last().is_some_and(|last| Arc::ptr_eq(last, right)) {
            self.held.push(Arc::clone(right));
        }
        Ok(Some((self.held.len(), *place)))
    }

    fn joined(&self, left: &Batch, rows: Vec<u32>, right_rows: &[(usize, usize)]) -> EngineResult<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let indices = UInt32Array::from(rows);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in left.rows.columns() {
            columns.push(take(column, &indices, None)?);
        }
        for (place, field) in self.schema.fields()[columns.len()..].iter().enumerate() {
            let nulls = new_null_array(field.data_type(), 1);
            let parts = self.held.iter().map(|batch| batch.rows.column(place).as_ref());
            let parts: Vec<&dyn Array> = std::iter::once(nulls.as_ref()).chain(parts).collect();
            columns.push(interleave(&parts, right_rows)?);
        }
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

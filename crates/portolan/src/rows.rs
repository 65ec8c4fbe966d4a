//! Rows of one read under one schema: pages of one answer may differ in what was inferred from them.
//!
//! Nothing is lost: columns are added, integers become fractions only where every value is exact, and what has no
//! common type becomes text.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{cast, kernels::cmp::not_distinct};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use portolan_model::{Error, ErrorKind, Result};

/// The batches under one schema.
///
/// # Errors
/// `Data` where two shapes of a nested column have no common one.
pub(crate) fn unify(batches: Vec<RecordBatch>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let Some(first) = batches.first() else { return Ok((Arc::new(Schema::empty()), batches)) };
    if batches.iter().all(|batch| batch.schema_ref() == first.schema_ref()) {
        return Ok((first.schema(), batches));
    }
    let mut fields: Vec<FieldRef> = Vec::new();
    for batch in &batches {
        for field in batch.schema_ref().fields() {
            match fields.iter_mut().find(|known| known.name() == field.name()) {
                None => fields.push(Arc::new(field.as_ref().clone().with_nullable(true))),
                Some(known) if known.data_type() == field.data_type() => {}
                Some(known) => {
                    let common = common_type(known.name(), known.data_type(), field.data_type(), &batches);
                    *known = Arc::new(known.as_ref().clone().with_data_type(common));
                }
            }
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let unified = batches.iter().map(|batch| adapt(batch, &schema)).collect::<Result<Vec<_>>>()?;
    Ok((schema, unified))
}

fn common_type(name: &str, left: &DataType, right: &DataType, batches: &[RecordBatch]) -> DataType {
    let candidates: &[DataType] = match (left, right) {
        (DataType::Null, other) | (other, DataType::Null) => return other.clone(),
        (left, right) if left.is_numeric() && right.is_numeric() => {
            &[DataType::Int64, DataType::UInt64, DataType::Float64]
        }
        _ => &[],
    };
    let columns = || batches.iter().filter_map(|batch| batch.column_by_name(name));
    candidates
        .iter()
        .find(|candidate| columns().all(|column| is_exact(column, candidate)))
        .cloned()
        .unwrap_or(DataType::Utf8)
}

/// Whether every value survives the way to `to` and back.
fn is_exact(column: &ArrayRef, to: &DataType) -> bool {
    let there_and_back = cast(column, to).and_then(|there| cast(&there, column.data_type()));
    there_and_back.and_then(|back| not_distinct(&back, column)).is_ok_and(|same| same.true_count() == column.len())
}

fn adapt(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |name: &str, error: arrow::error::ArrowError| {
        Error::new(ErrorKind::Data, "join pages", format!("column `{name}` changes its shape from page to page"))
            .with_cause(error)
            .with_hint("give the column a type: columns = { … = \"json\" }")
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field: &Arc<Field>| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast(column, field.data_type()).map_err(|error| failed(field.name(), error)),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| failed("*", error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("v", column)]).unwrap()
    }

    #[test]
    fn integers_and_fractions_meet_only_where_exact() {
        let small: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let large: ArrayRef = Arc::new(Int64Array::from(vec![(1 << 53) + 1]));
        let fraction: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
        let (schema, batches) = unify(vec![batch(small), batch(fraction.clone())]).unwrap();
        assert_eq!(schema.field(0).data_type(), &DataType::Float64);
        assert_eq!(batches.len(), 2);
        let (schema, _) = unify(vec![batch(large), batch(fraction)]).unwrap();
        assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
    }

    #[test]
    fn columns_are_added_and_texts_win() {
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let other = RecordBatch::try_from_iter([("w", text.clone())]).unwrap();
        let (schema, batches) = unify(vec![batch(number), batch(text), other]).unwrap();
        assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["v", "w"]);
        assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
        assert!(batches[2].column(0).is_null(0));
    }
}

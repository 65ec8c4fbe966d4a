//! Rows of one read under one schema: pages of one answer may differ in what was inferred from them.
//!
//! Nothing is lost: columns are added, integers become fractions only where every value is exact, and what has no
//! common type becomes text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use portolan_lake::convert;
use portolan_lake::types::{Kind, kind_of};
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
        .find(|candidate| columns().all(|column| convert(column, candidate).is_ok()))
        .cloned()
        .unwrap_or(DataType::Utf8)
}

/// Every value as `to`, exactly; any that is no list or record as text.
fn convert(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let kind_of = |data_type: &DataType| -> Result<Kind, ArrowError> {
        let kind = kind_of(&Field::new("", data_type.clone(), true));
        kind.ok().flatten().ok_or_else(|| ArrowError::CastError(format!("{data_type} has no values to convert")))
    };
    match column.data_type() {
        from if from == to => Ok(Arc::clone(column)),
        DataType::Null => Ok(new_null_array(to, column.len())),
        from if *to == DataType::Utf8 && !from.is_nested() => text(column),
        from => {
            let kind = kind_of(from)?;
            convert::whole(&convert::plain(column, &kind)?, &kind, &kind_of(to)?)
        }
    }
}

fn text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let value = |row: usize| column.is_valid(row).then(|| formatter.value(row).try_to_string()).transpose();
    Ok(Arc::new((0..column.len()).map(value).collect::<Result<StringArray, _>>()?))
}

fn adapt(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |name: &str, error: ArrowError| {
        Error::new(ErrorKind::Data, "join pages", format!("column `{name}` changes its shape from page to page"))
            .with_cause(error)
            .with_hint("give the column a type: columns = { … = \"json\" }")
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field: &Arc<Field>| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) => convert(column, field.data_type()).map_err(|error| failed(field.name(), error)),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| failed("*", error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array};

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

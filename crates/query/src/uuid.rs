//! A uuid is text in a query, as everybody writes it: sixteen bytes could not be compared with `'01234567-89ab-…'`,
//! and the engine would say "different" rather than that it cannot.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

const EXTENSION_KEY: &str = "ARROW:extension:name";

/// Whether the column holds uuids as bytes.
pub(crate) fn is_bytes(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(16)
        && field.metadata().get(EXTENSION_KEY).is_some_and(|name| name == "arrow.uuid")
}

/// The schema with text for uuids, those inside nested values too.
pub(crate) fn schema(stored: &SchemaRef) -> SchemaRef {
    let fields: Vec<FieldRef> = stored.fields().iter().map(shown).collect();
    if fields.iter().zip(stored.fields()).all(|(shown, stored)| Arc::ptr_eq(shown, stored)) {
        return Arc::clone(stored);
    }
    Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone()))
}

/// The field with text for uuids; the same one if it holds none.
fn shown(field: &FieldRef) -> FieldRef {
    let with = |kind: DataType| Arc::new(field.as_ref().clone().with_data_type(kind));
    match field.data_type() {
        _ if is_bytes(field) => {
            let mut metadata = field.metadata().clone();
            metadata.remove(EXTENSION_KEY);
            Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable()).with_metadata(metadata))
        }
        DataType::List(item) => {
            let inner = shown(item);
            if Arc::ptr_eq(&inner, item) { Arc::clone(field) } else { with(DataType::List(inner)) }
        }
        DataType::Map(entries, sorted) => {
            let inner = shown(entries);
            if Arc::ptr_eq(&inner, entries) { Arc::clone(field) } else { with(DataType::Map(inner, *sorted)) }
        }
        DataType::Struct(parts) => {
            let inner: Vec<FieldRef> = parts.iter().map(shown).collect();
            let same = inner.iter().zip(parts).all(|(inner, part)| Arc::ptr_eq(inner, part));
            if same { Arc::clone(field) } else { with(DataType::Struct(inner.into())) }
        }
        _ => Arc::clone(field),
    }
}

/// The rows with text for uuids, as `schema` says.
pub(crate) fn batch(stored: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    columns(stored.columns(), stored.num_rows(), schema)
}

/// The rows of these columns, as [`batch`] gives them.
pub(crate) fn columns(stored: &[ArrayRef], rows: usize, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = stored.iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| values(column, field.data_type())).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// The values with text for uuids, as a field of `kind` has them.
fn values(stored: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    if stored.data_type() == kind {
        return Ok(Arc::clone(stored));
    }
    Ok(match (stored.data_type(), kind) {
        (DataType::FixedSizeBinary(16), DataType::Utf8) => text(stored),
        (DataType::List(_), DataType::List(item)) => {
            let list = stored.as_list::<i32>();
            let items = values(list.values(), item.data_type())?;
            Arc::new(ListArray::try_new(Arc::clone(item), list.offsets().clone(), items, list.nulls().cloned())?)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let parts = stored.as_struct();
            let columns = parts.columns().iter().zip(fields);
            let columns = columns.map(|(part, field)| values(part, field.data_type())).collect::<Result<_, _>>()?;
            Arc::new(StructArray::try_new(fields.clone(), columns, parts.nulls().cloned())?)
        }
        (DataType::Map(..), DataType::Map(field, sorted)) => {
            let map = stored.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let entries = values(&entries, field.data_type())?.as_struct().clone();
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?)
        }
        // What `schema` says otherwise is an error of the batch's making.
        _ => Arc::clone(stored),
    })
}

fn text(bytes: &ArrayRef) -> ArrayRef {
    let bytes = bytes.as_fixed_size_binary();
    let mut result = StringBuilder::with_capacity(bytes.len(), bytes.len() * 36);
    let mut shown = String::with_capacity(36);
    for row in 0..bytes.len() {
        if bytes.is_null(row) {
            result.append_null();
            continue;
        }
        shown.clear();
        for (place, byte) in bytes.value(row).iter().enumerate() {
            let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
            let _ = write!(shown, "{dash}{byte:02x}");
        }
        result.append_value(&shown);
    }
    Arc::new(result.finish())
}

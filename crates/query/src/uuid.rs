//! A uuid is text in a query, as everybody writes it: sixteen bytes could not be compared with `'01234567-89ab-…'`,
//! and the engine would say "different" rather than that it cannot.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

const EXTENSION_KEY: &str = "ARROW:extension:name";

/// Whether the column holds uuids as bytes.
pub(crate) fn is_bytes(field: &Field) -> bool {
    *field.data_type() == DataType::FixedSizeBinary(16)
        && field.metadata().get(EXTENSION_KEY).is_some_and(|name| name == "arrow.uuid")
}

/// The schema with text for uuids.
pub(crate) fn schema(stored: &SchemaRef) -> SchemaRef {
    if !stored.fields().iter().any(|field| is_bytes(field)) {
        return Arc::clone(stored);
    }
    let fields: Vec<Field> = stored
        .fields()
        .iter()
        .map(|field| {
            if !is_bytes(field) {
                return field.as_ref().clone();
            }
            let mut metadata = field.metadata().clone();
            metadata.remove(EXTENSION_KEY);
            Field::new(field.name(), DataType::Utf8, field.is_nullable()).with_metadata(metadata)
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone()))
}

/// The rows with text for uuids, as `schema` says.
pub(crate) fn batch(stored: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = stored.columns().iter().zip(stored.schema_ref().fields());
    let columns = columns.map(|(column, field)| if is_bytes(field) { text(column) } else { Arc::clone(column) });
    let options = RecordBatchOptions::new().with_row_count(Some(stored.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)
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

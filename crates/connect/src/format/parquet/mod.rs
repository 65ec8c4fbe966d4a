//! Parquet files to record batches, row group by row group.
//!
//! Types are those that the file gives its columns, in Arrow's words; text and bytes come in batches of bounded size, whatever a
//! dictionary makes of them. Promise: rows come as many as the file says, or an error does; what the file says of itself is
//! checked by `guard` before the reader reserves memory for it, and a panic of the reader is an error of the file.

mod body;
mod guard;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use arrow::datatypes::{Int64Type, TimestampSecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use portolan_model::error::{Error, Result};

pub use self::body::Body;
use super::{BATCH_BYTES, BATCH_ROWS, Item, Sink, csv, data_error};

const EXTENSION_KEY: &str = "ARROW:extension:name";
const NANOSECONDS: i64 = 1_000_000_000;

/// Decodes a file; the number of its rows.
///
/// # Errors
/// `Data` if it is not a Parquet file, is encrypted, is damaged, or holds what cannot be read exactly (the column is named);
/// what `sink` returns.
pub fn decode(body: &Body, sink: &mut Sink<'_>) -> Result<u64> {
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| File::open(body)?.decode(sink)));
    decoded.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(data_error(format!("the file is damaged: {}", text.unwrap_or("its reader gave up"))))
    })
}

fn unreadable(error: ParquetError) -> Error {
    data_error("the file is not readable as Parquet").with_cause(error)
}

/// A file whose footer has been read.
struct File<'b> {
    body: &'b Body,
    metadata: ArrowReaderMetadata,
    /// The names and extensions of the columns that are given.
    fields: Vec<Column>,
    /// Columns of the outdated type INT96, which may hold instants that nanoseconds do not.
    instants: Vec<usize>,
}

/// A column as it is given.
struct Column {
    name: String,
    /// The Arrow extension type.
    extension: Option<String>,
}

impl<'b> File<'b> {
    fn open(body: &'b Body) -> Result<Self> {
        guard::footer(body)?;
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load(body, options.clone()).map_err(unreadable)?;
        guard::columns(metadata.metadata())?;
        let schema = Arc::clone(metadata.schema());
        check_types(schema.fields().iter(), "")?;
        let instants = instants(metadata.metadata())?;
        let names = csv::unique_names(schema.fields().iter().map(|field| field.name().as_str()));
        let extension = |place: usize, field: &FieldRef| {
            let told = field.metadata().get(EXTENSION_KEY).cloned();
            told.or_else(|| extension(metadata.metadata(), place).map(str::to_owned))
        };
        let fields = schema.fields().iter().zip(names).enumerate();
        let fields = fields.map(|(place, (field, name))| Column { name, extension: extension(place, field) }).collect();
        // As views, values of a dictionary are not repeated for each row that has them.
        let views = with_types(&schema, |place, field| match field.data_type() {
            DataType::Timestamp(_, zone) if instants.contains(&place) => {
                Some(DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))
            }
            DataType::Dictionary(_, value) => view(value),
            plain => view(plain),
        });
        let metadata = typed(&metadata, views)?;
        Ok(Self { body, metadata, fields, instants })
    }

    fn decode(&self, sink: &mut Sink<'_>) -> Result<u64> {
        let mut rows = 0;
        for (group, of) in self.metadata.metadata().row_groups().iter().enumerate() {
            guard::pages(self.body, of)?;
            let expected = u64::try_from(of.num_rows()).map_err(|_| data_error("a row group has less than no rows"))?;
            let found = self.group(group, of, sink)?;
            if found != expected {
                let message = format!("row group {group} has {found} rows where the footer says {expected}");
                return Err(data_error(message));
            }
            rows += found;
        }
        Ok(rows)
    }

    fn group(&self, group: usize, of: &RowGroupMetaData, sink: &mut Sink<'_>) -> Result<u64> {
        let reader = |metadata: &ArrowReaderMetadata, mask: ProjectionMask| -> Result<ParquetRecordBatchReader> {
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.body.clone(), metadata.clone())
                .with_row_groups(vec![group])
                .with_batch_size(batch_rows(of))
                .with_projection(mask)
                .build()
                .map_err(unreadable)
        };
        let mut seconds = match self.instants.as_slice() {
            [] => None,
            places => {
                let in_seconds = with_types(self.metadata.schema(), |place, field| match field.data_type() {
                    DataType::Timestamp(_, zone) if places.contains(&place) => {
                        Some(DataType::Timestamp(TimeUnit::Second, zone.clone()))
                    }
                    _ => None,
                });
                let mask = ProjectionMask::roots(self.metadata.parquet_schema(), places.iter().copied());
                Some(reader(&typed(&self.metadata, in_seconds)?, mask)?)
            }
        };
        let mut rows = 0;
        for batch in reader(&self.metadata, ProjectionMask::all())? {
            let batch = batch.map_err(|error| unreadable(error.into()))?;
            if let Some(seconds) = &mut seconds {
                let whole = seconds.next().transpose().map_err(|error| unreadable(error.into()))?;
                self.check_instants(&batch, whole.as_ref())?;
            }
            rows += batch.num_rows() as u64;
            for part in parts(&batch) {
                sink(Item::Batch(self.given(&part)?))?;
            }
        }
        Ok(rows)
    }

    /// Nanoseconds wrap around where an instant is beyond the years 1677 to 2262; seconds do not.
    fn check_instants(&self, batch: &RecordBatch, seconds: Option<&RecordBatch>) -> Result<()> {
        for (index, place) in self.instants.iter().enumerate() {
            let nanoseconds = batch.column(*place).as_primitive::<TimestampNanosecondType>();
            let seconds = seconds.filter(|seconds| seconds.num_rows() == batch.num_rows());
            let seconds = seconds.ok_or_else(|| data_error("the file's columns have different lengths"))?;
            let seconds = seconds.column(index).as_primitive::<TimestampSecondType>();
            let nanoseconds = nanoseconds.reinterpret_cast::<Int64Type>();
            let wraps = |row: usize| nanoseconds.value(row).div_euclid(NANOSECONDS) != seconds.value(row);
            if (0..batch.num_rows()).any(|row| nanoseconds.is_valid(row) && wraps(row)) {
                let name = &self.fields[*place].name;
                let message = format!("column `{name}` (INT96) has an instant outside of the years 1677 to 2262");
                return Err(data_error(message).with_hint("write it as INT64, in microseconds"));
            }
        }
        Ok(())
    }

    /// The rows with plain columns for views, and without what the file's writer noted of its columns.
    fn given(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = batch.columns().iter().map(plain).collect();
        let fields = self.fields.iter().zip(&columns).map(|(column, array)| {
            let extension = column.extension.iter().map(|name| (EXTENSION_KEY.to_owned(), name.clone()));
            Field::new(&column.name, array.data_type().clone(), true)
                .with_metadata(extension.collect::<HashMap<_, _>>())
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| unreadable(error.into()))
    }
}

/// The same metadata, read as columns of other types.
fn typed(metadata: &ArrowReaderMetadata, schema: SchemaRef) -> Result<ArrowReaderMetadata> {
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(unreadable)
}

fn with_types(schema: &Schema, of: impl Fn(usize, &Field) -> Option<DataType>) -> SchemaRef {
    let fields = schema.fields().iter().enumerate().map(|(place, field)| match of(place, field) {
        Some(type_) => Arc::new(field.as_ref().clone().with_data_type(type_)),
        None => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

fn view(type_: &DataType) -> Option<DataType> {
    match type_ {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some(DataType::BinaryView),
        _ => None,
    }
}

fn plain(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().iter().collect::<StringArray>()),
        DataType::BinaryView => Arc::new(array.as_binary_view().iter().collect::<BinaryArray>()),
        _ => Arc::clone(array),
    }
}

/// What has no lossless place in the lake is refused where the file can be named.
fn check_types<'f>(fields: impl Iterator<Item = &'f FieldRef>, within: &str) -> Result<()> {
    for field in fields {
        let name = format!("{within}{}", field.name());
        match field.data_type() {
            DataType::Interval(_) | DataType::Union(..) => {
                let message = format!("column `{name}` has type {}, which cannot be stored", field.data_type());
                return Err(data_error(message).with_hint("write it as text or as a number"));
            }
            DataType::Struct(parts) => check_types(parts.iter(), &format!("{name}."))?,
            DataType::List(part)
            | DataType::LargeList(part)
            | DataType::ListView(part)
            | DataType::LargeListView(part)
            | DataType::FixedSizeList(part, _)
            | DataType::Map(part, _) => check_types(std::iter::once(part), &format!("{name}."))?,
            _ => {}
        }
    }
    Ok(())
}

/// The places of INT96 columns.
fn instants(metadata: &ParquetMetaData) -> Result<Vec<usize>> {
    let schema = metadata.file_metadata().schema_descr();
    let mut places = Vec::new();
    for (leaf, column) in schema.columns().iter().enumerate() {
        if column.physical_type() != PhysicalType::INT96 {
            continue;
        }
        if column.path().parts().len() > 1 {
            let message =
                format!("column `{}` has INT96 within a nested type, which is not read", column.path().string());
            return Err(data_error(message).with_hint("write it as INT64, in microseconds"));
        }
        places.push(schema.get_column_root_idx(leaf));
    }
    Ok(places)
}

/// The extension type of what Parquet calls UUID and JSON.
fn extension(metadata: &ParquetMetaData, place: usize) -> Option<&'static str> {
    let root = metadata.file_metadata().schema_descr().root_schema();
    match root.get_fields().get(place)?.get_basic_info().logical_type_ref()? {
        LogicalType::Uuid => Some("arrow.uuid"),
        LogicalType::Json => Some("arrow.json"),
        _ => None,
    }
}

/// Rows of a row group that are about as large as a batch may be.
fn batch_rows(group: &RowGroupMetaData) -> usize {
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    let bytes = group.columns().iter().fold(0_u64, |bytes, column| {
        let values = size(column.unencoded_byte_array_data_bytes().unwrap_or_default());
        bytes.saturating_add(size(column.uncompressed_size()).max(values))
    });
    let row_bytes = (bytes / size(group.num_rows()).max(1)).max(1);
    usize::try_from(BATCH_BYTES as u64 / row_bytes).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

/// Cuts a batch where the values that its views stand for would be too large for one.
fn parts(batch: &RecordBatch) -> Vec<RecordBatch> {
    let views: Vec<&[u128]> = batch.columns().iter().filter_map(|array| views(array)).collect();
    // A view begins with the length of its value.
    let bytes_of = |row: usize| views.iter().map(|views| views[row] as u32 as usize).sum::<usize>();
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for row in 0..batch.num_rows() {
        let more = bytes_of(row);
        if row > start && bytes + more > BATCH_BYTES {
            parts.push(batch.slice(start, row - start));
            (start, bytes) = (row, 0);
        }
        bytes += more;
    }
    if batch.num_rows() > start {
        parts.push(batch.slice(start, batch.num_rows() - start));
    }
    parts
}

fn views(array: &ArrayRef) -> Option<&[u128]> {
    match array.data_type() {
        DataType::Utf8View => Some(array.as_string_view().views()),
        DataType::BinaryView => Some(array.as_binary_view().views()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

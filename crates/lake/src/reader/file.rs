//! Rows of one data file, as a snapshot sees them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, MapArray, StructArray, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use portolan_model::{Error, ErrorKind, Result};

use super::table::DataFile;
use crate::convert;
use crate::error::{arrow as arrow_error, corrupt, file as file_error};
use crate::types::{Column, FIELD_ID_KEY, Kind, kind_of, schema_of};

const OPERATION: &str = "read data file";
/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;
/// The column in which a file keeps row ids that are not consecutive.
pub(crate) const ROW_ID_NAME: &str = "_ducklake_internal_row_id";
/// The column in which a file keeps the snapshot that added each row.
pub(crate) const SNAPSHOT_ID_NAME: &str = "_ducklake_internal_snapshot_id";

/// The rows of one data file, batch by batch.
pub struct FileRows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Where each column stands in the batches of the reader.
    places: Vec<Option<usize>>,
    row_id_place: Option<usize>,
    snapshot_place: Option<usize>,
    row_id_start: i64,
    snapshot: i64,
    position: i64,
    /// Places of deleted rows, ascending.
    deleted: Vec<i64>,
    /// Places of the rows that are read, ascending; all where `None`.
    only: Option<Vec<i64>>,
}

/// One batch with what DuckLake keeps beside its rows.
pub(crate) struct RowsWithIds {
    pub(crate) batch: RecordBatch,
    pub(crate) row_ids: Int64Array,
    /// The snapshot that added each row; `None` where the whole file came with one.
    pub(crate) snapshots: Option<Int64Array>,
}

/// The places of rows that `snapshot` sees as deleted from `file`, as far as `file` names them, ascending.
pub(crate) fn deleted_positions(file: &DataFile, snapshot: i64) -> Result<Vec<i64>> {
    let mut deleted = file.deleted_positions.clone();
    for delete in &file.delete_files {
        if delete.format != "parquet" {
            let message = format!("{} has delete format {:?}", delete.path.display(), delete.format);
            return Err(Error::new(ErrorKind::Data, OPERATION, message)
                .with_hint("another program wrote it: query this table with DuckDB"));
        }
        read_deletes(&delete.path, snapshot, &mut deleted)?;
    }
    deleted.sort_unstable();
    deleted.dedup();
    Ok(deleted)
}

/// Opens `file` for the rows that `snapshot` sees, as `columns`.
pub(crate) fn open_file(file: &DataFile, columns: &[Column], snapshot: i64) -> Result<FileRows> {
    let deleted = deleted_positions(file, snapshot)?;
    let builder = open(&file.path)?;
    let fields = builder.schema().fields().clone();
    let by_id: HashMap<i64, usize> =
        fields.iter().enumerate().filter_map(|(index, field)| Some((field_id(field)?, index))).collect();
    let by_name = |name: &str| fields.iter().position(|field| field.name() == name);
    let roots: Vec<Option<usize>> = columns.iter().map(|column| by_id.get(&column.id).copied()).collect();
    let (row_id_root, snapshot_root) = (by_name(ROW_ID_NAME), by_name(SNAPSHOT_ID_NAME));
    let mut wanted: Vec<usize> = roots.iter().flatten().copied().chain(row_id_root).chain(snapshot_root).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let place = |root: usize| wanted.binary_search(&root).ok();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.iter().copied());
    let reader =
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| {
            corrupt(OPERATION, format!("{} is not readable", file.path.display())).with_cause(error)
        })?;
    Ok(FileRows {
        path: file.path.clone(),
        reader,
        schema: schema_of(columns),
        columns: columns.to_vec(),
        places: roots.iter().map(|root| root.and_then(place)).collect(),
        row_id_place: row_id_root.and_then(place),
        snapshot_place: snapshot_root.and_then(place),
        row_id_start: file.row_id_start,
        snapshot,
        position: 0,
        deleted,
        only: None,
    })
}

impl FileRows {
    /// Leaves out all rows but those at some places, ascending.
    pub(crate) fn at(mut self, places: Vec<i64>) -> Self {
        self.only = Some(places);
        self
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    pub(crate) fn next_with_ids(&mut self) -> Option<Result<RowsWithIds>> {
        loop {
            let batch = match self.reader.next()? {
                Ok(batch) => batch,
                Err(error) => {
                    let message = format!("{} is not readable", self.path.display());
                    return Some(Err(corrupt(OPERATION, message).with_cause(error)));
                }
            };
            match self.adapt(&batch) {
                Ok(rows) if rows.row_ids.is_empty() => {}
                other => return Some(other),
            }
        }
    }

    fn adapt(&mut self, batch: &RecordBatch) -> Result<RowsWithIds> {
        let rows = batch.num_rows();
        let start = self.position;
        self.position += rows as i64;
        let arrays = self.columns.iter().zip(&self.places).map(|(column, place)| match place {
            Some(place) => adapt(batch.column(*place), column),
            None => Ok(new_null_array(&column.kind.arrow(), rows)),
        });
        let mut arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let integers = |place: usize| {
            batch.column(place).as_primitive_opt::<Int64Type>().cloned().ok_or_else(|| {
                corrupt(OPERATION, format!("{} keeps row ids that are not integers", self.path.display()))
            })
        };
        let row_ids = match self.row_id_place {
            Some(place) => integers(place)?,
            None => Int64Array::from_iter_values((0..rows as i64).map(|row| self.row_id_start + start + row)),
        };
        let snapshots = self.snapshot_place.map(integers).transpose()?;
        let keep: BooleanArray = (0..rows)
            .map(|row| {
                let place = start + row as i64;
                let deleted = self.deleted.binary_search(&place).is_ok()
                    || self.only.as_ref().is_some_and(|only| only.binary_search(&place).is_err());
                let later = snapshots.as_ref().is_some_and(|ids| ids.is_valid(row) && ids.value(row) > self.snapshot);
                Some(!deleted && !later)
            })
            .collect();
        let mut fields: Vec<FieldRef> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(ROW_ID_NAME, DataType::Int64, true)));
        arrays.push(Arc::new(row_ids));
        if let Some(snapshots) = &snapshots {
            fields.push(Arc::new(Field::new(SNAPSHOT_ID_NAME, DataType::Int64, true)));
            arrays.push(Arc::new(snapshots.clone()));
        }
        let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
        let mut whole = whole.map_err(|error| arrow_error(OPERATION, error))?;
        if keep.true_count() < rows {
            whole = filter_record_batch(&whole, &keep).map_err(|error| arrow_error(OPERATION, error))?;
        }
        let count = self.columns.len();
        let options = RecordBatchOptions::new().with_row_count(Some(whole.num_rows()));
        let columns = whole.columns()[..count].to_vec();
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        Ok(RowsWithIds {
            batch: batch.map_err(|error| arrow_error(OPERATION, error))?,
            row_ids: whole.column(count).as_primitive::<Int64Type>().clone(),
            snapshots: snapshots.is_some().then(|| whole.column(count + 1).as_primitive::<Int64Type>().clone()),
        })
    }
}

impl Iterator for FileRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_with_ids()?.map(|rows| rows.batch))
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(|error| file_error(OPERATION, path, error))?;
    // The Arrow schema that some writers embed is left out: types follow from the Parquet schema for all of them.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(|error| corrupt(OPERATION, format!("{} is not readable", path.display())).with_cause(error))
}

fn read_deletes(path: &Path, snapshot: i64, deleted: &mut Vec<i64>) -> Result<()> {
    let builder = open(path)?;
    let unreadable = || corrupt(OPERATION, format!("{} is not a delete file", path.display()));
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| unreadable().with_cause(error))?;
    for batch in reader {
        let batch = batch.map_err(|error| unreadable().with_cause(error))?;
        let column = |name: &str| batch.column_by_name(name).and_then(|array| array.as_primitive_opt::<Int64Type>());
        let positions = column("pos").ok_or_else(unreadable)?;
        let snapshots = column(SNAPSHOT_ID_NAME);
        for row in 0..batch.num_rows() {
            if snapshots.is_none_or(|ids| ids.is_null(row) || ids.value(row) <= snapshot) {
                deleted.push(positions.value(row));
            }
        }
    }
    Ok(())
}

fn field_id(field: &Field) -> Option<i64> {
    field.metadata().get(FIELD_ID_KEY)?.parse().ok()
}

/// Brings an array of a file to the column's type: parts by field id, missing ones null, narrower ones widened.
pub(crate) fn adapt(array: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    let target = column.kind.arrow();
    if *array.data_type() == target {
        return Ok(array.clone());
    }
    let wrong = || {
        let message = format!("column `{}` of type {} is stored as {}", column.name, column.kind, array.data_type());
        corrupt(OPERATION, message)
    };
    let arrow = |error| arrow_error(OPERATION, error);
    match (&column.kind, target, array.data_type()) {
        (Kind::List(element), DataType::List(field), DataType::List(_)) => {
            let list = array.as_list::<i32>();
            let values = adapt(list.values(), element)?;
            let result = ListArray::try_new(field, list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(result.map_err(arrow)?))
        }
        (Kind::Map(key, value), DataType::Map(field, sorted), DataType::Map(..)) => {
            let map = array.as_map();
            let parts = vec![adapt(map.keys(), key)?, adapt(map.values(), value)?];
            let DataType::Struct(fields) = field.data_type() else { return Err(wrong()) };
            let entries = StructArray::try_new(fields.clone(), parts, None).map_err(arrow)?;
            let result = MapArray::try_new(field, map.offsets().clone(), entries, map.nulls().cloned(), sorted);
            Ok(Arc::new(result.map_err(arrow)?))
        }
        (Kind::Struct(fields), DataType::Struct(arrow_fields), DataType::Struct(stored)) => {
            let parts = array.as_struct();
            let find = |part: &Column| {
                let by_id = stored.iter().position(|field| field_id(field) == Some(part.id));
                by_id
                    .or_else(|| stored.iter().position(|field| field_id(field).is_none() && *field.name() == part.name))
            };
            let arrays = fields.iter().map(|part| match find(part) {
                Some(place) => adapt(parts.column(place), part),
                None => Ok(new_null_array(&part.kind.arrow(), array.len())),
            });
            let arrays = arrays.collect::<Result<Vec<_>>>()?;
            let result = StructArray::try_new(arrow_fields, arrays, parts.nulls().cloned());
            Ok(Arc::new(result.map_err(arrow)?))
        }
        (kind, _, stored) if !kind.is_nested() => {
            let stored = kind_of(&Field::new(&column.name, stored.clone(), true))?.ok_or_else(wrong)?;
            let values = convert::plain(array, &stored).and_then(|values| convert::whole(&values, &stored, kind));
            values.map_err(|error| wrong().with_cause(error))
        }
        _ => Err(wrong()),
    }
}

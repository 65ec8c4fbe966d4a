//! Rows of a table with what DuckLake keeps beside them, from wherever they are stored.

use std::panic::AssertUnwindSafe;

use arrow::array::{AsArray, BooleanArray, Int64Array};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use portolan_model::Result;

use crate::error::corrupt;
use crate::reader::{
    DataFile, InlinedFilter, InlinedTable, Snapshot, TableView, inlined_tables, open_file, read_inlined,
};
use crate::types::Column;

const OPERATION: &str = "read rows";

/// Rows read.
pub(crate) struct Rows {
    pub(crate) batch: RecordBatch,
    pub(crate) row_ids: Int64Array,
    /// The snapshot that added each row.
    pub(crate) begins: Int64Array,
}

impl Rows {
    /// Some of them.
    pub(crate) fn filtered(self, keep: &BooleanArray) -> Result<Self> {
        let error = |error| crate::error::arrow(OPERATION, error);
        let integers = |array: &Int64Array| Ok(filter(array, keep).map_err(error)?.as_primitive::<Int64Type>().clone());
        let (row_ids, begins) = (integers(&self.row_ids)?, integers(&self.begins)?);
        Ok(Self { batch: filter_record_batch(&self.batch, keep).map_err(error)?, row_ids, begins })
    }
}

/// Where rows are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(Box<DataFile>),
    Inlined(InlinedTable),
}

impl Place {
    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Inlined(_) => INSIDE.to_owned(),
        }
    }
}

/// How rows that are in no file are called.
pub(crate) const INSIDE: &str = "inside the catalog";

impl Snapshot {
    /// Hands the rows that this snapshot sees of `table`, as `columns`, to `take` until it says no.
    pub(crate) fn scan(
        &self,
        table: &TableView,
        columns: &[Column],
        take: &mut dyn FnMut(Rows) -> Result<bool>,
    ) -> Result<()> {
        table.readable()?;
        let mut goes_on = true;
        let mut take = |rows: Rows| {
            goes_on = take(rows)?;
            Ok(goes_on)
        };
        for file in &table.files {
            if !scan_file(file, columns, self.id(), &mut take)? {
                return Ok(());
            }
        }
        for source in self.with(|connection| inlined_tables(connection, table.id))? {
            if !self.scan_inlined(table.id, &source, columns, InlinedFilter::VisibleAt(self.id()), &mut take)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Hands every row stored in one place to `take`, deleted ones and those that only older snapshots see among them.
    pub(crate) fn scan_stored(
        &self,
        table: i64,
        place: &Place,
        columns: &[Column],
        take: &mut dyn FnMut(Rows) -> Result<bool>,
    ) -> Result<bool> {
        match place {
            Place::File(file) => scan_file(file, columns, i64::MAX, take),
            Place::Inlined(source) => {
                self.scan_inlined(table, source, columns, InlinedFilter::StoredAt(self.id()), take)
            }
        }
    }

    /// Hands the rows of one inlined table that `filter` lets through to `take` until it says no; whether it wants more.
    pub(crate) fn scan_inlined(
        &self,
        table: i64,
        source: &InlinedTable,
        columns: &[Column],
        filter: InlinedFilter,
        take: &mut dyn FnMut(Rows) -> Result<bool>,
    ) -> Result<bool> {
        let mut goes_on = true;
        self.with(|connection| {
            read_inlined(connection, table, source, columns, filter, |rows| {
                goes_on = take(Rows { batch: rows.batch, row_ids: rows.row_ids, begins: rows.begins })?;
                Ok(goes_on)
            })
        })?;
        Ok(goes_on)
    }
}

/// Hands the rows of a file that `snapshot` sees to `take`; whether it wants more.
pub(crate) fn scan_file(
    file: &DataFile,
    columns: &[Column],
    snapshot: i64,
    take: &mut dyn FnMut(Rows) -> Result<bool>,
) -> Result<bool> {
    scan_places(file, columns, snapshot, None, take)
}

/// The same of the rows at some places alone, ascending.
pub(crate) fn scan_places(
    file: &DataFile,
    columns: &[Column],
    snapshot: i64,
    places: Option<&[i64]>,
    take: &mut dyn FnMut(Rows) -> Result<bool>,
) -> Result<bool> {
    let mut rows = guarded(file, || open_file(file, columns, snapshot))?;
    if let Some(places) = places {
        rows = rows.at(places.to_vec());
    }
    while let Some(next) = guarded(file, || rows.next_with_ids().transpose())? {
        let begins = match next.snapshots {
            Some(begins) => begins,
            None => Int64Array::from_value(file.begin_snapshot, next.batch.num_rows()),
        };
        if !take(Rows { batch: next.batch, row_ids: next.row_ids, begins })? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Damaged bytes are an error, also where they make a decoder panic.
fn guarded<T>(file: &DataFile, action: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("its decoder gave up");
        Err(corrupt(OPERATION, format!("{} is not readable: {text}", file.path.display())))
    })
}

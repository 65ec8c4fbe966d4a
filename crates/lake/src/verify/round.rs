//! The digest of one round's rows as one snapshot sees them.
//!
//! Promise: the digest is computed from what is stored now, wherever maintenance has moved it since, and memory stays
//! bounded by one batch.

use arrow::array::{Array, AsArray, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use portolan_model::Result;

use crate::digest::RowDigest;
use crate::error::{arrow as arrow_error, corrupt};
use crate::reader::{
    DataFile, InlinedFilter, InlinedTable, Snapshot, TableView, inlined_tables, open_file, read_inlined,
};
use crate::types::Column;

const OPERATION: &str = "verify rows";

/// The rows that one round stored in one table, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRows {
    /// How many there are.
    pub rows: u64,
    /// Their canonical digest, lower-case hex: equal to the receipt's `rows_sha256` if nothing was changed.
    pub rows_sha256: String,
}

enum Place<'a> {
    File(&'a DataFile),
    Inlined(InlinedTable),
}

impl Snapshot {
    /// Computes the digest of the rows that `round` stored in `table`, from what is stored. A round that a later one
    /// has replaced is found in an older snapshot.
    ///
    /// # Errors
    /// `Data` if another program gave the table what this build does not read, `Corrupt` if a file cannot be read, or the table has no `_round`.
    pub fn stored_rows(&self, table: &TableView, round: i64) -> Result<StoredRows> {
        table.readable()?;
        let Some(mark) = table.columns.iter().find(|column| column.name == "_round") else {
            return Err(corrupt(OPERATION, format!("table `{}` has no column `_round`", table.name)));
        };
        let mut places = Vec::new();
        for source in self.with(|connection| inlined_tables(connection, table.id))? {
            places.push(Place::Inlined(source));
        }
        places.extend(table.files.iter().filter(|file| may_hold(file, mark.id, round)).map(Place::File));
        let mut found = Vec::new();
        for place in places {
            // The first row of the round in each place: rows of a round lie in row order.
            if let Some(first) = self.first_row(table, mark, &place, round)? {
                found.push((first, place));
            }
        }
        found.sort_by_key(|(first, _)| *first);
        let mut digest = RowDigest::new();
        let mut rows = 0;
        for (_, place) in found {
            self.each(table, &table.columns, mark, &place, round, |batch, _| {
                rows += batch.num_rows() as u64;
                digest.update(&batch, &table.columns);
                true
            })?;
        }
        Ok(StoredRows { rows, rows_sha256: digest.finish() })
    }

    fn first_row(&self, table: &TableView, mark: &Column, place: &Place<'_>, round: i64) -> Result<Option<i64>> {
        let mut first = None;
        self.each(table, std::slice::from_ref(mark), mark, place, round, |_, ids| {
            first = ids.values().first().copied();
            first.is_none()
        })?;
        Ok(first)
    }

    /// Hands the rows of `round` in one place to `take`, until it says no.
    fn each(
        &self,
        table: &TableView,
        columns: &[Column],
        mark: &Column,
        place: &Place<'_>,
        round: i64,
        mut take: impl FnMut(RecordBatch, Int64Array) -> bool,
    ) -> Result<()> {
        let mark_place = columns.iter().position(|column| column.id == mark.id).unwrap_or(0);
        let mut hand = |batch: RecordBatch, ids: Int64Array| -> Result<bool> {
            let rounds = batch.column(mark_place).as_primitive::<Int64Type>();
            let keep: BooleanArray =
                (0..rounds.len()).map(|row| Some(rounds.is_valid(row) && rounds.value(row) == round)).collect();
            if keep.true_count() == 0 {
                return Ok(true);
            }
            let error = |error| arrow_error(OPERATION, error);
            let ids = arrow::compute::filter(&ids, &keep).map_err(error)?;
            let batch = filter_record_batch(&batch, &keep).map_err(error)?;
            Ok(take(batch, ids.as_primitive::<Int64Type>().clone()))
        };
        match place {
            Place::File(data) => {
                let mut file = open_file(data, columns, self.id())?;
                while let Some(rows) = file.next_with_ids() {
                    let rows = rows?;
                    if !hand(rows.batch, rows.row_ids)? {
                        break;
                    }
                }
                Ok(())
            }
            Place::Inlined(source) => {
                let filter = InlinedFilter::VisibleAt(self.id());
                self.with(|connection| {
                    read_inlined(connection, table.id, source, columns, filter, |rows| hand(rows.batch, rows.row_ids))
                })
            }
        }
    }
}

/// Whether a file's bounds leave room for rows of `round`.
fn may_hold(file: &DataFile, mark: i64, round: i64) -> bool {
    let Some(known) = file.statistics.get(&mark) else { return true };
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
    number(&known.min).is_none_or(|min| min <= round) && number(&known.max).is_none_or(|max| round <= max)
}

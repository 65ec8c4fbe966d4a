//! Digests a round whose rows do not come in the order of their ids, place after place.

use std::collections::HashMap;

use arrow::record_batch::RecordBatch;
use portolan_model::Result;

use super::prove::{Found, Prover};
use super::segments::{Belongs, Layout, Plan, damaged};
use super::{OPERATION, VerifyReport};
use crate::digest::RowDigest;
use crate::error::sqlite;
use crate::reader::{InlinedTable, quoted};
use crate::scan::Place;

/// Rows of a round that does not lie in row order; more cannot be put in order.
const ROWS_MAX: u64 = 1_000_000;

/// A row, and the snapshots that see it where it is.
struct Copy {
    id: i64,
    batch: RecordBatch,
    row: usize,
    begin: i64,
    end: Option<i64>,
}

impl Copy {
    /// Whether no snapshot sees this and `other`.
    fn is_apart(&self, other: &Self) -> bool {
        self.end.is_some_and(|end| end <= other.begin) || other.end.is_some_and(|end| end <= self.begin)
    }
}

impl Prover<'_> {
    /// Digests a round from all its places; false if its rows are too many.
    pub(super) fn digest_unordered(
        &mut self,
        round: i64,
        plan: &Plan,
        layouts: &[Layout],
        report: &mut VerifyReport,
    ) -> Result<bool> {
        if plan.rows > ROWS_MAX {
            return Ok(false);
        }
        let mut copies: Vec<Copy> = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            if !layouts[index].segments.iter().any(|segment| segment.round == round) {
                continue;
            }
            let ends = match place {
                Place::Inlined(source) => self.ends(source, plan)?,
                Place::File(_) => HashMap::new(),
            };
            let outcome = self.snapshot.scan_stored(self.table, place, &self.columns, &mut |rows| {
                for (range, belongs) in self.sorter.runs(&rows, self.mark) {
                    if belongs != Belongs::To(round) {
                        continue;
                    }
                    copies.extend(range.map(|row| {
                        let (id, added) = (rows.row_ids.value(row), rows.begins.value(row));
                        let (begin, end) = match place {
                            // A file that holds rows of several snapshots shows each from its own on.
                            Place::File(file) if file.partial_max.is_some() => (added, file.end_snapshot),
                            Place::File(file) => (file.begin_snapshot, file.end_snapshot),
                            Place::Inlined(_) => (added, ends.get(&id).copied()),
                        };
                        Copy { id, batch: rows.batch.clone(), row, begin, end }
                    }));
                }
                Ok(true)
            });
            if let Err(error) = outcome {
                report.damaged(damaged(self.name, place, error.chain()));
                self.suspects.insert(index);
                self.unread.insert(round, index);
                return Ok(true);
            }
        }
        copies.sort_by_key(|copy| (copy.id, copy.begin));
        let bytes = |copy: &Copy| {
            let mut digest = RowDigest::new();
            digest.update_rows(&copy.batch, &self.columns, copy.row..copy.row + 1);
            digest.finish()
        };
        // One row in two places, of which no snapshot sees both: another program has rewritten a file.
        copies.dedup_by(|right, left| left.id == right.id && left.is_apart(right) && bytes(left) == bytes(right));
        let mut digest = RowDigest::new();
        for copy in &copies {
            digest.update_rows(&copy.batch, &self.columns, copy.row..copy.row + 1);
        }
        self.found.insert(round, Found { rows: copies.len() as u64, sha256: Some(digest.finish()) });
        Ok(true)
    }

    /// The snapshots at which rows inside the catalog have ended, by row.
    fn ends(&self, source: &InlinedTable, plan: &Plan) -> Result<HashMap<i64, i64>> {
        self.snapshot.with(|connection| {
            let sql = format!(
                "SELECT row_id, end_snapshot FROM {} WHERE end_snapshot IS NOT NULL AND row_id BETWEEN ?1 AND ?2",
                quoted(&source.name)
            );
            let mut statement = connection.prepare(&sql).map_err(|error| sqlite(OPERATION, error))?;
            let rows = statement.query_map([plan.first, plan.last], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
        })
    }
}

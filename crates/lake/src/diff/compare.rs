//! The rows of both states against each other, item by item.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use portolan_model::Result;
use sha2::{Digest, Sha256};

use super::digests::{Digests, Record};
use super::rows::Sides;
use super::{Change, DiffItem, Identity};
use crate::digest::value;
use crate::error::arrow as arrow_error;
use crate::scan::Rows;
use crate::types::Column;

/// What was counted of a table.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) changed: u64,
    pub(super) unchanged: u64,
    pub(super) items: Vec<DiffItem>,
    pub(super) items_total: u64,
}

/// One table's comparison.
pub(super) struct Comparison<'c> {
    pub(super) sides: &'c Sides<'c>,
    pub(super) columns: &'c [Column],
    pub(super) identity: &'c Identity,
    /// Of several rows of one item the latest counts, and all rows of both states are read.
    pub(super) is_latest: bool,
    /// Whether the second state is the later one.
    pub(super) is_forward: bool,
}

/// An item to be shown: what happened, in the order of the rows; the rows before and after; how many.
type Draft = (Change, i64, Option<i64>, Option<i64>, u64);

impl Comparison<'_> {
    pub(super) fn run(&self, limit: usize) -> Result<Counted> {
        // Where nothing can have been removed, rows are told apart by their numbers, and no value is read.
        let is_bare = *self.identity == Identity::RowId && self.sides.is_growing();
        let columns = if is_bare { &[] } else { self.columns };
        let mut digests = Digests::new(*self.identity == Identity::WholeRow);
        for is_high in [false, true] {
            let is_after = is_high == self.is_forward;
            self.sides.read(is_high, columns, &mut |rows| {
                self.digest(&rows, columns, is_after, &mut digests)?;
                Ok(true)
            })?;
        }
        let mut counted = Counted::default();
        let mut equal_items = 0;
        let mut drafts: BTreeSet<Draft> = BTreeSet::new();
        digests.items(|records| {
            equal_items += self.item(records, &mut counted, &mut |draft| {
                drafts.insert(draft);
                if drafts.len() > limit {
                    drafts.pop_last();
                }
            });
        })?;
        counted.unchanged = match self.is_latest {
            true => equal_items,
            false => self.sides.count(!self.is_forward)?.saturating_sub(counted.removed + counted.changed),
        };
        counted.items = self.show(drafts)?;
        Ok(counted)
    }

    fn digest(&self, rows: &Rows, columns: &[Column], is_after: bool, digests: &mut Digests) -> Result<()> {
        let arrays: Vec<(&Column, &dyn Array)> =
            columns.iter().zip(rows.batch.columns()).map(|(column, array)| (column, array.as_ref())).collect();
        let is_content = |column: &Column| column.name != "_round" && column.name != "_time";
        let content: Vec<_> = arrays.iter().filter(|(column, _)| is_content(column)).copied().collect();
        let key: Vec<_> = match self.identity {
            Identity::Key(names) => names
                .iter()
                .filter_map(|name| arrays.iter().find(|(column, _)| column.name == *name).copied())
                .collect(),
            _ => Vec::new(),
        };
        let mut bytes = Vec::new();
        for row in 0..rows.row_ids.len() {
            let row_id = rows.row_ids.value(row);
            let content = digest_of(&content, row, &mut bytes);
            let identity = match self.identity {
                Identity::RowId => {
                    let mut identity = [0; 16];
                    identity[..8].copy_from_slice(&row_id.to_le_bytes());
                    identity
                }
                Identity::Key(_) => digest_of(&key, row, &mut bytes),
                Identity::WholeRow => content,
            };
            digests.push(Record { identity, content, row_id, count: 1, is_after })?;
        }
        Ok(())
    }

    /// Counts the rows of one item, which come in the order of their numbers, those before first; 1 if nothing of it differs.
    fn item(&self, records: &mut [Record], counted: &mut Counted, show: &mut dyn FnMut(Draft)) -> u64 {
        if *self.identity == Identity::WholeRow {
            return equal_rows(records, counted, show);
        }
        let split = records.partition_point(|record| !record.is_after);
        let (before, after) = records.split_at(split);
        let latest = |records: &[Record]| records.last().copied().into_iter().collect::<Vec<_>>();
        let (mut before, mut after) = match self.is_latest {
            true => (latest(before), latest(after)),
            false => (before.to_vec(), after.to_vec()),
        };
        cancel(&mut before, &mut after);
        if before.is_empty() && after.is_empty() {
            return 1;
        }
        for place in 0..before.len().max(after.len()) {
            let (one, other) = (before.get(place).map(|row| row.row_id), after.get(place).map(|row| row.row_id));
            let (change, count) = match (one, other) {
                (Some(_), Some(_)) => (Change::Changed, &mut counted.changed),
                (None, _) => (Change::Added, &mut counted.added),
                (_, None) => (Change::Removed, &mut counted.removed),
            };
            *count += 1;
            counted.items_total += 1;
            show((change, other.or(one).unwrap_or_default(), one, other, 1));
        }
        0
    }

    /// Reads the rows of the items to be shown.
    fn show(&self, drafts: BTreeSet<Draft>) -> Result<Vec<DiffItem>> {
        let mut items: Vec<DiffItem> = Vec::with_capacity(drafts.len());
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        for (place, (change, row_id, one, other, count)) in drafts.into_iter().enumerate() {
            before.extend(one.map(|row_id| (row_id, place)));
            after.extend(other.map(|row_id| (row_id, place)));
            items.push(DiffItem { change, row_id, count, before: None, after: None });
        }
        for (is_after, mut wanted) in [(false, before), (true, after)] {
            if wanted.is_empty() {
                continue;
            }
            self.sides.read(is_after == self.is_forward, self.columns, &mut |rows| {
                for row in 0..rows.row_ids.len() {
                    let Some(place) = wanted.remove(&rows.row_ids.value(row)) else { continue };
                    let found = one_row(&rows.batch, row)?;
                    match is_after {
                        true => items[place].after = Some(found),
                        false => items[place].before = Some(found),
                    }
                }
                Ok(!wanted.is_empty())
            })?;
        }
        Ok(items)
    }
}

/// Counts rows of the same values, which come as one record of each state; 1 if both have as many.
fn equal_rows(records: &[Record], counted: &mut Counted, show: &mut dyn FnMut(Draft)) -> u64 {
    let of = |is_after: bool| records.iter().find(|record| record.is_after == is_after);
    let count = |is_after: bool| of(is_after).map_or(0, |record| record.count);
    let (removed, added) = (count(false).saturating_sub(count(true)), count(true).saturating_sub(count(false)));
    if removed + added == 0 {
        return 1;
    }
    counted.removed += removed;
    counted.added += added;
    counted.items_total += 1;
    match (of(false), of(true)) {
        (Some(row), _) if removed > 0 => show((Change::Removed, row.row_id, Some(row.row_id), None, removed)),
        (_, Some(row)) => show((Change::Added, row.row_id, None, Some(row.row_id), added)),
        _ => {}
    }
    0
}

/// A row by itself, which keeps no batch alive.
fn one_row(batch: &RecordBatch, row: usize) -> Result<RecordBatch> {
    let index = UInt64Array::from(vec![row as u64]);
    take_record_batch(batch, &index).map_err(|error| arrow_error("compare rows", error))
}

/// Takes rows with the same values out of both.
fn cancel(before: &mut Vec<Record>, after: &mut Vec<Record>) {
    if before.is_empty() || after.is_empty() {
        return;
    }
    let mut contents: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    after.iter().for_each(|row| *contents.entry(row.content).or_default() += 1);
    let mut taken: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    before.retain(|row| match contents.get_mut(&row.content) {
        Some(left) if *left > 0 => {
            *left -= 1;
            *taken.entry(row.content).or_default() += 1;
            false
        }
        _ => true,
    });
    after.retain(|row| match taken.get_mut(&row.content) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => true,
    });
}

/// The first half of the SHA-256 of some values of a row.
fn digest_of(arrays: &[(&Column, &dyn Array)], row: usize, bytes: &mut Vec<u8>) -> [u8; 16] {
    bytes.clear();
    for (column, array) in arrays {
        if array.is_valid(row) {
            bytes.extend_from_slice(&(column.id as u32).to_le_bytes());
            value(*array, row, &column.kind, bytes);
        }
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&Sha256::digest(&*bytes)[..16]);
    digest
}

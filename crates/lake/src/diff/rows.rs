//! The rows that one of two states has and the other has not, as far as the catalog tells.
//!
//! Rows that both see at the same place are left out without being read. What maintenance or another program has moved to
//! another place between the states is among the rows of both, with the same row id and values.

use portolan_model::Result;

use crate::error::sqlite;
use crate::reader::{
    DataFile, InlinedFilter, InlinedTable, Snapshot, TableView, deleted_positions, inlined_tables, quoted,
};
use crate::scan::{Rows, scan_file, scan_places};
use crate::types::Column;

/// Where rows of one state alone may be.
enum Place {
    /// A file; of its rows those at some positions alone, or those that began after a snapshot.
    File { file: Box<DataFile>, at: i64, positions: Option<Vec<i64>>, after: Option<i64> },
    /// Rows inside the catalog.
    Inlined { table: i64, source: InlinedTable, filter: InlinedFilter },
}

/// Both states of a table: the earlier and the later one.
pub(super) struct Sides<'s> {
    snapshot: &'s Snapshot,
    low: Vec<Place>,
    high: Vec<Place>,
    /// The table in each, with the snapshot.
    tables: [(i64, Option<TableView>); 2],
}

impl<'s> Sides<'s> {
    /// What differs; with `is_whole` all rows of both.
    pub(super) fn new(
        snapshot: &'s Snapshot,
        (low_id, low): (i64, Option<TableView>),
        (high_id, high): (i64, Option<TableView>),
        is_whole: bool,
    ) -> Result<Self> {
        let mut sides = Self { snapshot, low: Vec::new(), high: Vec::new(), tables: [(low_id, None), (high_id, None)] };
        match (&low, &high) {
            (Some(low), Some(high)) if !is_whole => {
                if low_id < high_id {
                    sides.differing((low_id, low), (high_id, high))?;
                }
            }
            _ => {
                if let Some(table) = &low {
                    sides.low = sides.all(low_id, table)?;
                }
                if let Some(table) = &high {
                    sides.high = sides.all(high_id, table)?;
                }
            }
        }
        sides.tables = [(low_id, low), (high_id, high)];
        Ok(sides)
    }

    fn all(&self, at: i64, table: &TableView) -> Result<Vec<Place>> {
        let whole = |file: &DataFile| Place::File { file: Box::new(file.clone()), at, positions: None, after: None };
        let mut places: Vec<Place> = table.files.iter().map(whole).collect();
        places.extend(self.inlined(table.id, InlinedFilter::VisibleAt(at))?);
        Ok(places)
    }

    fn differing(&mut self, (low_id, low): (i64, &TableView), (high_id, high): (i64, &TableView)) -> Result<()> {
        let file =
            |file: &DataFile, at, positions, after| Place::File { file: Box::new(file.clone()), at, positions, after };
        for before in &low.files {
            let Some(after) = high.files.iter().find(|after| after.id == before.id) else {
                self.low.push(file(before, low_id, None, None));
                continue;
            };
            let names =
                |file: &DataFile| file.delete_files.iter().map(|delete| delete.path.clone()).collect::<Vec<_>>();
            // A delete file may list rows with the snapshots that deleted them.
            if names(before).is_empty()
                && names(after).is_empty()
                && before.deleted_positions == after.deleted_positions
            {
                continue;
            }
            let (known, deleted) = (deleted_positions(before, low_id)?, deleted_positions(after, high_id)?);
            let new: Vec<i64> = deleted.into_iter().filter(|place| known.binary_search(place).is_err()).collect();
            if !new.is_empty() {
                self.low.push(file(before, low_id, Some(new), None));
            }
        }
        for after in &high.files {
            match low.files.iter().any(|before| before.id == after.id) {
                false => self.high.push(file(after, high_id, None, None)),
                true if after.partial_max.is_some_and(|last| last > low_id) => {
                    self.high.push(file(after, high_id, None, Some(low_id)));
                }
                true => {}
            }
        }
        self.low.extend(self.inlined(low.id, InlinedFilter::EndedIn { at: low_id, by: high_id })?);
        self.high.extend(self.inlined(high.id, InlinedFilter::BeganIn { after: low_id, to: high_id })?);
        Ok(())
    }

    /// The tables of inlined rows that hold some of those.
    fn inlined(&self, table: i64, filter: InlinedFilter) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for source in self.snapshot.with(|connection| inlined_tables(connection, table))? {
            let condition = filter.condition();
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {condition})", quoted(&source.name));
            let is_there: bool = self.snapshot.with(|connection| {
                connection.query_row(&sql, [], |row| row.get(0)).map_err(|error| sqlite("compare rows", error))
            })?;
            if is_there {
                places.push(Place::Inlined { table, source, filter });
            }
        }
        Ok(places)
    }

    /// Whether no row of the earlier state can be missing in the later one.
    pub(super) fn is_growing(&self) -> bool {
        self.low.is_empty()
    }

    /// Hands the rows of the later (`is_high`) or the earlier state to `take` until it says no.
    pub(super) fn read(
        &self,
        is_high: bool,
        columns: &[Column],
        take: &mut dyn FnMut(Rows) -> Result<bool>,
    ) -> Result<()> {
        for place in if is_high { &self.high } else { &self.low } {
            let goes_on = match place {
                Place::File { file, at, positions, after } => {
                    scan_places(file, columns, *at, positions.as_deref(), &mut |rows| take(began_after(rows, *after)?))?
                }
                Place::Inlined { table, source, filter } => {
                    self.snapshot.scan_inlined(*table, source, columns, *filter, take)?
                }
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Rows that a state sees.
    pub(super) fn count(&self, is_high: bool) -> Result<u64> {
        let (at, table) = &self.tables[usize::from(is_high)];
        let Some(table) = table else { return Ok(0) };
        let mut total = table.inlined_rows;
        for file in &table.files {
            if file.partial_max.is_none_or(|last| last <= *at) {
                total += file.rows.saturating_sub(deleted_positions(file, *at)?.len() as u64);
                continue;
            }
            scan_file(file, &[], *at, &mut |rows| {
                total += rows.row_ids.len() as u64;
                Ok(true)
            })?;
        }
        Ok(total)
    }
}

fn began_after(rows: Rows, after: Option<i64>) -> Result<Rows> {
    let Some(after) = after else { return Ok(rows) };
    let keep: arrow::array::BooleanArray =
        rows.begins.iter().map(|begin| Some(begin.is_none_or(|begin| begin > after))).collect();
    rows.filtered(&keep)
}

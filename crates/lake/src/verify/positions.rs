//! Holds the positions from which sources go on against the receipts, which the chain proves.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use portolan_model::Result;
use portolan_model::round::{ReceiptVerdict, RoundVerdict};

use super::expected::{Unreadable, columns, scan_readable, system_table};
use super::{Mismatch, OPERATION, VerifyReport};
use crate::error::sqlite;
use crate::reader::{Snapshot, TableView};
use crate::scan::INSIDE;
use crate::system;

/// What is said where they were not.
pub(super) const LEFT_OUT: &str = "the positions from which sources go on were not held against their receipts";

/// A position as the catalog has it.
struct Stored {
    position: String,
    round: i64,
    /// The latest in the receipts: the snapshot, the round and the position.
    latest: Option<(i64, i64, String)>,
}

/// Reports each position that is not the one of its source's latest receipt. Returns the files that cannot be read.
pub(super) fn prove(snapshot: &Snapshot, report: &mut VerifyReport) -> Result<Vec<i64>> {
    let mut stored: HashMap<String, Stored> = snapshot.with(|connection| {
        let error = |error| sqlite(OPERATION, error);
        let sql = "SELECT source, position, round FROM portolan_position";
        let mut statement = connection.prepare(sql).map_err(error)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, Stored { position: row.get(1)?, round: row.get(2)?, latest: None })));
        rows.and_then(Iterator::collect).map_err(error)
    })?;
    let Some(first) = stored.values().map(|one| one.round).min() else { return Ok(Vec::new()) };
    let mut unreadable = Unreadable::new();
    let rejected = rejected(snapshot, first, &mut unreadable)?;
    let receipts = since(system_table(snapshot, system::RECEIPTS)?, first)?;
    let names = ["round", "source", "verdict", "position_after"];
    scan_readable(snapshot, &receipts, &columns(&receipts, &names)?, &mut unreadable, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let texts: Vec<_> = (1..4).map(|place| rows.batch.column(place).as_string::<i32>()).collect();
        for row in 0..rows.batch.num_rows() {
            let text = |place: usize| texts[place].is_valid(row).then(|| texts[place].value(row));
            let (Some(source), Some(verdict), Some(position)) = (text(0), text(1), text(2)) else { continue };
            let counts = [ReceiptVerdict::Ok, ReceiptVerdict::Unchanged].iter().any(|one| one.as_str() == verdict);
            let Some(known) = stored.get_mut(source) else { continue };
            if rounds.is_null(row) || !counts || rejected.contains(&rounds.value(row)) {
                continue;
            }
            let snapshot = rows.begins.value(row);
            if known.latest.as_ref().is_none_or(|(latest, ..)| *latest < snapshot) {
                known.latest = Some((snapshot, rounds.value(row), position.to_owned()));
            }
        }
    })?;
    if !unreadable.is_empty() {
        // The latest receipt may be there, or that its round was rejected.
        let places: Vec<&str> = unreadable.iter().map(|(_, file)| file.path.as_str()).collect();
        report.left_out.push(format!("{LEFT_OUT}: {} cannot be read", places.join(", ")));
        let ids = unreadable.iter().filter_map(|(id, _)| *id).collect();
        unreadable.into_iter().for_each(|(_, file)| report.damaged(file));
        return Ok(ids);
    }
    let mut wrong: Vec<_> = stored
        .into_iter()
        .filter(|(_, one)| {
            one.latest.as_ref().is_none_or(|(_, round, text)| (*round, text) != (one.round, &one.position))
        })
        .collect();
    wrong.sort_by(|left, right| left.0.cmp(&right.0));
    for (source, one) in wrong {
        let latest = one.latest.map_or("there is none".to_owned(), |(_, round, _)| format!("that is of round {round}"));
        report.mismatch(Mismatch {
            places: vec![INSIDE.to_owned()],
            detail: format!(
                "the position from which `{source}` goes on, of round {}, is not the one of its latest receipt: {latest}",
                one.round
            ),
            ..Mismatch::of(one.round, "portolan_position".to_owned())
        });
    }
    Ok(Vec::new())
}

/// The rounds from `first` on that were rejected: their receipts moved no position.
fn rejected(snapshot: &Snapshot, first: i64, unreadable: &mut Unreadable) -> Result<HashSet<i64>> {
    let table = since(system_table(snapshot, system::ROUNDS)?, first)?;
    let mut rejected = HashSet::new();
    scan_readable(snapshot, &table, &columns(&table, &["round", "verdict"])?, unreadable, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let verdicts = rows.batch.column(1).as_string::<i32>();
        rejected.extend(
            (0..rows.batch.num_rows())
                .filter(|row| rounds.is_valid(*row) && verdicts.is_valid(*row))
                .filter(|row| verdicts.value(*row) == RoundVerdict::Rejected.as_str())
                .map(|row| rounds.value(row)),
        );
    })?;
    Ok(rejected)
}

/// The table with those of its files that may hold rounds from `first` on.
fn since(mut table: TableView, first: i64) -> Result<TableView> {
    let mark = columns(&table, &["round"])?.swap_remove(0).id;
    table.files.retain(|file| file.may_hold(mark, first, i64::MAX));
    Ok(table)
}

//! Rounds, their receipts and checks, as they are read again: the latest ones, or one.
//!
//! Promise: only files whose bounds leave room for the rounds asked for are opened, newest rounds first, so a long history
//! costs nothing; what is held is bounded by the limit.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_model::{Error, ErrorKind, Result};

use crate::reader::{At, LakeReader, Snapshot, TableView};
use crate::types::Column;
use crate::{system, verify};

/// Rounds looked at first; each further look takes in eight times as many.
const WINDOW_MIN: i64 = 64;

/// One round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRound {
    /// Its number.
    pub round: i64,
    /// The group that was read.
    pub name: String,
    /// What became of it.
    pub verdict: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// How long it took.
    pub duration_us: i64,
    /// From the first release to the last one.
    pub release_spread_us: Option<i64>,
    /// From the first release to the last first byte: no two reads took effect further apart.
    pub skew_bound_us: Option<i64>,
    /// What was promised of the reads' common moment.
    pub consistency: Option<String>,
    /// What came of it.
    pub reached: Option<String>,
    /// How many times the sources were read.
    pub attempts: Option<i64>,
    /// Why it is not what was promised.
    pub reason: Option<String>,
    /// One a source, by name.
    pub receipts: Vec<StoredReceipt>,
    /// One a check, in the order in which they were asked.
    pub checks: Vec<StoredCheck>,
}

/// One check in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCheck {
    /// Its name.
    pub name: String,
    /// What kind of check it is.
    pub kind: String,
    /// What became of it.
    pub outcome: String,
    /// What follows where it does not hold.
    pub on_failure: String,
    /// How many rows fail it, where it is about rows.
    pub failing_rows: Option<i64>,
    /// What was found.
    pub detail: Option<String>,
    /// How long it took.
    pub duration_us: i64,
    /// The snapshot that it holds for, where it has read the lake.
    pub snapshot: Option<i64>,
}

/// One source in one round. Times are microseconds after the start of the round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The source.
    pub source: String,
    /// What became of it.
    pub verdict: String,
    /// When it was ready to be read.
    pub prepared_us: Option<i64>,
    /// When its request went out.
    pub released_us: Option<i64>,
    /// When its answer began.
    pub first_byte_us: Option<i64>,
    /// When the answer to its last request began.
    pub acted_us: Option<i64>,
    /// When its answer ended.
    pub last_byte_us: Option<i64>,
    /// Bytes received.
    pub bytes: i64,
    /// Rows stored.
    pub rows: i64,
    /// Rows that had been stored before.
    pub duplicates: i64,
    /// Items that went to the quarantine.
    pub quarantined: i64,
    /// The snapshot that was read, as its server names it.
    pub snapshot: Option<String>,
    /// The kind of failure.
    pub error_kind: Option<String>,
    /// The failure in words.
    pub error: Option<String>,
}

/// Which rounds to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundFilter {
    /// Of one group.
    pub name: Option<String>,
    /// Of this number and later.
    pub since_round: Option<i64>,
    /// Those that began at this instant or later.
    pub since: Option<Timestamp>,
    /// So many of the latest.
    pub limit: usize,
}

impl LakeReader {
    /// The latest rounds, newest first, with their receipts.
    ///
    /// # Errors
    /// `Corrupt` if they cannot be read.
    pub fn rounds(&self, filter: &RoundFilter) -> Result<Vec<StoredRound>> {
        let Some((last, _)) = self.last_round()? else { return Ok(Vec::new()) };
        let snapshot = self.snapshot(At::Head)?;
        let first = filter.since_round.unwrap_or(1).max(1);
        let mut found: Vec<StoredRound> = Vec::new();
        let (mut high, mut window) = (last.0, WINDOW_MIN.max(filter.limit as i64));
        while high >= first && found.len() < filter.limit {
            let low = high.saturating_sub(window - 1).max(first);
            let mut is_past = false;
            let mut seen = Vec::new();
            read_rounds(&snapshot, low, high, &mut |round| {
                if filter.since.is_some_and(|since| round.started_at.is_none_or(|time| time < since)) {
                    is_past = true;
                } else if filter.name.as_deref().is_none_or(|name| round.name == name) {
                    seen.push(round);
                    if seen.len() > filter.limit.saturating_mul(2) {
                        newest(&mut seen, filter.limit);
                    }
                }
            })?;
            found.extend(seen);
            newest(&mut found, filter.limit);
            if is_past {
                break;
            }
            (high, window) = (low - 1, window.saturating_mul(8));
        }
        read_receipts(&snapshot, &mut found)?;
        read_checks(&snapshot, &mut found)?;
        Ok(found)
    }

    /// One round with its receipts.
    ///
    /// # Errors
    /// `NotFound`, with the rounds there are; `Corrupt` if it cannot be read.
    pub fn round(&self, number: i64) -> Result<StoredRound> {
        let snapshot = self.snapshot(At::Head)?;
        let mut found = Vec::new();
        read_rounds(&snapshot, number, number, &mut |round| found.push(round))?;
        if found.is_empty() {
            let (mut low, mut high) = (i64::MAX, i64::MIN);
            read_rounds(&snapshot, i64::MIN, i64::MAX, &mut |round| {
                (low, high) = (low.min(round.round), high.max(round.round));
            })?;
            let error = Error::new(ErrorKind::NotFound, "read round", format!("the lake has no round {number}"));
            return Err(error.with_hint(match low <= high {
                true => {
                    format!("it has rounds {low} to {high}, some numbers may be missing: portolan rounds lists them")
                }
                false => "it has none yet: collect with `portolan run` or `portolan fetch --save`".to_owned(),
            }));
        }
        read_receipts(&snapshot, &mut found)?;
        read_checks(&snapshot, &mut found)?;
        Ok(found.swap_remove(0))
    }
}

/// Keeps so many of the newest, newest first.
fn newest(rounds: &mut Vec<StoredRound>, limit: usize) {
    rounds.sort_by_key(|round| std::cmp::Reverse(round.round));
    rounds.truncate(limit);
}

fn read_rounds(snapshot: &Snapshot, low: i64, high: i64, take: &mut dyn FnMut(StoredRound)) -> Result<()> {
    scan(snapshot, system::ROUNDS, low, high, &mut |round, row| {
        take(StoredRound {
            round,
            name: row.text("name").unwrap_or_default(),
            verdict: row.text("verdict").unwrap_or_default(),
            started_at: row.time("started_at"),
            duration_us: row.number("duration_us").unwrap_or_default(),
            release_spread_us: row.number("release_spread_us"),
            skew_bound_us: row.number("skew_bound_us"),
            consistency: row.text("consistency"),
            reached: row.text("reached"),
            attempts: row.number("attempts"),
            reason: row.text("reason"),
            receipts: Vec::new(),
            checks: Vec::new(),
        });
    })
}

/// Gives rounds, newest first, their receipts.
fn read_receipts(snapshot: &Snapshot, rounds: &mut [StoredRound]) -> Result<()> {
    let (Some(high), Some(low)) = (rounds.first().map(|one| one.round), rounds.last().map(|one| one.round)) else {
        return Ok(());
    };
    scan(snapshot, system::RECEIPTS, low, high, &mut |round, row| {
        let Ok(place) = rounds.binary_search_by(|one| round.cmp(&one.round)) else { return };
        let count = |name| row.number(name).unwrap_or_default();
        rounds[place].receipts.push(StoredReceipt {
            source: row.text("source").unwrap_or_default(),
            verdict: row.text("verdict").unwrap_or_default(),
            prepared_us: row.number("prepared_us"),
            released_us: row.number("released_us"),
            first_byte_us: row.number("first_byte_us"),
            acted_us: row.number("acted_us"),
            last_byte_us: row.number("last_byte_us"),
            bytes: count("bytes"),
            rows: count("rows"),
            duplicates: count("duplicates"),
            quarantined: count("quarantined"),
            snapshot: row.text("snapshot"),
            error_kind: row.text("error_kind"),
            error: row.text("error"),
        });
    })?;
    for round in rounds {
        round.receipts.sort_by(|left, right| left.source.cmp(&right.source));
    }
    Ok(())
}

/// Gives rounds, newest first, their checks. A lake of an older version has none.
fn read_checks(snapshot: &Snapshot, rounds: &mut [StoredRound]) -> Result<()> {
    let (Some(high), Some(low)) = (rounds.first().map(|one| one.round), rounds.last().map(|one| one.round)) else {
        return Ok(());
    };
    if snapshot.table(system::SCHEMA, system::CHECKS)?.is_none() {
        return Ok(());
    }
    scan(snapshot, system::CHECKS, low, high, &mut |round, row| {
        let Ok(place) = rounds.binary_search_by(|one| round.cmp(&one.round)) else { return };
        rounds[place].checks.push(StoredCheck {
            name: row.text("name").unwrap_or_default(),
            kind: row.text("kind").unwrap_or_default(),
            outcome: row.text("outcome").unwrap_or_default(),
            on_failure: row.text("on_failure").unwrap_or_default(),
            failing_rows: row.number("failing_rows"),
            detail: row.text("detail"),
            duration_us: row.number("duration_us").unwrap_or_default(),
            snapshot: row.number(system::SNAPSHOT_COLUMN),
        });
    })
}

/// A row; a column that an older lake lacks is null.
struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl Row<'_> {
    fn number(&self, name: &str) -> Option<i64> {
        let values = self.batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        values.is_valid(self.row).then(|| values.value(self.row))
    }

    fn text(&self, name: &str) -> Option<String> {
        let values = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        values.is_valid(self.row).then(|| values.value(self.row).to_owned())
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        let values = self.batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        values.is_valid(self.row).then(|| Timestamp::from_microsecond(values.value(self.row)).ok()).flatten()
    }
}

/// Hands the rows of rounds `low` to `high` of a system table to `take`, without what is not shown of them.
fn scan(snapshot: &Snapshot, name: &str, low: i64, high: i64, take: &mut dyn FnMut(i64, &Row<'_>)) -> Result<()> {
    let mut table: TableView = verify::system_table(snapshot, name)?;
    let mark = verify::columns(&table, &["round"])?.swap_remove(0);
    table.files.retain(|file| file.may_hold(mark.id, low, high));
    let is_left_out = |name: &str| {
        name.ends_with("_sha256") || name.starts_with("position_") || ["validator", "manifest"].contains(&name)
    };
    let columns: Vec<Column> = table.columns.iter().filter(|column| !is_left_out(&column.name)).cloned().collect();
    snapshot.scan(&table, &columns, &mut |rows| {
        for row in 0..rows.batch.num_rows() {
            let row = Row { batch: &rows.batch, row };
            if let Some(round) = row.number("round").filter(|round| (low..=high).contains(round)) {
                take(round, &row);
            }
        }
        Ok(true)
    })
}

//! What the receipts say of the rows that rounds have stored.

use std::collections::{BTreeSet, HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use jiff::Timestamp;
use portolan_model::Result;
use portolan_model::catalog::WriteMode;
use rusqlite::Connection;

use super::{DamagedFile, OPERATION, VerifyScope};
use crate::error::{corrupt, sqlite};
use crate::reader::{Snapshot, TableView, parse_time};
use crate::scan::{INSIDE, Rows, scan_file};
use crate::spec::has_table;
use crate::system;
use crate::types::Column;

/// Files of the lake's own tables that cannot be read, with their ids; rows inside the catalog have none.
pub(super) type Unreadable = Vec<(Option<i64>, DamagedFile)>;

/// What one receipt says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) round: i64,
    /// The snapshot that its round made.
    pub(super) snapshot: i64,
    pub(super) rows: u64,
    pub(super) digest: Digest,
    /// How its rows were written; `None` where the round stored nothing, or a version stored it that did not say.
    pub(super) mode: Option<WriteMode>,
    /// When its round began and ended, in microseconds since 1970; `None` if the round is in no list.
    pub(super) span_us: Option<(i64, i64)>,
}

/// A digest as a receipt has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    /// None: the round stored nothing of the source.
    None,
    Sha256([u8; 32]),
    /// Something else.
    Unreadable,
}

impl Digest {
    fn read(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::None };
        let mut bytes = [0; 32];
        let canonical = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Self::Unreadable;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        Self::Sha256(bytes)
    }

    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Sha256(bytes) => Some(crate::digest::hex(bytes)),
            Self::Unreadable => Some("not a SHA-256".to_owned()),
        }
    }
}

/// The receipts of one source, by round.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    pub(super) list: Vec<Expected>,
    pub(super) by_round: HashMap<i64, u32>,
    pub(super) payload_digests: u64,
    /// Rounds that have more than one receipt of the source.
    pub(super) doubled: Vec<i64>,
    /// Rounds that have been verified before.
    pub(super) verified: HashSet<i64>,
    /// What cannot be read of the list of rounds.
    pub(super) unreadable: Unreadable,
}

impl Receipts {
    pub(super) fn of(&self, round: i64) -> Option<&Expected> {
        self.by_round.get(&round).map(|place| &self.list[*place as usize])
    }
}

/// The receipts of `source` within `scope`.
pub(super) fn receipts(snapshot: &Snapshot, source: &str, scope: &VerifyScope) -> Result<Receipts> {
    let table = system_table(snapshot, system::RECEIPTS)?;
    let mut names = vec!["round", "source", "rows", "rows_sha256", "payload_sha256"];
    if has_mode(snapshot, table.id)? {
        names.push("mode");
    }
    let columns = columns(&table, &names)?;
    let mut receipts = Receipts::default();
    snapshot.scan(&table, &columns, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let sources = rows.batch.column(1).as_string::<i32>();
        let counts = rows.batch.column(2).as_primitive::<Int64Type>();
        let digests = rows.batch.column(3).as_string::<i32>();
        let payloads = rows.batch.column(4);
        let modes = rows.batch.columns().get(5).map(|column| column.as_string::<i32>());
        for row in 0..rows.batch.num_rows() {
            if rounds.is_null(row) || sources.is_null(row) || sources.value(row) != source {
                continue;
            }
            let round = rounds.value(row);
            if !scope.holds(round) {
                continue;
            }
            if scope.verified.as_ref().is_some_and(|head| rows.begins.value(row) <= head.snapshot) {
                receipts.verified.insert(round);
                continue;
            }
            receipts.payload_digests += u64::from(payloads.is_valid(row));
            let digest = Digest::read(digests.is_valid(row).then(|| digests.value(row)));
            let count = if counts.is_valid(row) { u64::try_from(counts.value(row)).unwrap_or(0) } else { 0 };
            let place = receipts.list.len() as u32;
            if receipts.by_round.insert(round, place).is_some() {
                receipts.doubled.push(round);
            }
            let snapshot = rows.begins.value(row);
            let mode = modes.filter(|modes| modes.is_valid(row)).and_then(|modes| WriteMode::parse(modes.value(row)));
            receipts.list.push(Expected { round, snapshot, rows: count, digest, mode, span_us: None });
        }
        Ok(true)
    })?;
    let table = system_table(snapshot, system::ROUNDS)?;
    let columns = self::columns(&table, &["round", "started_at", "duration_us"])?;
    let mut unreadable = Vec::new();
    scan_readable(snapshot, &table, &columns, &mut unreadable, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let starts = rows.batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let durations = rows.batch.column(2).as_primitive::<Int64Type>();
        for row in (0..rows.batch.num_rows()).filter(|row| rounds.is_valid(*row)) {
            let Some(place) = receipts.by_round.get(&rounds.value(row)) else { continue };
            if starts.is_valid(row) && durations.is_valid(row) {
                let start_us = starts.value(row);
                let end_us = start_us.saturating_add(durations.value(row));
                receipts.list[*place as usize].span_us = Some((start_us, end_us));
            }
        }
    })?;
    if !unreadable.is_empty() {
        // When a round began is unknown then: its rows are proved all the same, their `_time` is not held against it.
        for expected in &mut receipts.list {
            expected.span_us.get_or_insert((i64::MIN, i64::MAX));
        }
    }
    receipts.unreadable = unreadable;
    Ok(receipts)
}

/// Hands the rows of one of the lake's own tables to `take`; what cannot be read is left out and goes to `unreadable`.
pub(super) fn scan_readable(
    snapshot: &Snapshot,
    table: &TableView,
    columns: &[Column],
    unreadable: &mut Unreadable,
    take: &mut dyn FnMut(Rows),
) -> Result<()> {
    table.readable()?;
    let mut take = |rows: Rows| {
        take(rows);
        Ok(true)
    };
    let title = format!("{}.{}", table.schema, table.name);
    for file in &table.files {
        if let Err(error) = scan_file(file, columns, snapshot.id(), &mut take) {
            let path = file.path.display().to_string();
            unreadable.push((Some(file.id), DamagedFile::new(&title, path, None, error.chain())));
        }
    }
    let inlined = TableView { files: Vec::new(), ..table.clone() };
    if let Err(error) = snapshot.scan(&inlined, columns, &mut take) {
        unreadable.push((None, DamagedFile::new(&title, INSIDE.to_owned(), None, error.chain())));
    }
    Ok(())
}

/// Whether receipts say how rows were written. A lake that no present version has written to has no such column; one
/// that another program has taken away is missed.
fn has_mode(snapshot: &Snapshot, receipts: i64) -> Result<bool> {
    let sql = "SELECT EXISTS(SELECT 1 FROM ducklake_column WHERE table_id = ?1 AND column_name = 'mode')";
    snapshot.with(|connection| {
        connection.query_row(sql, [receipts], |row| row.get(0)).map_err(|error| sqlite(OPERATION, error))
    })
}

impl VerifyScope {
    /// Whether a round is asked for.
    pub(super) fn holds(&self, round: i64) -> bool {
        self.first_round.is_none_or(|first| first <= round) && self.last_round.is_none_or(|last| round <= last)
    }

    /// The first and the last round that may be asked for.
    pub(super) fn rounds(&self) -> (i64, i64) {
        (self.first_round.unwrap_or(i64::MIN), self.last_round.unwrap_or(i64::MAX))
    }

    /// Whether every round is.
    pub(super) fn is_whole(&self) -> bool {
        self.first_round.is_none() && self.last_round.is_none() && self.verified.is_none()
    }
}

/// Rows of a table that another program has deleted and that have expired, by the snapshot that added them.
pub(super) fn expired(connection: &Connection, table: i64) -> Result<HashMap<i64, u64>> {
    // Only the collector makes this table.
    if !has_table(connection, "portolan_expired")? {
        return Ok(HashMap::new());
    }
    let error = |error| sqlite(OPERATION, error);
    let sql = "SELECT snapshot_id, rows FROM portolan_expired WHERE table_id = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(error)?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect).map_err(error)
}

/// Every source that has a receipt that can be read.
pub(super) fn sources(snapshot: &Snapshot, unreadable: &mut Unreadable) -> Result<BTreeSet<String>> {
    let table = system_table(snapshot, system::RECEIPTS)?;
    let columns = columns(&table, &["source"])?;
    let mut names = BTreeSet::new();
    scan_readable(snapshot, &table, &columns, unreadable, &mut |rows| {
        for name in rows.batch.column(0).as_string::<i32>().iter().flatten() {
            if !names.contains(name) {
                names.insert(name.to_owned());
            }
        }
    })?;
    Ok(names)
}

/// The first round that began at `since` or later, or may have: where that cannot be read, the first one that may be there.
/// Beyond every round if there is none.
pub(super) fn first_round_since(snapshot: &Snapshot, since: Timestamp, unreadable: &mut Unreadable) -> Result<i64> {
    let table = system_table(snapshot, system::ROUNDS)?;
    let columns = columns(&table, &["round", "started_at"])?;
    let mut first = i64::MAX;
    scan_readable(snapshot, &table, &columns, unreadable, &mut |rows| {
        let rounds = rows.batch.column(0).as_primitive::<Int64Type>();
        let starts = rows.batch.column(1).as_primitive::<TimestampMicrosecondType>();
        for row in 0..rows.batch.num_rows() {
            if rounds.is_valid(row) && starts.is_valid(row) && starts.value(row) >= since.as_microsecond() {
                first = first.min(rounds.value(row));
            }
        }
    })?;
    for (id, _) in unreadable.iter() {
        let file = table.files.iter().find(|file| Some(file.id) == *id);
        let bounds = |place: usize| file.and_then(|file| file.statistics.get(&columns[place].id));
        let last_start = bounds(1).and_then(|known| parse_time(known.max.as_ref()?).ok());
        if last_start.is_none_or(|last| last >= since) {
            let lowest = bounds(0).and_then(|known| known.min.as_ref()?.parse().ok());
            first = first.min(lowest.unwrap_or(i64::MIN));
        }
    }
    Ok(first)
}

/// One of the lake's own tables.
pub(crate) fn system_table(snapshot: &Snapshot, name: &str) -> Result<TableView> {
    let table = snapshot.table(system::SCHEMA, name)?;
    table.ok_or_else(|| {
        corrupt(OPERATION, format!("the lake has no table {}.{name}", system::SCHEMA))
            .with_hint("another program has dropped it; restore the lake from a copy")
    })
}

/// Columns of one of the lake's own tables, of the types that this build gave them.
pub(crate) fn columns(table: &TableView, names: &[&str]) -> Result<Vec<Column>> {
    let wanted = system::empty()?.into_iter().find(|(name, _)| *name == table.name);
    let pick = |name: &&str| {
        let found = table.columns.iter().find(|column| column.name == *name);
        let kind = wanted.as_ref().and_then(|(_, rows)| Some(rows.column_by_name(name)?.data_type().clone()));
        found.filter(|column| Some(column.kind.arrow()) == kind).cloned().ok_or_else(|| {
            let message =
                format!("{}.{} has no column `{name}` of the type it was made with", table.schema, table.name);
            corrupt(OPERATION, message).with_hint("another program has changed it; restore the lake from a copy")
        })
    };
    names.iter().map(pick).collect()
}

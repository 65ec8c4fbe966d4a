//! What changed in the tables between two committed states.
//!
//! Promise: a row that is the same stored row in both is not read, because the catalog knows when each began and ended; of
//! those that are read, digests alone are kept, and go to a temporary file beyond a few dozen MiB; counts are exact,
//! whatever other programs and maintenance have done between the states.

mod compare;
mod digests;
mod rows;

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_model::catalog::WriteMode;
use portolan_model::{Error, ErrorKind, Result};
use rusqlite::OptionalExtension;

use crate::error::{corrupt, sqlite};
use crate::reader::{At, LakeReader, Snapshot, TableView, load_tables};
use crate::shape::is_leading;
use crate::spec::has_table;
use crate::state::load_names;
use crate::system;
use crate::types::Column;

use compare::Comparison;
use rows::Sides;

const OPERATION: &str = "compare rounds";

/// What is compared, and how much of it is shown.
#[derive(Clone, Debug)]
pub struct DiffScope {
    /// The state that differences start from.
    pub from: At,
    /// The state that they lead to; may be the earlier one.
    pub to: At,
    /// One table, `name` or `schema.name`; every table of a source where `None`.
    pub table: Option<String>,
    /// Columns that tell items of the table apart, instead of what the lake knows: its rows are then all read, and of several
    /// rows of one item the latest counts.
    pub key: Option<Vec<String>>,
    /// The most items that are shown of each table.
    pub limit: usize,
}

/// The differences.
#[derive(Clone, Debug)]
pub struct Diff {
    /// DuckLake's number of the first state, and when it was committed.
    pub from: (i64, Timestamp),
    /// The same of the second.
    pub to: (i64, Timestamp),
    /// One a table, by name.
    pub tables: Vec<TableDiff>,
}

/// In which of the two states a table exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// In both.
    Both,
    /// In the second alone.
    Added,
    /// In the first alone.
    Removed,
}

/// By what rows of one state are found again in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By the lake's own number of the row, which an update keeps.
    RowId,
    /// By the values of columns.
    Key(Vec<String>),
    /// Not at all: a row is the same where all its values are, and rows are counted.
    WholeRow,
}

/// The differences of one table.
#[derive(Clone, Debug)]
pub struct TableDiff {
    /// Its schema.
    pub schema: String,
    /// Its name, in the second state if it is there.
    pub name: String,
    /// Where it exists.
    pub existence: Existence,
    /// By what its rows were found again.
    pub identity: Identity,
    /// Items of the second state that the first does not have.
    pub added: u64,
    /// Items of the first state that the second does not have.
    pub removed: u64,
    /// Items of both with other values.
    pub changed: u64,
    /// Items of both with the same values.
    pub unchanged: u64,
    /// How its columns differ.
    pub columns: Vec<ColumnChange>,
    /// Some of the items: changed ones, then added, then removed ones, each as they were stored.
    pub items: Vec<DiffItem>,
    /// Items there are.
    pub items_total: u64,
}

impl TableDiff {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.existence == Existence::Both && self.added + self.removed + self.changed == 0 && self.columns.is_empty()
    }
}

/// How a column differs. Types are DuckLake's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnChange {
    /// The second state alone has it.
    Added {
        /// Its name.
        name: String,
        /// Its type.
        kind: String,
    },
    /// The first state alone has it.
    Removed {
        /// Its name.
        name: String,
        /// Its type.
        kind: String,
    },
    /// It has another name.
    Renamed {
        /// In the first state.
        from: String,
        /// In the second.
        to: String,
    },
    /// It has another type.
    Retyped {
        /// Its name in the second state.
        name: String,
        /// Its type in the first.
        from: String,
        /// Its type in the second.
        to: String,
    },
}

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It has other values.
    Changed,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
}

impl Change {
    /// The stable name, as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

/// One item that differs. Both rows have the same columns: those of the later state, then those that it does not have.
#[derive(Clone, Debug)]
pub struct DiffItem {
    /// What happened to it.
    pub change: Change,
    /// The lake's number of its row, in the second state if it is there.
    pub row_id: i64,
    /// Equal rows; 1 unless rows are not told apart.
    pub count: u64,
    /// Its row in the first state.
    pub before: Option<RecordBatch>,
    /// Its row in the second state.
    pub after: Option<RecordBatch>,
}

impl LakeReader {
    /// Compares two states.
    ///
    /// # Errors
    /// `NotFound` for a state or table that is not there, with those that are; `Configuration` for a key that the table does
    /// not have; `Data` for a table that this build does not read.
    pub fn diff(&self, scope: &DiffScope) -> Result<Diff> {
        let first = self.snapshot(scope.from)?;
        let snapshot = self.snapshot(scope.to)?;
        let (from, to) = (first.id(), snapshot.id());
        // From here on everything is seen by one transaction: what it still knows, it can read.
        let kept = "SELECT 1 FROM ducklake_snapshot WHERE snapshot_id = ?1";
        let kept = snapshot.with(|connection| {
            connection.query_row(kept, [from], |_| Ok(())).optional().map_err(|error| sqlite(OPERATION, error))
        })?;
        if kept.is_none() {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, format!("snapshot {from} has just expired"))
                .with_hint("see `keep_snapshots` under [lake]"));
        }
        let settings = snapshot.with(source_settings)?;
        let mut tables = Vec::new();
        for (low, high) in pairs(&snapshot, from.min(to), from.max(to), scope.table.as_deref())? {
            tables.push(compare_table(&snapshot, (from, to), (low, high), scope, &settings)?);
        }
        tables.sort_by(|one, other| (&one.schema, &one.name).cmp(&(&other.schema, &other.name)));
        Ok(Diff { from: (from, first.time()), to: (to, snapshot.time()), tables })
    }
}

type Pair = (Option<TableView>, Option<TableView>);

/// The tables of two states, each with itself.
fn pairs(snapshot: &Snapshot, low: i64, high: i64, wanted: Option<&str>) -> Result<Vec<Pair>> {
    let load = |id| snapshot.with(|connection| load_tables(connection, snapshot.layout(), id));
    let (mut lows, highs) = (load(low)?, load(high)?);
    let mut all: Vec<Pair> = Vec::new();
    for high in highs {
        let low = lows.iter().position(|low| low.id == high.id).map(|place| lows.swap_remove(place));
        all.push((low, Some(high)));
    }
    all.extend(lows.into_iter().map(|low| (Some(low), None)));
    let is_wanted = |table: &TableView| match wanted {
        Some(name) => {
            table.name == name && table.schema != system::SCHEMA || format!("{}.{}", table.schema, table.name) == name
        }
        None => table.schema != system::SCHEMA,
    };
    let sides = |pair: &Pair| [pair.0.clone(), pair.1.clone()].into_iter().flatten().collect::<Vec<_>>();
    let names: Vec<String> =
        all.iter().flat_map(sides).filter(|one| one.schema != system::SCHEMA).map(|one| one.name).collect();
    all.retain(|pair| [&pair.0, &pair.1].into_iter().flatten().any(&is_wanted));
    match wanted {
        Some(name) if all.is_empty() => {
            let mut names = names;
            names.sort();
            names.dedup();
            let hint = match names.len() {
                0 => "neither state has a table of a source".to_owned(),
                _ => format!("tables there are: {}", names.join(", ")),
            };
            Err(Error::new(ErrorKind::NotFound, OPERATION, format!("there is no table `{name}`")).with_hint(hint))
        }
        _ => Ok(all),
    }
}

/// How the rows of each source's table are written and told apart, by its name.
fn source_settings(connection: &rusqlite::Connection) -> Result<BTreeMap<String, (WriteMode, Vec<String>)>> {
    let mut settings = BTreeMap::new();
    if !has_table(connection, "portolan_source")? {
        return Ok(settings);
    }
    let error = |error| sqlite(OPERATION, error);
    let mut statement = connection.prepare("SELECT source, mode, item_key FROM portolan_source").map_err(error)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(error)?;
    for row in rows {
        let (source, mode, key): (String, String, String) = row.map_err(error)?;
        let mode = if mode == WriteMode::Replace.as_str() { WriteMode::Replace } else { WriteMode::Append };
        let key = serde_json::from_str(&key)
            .map_err(|_| corrupt(OPERATION, format!("the key of source `{source}` is not readable")))?;
        settings.insert(source, (mode, key));
    }
    Ok(settings)
}

fn compare_table(
    snapshot: &Snapshot,
    (from, to): (i64, i64),
    (low, high): Pair,
    scope: &DiffScope,
    settings: &BTreeMap<String, (WriteMode, Vec<String>)>,
) -> Result<TableDiff> {
    for table in [&low, &high].into_iter().flatten() {
        table.readable()?;
    }
    let is_forward = from <= to;
    let (first, second) = if is_forward { (&low, &high) } else { (&high, &low) };
    let Some(shown) = second.as_ref().or(first.as_ref()) else {
        return Err(crate::error::internal(OPERATION, "no table"));
    };
    let existence = match (first, second) {
        (Some(_), Some(_)) => Existence::Both,
        (None, _) => Existence::Added,
        (_, None) => Existence::Removed,
    };
    let columns = all_columns(&low, &high);
    let known = settings.get(&shown.name).filter(|_| shown.schema == "main");
    let identity = match (&scope.key, known) {
        (Some(key), _) => Identity::Key(key.clone()),
        // Without a key in it each round brings the rows anew.
        (None, Some((WriteMode::Replace, key))) => match stored_key(snapshot, shown.id, &columns, key)? {
            Some(key) => Identity::Key(key),
            None => Identity::WholeRow,
        },
        (None, Some((WriteMode::Append, _))) => Identity::RowId,
        (None, None) => Identity::WholeRow,
    };
    let is_unknown = |name: &&String| columns.iter().all(|column| column.name != **name);
    if let Some(key) = &scope.key
        && (key.is_empty() || key.iter().any(|name| is_unknown(&name)))
    {
        let unknown = key.iter().find(is_unknown);
        let message = match unknown {
            Some(name) => format!("table `{}` has no column `{name}`", shown.name),
            None => "a key has at least one column".to_owned(),
        };
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        return Err(Error::new(ErrorKind::Configuration, OPERATION, message)
            .with_hint(format!("columns there are: {}", names.join(", "))));
    }
    let is_latest = scope.key.is_some() && !matches!(known, Some((WriteMode::Replace, _)));
    let changes = match (first, second) {
        (Some(first), Some(second)) => column_changes(&first.columns, &second.columns),
        _ => Vec::new(),
    };
    let (schema, name) = (shown.schema.clone(), shown.name.clone());
    let sides = Sides::new(snapshot, (from.min(to), low), (from.max(to), high), is_latest)?;
    let comparison = Comparison { sides: &sides, columns: &columns, identity: &identity, is_latest, is_forward };
    let counted = comparison.run(scope.limit)?;
    Ok(TableDiff {
        schema,
        name,
        existence,
        added: counted.added,
        removed: counted.removed,
        changed: counted.changed,
        unchanged: counted.unchanged,
        columns: changes,
        items: counted.items,
        items_total: counted.items_total,
        identity,
    })
}

/// The columns of a table that a key of its source's names, if it has all of them.
fn stored_key(snapshot: &Snapshot, table: i64, columns: &[Column], key: &[String]) -> Result<Option<Vec<String>>> {
    let names = snapshot.with(|connection| load_names(connection, table))?;
    let stored = |name: &String| {
        let made_for = |column: &&Column| match names.get(&column.id) {
            Some((source, is_variant)) => source == name && !is_variant,
            None => column.name == *name && !is_leading(name),
        };
        columns.iter().find(made_for).map(|column| column.name.clone())
    };
    Ok(key.iter().map(stored).collect::<Option<Vec<_>>>().filter(|key| !key.is_empty()))
}

/// The columns of the later state, then those that it does not have any more.
fn all_columns(low: &Option<TableView>, high: &Option<TableView>) -> Vec<Column> {
    let mut columns: Vec<Column> = high.iter().flat_map(|table| table.columns.clone()).collect();
    for column in low.iter().flat_map(|table| &table.columns) {
        if columns.iter().all(|known| known.id != column.id) {
            columns.push(column.clone());
        }
    }
    columns
}

fn column_changes(first: &[Column], second: &[Column]) -> Vec<ColumnChange> {
    let mut changes = Vec::new();
    for column in second {
        let Some(before) = first.iter().find(|before| before.id == column.id) else {
            changes.push(ColumnChange::Added { name: column.name.clone(), kind: column.kind.to_string() });
            continue;
        };
        if before.name != column.name {
            changes.push(ColumnChange::Renamed { from: before.name.clone(), to: column.name.clone() });
        }
        if before.kind != column.kind {
            let (from, to) = (before.kind.to_string(), column.kind.to_string());
            changes.push(ColumnChange::Retyped { name: column.name.clone(), from, to });
        }
    }
    for column in first.iter().filter(|before| second.iter().all(|column| column.id != before.id)) {
        changes.push(ColumnChange::Removed { name: column.name.clone(), kind: column.kind.to_string() });
    }
    changes
}

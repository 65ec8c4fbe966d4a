//! What changed between two states, against what was written, over random histories with maintenance between; and what
//! other programs have done, against DuckDB's own account of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use common::*;
use portolan_lake::{
    At, Change, ColumnChange, Diff, DiffItem, DiffScope, Existence, Identity, LakeReader, LakeSettings, TableDiff,
};
use portolan_model::ErrorKind;
use portolan_model::catalog::{TableSpec, WriteMode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rows_of(rows: &[(i64, i64)]) -> RecordBatch {
    let id: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let text = rows.iter().map(|(_, value)| (*value != 0).then(|| format!("v{value}")));
    let text: ArrayRef = Arc::new(text.collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("text", text, true)]).unwrap()
}

fn eager() -> LakeSettings {
    LakeSettings { flush_rows: 20, flush_after: Duration::ZERO, inline_rows: 6, grace: Duration::ZERO, ..settings() }
}

fn replaced(name: &str, key: &[&str]) -> TableSpec {
    let key = key.iter().map(|column| (*column).to_owned()).collect();
    TableSpec { mode: WriteMode::Replace, key, ..spec(name) }
}

fn scope(from: i64, to: i64, table: &str) -> DiffScope {
    let (from, to) = (At::Snapshot(from), At::Snapshot(to));
    DiffScope { from, to, table: Some(table.to_owned()), key: None, limit: 10_000 }
}

fn diff(folder: &Path, scope: &DiffScope) -> TableDiff {
    let Diff { mut tables, .. } = LakeReader::open(folder).unwrap().diff(scope).unwrap();
    assert_eq!(tables.len(), 1);
    tables.remove(0)
}

/// A row as it was written: its number and its value.
fn row(batch: &RecordBatch) -> (i64, i64) {
    let id = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().value(0);
    let text = batch.column_by_name("text").unwrap().as_string::<i32>();
    (id, if text.is_null(0) { 0 } else { text.value(0)[1..].parse().unwrap() })
}

/// The rows of the three tables after a round.
type State = [Vec<(i64, i64)>; 3];
type Shown = (Change, Option<(i64, i64)>, Option<(i64, i64)>, u64);

fn shown(items: &[DiffItem]) -> Vec<Shown> {
    let one = |item: &DiffItem| (item.change, item.before.as_ref().map(row), item.after.as_ref().map(row), item.count);
    let mut all: Vec<Shown> = items.iter().map(one).collect();
    all.sort();
    all
}

/// Rows that are found again by their number.
fn by_number(before: &[(i64, i64)], after: &[(i64, i64)]) -> (Vec<Shown>, u64) {
    let maps = [before, after].map(|rows| rows.iter().copied().collect::<BTreeMap<i64, i64>>());
    let (mut all, mut same) = (Vec::new(), 0);
    for id in maps[0].keys().chain(maps[1].keys().filter(|id| !maps[0].contains_key(id))) {
        let sides = [0, 1].map(|side| maps[side].get(id).map(|value| (*id, *value)));
        match sides {
            [one, other] if one == other => same += 1,
            [Some(_), Some(_)] => all.push((Change::Changed, sides[0], sides[1], 1)),
            [None, _] => all.push((Change::Added, None, sides[1], 1)),
            [_, None] => all.push((Change::Removed, sides[0], None, 1)),
        }
    }
    all.sort();
    (all, same)
}

/// Rows that are not told apart, and counted.
fn by_value(before: &[(i64, i64)], after: &[(i64, i64)]) -> (Vec<Shown>, u64) {
    let mut counts: BTreeMap<(i64, i64), [u64; 2]> = BTreeMap::new();
    before.iter().for_each(|row| counts.entry(*row).or_default()[0] += 1);
    after.iter().for_each(|row| counts.entry(*row).or_default()[1] += 1);
    let (mut all, mut same) = (Vec::new(), 0);
    for (row, [before, after]) in counts {
        same += before.min(after);
        if after > before {
            all.push((Change::Added, None, Some(row), after - before));
        } else if before > after {
            all.push((Change::Removed, Some(row), None, before - after));
        }
    }
    all.sort();
    (all, same)
}

fn check(folder: &Path, scope: &DiffScope, expected: (Vec<Shown>, u64), what: &str) -> usize {
    let found = diff(folder, scope);
    assert_eq!(shown(&found.items), expected.0, "{what}");
    let count = |change| expected.0.iter().filter(|one| one.0 == change).map(|one| one.3).sum::<u64>();
    let counted = (found.added, found.removed, found.changed, found.unchanged);
    let total = (count(Change::Added), count(Change::Removed), count(Change::Changed), expected.1);
    assert_eq!(counted, total, "{what}: added, removed, changed, unchanged");
    assert_eq!(found.items_total, expected.0.len() as u64, "{what}");
    expected.0.len()
}

#[tokio::test]
async fn random_histories_differ_by_what_was_written() {
    let mut compared = 0;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let lake = open(folder.path(), eager()).await;
        let mut next = 0;
        let (mut log, mut keyed, mut bag) = (Vec::new(), Vec::new(), Vec::new());
        let mut history: Vec<(i64, State)> = Vec::new();
        for step in 0..10 {
            let mut snapshot = 0;
            if step == 0 || random.random_bool(0.7) {
                let count = random.random_range(0..12);
                let rows: Vec<_> = (0..count).map(|place| (next + place, random.random_range(0..3))).collect();
                next += count;
                log.extend(rows.clone());
                snapshot = round(&lake, spec("log"), &[rows_of(&rows)]).await.unwrap().0.snapshot;
            }
            if step == 0 || random.random_bool(0.6) {
                let count = random.random_range(0..14);
                let mut ids: Vec<i64> = (0..count).map(|_| random.random_range(0..20)).collect();
                ids.sort_unstable();
                ids.dedup();
                keyed = ids.into_iter().map(|id| (id, random.random_range(0..3))).collect();
                snapshot = round(&lake, replaced("keyed", &["id"]), &[rows_of(&keyed)]).await.unwrap().0.snapshot;
                bag = (0..random.random_range(0..10))
                    .map(|_| (random.random_range(0..3), random.random_range(0..2)))
                    .collect();
                snapshot = snapshot.max(round(&lake, replaced("bag", &[]), &[rows_of(&bag)]).await.unwrap().0.snapshot);
            }
            if snapshot > 0 {
                history.push((snapshot, [log.clone(), keyed.clone(), bag.clone()]));
            }
            for _ in 0..random.random_range(0..3) {
                lake.maintain().await.unwrap();
            }
        }
        for (from, before) in &history {
            for (to, after) in &history {
                let what = |table| format!("seed {seed}, {table} from {from} to {to}");
                compared +=
                    check(folder.path(), &scope(*from, *to, "log"), by_number(&before[0], &after[0]), &what("log"));
                let expected = by_number(&before[1], &after[1]);
                compared += check(folder.path(), &scope(*from, *to, "keyed"), expected, &what("keyed"));
                compared +=
                    check(folder.path(), &scope(*from, *to, "bag"), by_value(&before[2], &after[2]), &what("bag"));
            }
        }
    }
    assert!(compared > 1_000, "{compared}");
}

#[tokio::test]
async fn what_duckdb_changes_is_found_as_duckdb_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let lake = open(path, eager()).await;
    round(&lake, spec("orders"), &[rows_of(&(1..=30).map(|id| (id, 1)).collect::<Vec<_>>())]).await.unwrap();
    let first = round(&lake, spec("orders"), &[rows_of(&[(31, 1), (32, 1)])]).await.unwrap().0.snapshot;
    drop(lake);
    duck_write(
        path,
        &[
            "update orders set text = 'v9' where id in (3, 31)",
            "delete from orders where id in (7, 8, 32)",
            "insert into orders select _round, _time, 40, 'v4' from orders where id = 1",
            "alter table orders add column note varchar",
            "update orders set note = 'n' where id = 5",
        ],
    );
    let lake = open(path, eager()).await;
    round(&lake, spec("orders"), &[rows_of(&[(50, 2)])]).await.unwrap();
    for _ in 0..3 {
        lake.maintain().await.unwrap();
    }
    let last = at(path, At::Head).id();
    drop(lake);
    let found = diff(path, &scope(first, last, "orders"));
    let changes: Vec<_> = shown(&found.items).into_iter().map(|one| (one.0, one.1.or(one.2).unwrap().0)).collect();
    let expected = [
        (Change::Changed, 3),
        (Change::Changed, 5),
        (Change::Changed, 31),
        (Change::Added, 40),
        (Change::Added, 50),
        (Change::Removed, 7),
        (Change::Removed, 8),
        (Change::Removed, 32),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    let mut changes = changes;
    changes.sort();
    assert_eq!(changes, expected);
    assert_eq!((found.added, found.removed, found.changed, found.unchanged), (2, 3, 3, 26));
    assert_eq!(found.columns, [ColumnChange::Added { name: "note".into(), kind: "varchar".into() }]);
    // DuckDB tells each step; those that an item goes through end where they end.
    let sql = format!(
        "select count(distinct rowid) filter (change_type = 'insert') as added, \
         count(distinct rowid) filter (change_type = 'delete') as removed, \
         count(distinct rowid) filter (change_type = 'update_postimage') as changed \
         from lake.table_changes('orders', {}, {last})",
        first + 1,
    );
    assert_eq!(duck(path, &[&sql])[0][0], serde_json::json!({"added": 2, "removed": 3, "changed": 3}));
    // The other way round.
    let back = diff(path, &scope(last, first, "orders"));
    assert_eq!((back.added, back.removed, back.changed, back.unchanged), (3, 2, 3, 26));
    assert_eq!(back.columns, [ColumnChange::Removed { name: "note".into(), kind: "varchar".into() }]);
}

#[tokio::test]
async fn a_named_key_compares_the_latest_row_of_each_item() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    let mut snapshots = Vec::new();
    for rows in [&[(1, 1), (2, 1), (1, 2), (3, 1)][..], &[(2, 2), (2, 1), (4, 1)], &[(1, 1), (3, 2)]] {
        snapshots.push(round(&lake, spec("log"), &[rows_of(rows)]).await.unwrap().0.snapshot);
    }
    let keyed = DiffScope { key: Some(vec!["id".into()]), ..scope(snapshots[0], snapshots[2], "log") };
    let expected = vec![
        (Change::Changed, Some((1, 2)), Some((1, 1)), 1),
        (Change::Changed, Some((3, 1)), Some((3, 2)), 1),
        (Change::Added, None, Some((4, 1)), 1),
    ];
    check(folder.path(), &keyed, (expected, 1), "log by id");
    assert_eq!(diff(folder.path(), &keyed).identity, Identity::Key(vec!["id".into()]));
    let wrong = DiffScope { key: Some(vec!["name".into()]), ..keyed };
    let error = LakeReader::open(folder.path()).unwrap().diff(&wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.message().contains("no column `name`") && error.hint().unwrap().contains("text"), "{error:?}");
}

/// A key names columns as the source does, whatever they are called in the table.
#[tokio::test]
async fn a_key_of_renamed_columns_tells_items_apart() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    let ids = |ids: &[i64]| Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef;
    for (name, stored) in [("row_id", "row_id_2"), ("_time", "_time_2"), ("_round", "_round_2")] {
        let mut snapshots = Vec::new();
        for values in [[7, 8], [7, 9]] {
            let batch = RecordBatch::try_from_iter([(name, ids(&[1, 2])), ("value", ids(&values))]).unwrap();
            let table = replaced(&format!("by{name}"), &[name]);
            snapshots.push(round(&lake, table, &[batch]).await.unwrap().0.snapshot);
        }
        let found = diff(folder.path(), &scope(snapshots[0], snapshots[1], &format!("by{name}")));
        assert_eq!(found.identity, Identity::Key(vec![stored.into()]));
        assert_eq!((found.added, found.removed, found.changed, found.unchanged), (0, 0, 1, 1), "{name}");
    }
    // The table has no such column of the source's.
    let mut snapshots = Vec::new();
    for value in [7, 8] {
        let batch = RecordBatch::try_from_iter([("value", ids(&[value]))]).unwrap();
        snapshots.push(round(&lake, replaced("bare", &["_time"]), &[batch]).await.unwrap().0.snapshot);
    }
    assert_eq!(diff(folder.path(), &scope(snapshots[0], snapshots[1], "bare")).identity, Identity::WholeRow);
}

#[tokio::test]
async fn tables_and_columns_that_come_are_said_and_what_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), eager()).await;
    let first = round(&lake, spec("orders"), &[rows_of(&[(1, 1)])]).await.unwrap().0;
    round(&lake, spec("metrics"), &[rows_of(&[(1, 1), (2, 1)])]).await.unwrap();
    let more: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let batch = RecordBatch::try_from_iter([("id", more.clone()), ("size", more)]).unwrap();
    let last = round(&lake, spec("orders"), &[batch]).await.unwrap().0;
    let reader = LakeReader::open(folder.path()).unwrap();
    let whole = |from, to| DiffScope { from, to, table: None, key: None, limit: 0 };
    let (one, two) = (At::Round(first.round.0), At::Round(last.round.0));
    let found = reader.diff(&whole(one, two)).unwrap().tables;
    let names: Vec<_> =
        found.iter().map(|table| (table.name.as_str(), table.existence, table.added, table.unchanged)).collect();
    assert_eq!(names, [("metrics", Existence::Added, 2, 0), ("orders", Existence::Both, 1, 1)]);
    assert_eq!(found[1].columns, [ColumnChange::Added { name: "size".into(), kind: "int64".into() }]);
    assert!(found.iter().all(|table| table.items.is_empty()));
    let back = reader.diff(&whole(two, one)).unwrap().tables;
    assert_eq!((back[0].existence, back[0].removed, back[1].removed), (Existence::Removed, 2, 1));
    assert!(reader.diff(&whole(two, two)).unwrap().tables.iter().all(TableDiff::is_same));
    let limited = diff(folder.path(), &DiffScope { limit: 1, from: one, to: two, ..scope(0, 0, "metrics") });
    assert_eq!((limited.items.len(), limited.items_total), (1, 2));
    let error = reader.diff(&whole(one, At::Round(99))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("the latest is 3"), "{error:?}");
    let error = reader.diff(&DiffScope { table: Some("order".into()), ..whole(one, two) }).unwrap_err();
    assert!(error.hint().unwrap().contains("metrics, orders"), "{error:?}");
}

//! The comparison of a lake with what was written outside, through DuckDB: every row, every round.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::collector::Collector;
use super::world::{DRAIN_PATIENCE, RISING, WHOLE, World};
use crate::duckdb;
use crate::ledger::Ledger;

/// How often a lake is looked at while it catches up.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What was found right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Audited {
    /// Rows, each once and unaltered.
    pub rows: u64,
    /// Rounds, each whole.
    pub rounds: u64,
}

/// Waits until the lake holds everything written. The writers must have been stopped.
pub fn drain(world: &World, lake: &Path, collector: &mut Collector) -> Result<()> {
    let start = Instant::now();
    loop {
        if let Some(status) = collector.process().ended()? {
            bail!("the collector ended with {status} while draining; its log ends:\n{}", collector.log_tail());
        }
        let held = heights(lake);
        let is_whole = held.as_ref().is_ok_and(|held| {
            RISING.iter().all(|rising| held.get(rising.table).copied().unwrap_or(0) >= world.written(rising.table))
        });
        // A server that was down last is read again a moment later.
        if is_whole && compare_whole(world, lake).is_ok() {
            return Ok(());
        }
        if start.elapsed() > DRAIN_PATIENCE {
            if is_whole {
                compare_whole(world, lake)?;
            }
            let wanted: Vec<String> =
                RISING.iter().map(|rising| format!("{} {}", rising.table, world.written(rising.table))).collect();
            bail!(
                "the lake holds {held:?} of {} after {DRAIN_PATIENCE:?}; the collector's log ends:\n{}",
                wanted.join(", "),
                collector.log_tail()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// How far each rising table is that exists: its number of rows, because its parts come in any order.
fn heights(lake: &Path) -> Result<BTreeMap<String, i64>> {
    let tables = table_names(lake)?;
    let mut heights = BTreeMap::new();
    for table in RISING.map(|rising| rising.table).iter().filter(|table| tables.contains(&(**table).to_owned())) {
        let rows = duckdb::query(lake, &format!("SELECT count(*) AS height FROM {table}"))?;
        heights.insert((*table).to_owned(), rows.first().and_then(|row| row["height"].as_i64()).unwrap_or(0));
    }
    Ok(heights)
}

fn table_names(lake: &Path) -> Result<Vec<String>> {
    let sql = "SELECT table_name AS name FROM duckdb_tables() WHERE database_name = 'lake'";
    Ok(duckdb::query(lake, sql)?.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
}

/// Compares a lake with everything that was written: nothing lost, duplicated, altered or invented, every round whole.
pub fn compare_all(world: &World, lake: &Path) -> Result<Audited> {
    let audited = compare(lake, Some(world))?;
    compare_whole(world, lake)?;
    Ok(audited)
}

/// Compares the tables that are read whole with what the servers hold.
fn compare_whole(world: &World, lake: &Path) -> Result<()> {
    for (table, sql) in WHOLE {
        let (held, wanted) = (duckdb::query(lake, sql)?, world.whole(table)?);
        ensure!(held == wanted, "`{table}` holds {held:?}, the server {wanted:?}");
    }
    Ok(())
}

/// The binary's own opinion of a lake: each round's digest, and the structure.
pub fn prove(binary: &Path, lake: &Path) -> Result<()> {
    for words in [&["verify"][..], &["lake", "fsck"]] {
        let output = Command::new(binary).args(words).arg("--lake").arg(lake).output().context("run the binary")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "`{}` ended with {}:\n{out}{err}", words.join(" "), output.status);
    }
    Ok(())
}

/// Compares a lake that is behind: what it holds of each part of a source must be everything up to some number, each once.
pub fn compare_prefix(lake: &Path) -> Result<Audited> {
    compare(lake, None)
}

/// Compares with everything that the world has written, or with what must be there if the lake is behind.
fn compare(lake: &Path, world: Option<&World>) -> Result<Audited> {
    let tables = table_names(lake).context("list the lake's tables")?;
    let mut audited = Audited::default();
    let mut statements = vec!["SELECT round, source, verdict, rows FROM portolan.receipts".to_owned()];
    let mut present = Vec::new();
    for rising in RISING {
        let table = rising.table;
        if tables.contains(&table.to_owned()) {
            present.push(rising);
            statements.push(format!("SELECT * EXCLUDE (_time) FROM {table}"));
        } else if let Some(written) = world.map(|world| world.written(table)).filter(|written| *written > 0) {
            bail!("the table `{table}` is missing, {written} rows were written");
        }
    }
    if !tables.contains(&"receipts".to_owned()) {
        ensure!(present.is_empty(), "there are rows and no receipts");
        return Ok(audited);
    }
    let session = duckdb::Session { folder: lake, snapshot: None, write: false };
    let mut answers = session.run(&statements.iter().map(String::as_str).collect::<Vec<_>>())?.into_iter();
    let receipts = answers.next().context("no receipts")?;
    for (rising, rows) in present.into_iter().zip(answers) {
        let table = rising.table;
        let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
        for id in rows.iter().filter_map(|row| row["id"].as_i64()) {
            let end = ends.entry((rising.part)(id)).or_default();
            *end = (*end).max(id);
        }
        let highest = world.map_or_else(|| ends.values().copied().max().unwrap_or(0), |world| world.written(table));
        let is_due = |id: &i64| world.is_some() || ends.get(&(rising.part)(*id)).is_some_and(|end| id <= end);
        let mut ledger = Ledger::default();
        for id in (1..=highest).filter(is_due) {
            ledger.wrote(table, id, (rising.content)(id));
        }
        let difference = ledger.compare(table, "id", &rows);
        ensure!(difference.is_empty(), "`{table}`: {difference}");
        audited.rows += rows.len() as u64;
        audited.rounds += whole_rounds(table, &rows, &receipts)?;
    }
    Ok(audited)
}

/// Each round's rows are as many as its receipt says, and each receipt's rows are there.
fn whole_rounds(table: &str, rows: &[Value], receipts: &[Value]) -> Result<u64> {
    let mut held: BTreeMap<i64, i64> = BTreeMap::new();
    for row in rows {
        *held.entry(row["_round"].as_i64().context("a row without round")?).or_default() += 1;
    }
    let mut rounds = 0;
    for receipt in receipts.iter().filter(|receipt| receipt["source"] == table) {
        let round = receipt["round"].as_i64().context("a receipt without round")?;
        let said = receipt["rows"].as_i64().unwrap_or(0);
        let found = held.remove(&round).unwrap_or(0);
        ensure!(said == found, "round {round} of `{table}` has {found} rows, its receipt says {said}");
        rounds += 1;
    }
    ensure!(held.is_empty(), "rounds of `{table}` without a receipt: {held:?}");
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::whole_rounds;

    #[test]
    fn a_round_with_half_its_rows_or_without_a_receipt_is_found() {
        let rows = [json!({ "_round": 1 }), json!({ "_round": 1 }), json!({ "_round": 2 })];
        let receipt = |round: i64, rows: i64| json!({ "source": "orders", "round": round, "rows": rows });
        let other = json!({ "source": "events", "round": 9, "rows": 9 });
        assert_eq!(whole_rounds("orders", &rows, &[receipt(1, 2), receipt(2, 1), other]).ok(), Some(2));
        for wrong in
            [vec![receipt(1, 2)], vec![receipt(1, 1), receipt(2, 1)], vec![receipt(1, 2), receipt(2, 1), receipt(3, 4)]]
        {
            assert!(whole_rounds("orders", &rows, &wrong).is_err(), "{wrong:?}");
        }
    }
}

//! The floor: what one durable SQLite transaction with the same rows takes, without a catalog, receipts or positions.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use portolan_bench::Stretch;
use rusqlite::{Connection, params};

use crate::rows::{TABLES, rows};
use crate::{Measured, WARM_ROUNDS};

/// Commits `rounds` transactions of `count` rows in each of three tables.
pub(crate) fn measure(folder: &Path, rounds: u64, count: u64) -> Result<Measured> {
    std::fs::create_dir_all(folder)?;
    let mut database = Connection::open(folder.join("floor.sqlite"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    for table in TABLES {
        database.execute_batch(&format!(
            "CREATE TABLE {table}(time INTEGER, device INTEGER, text TEXT, sequence INTEGER)"
        ))?;
    }
    for round in 0..WARM_ROUNDS {
        commit(&mut database, round, count)?;
    }
    let mut rounds_us = Vec::new();
    let stretch = Stretch::begin();
    for round in WARM_ROUNDS..WARM_ROUNDS + rounds {
        let start = Instant::now();
        commit(&mut database, round, count)?;
        rounds_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let (wall_us, cpu_us) = stretch.end_us();
    Ok(Measured { rounds_us, wall_us, cpu_us })
}

fn commit(database: &mut Connection, round: u64, count: u64) -> Result<()> {
    let transaction = database.transaction()?;
    for table in TABLES {
        let mut insert = transaction.prepare_cached(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4)"))?;
        for row in rows(round, count) {
            insert.execute(params![row.time_us, row.device, row.text, row.sequence])?;
        }
    }
    Ok(transaction.commit()?)
}

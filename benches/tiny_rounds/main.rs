//! Durable rounds of three tables with a few rows each: how many a second, and what a day of them does to a lake.
//!
//! - `tiny_rounds lake|files|floor FOLDER ROUNDS ROWS` commits so many rounds as fast as it can, each durable before
//!   the next, and prints `rounds_per_s p50_us p99_us cpu_us` of one line. `lake` keeps the rows in the catalog, `files`
//!   writes each table's rows as a Parquet file, `floor` is a bare SQLite transaction of the same rows.
//! - `tiny_rounds day FOLDER ROUNDS KEEP_S MAINTENANCE_S [SECONDS_PER_ROUND]` commits a day of rounds at full speed on a
//!   clock that advances by SECONDS_PER_ROUND (1) a round, with maintenance as the collector runs it and a reader beside,
//!   and prints a table over time.

#![forbid(unsafe_code)]

mod day;
mod floor;
mod lake;
mod rows;

use std::path::Path;

use anyhow::{Result, bail};
use portolan_bench::percentile;

/// Rounds before the measured ones.
const WARM_ROUNDS: u64 = 50;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [kind @ ("lake" | "files" | "floor"), folder, rounds, rows] => {
            let (folder, rounds, rows) = (Path::new(folder), rounds.parse()?, rows.parse()?);
            let mut measured = match *kind {
                "floor" => floor::measure(folder, rounds, rows)?,
                kind => runtime()?.block_on(lake::measure(folder, rounds, rows, kind == "files"))?,
            };
            println!("{measured}", measured = measured.line());
            Ok(())
        }
        ["day", folder, rounds, keep_s, maintenance_s, rest @ ..] => {
            let seconds_per_round = match rest {
                [] => 1.0,
                [seconds] => seconds.parse()?,
                _ => bail!("too many arguments"),
            };
            let plan = day::Plan {
                rounds: rounds.parse()?,
                keep_s: keep_s.parse()?,
                maintenance_s: maintenance_s.parse()?,
                seconds_per_round,
            };
            runtime()?.block_on(day::run(Path::new(folder), plan))
        }
        _ => bail!(
            "usage: tiny_rounds lake|files|floor FOLDER ROUNDS ROWS\n       \
             tiny_rounds day FOLDER ROUNDS KEEP_S MAINTENANCE_S [SECONDS_PER_ROUND]"
        ),
    }
}

/// The runtime of the product's `main`.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// What a run of rounds took.
pub(crate) struct Measured {
    /// Each round's time, in microseconds.
    pub(crate) rounds_us: Vec<f64>,
    /// Time of all of them, in microseconds.
    pub(crate) wall_us: f64,
    /// CPU time of all of them, in microseconds.
    pub(crate) cpu_us: f64,
}

impl Measured {
    fn line(&mut self) -> String {
        let count = self.rounds_us.len() as f64;
        let (p50_us, p99_us) = (percentile(&mut self.rounds_us, 0.5), percentile(&mut self.rounds_us, 0.99));
        format!("{:.1} {p50_us:.0} {p99_us:.0} {:.0}", count / self.wall_us * 1e6, self.cpu_us / count)
    }
}

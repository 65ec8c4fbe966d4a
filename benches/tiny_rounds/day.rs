//! A day of rounds at full speed, with maintenance and a reader beside: what stays bounded, and how long queries take.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arrow::array::{AsArray, types::Int64Type};
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use portolan_bench::percentile;
use portolan_lake::{At, Lake, LakeReader};
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::config::{DurationText, LakeSpec};

use crate::lake::{commit, sources};

/// Rows of each table in a round.
const ROWS: u64 = 10;
/// Lines of the printed table.
const STRETCHES: u64 = 12;
/// The reader's pause between two queries.
const READER_PAUSE: Duration = Duration::from_millis(50);

/// What to run.
pub(crate) struct Plan {
    pub(crate) rounds: u64,
    /// Age from which on a snapshot expires, on the simulated clock, in seconds.
    pub(crate) keep_s: u64,
    /// Time from one look at what maintenance is due to the next, on the real clock, in seconds.
    pub(crate) maintenance_s: f64,
    /// What the simulated clock advances by a round, in seconds.
    pub(crate) seconds_per_round: f64,
}

/// A clock that runs ahead of the machine's by what the rounds stand for.
struct Ahead {
    machine: SystemClock,
    ahead_us: AtomicU64,
}

impl Ahead {
    fn ahead(&self) -> Duration {
        Duration::from_micros(self.ahead_us.load(Ordering::Relaxed))
    }
}

impl Clock for Ahead {
    fn monotonic(&self) -> Duration {
        self.machine.monotonic() + self.ahead()
    }

    fn wall(&self) -> Timestamp {
        self.machine.wall().saturating_add(self.ahead()).unwrap_or(Timestamp::MAX)
    }
}

/// Runs the day and prints a line for each twelfth of it.
pub(crate) async fn run(folder: &Path, plan: Plan) -> Result<()> {
    let clock = Arc::new(Ahead { machine: SystemClock::new(), ahead_us: AtomicU64::new(0) });
    let keep_snapshots = DurationText(Duration::from_secs(plan.keep_s));
    let spec = LakeSpec { path: folder.to_owned(), keep_snapshots, ..LakeSpec::default() };
    let lake = Arc::new(Lake::open(&spec, clock.clone())?);
    let sources = sources()?;
    commit(&*lake, &*clock, &sources, 0, ROWS).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let latencies_us = Arc::new(Mutex::new(Latencies::default()));
    let reader = {
        let (folder, stop, latencies_us) = (folder.to_owned(), stop.clone(), latencies_us.clone());
        std::thread::spawn(move || read_until(&folder, &stop, &latencies_us))
    };
    let maintenance = tokio::spawn(maintain(lake.clone(), Duration::from_secs_f64(plan.maintenance_s), stop.clone()));

    println!(
        "| rounds | rounds/s | commit p50 ms | p99 ms | max ms | newest rows p50 ms | p99 ms | whole column p50 ms | p99 ms | \
         catalog MB | WAL MB | data MB | files | live files | snapshots |"
    );
    println!("|{}", " ---: |".repeat(15));
    let mut round = 1;
    for stretch in 1..=STRETCHES {
        let end = plan.rounds * stretch / STRETCHES;
        let start = Instant::now();
        let mut commits_us = Vec::new();
        while round <= end {
            clock.ahead_us.fetch_add((plan.seconds_per_round * 1e6) as u64, Ordering::Relaxed);
            let before = Instant::now();
            commit(&*lake, &*clock, &sources, round, ROWS).await?;
            commits_us.push(before.elapsed().as_secs_f64() * 1e6);
            round += 1;
        }
        let per_second = commits_us.len() as f64 / start.elapsed().as_secs_f64();
        let max_us = percentile(&mut commits_us, 1.0);
        let mut taken = std::mem::take(&mut *latencies_us.lock().unwrap_or_else(PoisonError::into_inner));
        let ms = |values: &mut Vec<f64>, share| percentile(values, share) / 1e3;
        let store = Store::look(folder)?;
        println!(
            "| {} | {per_second:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {} | {} | {} |",
            round - 1,
            ms(&mut commits_us, 0.5),
            ms(&mut commits_us, 0.99),
            max_us / 1e3,
            ms(&mut taken.newest_us, 0.5),
            ms(&mut taken.newest_us, 0.99),
            ms(&mut taken.whole_us, 0.5),
            ms(&mut taken.whole_us, 0.99),
            store.catalog_mb,
            store.wal_mb,
            store.data_mb,
            store.files,
            store.live_files,
            store.snapshots,
        );
    }
    stop.store(true, Ordering::Relaxed);
    let jobs = maintenance.await??;
    let queries = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    lake.close().await?;
    println!(
        "\n{queries} queries beside the rounds, each saw whole rounds only; maintenance did something {jobs} times."
    );
    Ok(())
}

/// Looks for due maintenance at the collector's pace. Returns how often there was something to do.
async fn maintain(lake: Arc<Lake>, pause: Duration, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut jobs = 0;
    while !stop.load(Ordering::Relaxed) {
        // As `portolan run` does.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lake.flush_due() => {}
        }
        let report = lake.maintain().await?;
        jobs += u64::from(!report.is_empty());
    }
    Ok(jobs)
}

/// How long queries took since the last look, in microseconds.
#[derive(Default)]
struct Latencies {
    newest_us: Vec<f64>,
    whole_us: Vec<f64>,
}

/// Queries in turns until told to stop: how many rows a table has and what its newest are; and a sum over a column.
fn read_until(folder: &Path, stop: &AtomicBool, latencies_us: &Mutex<Latencies>) -> Result<u64> {
    let reader = LakeReader::open(folder)?;
    let mut queries = 0;
    while !stop.load(Ordering::Relaxed) {
        for is_whole in [false, true] {
            let start = Instant::now();
            query(&reader, is_whole)?;
            let taken_us = start.elapsed().as_secs_f64() * 1e6;
            let mut latencies = latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
            if is_whole {
                latencies.whole_us.push(taken_us)
            } else {
                latencies.newest_us.push(taken_us)
            }
            queries += 1;
        }
        std::thread::sleep(READER_PAUSE);
    }
    Ok(queries)
}

/// One query on one committed state; fails if the state is not one of whole rounds.
fn query(reader: &LakeReader, is_whole: bool) -> Result<()> {
    let snapshot = reader.snapshot(At::Head)?;
    let tables = snapshot.tables()?;
    let find =
        |name: &str| tables.iter().find(|table| table.schema == "main" && table.name == name).context("no such table");
    let table = find("alpha")?;
    let rows = table.rows();
    anyhow::ensure!(rows == find("gamma")?.rows() && rows.is_multiple_of(ROWS), "a round is visible in part");
    let sequence = table.columns.iter().position(|column| column.name == "sequence").context("no such column")?;
    let projection: Option<&[usize]> = Some(&[sequence]);
    let mut sum = 0_i128;
    let mut count = 0_u64;
    let mut add = |batch: &RecordBatch| {
        let values = batch.column(0).as_primitive::<Int64Type>();
        sum += values.values().iter().map(|value| i128::from(*value)).sum::<i128>();
        count += values.len() as u64;
    };
    snapshot.inlined(table, projection)?.iter().for_each(&mut add);
    if is_whole {
        for file in &table.files {
            for batch in snapshot.read_file(table, file, projection)? {
                add(&batch?);
            }
        }
        let expected = i128::from(rows) * (i128::from(rows) - 1) / 2;
        anyhow::ensure!(count == rows && sum == expected, "rows are lost or doubled: {count} of {rows}");
    }
    Ok(())
}

/// The size of things on disk.
struct Store {
    catalog_mb: f64,
    wal_mb: f64,
    data_mb: f64,
    files: usize,
    live_files: usize,
    snapshots: u64,
}

impl Store {
    fn look(folder: &Path) -> Result<Self> {
        let size_mb = |path: PathBuf| std::fs::metadata(path).map_or(0.0, |found| found.len() as f64 / 1e6);
        let mut data = (0, 0);
        add_folder(&folder.join("data"), &mut data)?;
        let catalog = rusqlite::Connection::open(folder.join("catalog.sqlite"))?;
        let count = |sql: &str| catalog.query_row(sql, [], |row| row.get::<_, u64>(0));
        Ok(Self {
            catalog_mb: size_mb(folder.join("catalog.sqlite")),
            wal_mb: size_mb(folder.join("catalog.sqlite-wal")),
            data_mb: data.0 as f64 / 1e6,
            files: data.1,
            live_files: count("SELECT count(*) FROM ducklake_data_file WHERE end_snapshot IS NULL")? as usize,
            snapshots: count("SELECT count(*) FROM ducklake_snapshot")?,
        })
    }
}

fn add_folder(folder: &Path, total: &mut (u64, usize)) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        // A file that maintenance removes meanwhile is not there any more.
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            add_folder(&entry.path(), total)?;
        } else {
            total.0 += found.len();
            total.1 += 1;
        }
    }
    Ok(())
}

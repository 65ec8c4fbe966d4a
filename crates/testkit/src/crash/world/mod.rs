//! The servers that a campaign collects from, one module a kind, and the writers that change them meanwhile.
//!
//! What a row holds follows from its number, so the ledger needs only the numbers: a writer that was cut off looks how
//! far it came and goes on from there.

mod database;
mod ftp;
mod http;
mod redis;
mod tcp;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::random::Random;

/// How long a lake may take to hold everything once nothing is written any more.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
/// A burst is a batch that is too large to be kept inside the catalog.
const BURST_ROWS: i64 = 400;

/// A table whose rows are numbered from 1 without a gap, in the column `id`; its source has the same name.
#[derive(Clone, Copy, Debug)]
pub struct Rising {
    /// Its name.
    pub table: &'static str,
    /// The row of a number.
    pub content: fn(i64) -> Value,
    /// The part of the source that a number is in: rows come in their order within a part.
    pub part: fn(i64) -> i64,
    /// How its position shows what has been read.
    pub position: PositionKind,
}

/// How a position shows what has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionKind {
    /// It names the highest number.
    Highest,
    /// It lies within the source's intake log.
    Intake,
    /// The server keeps it, or it is not about numbers.
    Other,
}

/// Every such table.
pub const RISING: [Rising; 8] = [
    Rising { table: "orders", content: database::row, part: whole, position: PositionKind::Highest },
    Rising { table: "invoices", content: database::row, part: whole, position: PositionKind::Highest },
    Rising { table: "events", content: http::event, part: whole, position: PositionKind::Highest },
    Rising { table: "signals", content: tcp::signal, part: whole, position: PositionKind::Intake },
    Rising { table: "entries", content: redis::entry, part: whole, position: PositionKind::Highest },
    Rising { table: "jobs", content: redis::entry, part: whole, position: PositionKind::Other },
    Rising { table: "readings", content: ftp::reading, part: ftp::reading_file, position: PositionKind::Other },
    Rising { table: "reports", content: ftp::report, part: ftp::report_file, position: PositionKind::Other },
];

/// Tables that are read whole each time, and the statement that shows them as the server does.
pub const WHOLE: [(&str, &str); 2] = [
    ("devices", "SELECT id, version FROM devices ORDER BY id"),
    ("machines", "SELECT key AS id, version FROM machines ORDER BY key"),
];

fn whole(_: i64) -> i64 {
    0
}

/// One kind of server with its tables and its writer.
trait Station: std::fmt::Debug + Send + Sync {
    /// Its `[[source]]`s.
    fn configuration(&self) -> String;
    /// Writes until it is told to end.
    fn write(&self, progress: &Progress, writing: &mut Writing) -> Result<()>;
    /// Kills, freezes or cuts it off for a while. Returns what was done.
    fn blow(&self, random: &mut Random) -> Result<&'static str>;
    /// What its tables that are read whole hold now.
    fn whole(&self) -> Result<Vec<(&'static str, Vec<Value>)>> {
        Ok(Vec::new())
    }
    /// Whether it was ever told something wrong.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Makes it give again what it has been told is safe: a lake of before that goes on lacks it.
    fn forget_acknowledged(&self) -> Result<()> {
        Ok(())
    }
}

/// The servers, the writers and the folder with configuration and lake.
#[derive(Debug)]
pub struct World {
    stations: Arc<Vec<Box<dyn Station>>>,
    progress: Arc<Progress>,
    writers: Option<Writers>,
    folder: TempDir,
    lake: PathBuf,
}

/// The highest number written for sure, by table.
#[derive(Debug)]
struct Progress(BTreeMap<&'static str, AtomicI64>);

impl Progress {
    fn of(&self, table: &str) -> i64 {
        self.0.get(table).map_or(0, |highest| highest.load(Ordering::SeqCst))
    }

    fn found(&self, table: &str, highest: i64) {
        if let Some(known) = self.0.get(table) {
            known.fetch_max(highest, Ordering::SeqCst);
        }
    }
}

/// What a writer goes by.
struct Writing {
    random: Random,
    stop: Arc<AtomicBool>,
}

impl Writing {
    /// Waits for a time between these, in milliseconds; false once the writer is to end.
    fn goes_on(&mut self, low_ms: u64, high_ms: u64) -> bool {
        let goes_on = !self.stop.load(Ordering::SeqCst);
        if goes_on {
            std::thread::sleep(self.random.moment(low_ms, high_ms));
        }
        goes_on
    }
}

#[derive(Debug)]
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl World {
    /// Starts the servers with empty tables, and writes the configuration. The lake is `lake` where given.
    pub fn start(lake: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portolan-crash-").tempdir()?;
        let lake = lake.map_or_else(|| folder.path().join("lake"), Path::to_owned);
        let stations: Vec<Box<dyn Station>> = vec![
            Box::new(database::Database::mariadb()?),
            Box::new(database::Database::postgres()?),
            Box::new(http::Http::start()?),
            Box::new(tcp::Tcp::start()?),
            Box::new(redis::Cache::start()?),
            Box::new(ftp::Growing::start()?),
            Box::new(ftp::Whole::start()?),
        ];
        std::fs::write(folder.path().join("portolan.toml"), configuration(&lake, &stations))?;
        let progress = Progress(RISING.iter().map(|rising| (rising.table, AtomicI64::new(0))).collect());
        Ok(Self { stations: Arc::new(stations), progress: Arc::new(progress), writers: None, folder, lake })
    }

    /// The folder that holds `portolan.toml`, logs, and the lake unless it was put elsewhere.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("portolan.toml")
    }

    /// The same configuration with another lake.
    pub fn configuration_for(&self, lake: &Path) -> Result<PathBuf> {
        let text = std::fs::read_to_string(self.configuration())?;
        let path = self.folder.path().join("portolan-other.toml");
        std::fs::write(&path, text.replace(&self.lake.display().to_string(), &lake.display().to_string()))?;
        Ok(path)
    }

    /// The lake's folder.
    pub fn lake(&self) -> &Path {
        &self.lake
    }

    /// The highest number written to a rising table.
    pub fn written(&self, table: &str) -> i64 {
        self.progress.of(table)
    }

    /// Whether a server or sender was ever told that something is safe which was not.
    ///
    /// # Errors
    /// It was: a message that had been acknowledged was asked for again.
    pub fn check_acknowledgements(&self) -> Result<()> {
        self.stations.iter().try_for_each(|station| station.check())
    }

    /// Makes the servers give again what they were told is safe, for a lake of before that goes on from there.
    pub fn forget_acknowledged(&self) -> Result<()> {
        self.stations.iter().try_for_each(|station| station.forget_acknowledged())
    }

    /// What a table that is read whole holds now.
    pub fn whole(&self, table: &str) -> Result<Vec<Value>> {
        for station in self.stations.iter() {
            if let Some((_, rows)) = station.whole()?.into_iter().find(|(name, _)| *name == table) {
                return Ok(rows);
            }
        }
        anyhow::bail!("no server has a table `{table}` that is read whole")
    }

    /// Starts the writers, one a server.
    pub fn start_writers(&mut self, seed: u64) {
        let stop = Arc::<AtomicBool>::default();
        let threads = (0..self.stations.len())
            .map(|index| {
                let (stations, progress) = (self.stations.clone(), self.progress.clone());
                let mut writing = Writing { random: Random::new(seed ^ (index as u64 + 1)), stop: stop.clone() };
                std::thread::spawn(move || {
                    let station = &stations[index];
                    station.write(&progress, &mut writing).with_context(|| format!("the writer of {station:?}"))
                })
            })
            .collect();
        self.writers = Some(Writers { stop, threads });
    }

    /// Stops the writers.
    ///
    /// # Errors
    /// A writer failed for another reason than a killed server.
    pub fn stop_writers(&mut self) -> Result<()> {
        let Some(writers) = self.writers.take() else { return Ok(()) };
        writers.stop.store(true, Ordering::SeqCst);
        for thread in writers.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    }

    /// Kills, freezes or cuts off one of the servers for a while. Returns what was done.
    pub fn blow_server(&self, random: &mut Random) -> Result<&'static str> {
        self.stations[random.between(0, self.stations.len() as u64) as usize].blow(random)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stop_writers();
        if std::thread::panicking() || std::env::var_os("PORTOLAN_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept for looking at: {}", self.folder.path().display());
        }
    }
}

/// Small thresholds, so that within seconds rows are inlined, flushed, merged, and snapshots expire.
fn configuration(lake: &Path, stations: &[Box<dyn Station>]) -> String {
    let sources: String = stations.iter().map(|station| station.configuration()).collect();
    let names = RISING.iter().map(|rising| rising.table).chain(WHOLE.iter().map(|(table, _)| *table));
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    format!(
        r#"
[server]
host = "127.0.0.1"

[lake]
path = "{}"
inline_rows = 100
flush_rows = 2000
flush_after = "3s"
merge_below = "1MiB"
keep_snapshots = "10s"
{sources}
[[round]]
name = "all"
sources = [{}]
every = "50ms"
deadline = "5s"
"#,
        lake.display(),
        names.join(", ")
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn batch(random: &mut Random, next: i64) -> std::ops::Range<i64> {
    let count = if random.once_in(25) { BURST_ROWS } else { random.between(1, 12) as i64 };
    next..next + count
}

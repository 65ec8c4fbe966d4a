//! `portolan lake flush`, `merge` and `expire`: a maintenance job at once, to its end, in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_lake::{Job, Lake, LakeReader, MaintenanceReport};
use portolan_model::clock::SystemClock;
use portolan_model::config::{DurationText, LakeSpec};
use portolan_model::{Error, ErrorKind};

use crate::cli::progress::Progress;
use crate::exit::{Exit, Stop};

/// Arguments of `portolan lake flush` and `merge`.
#[derive(Debug, clap::Args)]
#[command(after_help = "No collector may run: it does this by itself, and holds the lake's lock.

Examples:
  portolan lake flush
  portolan lake merge --table orders
  portolan lake flush --table portolan.receipts --lake ./lake")]
pub(crate) struct TableArguments {
    /// One table alone: a source's name, or portolan.rounds, portolan.receipts, portolan.quarantine.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Arguments of `portolan lake expire`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A snapshot shows every table at one instant, so it expires for all of them. The latest never does, and no
row of it is touched. No collector may run: it does this by itself, and holds the lake's lock.

Examples:
  portolan lake expire                       as `keep_snapshots` under [lake] says
  portolan lake expire --keep 2d"
)]
pub(crate) struct ExpireArguments {
    /// The age up to which snapshots are kept, instead of the configuration's `keep_snapshots`.
    #[arg(long, value_name = "DURATION", value_parser = DurationText::parse)]
    keep: Option<DurationText>,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Flushes.
pub(crate) async fn flush(config: &Path, arguments: TableArguments) -> Result<Exit, Stop> {
    let spec = spec(arguments.lake, config)?;
    run(&spec, &Job::Flush(arguments.table.as_deref().map(table_name)), arguments.json).await
}

/// Merges.
pub(crate) async fn merge(config: &Path, arguments: TableArguments) -> Result<Exit, Stop> {
    let spec = spec(arguments.lake, config)?;
    run(&spec, &Job::Merge(arguments.table.as_deref().map(table_name)), arguments.json).await
}

/// Lets snapshots expire.
pub(crate) async fn expire(config: &Path, arguments: ExpireArguments) -> Result<Exit, Stop> {
    let spec = spec(arguments.lake, config)?;
    let keep = arguments.keep.unwrap_or(spec.keep_snapshots).0;
    run(&spec, &Job::Expire(keep), arguments.json).await
}

/// Schema and name.
fn table_name(text: &str) -> (String, String) {
    let (schema, name) = text.split_once('.').unwrap_or(("main", text));
    (schema.to_owned(), name.to_owned())
}

/// The lake's settings: the configuration's where there is one.
fn spec(named: Option<PathBuf>, config: &Path) -> Result<LakeSpec, Stop> {
    let mut spec = match config.exists() {
        true => crate::cli::configuration(config)?.0.lake,
        false => LakeSpec { path: crate::cli::lake_path(named.as_deref(), config)?, ..LakeSpec::default() },
    };
    if let Some(path) = named {
        spec.path = path;
    }
    Ok(spec)
}

async fn run(spec: &LakeSpec, job: &Job, json: bool) -> Result<Exit, Stop> {
    // Opening for writing would make a lake where there is none.
    LakeReader::open(&spec.path)?;
    let lake = open(spec)?;
    let bar = Progress::text();
    bar.keep_moving();
    let outcome = lake.run_job(job, &mut |at| bar.tell(format!("{}: {}", at.what, at.done))).await;
    bar.end();
    let report = outcome?;
    lake.close().await?;
    drop(lake);
    let waiting = LakeReader::open(&spec.path)?.stats(&SystemClock::new())?.reclaimable.scheduled_bytes;
    show(&report, waiting, json)?;
    Ok(Exit::Success)
}

/// Opens the lake for writing; who holds it is named, with what to do.
pub(crate) fn open(spec: &LakeSpec) -> Result<Lake, Stop> {
    Lake::open(spec, Arc::new(SystemClock::new())).map_err(|error| {
        if error.kind() != ErrorKind::Conflict {
            return error.into();
        }
        let holder = LakeReader::open(&spec.path).and_then(|reader| reader.collector()).ok().flatten();
        let Some(holder) = holder else { return error.into() };
        let message = format!("process {holder} is collecting into {}", spec.path.display());
        Error::new(ErrorKind::Conflict, "open lake", message)
            .with_hint(format!(
                "a running collector maintains the lake by itself; to do it here, stop that one first: kill {holder}"
            ))
            .into()
    })
}

fn show(report: &MaintenanceReport, waiting_bytes: u64, json: bool) -> std::io::Result<()> {
    if json {
        return crate::cli::print_line(serde_json::json!({
            "flushed_rows": report.flushed_rows,
            "settled_rows": report.settled_rows,
            "merged_files": report.merged_files,
            "expired_snapshots": report.expired_snapshots,
            "removed_files": report.removed_files,
            "waiting_bytes": waiting_bytes,
        }));
    }
    crate::cli::print_line(report)?;
    if waiting_bytes > 0 {
        crate::cli::print_line(format_args!(
            "{} of files that nothing needs any more wait ten minutes for those still reading them; the collector, or \
             the next of these commands, removes them then",
            indicatif::HumanBytes(waiting_bytes)
        ))?;
    }
    Ok(())
}

//! `portolan lake stats`: what each table takes.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use portolan_lake::{LakeReader, LakeStats};
use portolan_model::clock::SystemClock;

use crate::cli::progress::Progress;
use crate::exit::{Exit, Stop};
use crate::output::visible;

/// Arguments of `portolan lake stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Reads the catalog and the names of files, no rows; a collector may run meanwhile.

Examples:
  portolan lake stats
  portolan lake stats --json | jq '.reclaimable'")]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Shows the numbers.
pub(crate) fn run(config: &Path, arguments: &Arguments) -> Result<Exit, Stop> {
    let path = crate::cli::lake_path(arguments.lake.as_deref(), config)?;
    let bar = Progress::text();
    bar.tell("reading the catalog and the names of files");
    bar.keep_moving();
    let stats = LakeReader::open(&path)?.stats(&SystemClock::new())?;
    bar.end();
    if arguments.json {
        crate::cli::print_line(to_json(&path, &stats))?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["TABLE", "ROWS", "FILES", "BYTES", "INSIDE CATALOG", "DELETED", "OLDEST ROUND", "NEWEST ROUND"]);
    let or_none = |round: Option<i64>| round.map_or_else(|| "-".to_owned(), |round| round.to_string());
    for one in &stats.tables {
        let name = if one.schema == "main" { one.table.clone() } else { format!("{}.{}", one.schema, one.table) };
        table.add_row([
            visible(&name),
            one.rows.to_string(),
            one.files.to_string(),
            one.bytes.to_string(),
            one.inlined_rows.to_string(),
            one.deleted_rows.to_string(),
            or_none(one.oldest_round),
            or_none(one.newest_round),
        ]);
    }
    let line = |text: std::fmt::Arguments<'_>| crate::cli::print_line(text);
    line(format_args!("lake {}", path.display()))?;
    crate::cli::print_line(table)?;
    for one in &stats.tables {
        if let Some(reason) = &one.unreadable {
            line(format_args!("`{}` cannot be read: {}", one.table, visible(reason)))?;
        }
    }
    let ((oldest, since), (newest, until)) = (stats.oldest_snapshot, stats.newest_snapshot);
    line(format_args!("rounds: {} to {}", or_none(stats.oldest_round), or_none(stats.newest_round)))?;
    line(format_args!("snapshots: {}, {oldest} ({since}) to {newest} ({until})", stats.snapshots))?;
    line(format_args!("catalog: {}, log {}", HumanBytes(stats.catalog_bytes), HumanBytes(stats.wal_bytes)))?;
    line(format_args!("quarantine: {} items", stats.quarantined))?;
    let free = stats.reclaimable;
    line(format_args!(
        "reclaimable: {} (replaced files {}, files of old snapshots {}, orphans {}, free pages of the catalog {})",
        HumanBytes(free.total()),
        HumanBytes(free.scheduled_bytes),
        HumanBytes(free.expiring_bytes),
        HumanBytes(free.orphan_bytes),
        HumanBytes(free.catalog_bytes)
    ))?;
    Ok(Exit::Success)
}

fn to_json(path: &Path, stats: &LakeStats) -> serde_json::Value {
    let tables: Vec<serde_json::Value> = stats
        .tables
        .iter()
        .map(|one| {
            serde_json::json!({
                "schema": one.schema, "table": one.table, "rows": one.rows, "files": one.files, "bytes": one.bytes,
                "inlined_rows": one.inlined_rows, "deleted_rows": one.deleted_rows,
                "oldest_round": one.oldest_round, "newest_round": one.newest_round, "unreadable": one.unreadable,
            })
        })
        .collect();
    let snapshot = |(id, time): (i64, jiff::Timestamp)| serde_json::json!({ "id": id, "time": time.to_string() });
    let free = stats.reclaimable;
    serde_json::json!({
        "lake": path.display().to_string(),
        "tables": tables,
        "snapshots": stats.snapshots,
        "oldest_snapshot": snapshot(stats.oldest_snapshot),
        "newest_snapshot": snapshot(stats.newest_snapshot),
        "oldest_round": stats.oldest_round,
        "newest_round": stats.newest_round,
        "catalog_bytes": stats.catalog_bytes,
        "wal_bytes": stats.wal_bytes,
        "quarantined": stats.quarantined,
        "reclaimable": {
            "bytes": free.total(), "scheduled_bytes": free.scheduled_bytes, "expiring_bytes": free.expiring_bytes,
            "orphan_bytes": free.orphan_bytes, "catalog_bytes": free.catalog_bytes,
        },
    })
}

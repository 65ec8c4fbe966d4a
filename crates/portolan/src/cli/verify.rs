//! `portolan verify`: proves the stored rows against the receipts, whether or not a collector runs.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use portolan_lake::{LakeReader, VerifyReport, VerifyScope};
use portolan_model::{Error, ErrorKind};

use super::progress::Progress;
use crate::exit::{Exit, Stop};
use crate::output::visible;

/// What is never proved, and why.
const PAYLOADS: &str = "not re-computable, payloads are not kept";
const KEYS: &str = "not compared: the lake remembers digests of item keys, and only the latest of them";

/// Arguments of `portolan verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each round's rows are read from where they are stored now, their canonical digest (docs/lake.md) is computed
and compared with the one in the round's receipt. The collector may run meanwhile. The digests find damage; they
are no seal against somebody who changes rows and receipts alike.

Examples:
  portolan verify
  portolan verify --table orders --since 2026-11-22T00:00:00Z
  portolan verify --round 120
  portolan verify --json | jq '.mismatches'

Exit codes: 0 all that could be proved is proved, 8 something is damaged, 5 the lake could not be read."
)]
pub(crate) struct Arguments {
    /// One round alone.
    #[arg(long, value_name = "ROUND", conflicts_with = "since")]
    round: Option<i64>,
    /// Rounds from this one on, or those that began at this instant (RFC 3339) or later.
    #[arg(long, value_name = "TIME|ROUND")]
    since: Option<String>,
    /// One source's table alone.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Verifies the lake and shows what was found.
pub(crate) fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let scope = scope(&arguments)?;
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let reader = LakeReader::open(&path)?;
    let bar = Progress::bytes();
    let report = reader.verify(&scope, &mut |at| bar.show(at.table, at.bytes, at.bytes_total))?;
    bar.end();
    if let Some(round) = arguments.round
        && report.tables.iter().all(|table| table.rounds == 0)
        && report.is_sound()
        && report.unproved.is_empty()
    {
        let error = Error::new(ErrorKind::NotFound, "verify lake", format!("round {round} stored no rows"))
            .with_hint("see portolan.rounds and portolan.receipts: portolan query \"select * from portolan.rounds\"");
        return Err(error.into());
    }
    if arguments.json {
        super::print_line(to_json(&path, &report))?;
    } else {
        show(&path, &report)?;
    }
    Ok(if report.is_sound() { Exit::Success } else { Exit::Damaged })
}

fn scope(arguments: &Arguments) -> Result<VerifyScope, Stop> {
    let mut scope = VerifyScope { table: arguments.table.clone(), ..VerifyScope::default() };
    if let Some(round) = arguments.round {
        (scope.first_round, scope.last_round) = (Some(round), Some(round));
    }
    if let Some(text) = &arguments.since {
        (scope.first_round, scope.since) = super::since(text)?;
    }
    Ok(scope)
}

fn show(path: &Path, report: &VerifyReport) -> Result<(), Stop> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["TABLE", "ROUNDS PROVED", "ROWS PROVED", "FILES READ", "BYTES READ"]);
    for one in &report.tables {
        table.add_row([
            visible(&one.table),
            one.rounds.to_string(),
            one.rows.to_string(),
            one.files.to_string(),
            one.bytes.to_string(),
        ]);
    }
    super::print_line(format_args!("lake {}", path.display()))?;
    super::print_line(table)?;
    for file in &report.damaged_files {
        super::print_line(format_args!("DAMAGED {} of `{}`: {}", file.path, file.table, visible(&file.detail)))?;
    }
    for one in &report.mismatches {
        let place = if one.places.is_empty() { "nowhere".to_owned() } else { one.places.join(", ") };
        super::print_line(format_args!("MISMATCH round {} of `{}`, {place}: {}", one.round, one.table, one.detail))?;
        let digest = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".into());
        super::print_line(format_args!("  expected {} rows, {}", one.expected_rows, digest(&one.expected_sha256)))?;
        super::print_line(format_args!("  found    {} rows, {}", one.found_rows, digest(&one.found_sha256)))?;
    }
    let more = report.mismatches_total - report.mismatches.len() as u64;
    if more > 0 {
        super::print_line(format_args!("MISMATCH in {more} more rounds, which are not named"))?;
    }
    for one in &report.unproved {
        let (first, last) = (one.first_round, one.last_round);
        super::print_line(format_args!(
            "not proved: {} rounds of `{}` ({first} to {last}): {}",
            one.rounds,
            one.table,
            visible(&one.reason)
        ))?;
    }
    for one in report.tables.iter().filter(|table| table.foreign_rows > 0) {
        super::print_line(format_args!(
            "not proved: {} rows of `{}` that another program has added or changed: no receipt speaks for them",
            one.foreign_rows, one.table
        ))?;
    }
    let payloads = sum(report, |table| table.payload_digests);
    super::print_line(format_args!("payload digests: {PAYLOADS} ({payloads} receipts have one)"))?;
    super::print_line(format_args!("item keys: {KEYS}"))?;
    let (rounds, rows) = (sum(report, |table| table.rounds), sum(report, |table| table.rows));
    let (files, bytes) = (sum(report, |table| table.files), sum(report, |table| table.bytes));
    super::print_line(format_args!(
        "proved: {rounds} receipts with {rows} rows, from {files} files of {} and the catalog",
        HumanBytes(bytes)
    ))?;
    if report.is_sound() {
        super::print_line("nothing is damaged")?;
    } else {
        let (mismatches, files) = (report.mismatches_total, report.damaged_files.len());
        super::print_line(format_args!("DAMAGE: {mismatches} rounds, {files} files"))?;
        super::print_line(
            "  next: portolan lake fsck names what is wrong with the catalog and its files; restore them from a copy, or \
             read the rounds again",
        )?;
    }
    Ok(())
}

fn sum(report: &VerifyReport, number: fn(&portolan_lake::VerifiedTable) -> u64) -> u64 {
    report.tables.iter().map(number).sum()
}

fn to_json(path: &Path, report: &VerifyReport) -> serde_json::Value {
    let tables: Vec<serde_json::Value> = report
        .tables
        .iter()
        .map(|one| {
            serde_json::json!({
                "table": one.table, "rounds": one.rounds, "rows": one.rows, "files": one.files, "bytes": one.bytes,
                "foreign_rows": one.foreign_rows, "payload_digests": one.payload_digests,
            })
        })
        .collect();
    let mismatches: Vec<serde_json::Value> = report
        .mismatches
        .iter()
        .map(|one| {
            serde_json::json!({
                "round": one.round, "table": one.table, "places": one.places, "detail": one.detail,
                "expected_sha256": one.expected_sha256, "found_sha256": one.found_sha256,
                "expected_rows": one.expected_rows, "found_rows": one.found_rows,
            })
        })
        .collect();
    let damaged: Vec<serde_json::Value> = report
        .damaged_files
        .iter()
        .map(|one| serde_json::json!({ "table": one.table, "path": one.path, "detail": one.detail }))
        .collect();
    let unproved: Vec<serde_json::Value> = report
        .unproved
        .iter()
        .map(|one| {
            serde_json::json!({
                "table": one.table, "rounds": one.rounds, "first_round": one.first_round,
                "last_round": one.last_round, "reason": one.reason,
            })
        })
        .collect();
    serde_json::json!({
        "lake": path.display().to_string(),
        "sound": report.is_sound(),
        "rounds": sum(report, |table| table.rounds),
        "rows": sum(report, |table| table.rows),
        "files": sum(report, |table| table.files),
        "bytes": sum(report, |table| table.bytes),
        "tables": tables,
        "damaged_files": damaged,
        "mismatches": mismatches,
        "mismatches_total": report.mismatches_total,
        "unproved": unproved,
        "payload_digests": PAYLOADS,
        "item_keys": KEYS,
    })
}

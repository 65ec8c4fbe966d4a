//! `portolan verify`: proves the chain over the rounds, the files and the stored rows, whether or not a collector runs.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use portolan_lake::{ChainHead, LakeReader, VerifiedChain, VerifyReport, VerifyScope};
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
    after_help = "The chain over the rounds is computed anew, files are read byte by byte against the digests taken when they were
written, rows are counted against the receipts, and rows that are in no such file are digested. --full decodes every
row. The collector may run meanwhile. Whoever changes the lake and digests everything behind it anew is found by a
head that was kept outside, and by nothing else: keep one (docs/lake.md).

Examples:
  portolan verify
  portolan verify --head > lake.head            the head of the chain, to be kept elsewhere; nothing is verified
  portolan verify --head @lake.head             that head must be in the chain
  portolan verify --since @lake.head            only what came after it is read
  portolan verify --full --table orders --since 2026-11-22T00:00:00Z
  portolan verify --round 120
  portolan verify --json | jq '.mismatches'

Exit codes: 0 all that could be proved is proved, 8 something is damaged, 5 the lake could not be read."
)]
pub(crate) struct Arguments {
    /// One round alone.
    #[arg(long, value_name = "ROUND", conflicts_with = "since")]
    round: Option<i64>,
    /// Rounds from this one on, those that began at this instant (RFC 3339) or later, or what a head does not know yet.
    #[arg(long, value_name = "TIME|ROUND|@FILE")]
    since: Option<String>,
    /// Decode every row and compute its round's digest anew, also where the bytes of a file are proved.
    #[arg(long)]
    full: bool,
    /// Print the head of the chain; or hold a head that was printed before against the chain (may be repeated).
    #[arg(long, value_name = "TEXT|@FILE", num_args = 0..=1, default_missing_value = "")]
    head: Vec<String>,
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
    if arguments.head.iter().any(String::is_empty) {
        super::print_line(reader.head()?)?;
        return Ok(Exit::Success);
    }
    let bar = Progress::bytes();
    let report = reader.verify(&scope, &mut |at| bar.show(at.table, at.bytes, at.bytes_total))?;
    bar.end();
    if let Some(round) = arguments.round
        && report.tables.iter().all(|table| table.rounds == 0)
        && report.chain.as_ref().is_none_or(|chain| chain.rounds + chain.before == 0)
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
    let mut scope = VerifyScope { table: arguments.table.clone(), full: arguments.full, ..VerifyScope::default() };
    if let Some(round) = arguments.round {
        (scope.first_round, scope.last_round) = (Some(round), Some(round));
    }
    match &arguments.since {
        Some(text) if text.starts_with('@') => scope.verified = Some(head(text)?),
        Some(text) => (scope.first_round, scope.since) = super::since(text)?,
        None => {}
    }
    let heads = arguments.head.iter().filter(|text| !text.is_empty());
    scope.heads = heads.map(|text| head(text)).collect::<Result<_, _>>()?;
    if arguments.table.is_some() && (!scope.heads.is_empty() || scope.verified.is_some()) {
        let error =
            Error::new(ErrorKind::Configuration, "choose rounds", "a head is of all tables, --table asks for one")
                .with_hint("leave --table out, or the head");
        return Err(error.into());
    }
    Ok(scope)
}

/// A head as it is given: its text, or `@` and a file that holds it.
fn head(text: &str) -> Result<ChainHead, Stop> {
    let wrong = |message: String| {
        Error::new(ErrorKind::Configuration, "read head", message)
            .with_hint("print one with `portolan verify --head > lake.head`, and give it as --head @lake.head")
    };
    let content = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| wrong(format!("{path} cannot be read: {error}")))?
        }
        None => text.to_owned(),
    };
    Ok(content.parse().map_err(wrong)?)
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
    if let Some(chain) = &report.chain {
        show_chain(chain)?;
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

fn show_chain(chain: &VerifiedChain) -> Result<(), Stop> {
    super::print_line(format_args!(
        "chain: {} rounds proved, and {} files of {} with what is known of them",
        chain.rounds,
        chain.files,
        HumanBytes(chain.bytes)
    ))?;
    if chain.before > 0 {
        super::print_line(format_args!(
            "not proved: what is known of {} rounds that an earlier version stored, before the chain begins",
            chain.before
        ))?;
    }
    if chain.heads > 0 {
        let files = match chain.files_held {
            true => "it vouches for the digests of the files too",
            false => {
                "files have come since: their digests are the lake's own word, --full proves their rows by the chain"
            }
        };
        super::print_line(format_args!("heads kept outside: {} are in the chain; {files}", chain.heads))?;
    }
    if let Some(head) = &chain.head {
        super::print_line(format_args!("head: {head}"))?;
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
        .map(|one| {
            serde_json::json!({
                "table": one.table, "path": one.path, "row_group": one.row_group, "detail": one.detail,
            })
        })
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
    let chain = report.chain.as_ref().map(|chain| {
        serde_json::json!({
            "rounds": chain.rounds, "rounds_before": chain.before, "files": chain.files, "bytes": chain.bytes,
            "heads": chain.heads, "files_held": chain.files_held,
            "head": chain.head.as_ref().map(ToString::to_string),
        })
    });
    serde_json::json!({
        "lake": path.display().to_string(),
        "sound": report.is_sound(),
        "rounds": sum(report, |table| table.rounds),
        "rows": sum(report, |table| table.rows),
        "files": sum(report, |table| table.files),
        "bytes": sum(report, |table| table.bytes),
        "tables": tables,
        "chain": chain,
        "damaged_files": damaged,
        "mismatches": mismatches,
        "mismatches_total": report.mismatches_total,
        "unproved": unproved,
        "payload_digests": PAYLOADS,
        "item_keys": KEYS,
    })
}

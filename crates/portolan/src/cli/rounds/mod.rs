//! `portolan rounds`: the latest rounds, and the timeline of one.

mod scale;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use comfy_table::{Table, presets};
use portolan_lake::{LakeReader, RoundFilter, StoredCheck, StoredReceipt, StoredRound};

use self::scale::{duration, size};
use crate::exit::{Exit, Stop, tell};
use crate::output::visible;

/// Arguments of `portolan rounds`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Newest first. SKEW is the bound: no two reads took effect further apart; RELEASE is how far apart their requests went out.

Examples:
  portolan rounds
  portolan rounds --name trading --since 2026-11-22T10:00:00Z
  portolan rounds show 120
  portolan rounds show 120 --svg round-120.svg"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws the timeline of one round: a bar for each port.
    Show(ShowArguments),
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Rounds shown.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Rounds of one group alone.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// This round and later, or those that began at this instant (RFC 3339) or later.
    #[arg(long, value_name = "TIME|ROUND")]
    since: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Arguments of `portolan rounds show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan rounds show 120
  portolan rounds show 120 --svg - > round.svg
  portolan rounds show 120 --json | jq '.receipts[] | {source, released_us, first_byte_us}'")]
struct ShowArguments {
    /// The round's number, as the list has it.
    #[arg(value_name = "ROUND")]
    round: i64,
    /// Draw it as SVG into a file; `-` is standard output.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<PathBuf>,
    /// Draw with ASCII characters alone.
    #[arg(long)]
    ascii: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    match arguments.command {
        None => list(config, arguments.list),
        Some(Command::Show(arguments)) => show(config, &arguments),
    }
}

fn list(config: &Path, arguments: ListArguments) -> Result<Exit, Stop> {
    let (since_round, since) = arguments.since.as_deref().map(super::since).transpose()?.unwrap_or_default();
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let filter = RoundFilter { name: arguments.name, since_round, since, limit: arguments.limit.into() };
    let rounds = LakeReader::open(&path)?.rounds(&filter)?;
    if arguments.json {
        let rounds: Vec<serde_json::Value> = rounds.iter().map(summary).collect();
        super::print_line(serde_json::json!({ "lake": path.display().to_string(), "rounds": rounds }))?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "ROUND",
        "NAME",
        "VERDICT",
        "STARTED",
        "TOOK",
        "SOURCES",
        "ROWS",
        "BYTES",
        "SKEW",
        "RELEASE",
        "SLOWEST",
        "CONSISTENCY",
        "CHECKS",
    ]);
    for round in &rounds {
        let or_none = |us: Option<i64>| us.map_or_else(|| "-".to_owned(), duration);
        table.add_row([
            round.round.to_string(),
            visible(&round.name),
            visible(&round.verdict),
            started(round),
            duration(round.duration_us),
            format!("{}/{}", read_well(round), round.receipts.len()),
            total(round, |receipt| receipt.rows).to_string(),
            size(total(round, |receipt| receipt.bytes)),
            or_none(round.skew_bound_us),
            or_none(round.release_spread_us),
            slowest(round).map_or_else(|| "-".into(), |(source, us)| format!("{} {}", visible(source), duration(us))),
            consistency(round),
            checks(round),
        ]);
    }
    super::print_line(table)?;
    if rounds.is_empty() {
        tell(format_args!("no round of the lake is one of these\n"));
    }
    for round in &rounds {
        if let Some(reason) = &round.reason {
            super::print_line(format_args!("round {}: {}", round.round, visible(reason)))?;
        }
    }
    Ok(Exit::Success)
}

fn show(config: &Path, arguments: &ShowArguments) -> Result<Exit, Stop> {
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    let round = LakeReader::open(&path)?.round(arguments.round)?;
    if arguments.json {
        let mut document = summary(&round);
        document["checks"] = round.checks.iter().map(check_json).collect();
        document["receipts"] = round.receipts.iter().map(receipt_json).collect();
        super::print_line(document)?;
    } else if let Some(target) = &arguments.svg {
        let drawing = svg::draw(&round);
        if target == Path::new("-") {
            super::print_line(drawing.trim_end())?;
        } else {
            use anyhow::Context;
            std::fs::write(target, drawing).with_context(|| format!("failed to write {}", target.display()))?;
        }
    } else {
        let width = Table::new().width().unwrap_or(100).clamp(60, 200);
        super::print_line(text::draw(&round, width.into(), arguments.ascii).trim_end())?;
    }
    Ok(Exit::Success)
}

/// When it began, to the millisecond.
fn started(round: &StoredRound) -> String {
    round.started_at.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}

/// Sources that yielded, or proved that nothing changed.
fn read_well(round: &StoredRound) -> usize {
    round.receipts.iter().filter(|receipt| matches!(receipt.verdict.as_str(), "ok" | "unchanged")).count()
}

fn total(round: &StoredRound, value: fn(&StoredReceipt) -> i64) -> i64 {
    round.receipts.iter().map(value).fold(0, i64::saturating_add)
}

fn slowest(round: &StoredRound) -> Option<(&str, i64)> {
    let ends = round.receipts.iter().filter_map(|receipt| Some((receipt.source.as_str(), receipt.last_byte_us?)));
    ends.max_by_key(|(_, end_us)| *end_us)
}

/// The same beside a drawing, which counts from the start of the round.
fn consistency_drawn(round: &StoredRound) -> String {
    let is_last_drawn = round.consistency.as_deref() != Some("double_collect");
    match round.attempts.is_some_and(|attempts| attempts > 1) && is_last_drawn {
        true => format!("{} (the last is drawn; those before it as prepare)", consistency(round)),
        false => consistency(round),
    }
}

/// What was promised, what came of it, and in how many attempts.
fn consistency(round: &StoredRound) -> String {
    let part = |text: &Option<String>| visible(text.as_deref().unwrap_or("none"));
    let (promised, reached) = (part(&round.consistency), part(&round.reached));
    let attempts = match round.attempts {
        Some(attempts) if attempts > 1 => format!(", {attempts} attempts"),
        _ => String::new(),
    };
    match promised == reached {
        true => format!("{promised}{attempts}"),
        false => format!("{promised} → {reached}{attempts}"),
    }
}

/// How many checks hold, and what became of the others.
fn checks(round: &StoredRound) -> String {
    if round.checks.is_empty() {
        return "-".to_owned();
    }
    let count = |outcome: &str| round.checks.iter().filter(|check| check.outcome == outcome).count();
    let mut text = format!("{}/{}", count("passed"), round.checks.len());
    for (outcome, words) in [("failed", "failed"), ("error", "error"), ("not_evaluated", "not evaluated")] {
        match count(outcome) {
            0 => {}
            some => text.push_str(&format!(", {some} {words}")),
        }
    }
    text
}

/// One check in a line for both drawings.
fn check_line(check: &StoredCheck) -> String {
    let mut line = format!("{}: {}", visible(&check.name), visible(&check.outcome).replace('_', " "));
    if matches!(check.outcome.as_str(), "failed" | "error") {
        line.push_str(&format!(" → {}", visible(&check.on_failure)));
    }
    if let Some(detail) = &check.detail {
        line.push_str(&format!(" ({})", visible(detail)));
    }
    line
}

fn check_json(check: &StoredCheck) -> serde_json::Value {
    serde_json::json!({
        "name": check.name, "kind": check.kind, "outcome": check.outcome, "on_failure": check.on_failure,
        "failing_rows": check.failing_rows, "detail": check.detail, "duration_us": check.duration_us,
        "snapshot_id": check.snapshot,
    })
}

/// What the round was, in one line for both drawings.
fn facts(round: &StoredRound) -> String {
    format!(
        "{} · took {} · {}/{} sources · {} rows · {} bytes",
        visible(&round.verdict),
        duration(round.duration_us),
        read_well(round),
        round.receipts.len(),
        total(round, |receipt| receipt.rows),
        total(round, |receipt| receipt.bytes)
    )
}

fn summary(round: &StoredRound) -> serde_json::Value {
    serde_json::json!({
        "round": round.round, "name": round.name, "verdict": round.verdict,
        "started_at": round.started_at.map(|time| time.to_string()), "duration_us": round.duration_us,
        "sources": round.receipts.len(), "sources_ok": read_well(round),
        "rows": total(round, |receipt| receipt.rows), "bytes": total(round, |receipt| receipt.bytes),
        "release_spread_us": round.release_spread_us, "skew_bound_us": round.skew_bound_us,
        "slowest": slowest(round).map(|(source, us)| serde_json::json!({ "source": source, "last_byte_us": us })),
        "consistency": round.consistency, "reached": round.reached, "attempts": round.attempts,
        "reason": round.reason,
        "checks_passed": round.checks.iter().filter(|check| check.outcome == "passed").count(),
        "checks_failed": round.checks.iter().filter(|check| matches!(check.outcome.as_str(), "failed" | "error")).count(),
    })
}

fn receipt_json(receipt: &StoredReceipt) -> serde_json::Value {
    serde_json::json!({
        "source": receipt.source, "verdict": receipt.verdict, "prepared_us": receipt.prepared_us,
        "released_us": receipt.released_us, "first_byte_us": receipt.first_byte_us, "acted_us": receipt.acted_us,
        "last_byte_us": receipt.last_byte_us, "bytes": receipt.bytes, "rows": receipt.rows,
        "duplicates": receipt.duplicates, "quarantined": receipt.quarantined, "snapshot": receipt.snapshot, "error_kind": receipt.error_kind,
        "error": receipt.error,
    })
}

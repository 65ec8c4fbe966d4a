//! `portolan status`: where each source and each round stands, from the lake, whether or not a collector runs. A source that
//! the configuration does not name any more is shown with the state that it was left in, and said to be one.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use jiff::Timestamp;
use portolan_lake::{LakeReader, RoundFilter, StoredRound};
use portolan_model::catalog::SourceStatus;
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::{Position, SourceName};

use crate::exit::{Exit, Stop};
use crate::output::visible;

/// Rounds that are looked at for the last one of each name.
const ROUNDS_LISTED: usize = 100;
/// Rounds that are looked at for the last one of a name that the configuration has.
const ROUNDS_SEEN: i64 = 100_000;

/// Arguments of `portolan status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portolan status
  portolan status --json | jq '.sources[] | select(.state != \"healthy\")'")]
pub(crate) struct Arguments {
    /// Folder of the lake, instead of the configuration's.
    #[arg(long, value_name = "FOLDER")]
    lake: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows the states.
pub(crate) fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let path = super::lake_path(arguments.lake.as_deref(), config)?;
    // Somebody who names a lake asks of no configuration.
    let configuration = match arguments.lake {
        None if config.exists() => Some(super::configuration(config)?.0),
        _ => None,
    };
    let is_configured =
        |name: &SourceName| configuration.as_ref().map(|known| known.sources.iter().any(|source| source.name == *name));
    let reader = LakeReader::open(&path)?;
    let statuses = reader.statuses()?;
    let positions = reader.positions()?;
    let collector = reader.collector()?;
    let now = SystemClock::new().wall();
    let rounds = configuration.iter().flat_map(|known| &known.rounds);
    let names: Vec<String> = rounds.map(|round| round.name.to_string()).collect();
    let rounds = last_rounds(&reader, &names)?;
    if arguments.json {
        let sources: Vec<serde_json::Value> = statuses
            .iter()
            .map(|status| {
                let mut source = to_json(status, positions.get(&status.source), now);
                source["configured"] = is_configured(&status.source).into();
                source
            })
            .collect();
        let document = serde_json::json!({
            "lake": path.display().to_string(),
            "collector": { "running": collector.is_some(), "pid": collector },
            "sources": sources,
            "rounds": rounds.iter().map(round_to_json).collect::<Vec<_>>(),
        });
        super::print_line(document)?;
        return Ok(Exit::Success);
    }
    let running = collector.map_or_else(|| "no collector runs".to_owned(), |pid| format!("collector runs (pid {pid})"));
    super::print_line(format_args!("lake {}: {running}", path.display()))?;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["SOURCE", "ADDRESS", "STATE", "SINCE", "LAST ROUND", "LAG", "ROWS", "ERRORS", "POSITION"]);
    for status in &statuses {
        table.add_row([
            status.source.to_string(),
            status.address.clone(),
            match is_configured(&status.source) {
                Some(false) => format!("{}, removed", status.state.as_str()),
                _ => status.state.as_str().to_owned(),
            },
            age(status.since, now),
            status.last_round.map_or_else(|| "-".into(), |round| round.to_string()),
            status.last_success.map_or_else(|| "-".into(), |time| age(time, now)),
            status.rows_total.to_string(),
            status.errors_total.to_string(),
            positions.get(&status.source).map_or_else(|| "-".into(), |position| position.value.to_string()),
        ]);
    }
    super::print_line(table)?;
    for status in
        statuses.iter().filter(|status| status.cause.is_some() && is_configured(&status.source) != Some(false))
    {
        let cause = status.cause.as_deref().unwrap_or_default();
        super::print_line(format_args!("{}: {}", status.source, visible(cause)))?;
        if let Some(hint) = &status.hint {
            super::print_line(format_args!("  next: {}", visible(hint)))?;
        }
    }
    for round in &rounds {
        if let Some(reason) = &round.reason {
            let (name, number) = (visible(&round.name), round.round);
            let state = match (round.verdict.as_str(), &round.reached) {
                ("rejected", _) | (_, None) => visible(&round.verdict),
                (_, Some(reached)) => visible(reached),
            };
            super::print_line(format_args!("round {name}: the last one is {state}: {}", visible(reason)))?;
            super::print_line(format_args!("  next: portolan rounds show {number}"))?;
        }
    }
    Ok(Exit::Success)
}

/// The last round of each name: of the latest, and of those that the configuration names as far as they are not too long ago.
fn last_rounds(reader: &LakeReader, names: &[String]) -> Result<Vec<StoredRound>, Stop> {
    let all = RoundFilter { name: None, since_round: None, since: None, limit: ROUNDS_LISTED };
    let mut last: Vec<StoredRound> = Vec::new();
    for round in reader.rounds(&all)? {
        if !last.iter().any(|other| other.name == round.name) {
            last.push(round);
        }
    }
    let since_round = last.first().map(|latest| latest.round.saturating_sub(ROUNDS_SEEN));
    for name in names {
        if !last.iter().any(|other| other.name == *name) {
            last.extend(reader.rounds(&RoundFilter {
                name: Some(name.clone()),
                since_round,
                limit: 1,
                ..all.clone()
            })?);
        }
    }
    Ok(last)
}

fn round_to_json(round: &StoredRound) -> serde_json::Value {
    serde_json::json!({
        "name": round.name,
        "round": round.round,
        "started_at": round.started_at.map(|time| time.to_string()),
        "verdict": round.verdict,
        "consistency": round.consistency,
        "reached": round.reached,
        "reason": round.reason,
    })
}

fn to_json(status: &SourceStatus, position: Option<&Position>, now: Timestamp) -> serde_json::Value {
    serde_json::json!({
        "source": status.source,
        "address": status.address,
        "state": status.state,
        "since": status.since.to_string(),
        "cause_kind": status.cause_kind,
        "cause": status.cause,
        "hint": status.hint,
        "last_round": status.last_round,
        "last_success": status.last_success.map(|time| time.to_string()),
        "lag_ms": status.last_success.map(|time| now.duration_since(time).as_millis() as i64),
        "position": position.map(|position| &position.value),
        "rows_total": status.rows_total,
        "errors_total": status.errors_total,
        "failures": status.failures,
    })
}

/// How long ago, in the largest unit that says enough.
fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}min", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let at = |seconds: i64| age(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).unwrap());
        assert_eq!([at(5), at(600), at(7_300), at(200_000)], ["5s", "10min", "2h", "2d"]);
    }
}

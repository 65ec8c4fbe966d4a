//! `portolan quarantine retry`: whole rows once more, by the sources' present settings.
//!
//! Promise: what fits is stored in rounds of its own, each in one transaction that also marks its items as retried. A row is
//! stored once, whenever the process is killed and however often the command is run.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use portolan_connect::Registry;
use portolan_lake::{Lake, LakeReader, Quarantined};
use portolan_model::catalog::{Catalog, TableSpec, WriteMode};
use portolan_model::check::WITHHELD;
use portolan_model::clock::{Clock, SystemClock};
use portolan_model::config::{Configuration, ConnectorSet, SourceSpec};
use portolan_model::round::{Receipt, ReceiptVerdict, RoundRecord, RoundVerdict};
use portolan_model::source::{KeptRow, RetriedRow};
use portolan_model::{Error, ErrorKind, RoundName};

use super::Choice;
use crate::cli::progress::Progress;
use crate::exit::{Exit, Stop};
use crate::output::visible;

/// Items of one round.
const ROUND_ITEMS: usize = 10_000;
/// Bytes of content that are taken into memory at once.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// Items that still do not fit and are named.
const NAMED_MAX: usize = 10;

/// Arguments of `portolan quarantine retry`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Whole rows and messages are read again, by what the source's `format`, `delimiter`, `fields` and `columns` say
now: lines of JSON and rows of CSV (http, ftp), messages (tcp). What the quarantine keeps too little of is told and left as it
is: contents above 64 KiB, and rows of CSV that lakes of older versions keep without their header. A single value's row is
stored already, with NULL in the column; it stays. A source that each round replaces is read again anyway.

No collector may run: stop it, retry, start it.

Examples:
  portolan quarantine retry
  portolan quarantine retry --source orders --reason row_not_json"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// What was done for one source.
#[derive(Debug, Default)]
struct Outcome {
    stored_rows: u64,
    duplicates: u64,
    retried_items: u64,
    values_quarantined: u64,
    rounds: Vec<i64>,
    unfit: Vec<(i64, String)>,
    unfit_total: u64,
    unable: u64,
}

/// Retries.
pub(super) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let filter = arguments.choice.filter()?;
    let (configuration, _) = crate::cli::configuration(config)?;
    LakeReader::open(&configuration.lake.path)?;
    // First the lock: nobody else retries, or collects, from here on.
    let lake = crate::cli::lake::open(&configuration.lake)?;
    let reader = LakeReader::open(&configuration.lake.path)?;
    let bar = Progress::text();
    bar.keep_moving();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    // What a retry itself puts into the quarantine is for the next call.
    let (mut known, mut highest, mut values) = (HashSet::new(), None, 0_u64);
    loop {
        let mut items: BTreeMap<String, Vec<Quarantined>> = BTreeMap::new();
        let (mut bytes, mut has_more, mut last) = (0, false, i64::MIN);
        bar.tell("reading the quarantine");
        reader.quarantine(&filter, &mut |item| {
            last = last.max(item.id);
            if item.retried_in.is_some() || highest.is_some_and(|highest| item.id > highest) || known.contains(&item.id)
            {
                return Ok(true);
            }
            if item.column.is_some() {
                known.insert(item.id);
                values += 1;
            } else if bytes >= CONTENT_BYTES_MAX {
                has_more = true;
            } else {
                bytes += item.content.len();
                known.insert(item.id);
                items.entry(item.source.clone()).or_default().push(item);
            }
            Ok(true)
        })?;
        highest.get_or_insert(last);
        for (source, items) in items {
            let outcome = outcomes.entry(source.clone()).or_default();
            match configuration.sources.iter().find(|spec| spec.name.as_str() == source) {
                Some(spec) => retry(&lake, spec, items, &bar, outcome).await?,
                None => outcome.does_not_fit(&items, &format!("the configuration has no source `{source}`")),
            }
        }
        if !has_more {
            break;
        }
    }
    lake.close().await?;
    bar.end();
    show(&configuration, &outcomes, values, arguments.json)?;
    Ok(Exit::Success)
}

impl Outcome {
    /// Notes items that fit nowhere, for one reason.
    fn does_not_fit(&mut self, items: &[Quarantined], reason: &str) {
        self.unfit_total += items.len() as u64;
        let room = NAMED_MAX.saturating_sub(self.unfit.len());
        self.unfit.extend(items.iter().take(room).map(|item| (item.id, reason.to_owned())));
    }
}

async fn retry(
    lake: &Lake,
    spec: &SourceSpec,
    items: Vec<Quarantined>,
    bar: &Progress,
    outcome: &mut Outcome,
) -> Result<(), Stop> {
    let connector = Registry.get(&spec.protocol).ok_or_else(|| {
        let message = format!("no connector for protocol `{}`", spec.protocol);
        Error::new(ErrorKind::Configuration, "retry quarantine", message).with_source(&spec.name)
    })?;
    let mode = spec.mode.unwrap_or_else(|| connector.default_mode(spec));
    if mode == WriteMode::Replace {
        // Its rows alone would be the whole table.
        outcome.does_not_fit(&items, "each round replaces the table: the next one reads the row again");
        return Ok(());
    }
    let clock = SystemClock::new();
    for (index, part) in items.chunks(ROUND_ITEMS).enumerate() {
        let mut fitting = Vec::new();
        let through = index * ROUND_ITEMS + part.len();
        bar.tell(format!("{}: item {through} of {}", spec.name, items.len()));
        for item in part {
            if item.reason == WITHHELD {
                let why = "a check has withheld it: nothing about it is unreadable, and a retry asks no checks";
                outcome.does_not_fit(std::slice::from_ref(item), why);
                continue;
            }
            let row = serde_json::from_str(&item.row_key).unwrap_or_default();
            match connector.retry_row(spec, &KeptRow { reason: &item.reason, row: &row, content: &item.content })? {
                RetriedRow::Unable => outcome.unable += 1,
                RetriedRow::Unfit(reason) => {
                    outcome.unfit_total += 1;
                    if outcome.unfit.len() < NAMED_MAX {
                        outcome.unfit.push((item.id, reason));
                    }
                }
                RetriedRow::Fits { batches, quarantined } => fitting.push((item.id, batches, quarantined)),
            }
        }
        if fitting.is_empty() {
            continue;
        }
        let (start, begun) = (clock.wall(), clock.monotonic());
        let mut staging = lake.begin_retry(fitting.iter().map(|(id, ..)| *id).collect());
        let mut table = staging.table(TableSpec {
            source: spec.name.clone(),
            mode,
            key: connector.item_key(spec),
            key_memory: spec.key_memory,
            time: start,
            event_time: spec.event_time.clone(),
            watermark: None,
        })?;
        outcome.retried_items += fitting.len() as u64;
        for (_, batches, quarantined) in fitting {
            for batch in batches {
                table.write(batch).await?;
            }
            for item in quarantined {
                table.quarantine(item).await?;
            }
        }
        let staged = table.finish().await?;
        let mut receipt = Receipt::new(spec.name.clone(), ReceiptVerdict::Ok);
        (receipt.rows, receipt.duplicates, receipt.quarantined) = (staged.rows, staged.duplicates, staged.quarantined);
        receipt.event_times = staged.event_times.range;
        receipt.untimed = staged.event_times.untimed;
        let duration = clock.monotonic().saturating_sub(begun);
        let mut states: Vec<_> = lake.statuses().await?.into_values().filter(|one| one.source == spec.name).collect();
        states.iter_mut().for_each(|state| state.rows_total += staged.rows);
        let commit = staging.commit(record(start, duration, receipt)?, &states).await?;
        outcome.stored_rows += staged.rows;
        outcome.duplicates += staged.duplicates;
        outcome.values_quarantined += staged.quarantined;
        outcome.rounds.push(commit.round.0);
    }
    Ok(())
}

fn record(start: jiff::Timestamp, duration: Duration, receipt: Receipt) -> Result<RoundRecord, Stop> {
    Ok(RoundRecord {
        name: RoundName::new("retry").map_err(|problem| anyhow::anyhow!(problem))?,
        verdict: RoundVerdict::Complete,
        started_at: start,
        duration_us: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
        release_spread_us: None,
        skew_bound_us: None,
        consistency: Default::default(),
        receipts: vec![receipt],
        checks: Vec::new(),
    })
}

fn show(
    configuration: &Configuration,
    outcomes: &BTreeMap<String, Outcome>,
    values: u64,
    json: bool,
) -> std::io::Result<()> {
    if json {
        let sources: BTreeMap<&String, serde_json::Value> = outcomes
            .iter()
            .map(|(source, one)| {
                let unfit: Vec<serde_json::Value> =
                    one.unfit.iter().map(|(id, reason)| serde_json::json!({ "id": id, "reason": reason })).collect();
                let outcome = serde_json::json!({
                    "rounds": one.rounds, "retried_items": one.retried_items, "stored_rows": one.stored_rows,
                    "duplicates": one.duplicates, "quarantined": one.values_quarantined,
                    "unfit": unfit, "unfit_total": one.unfit_total, "unable": one.unable,
                });
                (source, outcome)
            })
            .collect();
        return crate::cli::print_line(serde_json::json!({
            "lake": configuration.lake.path.display().to_string(), "sources": sources, "values": values,
        }));
    }
    let line = |text: std::fmt::Arguments<'_>| crate::cli::print_line(text);
    for (source, one) in outcomes {
        let source = visible(source);
        if one.retried_items > 0 {
            let rounds: Vec<String> = one.rounds.iter().map(i64::to_string).collect();
            line(format_args!(
                "`{source}`: {} items retried: {} rows stored, {} stored before (round {})",
                one.retried_items,
                one.stored_rows,
                one.duplicates,
                rounds.join(", ")
            ))?;
        }
        if one.values_quarantined > 0 {
            line(format_args!("  {} values of them went to the quarantine anew", one.values_quarantined))?;
        }
        for (id, reason) in &one.unfit {
            line(format_args!("`{source}`: item {id} still does not fit: {}", visible(reason)))?;
        }
        let more = one.unfit_total - one.unfit.len() as u64;
        if more > 0 {
            line(format_args!("`{source}`: {more} more items do not fit"))?;
        }
        if one.unable > 0 {
            line(format_args!("`{source}`: {} rows cannot be tried: too little is kept of them", one.unable))?;
        }
    }
    if values > 0 {
        line(format_args!("{values} single values are left: their rows are stored; see portolan quarantine show ID"))?;
    }
    if outcomes.is_empty() && values == 0 {
        line(format_args!("nothing to retry"))?;
    }
    Ok(())
}

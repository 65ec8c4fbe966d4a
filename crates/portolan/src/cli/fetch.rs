//! `portolan fetch`: one round, now, all ports at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_lake::{Lake, LakeReader};
use portolan_model::config::{
    CheckSpec, Configuration, Consistency, ConsistencySpec, DurationText, OnFailure, RoundSpec, SourceSpec,
};
use portolan_model::round::{RoundConsistency, RoundVerdict};
use portolan_model::{Error, ErrorKind, RoundName, SourceName};
use portolan_rounds::coordinator::{Event, Observer, RoundRunner, Shared};
use portolan_rounds::output::{MemoryRows, Receiver};
use portolan_rounds::reading::{Patience, read_all};
use portolan_rounds::slot::Slot;

use super::watch::Watch;
use crate::exit::{Exit, Stop, show_error, tell};
use crate::output::{self, Options, Rows, Target};
use crate::rows::unify;
use crate::wiring;

/// Arguments of `portolan fetch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --save nothing is stored or checked and every source is read from its start; with --save, or --new, a
source that has a cursor yields only what the lake does not have yet. With --save the checks of the sources' rounds are
asked, and what the round promises (`consistency`) is kept where all sources read are of one.

Examples:
  portolan fetch                                     {source: [rows], …} of every source
  portolan fetch orders --format csv > orders.csv
  portolan fetch --format table
  portolan fetch --save                              commits the round to the lake as well
  portolan fetch --sql \"select o.id, c.name from orders o join customers c on c.id = o.customer_id\""
)]
pub(crate) struct Arguments {
    /// Sources to read; all of them if none is named.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// How rows are written: table, json, ndjson, csv, arrow or parquet.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Write to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Commit the round to the lake.
    #[arg(long)]
    save: bool,
    /// Read only what is new since the lake's last round, without storing it.
    #[arg(long, conflicts_with = "save")]
    new: bool,
    /// Run SQL over the rows that came, each source a table, and show its result instead.
    #[arg(long, value_name = "SQL")]
    sql: Option<String>,
    /// The longest the round may take.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = DurationText::parse)]
    deadline: DurationText,
    /// The most memory that the rows of one source may take, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1_024)]
    memory_limit: usize,
}

/// What one source yielded.
struct Fetched {
    name: SourceName,
    rows: MemoryRows,
    /// The server has more than one round reads.
    has_more: bool,
}

/// Reads every chosen source once and shows the rows.
pub(crate) async fn run(config: &Path, arguments: Arguments) -> Result<Exit, Stop> {
    let format =
        output::format(arguments.format.as_deref().unwrap_or(if arguments.sql.is_some() { "table" } else { "json" }))?;
    #[cfg(not(feature = "sql"))]
    if arguments.sql.is_some() {
        return Err(super::query::unsupported("fetch --sql"));
    }
    let (configuration, folder) = super::configuration(config)?;
    wiring::supported(&configuration)?;
    let specs = chosen(&configuration, &arguments.sources)?;
    let target = arguments.output.clone().map_or(Target::Stdout, Target::File);
    let results_count = if arguments.sql.is_some() { 1 } else { specs.len() };
    output::accept(format, &target, results_count)?;
    let environment = wiring::environment(&folder, arguments.save.then_some(configuration.lake.path.as_path()));
    let mut is_rejected = false;
    let (fetched, failures) = if arguments.save {
        let saved = save(&configuration, &specs, &environment, &arguments).await?;
        is_rejected = saved.is_rejected;
        (saved.fetched, saved.failures)
    } else {
        let mut slots = wiring::open_slots(specs.iter().copied(), &environment)?;
        if arguments.new {
            let mut positions = LakeReader::open(&configuration.lake.path)?.positions()?;
            slots.iter_mut().for_each(|slot| slot.position = positions.remove(&slot.name));
        }
        read(slots, &environment, &arguments).await
    };
    for error in &failures {
        show_error(error);
    }
    if failures.len() == specs.len() && (arguments.sql.is_some() || !format.several) {
        // There is nothing that this output could hold.
        return Ok(Exit::AllFailed);
    }
    let mut results = Vec::with_capacity(fetched.len());
    for Fetched { name, rows, has_more } in fetched {
        if has_more {
            let next = if arguments.save {
                "the next round goes on from here"
            } else {
                "raise `max_rows` or `max_pages` to read them all"
            };
            tell(format_args!("warning: source `{name}` has more rows than one round reads: {next}\n"));
        }
        for item in &rows.quarantine {
            let column = item.column.as_deref().unwrap_or("row");
            let text =
                format!("warning: source `{name}`: {column} {}: {} ({:.80})", item.row, item.detail, item.content);
            tell(format_args!("{}\n", output::visible(&text)));
        }
        let (schema, batches) = unify(rows.batches)?;
        results.push(Rows { name: name.to_string(), schema, batches });
    }
    match &arguments.sql {
        None => {
            let options = Options { named: true, ..Options::default() };
            output::deliver_rows(format, &target, &options, &results)?;
        }
        Some(sql) => super::query::over_rows(sql, results, format, &target).await?,
    }
    Ok(match failures.len() {
        _ if is_rejected => Exit::Rejected,
        0 => Exit::Success,
        all if all == specs.len() => Exit::AllFailed,
        _ => Exit::Partial,
    })
}

/// The named sources, or all.
fn chosen<'a>(configuration: &'a Configuration, names: &[String]) -> Result<Vec<&'a SourceSpec>, Stop> {
    for name in names {
        if !configuration.sources.iter().any(|source| source.name.as_str() == name) {
            let known: Vec<&str> = configuration.sources.iter().map(|source| source.name.as_str()).collect();
            let error = Error::new(ErrorKind::Configuration, "choose sources", format!("there is no source `{name}`"))
                .with_hint(format!("sources: {}", known.join(", ")));
            return Err(error.into());
        }
    }
    let is_chosen = |source: &&SourceSpec| names.is_empty() || names.iter().any(|name| source.name.as_str() == name);
    Ok(configuration.sources.iter().filter(is_chosen).collect())
}

async fn read(
    slots: Vec<Slot>,
    environment: &portolan_model::source::Environment,
    arguments: &Arguments,
) -> (Vec<Fetched>, Vec<Error>) {
    let receivers = slots
        .iter()
        .map(|_| Receiver { memory: Some(MemoryRows::new(arguments.memory_limit << 20)), ..Receiver::default() })
        .collect();
    let (mut slots, watch) = Watch::over(slots);
    let mut due: Vec<&mut Slot> = slots.iter_mut().collect();
    let readings = read_all(&mut due, receivers, &*environment.clock, Patience::for_whole(arguments.deadline.0)).await;
    if let Some(watch) = watch {
        watch.end();
    }
    let mut fetched = Vec::new();
    let mut failures = Vec::new();
    for (slot, mut reading) in slots.iter_mut().zip(readings) {
        match (reading.outcome, reading.receiver.memory.take()) {
            (Ok(outcome), Some(rows)) => {
                fetched.push(Fetched { name: slot.name.clone(), rows, has_more: outcome.end.more });
            }
            (Ok(_), None) => {}
            (Err(error), _) => failures.push(error),
        }
        slot.source.close().await;
    }
    (fetched, failures)
}

/// A round that was saved, or rejected.
struct Saved {
    fetched: Vec<Fetched>,
    failures: Vec<Error>,
    is_rejected: bool,
}

async fn save(
    configuration: &Configuration,
    specs: &[&SourceSpec],
    environment: &portolan_model::source::Environment,
    arguments: &Arguments,
) -> Result<Saved, Stop> {
    let mut slots = wiring::open_slots(specs.iter().copied(), environment)?;
    let lake = Arc::new(Lake::open(&configuration.lake, environment.clock.clone())?);
    wiring::restore(slots.iter_mut(), &*lake).await?;
    for slot in &mut slots {
        // One round by hand: what came is kept, whoever failed.
        slot.required = false;
    }
    let name = RoundName::new("fetch").map_err(|problem| anyhow::anyhow!(problem))?;
    let promised = promise(configuration, specs);
    let rejects = promised.on_failure == OnFailure::Reject;
    let spec = RoundSpec {
        name,
        sources: specs.iter().map(|spec| spec.name.clone()).collect(),
        every: Duration::from_secs(1),
        deadline: arguments.deadline.0,
        consistency: promised,
        checks: checks(configuration, specs),
    };
    let shared = Shared {
        catalog: lake.clone(),
        checker: wiring::checker(&configuration.lake.path, &environment.clock),
        clock: environment.clock.clone(),
        observer: Arc::new(Quiet),
        jitter: || 1.0,
    };
    let (slots, watch) = Watch::over(slots);
    let mut runner = RoundRunner::new(spec, slots, shared).whole();
    let end = runner.round_with(Some(arguments.memory_limit << 20)).await;
    if let Some(watch) = watch {
        watch.end();
    }
    runner.close().await;
    drop(runner);
    lake.close().await?;
    if let Some(error) = end.error {
        let kind = error.kind();
        let mut shown = Error::new(kind, "save round", error.chain());
        if let Some(hint) = error.hint() {
            shown = shown.with_hint(hint.to_owned());
        }
        return Err(Stop::Error(Exit::Lake, shown));
    }
    let mut is_rejected = false;
    if let Some(record) = &end.record {
        is_rejected = record.verdict == RoundVerdict::Rejected;
        let RoundConsistency { promised, reached, reason, .. } = &record.consistency;
        if let (false, Some(reason)) = (reached.keeps(*promised), reason) {
            let word = if rejects { "reject" } else { "warn" };
            let state = super::unkept(*promised, *reached);
            tell(format_args!("{word}: the round is {state}: {}\n", output::visible(reason)));
        }
        for check in record.checks.iter().filter(|check| check.outcome.is_failure()) {
            tell(format_args!("{}: {}\n", check.on_failure.as_str(), output::visible(&check.words())));
        }
    }
    if let Some(commit) = end.commit {
        let (round, snapshot, lake) = (commit.round, commit.snapshot, configuration.lake.path.display());
        let saved = if is_rejected { "rejected: no rows are stored, and what came of it" } else { "saved" };
        tell(format_args!("{saved} as round {round} (snapshot {snapshot}) in {lake}\n"));
    }
    let fetched = end
        .memory
        .into_iter()
        .filter(|(name, _)| !end.failures.iter().any(|error| error.source_name() == Some(name)))
        .map(|(name, rows)| Fetched { has_more: end.more.contains(&name), name, rows })
        .collect();
    Ok(Saved { fetched, failures: end.failures, is_rejected })
}

/// What is promised of the sources together: what the round promises that all of them are in.
fn promise(configuration: &Configuration, specs: &[&SourceSpec]) -> ConsistencySpec {
    let has_all = |round: &&RoundSpec| specs.iter().all(|spec| round.sources.contains(&spec.name));
    if let Some(round) = configuration.rounds.iter().find(has_all) {
        return round.consistency.clone();
    }
    let is_read = |name: &SourceName| specs.iter().any(|spec| spec.name == *name);
    let promises =
        |round: &&RoundSpec| round.consistency.mode != Consistency::None && round.sources.iter().any(is_read);
    let promising: Vec<&str> = configuration.rounds.iter().filter(promises).map(|round| round.name.as_str()).collect();
    if !promising.is_empty() {
        tell(format_args!(
            "warning: no one round has all these sources, and what the rounds of some promise ({}) is not asked for\n  \
             next: name the sources of one round alone\n",
            promising.join(", ")
        ));
    }
    ConsistencySpec::default()
}

/// The checks of rounds of which a source is read.
fn checks(configuration: &Configuration, specs: &[&SourceSpec]) -> Vec<CheckSpec> {
    let is_read = |name: &SourceName| specs.iter().any(|spec| spec.name == *name);
    let rounds = configuration.rounds.iter().filter(|round| round.sources.iter().any(is_read));
    rounds.flat_map(|round| &round.checks).cloned().collect()
}

/// `fetch` tells the user itself.
struct Quiet;

impl Observer for Quiet {
    fn event(&self, _: Event) {}
}
